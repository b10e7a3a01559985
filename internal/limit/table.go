package limit

import (
	"net/netip"
	"sync"
	"time"
)

// The kinds of subjects. The rates of a Rule and of All are divided between
// users, or the networks of clients who have not logged in; those of a User
// and of a Client between their sessions.
const (
	User   = "user"
	Client = "client" // its name is a ClientKey
	Rule   = "rule"
	All    = "all"
)

type subject struct{ kind, name string }

func (s subject) String() string {
	switch {
	case s.kind == All:
		return "the server"
	case s.name == "":
		return s.kind
	}
	return s.kind + " " + s.name
}

// A Table holds the limits by kind and name. The zero value is ready.
type Table struct {
	// Ledger keeps the quotas. nil means that they are counted in memory.
	Ledger *Ledger

	mu     sync.Mutex
	limits map[subject]*Limit
	sweep  sweep
	memory Ledger // without another
}

func (t *Table) ledger() *Ledger {
	if t.Ledger != nil {
		return t.Ledger
	}
	return &t.memory
}

// For returns the limit of a subject, which from now on is spec. It is the same
// one as before, with its counts, as long as there is anything to remember.
func (t *Table) For(kind, name string, spec Spec) *Limit {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := subject{kind, name}
	l := t.limits[key]
	if l == nil {
		l = &Limit{table: t, subject: key}
		t.add(l)
	}
	l.set(spec)
	return l
}

// Lift lets everything pass that keep is false for: a limit that is not wanted
// any more holds nobody back, sessions that are there already included. What it
// has counted stays.
func (t *Table) Lift(keep func(*Limit) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.limits {
		if !keep(l) {
			l.set(Spec{})
		}
	}
}

// recall returns the limit in use for the subject of one that was forgotten
// while somebody still had it: itself, unless another has taken its place.
func (t *Table) recall(l *Limit) *Limit {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.limits[l.subject]; other != nil {
		return other
	}
	l.recall()
	t.add(l)
	return l
}

// add first forgets the limits that have nothing to remember, if there are
// many: clients come and go.
func (t *Table) add(l *Limit) {
	if t.limits == nil {
		t.limits = make(map[subject]*Limit)
	}
	if t.sweep.due(len(t.limits)) {
		now := time.Now()
		for key, old := range t.limits {
			if old.forget(now) {
				delete(t.limits, key)
			}
		}
		t.sweep.done(len(t.limits))
	}
	t.limits[l.subject] = l
}

// A sweep says when a map has grown so much that looking through it pays.
type sweep int

const smallMap = 1024

func (s sweep) due(n int) bool { return n >= max(int(s), smallMap) }
func (s *sweep) done(n int)    { *s = sweep(2 * n) }

// ClientKey is the name of a client's limit: an IPv4 address, or the /64 of an
// IPv6 address, of which a client has as many as it likes. Clients on unix
// sockets, which have no address, have one name.
func ClientKey(addr netip.Addr) string {
	net := network(addr)
	switch {
	case !net.IsValid():
		return "unix"
	case net.IsSingleIP():
		return net.Addr().String()
	}
	return net.String()
}

func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	net, _ := addr.Prefix(bits) // an invalid one for an invalid address
	return net
}
