package limit

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// A Limit is the state of one subject. A [Table] makes it.
type Limit struct {
	table    *Table
	subject  subject
	up, down bucket
	quota    atomic.Pointer[quota] // nil: none

	mu        sync.Mutex
	spec      Spec
	sessions  map[*session]struct{}
	begun     pace
	parties   map[partyKey]*party // of a rule and of all
	forgotten bool                // by the table: it has no session
}

var _ proxy.Limit = (*Limit)(nil)

// errForgotten sends a session to the table, for the limit that took its place.
var errForgotten = errors.New("limit is forgotten")

// String names the subject, as errors do: user ann.
func (l *Limit) String() string { return l.subject.String() }

// Spec returns what the subject may use now.
func (l *Limit) Spec() Spec {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spec
}

// Begin counts a session in. A session that is refused uses nothing up, not
// even a part of the rate of new sessions, so that trying again too early does
// not prolong the wait. One that a further limit refuses has counted.
func (l *Limit) Begin(req *argyle.Request) (proxy.Share, error) {
	s, err := l.begin(req)
	for errors.Is(err, errForgotten) {
		l = l.table.recall(l)
		s, err = l.begin(req)
	}
	if err != nil {
		return proxy.Share{}, err
	}
	return proxy.Share{Up: &s.up, Down: &s.down, End: s.end}, nil
}

func (l *Limit) begin(req *argyle.Request) (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgotten {
		return nil, errForgotten
	}
	if err := l.admit(); err != nil {
		return nil, err
	}
	s := &session{limit: l, party: l.party(req)}
	s.party.sessions++
	s.up.init(l, l.spec.SessionUp, &s.party.up)
	s.down.init(l, l.spec.SessionDown, &s.party.down)
	if l.sessions == nil {
		l.sessions = make(map[*session]struct{})
	}
	l.sessions[s] = struct{}{}
	return s, nil
}

// admit refuses one session too many. The rate is last: it alone takes something.
func (l *Limit) admit() error {
	if n := l.spec.Sessions; n > 0 && len(l.sessions) >= n {
		return refuse("%s has %d sessions, as many as it may", l, len(l.sessions))
	}
	if q := l.quota.Load(); q.exhausted() {
		return q.used(l)
	}
	if !l.begun.take(l.spec.Rate, time.Now()) {
		return refuse("%s wants more than %s", l, l.spec.Rate)
	}
	return nil
}

// A partyKey is a user, or the network of a client that has not said who it is.
type partyKey struct {
	user    string
	network netip.Prefix
}

// party returns who the session shares with others as. The sessions of a rule
// do so by user, or the one who has most of them would have most of the rate.
func (l *Limit) party(req *argyle.Request) *party {
	if l.subject.kind != Rule && l.subject.kind != All {
		return l.newParty(partyKey{}) // for itself
	}
	key := partyKey{user: req.User}
	if req.User == "" {
		key.network = network(req.Client.Addr())
	}
	p := l.parties[key]
	if p == nil {
		if l.parties == nil {
			l.parties = make(map[partyKey]*party)
		}
		p = l.newParty(key)
		l.parties[key] = p
	}
	return p
}

func (l *Limit) newParty(key partyKey) *party {
	p := &party{key: key}
	l.up.join(&p.up)
	l.down.join(&p.down)
	return p
}

// end counts the session out. Once more does nothing.
func (s *session) end() {
	l := s.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.sessions[s]; !ok {
		return
	}
	delete(l.sessions, s)
	s.party.sessions--
	if s.party.sessions == 0 {
		delete(l.parties, s.party.key)
	}
}

// Set changes what the subject may use. Its sessions go on, counted as before,
// and keep to the new figures at once; those who are now too many stay.
func (l *Limit) Set(spec Spec) { l.table.For(l.subject.kind, l.subject.name, spec) }

// set is Set for a limit that the table holds, whose lock is held.
func (l *Limit) set(spec Spec) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if spec.QuotaPeriod == "" {
		spec.QuotaPeriod = Total
	}
	if spec == l.spec {
		return
	}
	l.spec = spec
	l.up.set(spec.Up)
	l.down.set(spec.Down)
	for s := range l.sessions {
		s.up.own.set(spec.SessionUp)
		s.down.own.set(spec.SessionDown)
	}
	l.setQuota()
}

// setQuota has the bytes counted by the ledger, or no longer.
func (l *Limit) setQuota() {
	ledger := l.table.ledger()
	before := l.quota.Load()
	if l.spec.Quota > 0 {
		m := ledger.meter(meterKey{l.subject, l.spec.QuotaPeriod})
		l.quota.Store(&quota{bytes: l.spec.Quota, meter: m})
	} else {
		l.quota.Store(nil)
	}
	if before != nil {
		ledger.release(before.meter)
	}
}

// forget ends the limit if nothing would be lost: no session, and no recent
// past. The quota stays in the ledger.
func (l *Limit) forget(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) > 0 || !l.begun.free(now) || !l.up.rested() || !l.down.rested() {
		return false
	}
	l.forgotten = true
	if q := l.quota.Swap(nil); q != nil {
		l.table.ledger().release(q.meter)
	}
	return true
}

// recall undoes forget.
func (l *Limit) recall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgotten = false
	l.setQuota()
}
