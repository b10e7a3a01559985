package proxy

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
)

// destination is what an association knows of one destination that its client
// sends to. association.table guards it.
type destination struct {
	via     *path         // nil: refused, or not decided yet
	to      argyle.Addr   // what the way out is told
	up      gates         // that hold back what the client sends there
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
	ctx, cancel := limit(a.ctx, a.proxy.DialTimeout, dialTimeout)
	defer cancel()
	route, err := a.ask(ctx, addr)

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
	var down gates
	d.up, down = a.session.gates(route.Limits)
	a.noteReplies(d.to, route.Reply, down)
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

// replies is what the rules have to say of datagrams to the client. It is made
// when there is such a rule.
type replies struct {
	mu      sync.Mutex
	from    map[argyle.Addr]reply
	allowed func(argyle.Addr) error
	any     gates // those of sources that the client has not sent to
}

// reply is what holds for one source.
type reply struct {
	gates   gates
	refused bool
	expires time.Duration
}

// noteReplies enters what holds for the replies of a destination.
func (a *association) noteReplies(from argyle.Addr, allowed func(argyle.Addr) error, down gates) {
	r := a.replies.Load()
	if r == nil && allowed == nil && len(down) == 0 {
		return
	}
	if r == nil {
		_, base := a.session.gates(a.session.route.Limits)
		r = &replies{from: make(map[argyle.Addr]reply), any: base}
		a.replies.Store(r)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed = allowed
	r.enter(from, down)
}

// enter decides about a source. r.mu is held.
func (r *replies) enter(from argyle.Addr, down gates) reply {
	if len(r.from) >= maxRoutes {
		clear(r.from)
	}
	known := reply{gates: down, expires: time.Since(clock) + routeTime}
	known.refused = r.allowed != nil && r.allowed(from) != nil
	r.from[from] = known
	return known
}

// filter leaves out the datagrams that must not reach the client.
func (r *replies) filter(a *association, ds []argyle.Datagram) []argyle.Datagram {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(ds, func(d argyle.Datagram) bool {
		known, ok := r.from[d.Addr]
		switch {
		case !ok:
			known = r.enter(d.Addr, r.any)
		case time.Since(clock) > known.expires:
			known = r.enter(d.Addr, known.gates)
		}
		if known.refused || !known.gates.Allow(len(d.Payload)) {
			a.session.dropped.Add(1)
			return true
		}
		return false
	})
}
