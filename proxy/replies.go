package proxy

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
)

// replies is what the rules have to say of datagrams to the client. It is made
// when they have something to say.
//
// A datagram counts against the limits of the destination that it comes from.
// Where that was a name, it comes from an address, of which only a way out that
// has looked up the name itself can tell the name. What belongs to nothing that
// the client sends to counts against the limits of all the names: it may be the
// reply of any.
type replies struct {
	session *Session

	mu      sync.Mutex
	allowed func(argyle.Addr) error
	dests   map[argyle.Addr][]Limit // of what the client sends to, as the ways out are told
	others  []Limit                 // of sources that belong to none of dests
	sources map[argyle.Addr]source  // what has been found out
}

// source is what holds for the datagrams from one address.
type source struct {
	via     *path // by which they come
	gates   gates
	refused bool
	expires time.Duration
}

// noteReplies enters what holds for the replies of a destination that is
// allowed. a.table is held.
func (a *association) noteReplies(d *destination, allowed func(argyle.Addr) error) {
	r := a.replies.Load()
	if r == nil {
		if _, down := a.session.gates(d.limits); allowed == nil && len(down) == 0 {
			return
		}
		r = newReplies(a)
		defer a.replies.Store(r)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowed = allowed
	r.note(d)
}

// newReplies knows the destinations that had nothing to be noted.
func newReplies(a *association) *replies {
	r := &replies{
		session: a.session,
		dests:   make(map[argyle.Addr][]Limit),
		others:  slices.Clone(a.session.route.Limits),
		sources: make(map[argyle.Addr]source),
	}
	for _, d := range a.dests {
		if d.via != nil {
			r.note(d)
		}
	}
	return r
}

// note enters the limits of a destination. r.mu is held.
func (r *replies) note(d *destination) {
	known, ok := r.dests[d.to]
	if ok && slices.Equal(known, d.limits) {
		return
	}
	if len(r.dests) >= maxRoutes {
		// Replies may still come from what is forgotten.
		for _, limits := range r.dests {
			r.others = join(r.others, limits)
		}
		clear(r.dests)
		clear(r.sources)
	}
	r.dests[d.to] = d.limits
	if d.to.Name == "" {
		delete(r.sources, d.to)
		return
	}
	r.others = join(r.others, d.limits)
	clear(r.sources) // any of them may be its address
}

// join adds those of more that are not in limits.
func join(limits, more []Limit) []Limit {
	for _, l := range more {
		if !slices.Contains(limits, l) {
			limits = append(limits, l)
		}
	}
	return limits
}

// filter leaves out the datagrams that must not reach the client.
func (r *replies) filter(via *path, ds []argyle.Datagram) []argyle.Datagram {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(ds, func(d argyle.Datagram) bool {
		from, ok := r.sources[d.Addr]
		if !ok || from.via != via || time.Since(clock) > from.expires {
			from = r.enter(via, d.Addr)
		}
		if from.refused || !from.gates.Allow(len(d.Payload)) {
			r.session.dropped.Add(1)
			return true
		}
		return false
	})
}

// enter finds out what holds for a source. r.mu is held.
func (r *replies) enter(via *path, addr argyle.Addr) source {
	from := source{via: via, expires: time.Since(clock) + routeTime}
	_, from.gates = r.session.gates(r.limits(via, addr))
	from.refused = r.allowed != nil && r.allowed(addr) != nil
	if len(r.sources) >= maxRoutes {
		clear(r.sources)
	}
	r.sources[addr] = from
	return from
}

// limits returns what the datagrams from a source count against. r.mu is held.
func (r *replies) limits(via *path, from argyle.Addr) (all []Limit) {
	if limits, ok := r.dests[from]; ok {
		return limits
	}
	known := false
	for _, name := range via.names(from.IP) {
		limits, ok := r.dests[argyle.Addr{Name: name, Port: from.Port}]
		all, known = join(all, limits), known || ok
	}
	if known {
		return all
	}
	return r.others
}

// names returns what the way out has found to have an address.
func (v *path) names(ip netip.Addr) []string {
	if c, ok := v.conn.(interface{ Names(netip.Addr) []string }); ok {
		return c.Names(ip)
	}
	return nil
}
