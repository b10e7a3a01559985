package proxy

import (
	"bytes"
	"context"
	"time"

	"github.com/argyle-socks/argyle"
)

// destination is what an association knows of one destination that its client
// sends to. association.table guards it.
type destination struct {
	via     *path         // nil: refused, or not decided yet
	to      argyle.Addr   // what the way out is told
	up      gates         // that hold back what the client sends there
	limits  []Limit       // of the route
	expires time.Duration // on our clock
	decided bool
	asking  bool              // the policy is being asked
	waiting []argyle.Datagram // for the decision
}

func (d *destination) undecided() bool { return !d.decided }

// passes reports whether a datagram may go now.
func (d *destination) passes(dg argyle.Datagram) bool {
	return d.via != nil && (d.up == nil || d.up.Allow(len(dg.Payload)))
}

// fresh reports whether the decision still holds.
func (d *destination) fresh() bool {
	return d.decided && (d.via == nil || !d.via.closed.Load()) && time.Since(clock) < d.expires
}

// dest returns what is known of addr. The decision about an address is made at
// once, that about a name beside the path of the datagrams, since the policy
// may have to look it up.
func (a *association) dest(addr argyle.Addr) *destination {
	d := a.dests[addr]
	if d != nil && (d.asking || d.fresh()) {
		return d
	}
	if d == nil {
		if len(a.dests) >= maxRoutes {
			a.forget()
		}
		d = new(destination)
		a.dests[addr] = d
	}
	switch {
	case addr.Name == "" || a.proxy.Policy == nil:
		route, err := a.ask(a.ctx, addr)
		a.settle(d, addr, route, err)
	case a.deciding < maxNames:
		a.deciding++
		d.asking = true
		d.decided = d.decided && (d.via == nil || !d.via.closed.Load())
		a.wg.Go(func() { a.decide(d, addr) })
	}
	return d
}

// forget makes room: only what is being decided stays.
func (a *association) forget() {
	for addr, d := range a.dests {
		if !d.asking {
			delete(a.dests, addr)
		}
	}
}

// ask asks the policy about a destination.
func (a *association) ask(ctx context.Context, addr argyle.Addr) (Route, error) {
	if a.proxy.Policy == nil {
		return Route{Dialer: direct}, nil
	}
	req := *a.session.Request()
	req.Dest = addr
	return a.proxy.Policy.Route(argyle.WithRequest(ctx, &req), &req)
}

// decide asks the policy about a name and sends what waits for the answer.
func (a *association) decide(d *destination, addr argyle.Addr) {
	step := limit(a.ctx, time.Now(), a.proxy.DialTimeout, dialTimeout)
	defer step.Cancel()
	route, err := a.ask(step, addr)

	a.table.Lock()
	defer a.table.Unlock()
	a.deciding--
	d.asking = false
	a.settle(d, addr, route, err)
	for _, dg := range d.waiting {
		a.size -= len(dg.Payload)
		if d.passes(dg) {
			d.via.send([]argyle.Datagram{{Addr: d.to, Payload: dg.Payload}})
		} else {
			a.session.dropped.Add(1)
		}
	}
	d.waiting = nil
}

// settle notes a decision.
func (a *association) settle(d *destination, addr argyle.Addr, route Route, err error) {
	d.decided = true
	d.expires = time.Since(clock) + routeTime
	d.via = nil
	if err == nil {
		err = a.session.join(route.Limits)
	}
	if err != nil {
		a.debug("datagrams refused", "dest", addr, "err", err)
		return
	}
	a.session.setWay(route.Dialer)
	req := argyle.Request{Dest: addr}
	d.to = route.dest(&req)
	d.limits = route.Limits
	d.up, _ = a.session.gates(route.Limits)
	a.noteReplies(d, route.Reply)
	d.via = a.path(route.Dialer, route.Timeouts.Over(a.proxy.Timeouts))
}

// wait keeps a datagram until its destination is decided, within bounds.
func (a *association) wait(d *destination, dg argyle.Datagram) {
	if !d.asking || a.size+len(dg.Payload) > maxWaiting || len(d.waiting) >= maxQueued {
		a.session.dropped.Add(1)
		return
	}
	a.size += len(dg.Payload)
	d.waiting = append(d.waiting, argyle.Datagram{Addr: dg.Addr, Payload: bytes.Clone(dg.Payload)})
}
