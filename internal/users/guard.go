package users

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// ErrTooMany refuses a login at once: too many from the same address wait.
var ErrTooMany = errors.New("too many logins from this address")

const (
	freeFailures = 3                      // before anybody waits
	firstDelay   = 250 * time.Millisecond // after the last free one; then it doubles
	maxDelay     = 5 * time.Second        // half of the time that a client has for its handshake
	forgiveAfter = 10 * time.Minute       // without a failure
	maxPrefixes  = 10_000
)

// A Guard slows down those who guess passwords. It counts failures for each
// IPv4 address and each IPv6 /64: three are free, then a login waits after the
// last failure, 250 ms and doubling up to 5 s, and is forgotten after ten
// minutes without one. Logins of one prefix wait for each other, so that many
// connections try no more than one does, and closing one early saves nothing.
//
// The zero value is ready. All servers of a program should share one.
type Guard struct {
	mu       sync.Mutex
	visitors *table[netip.Prefix, *visitor]
}

// A visitor is a prefix with failures, or with logins under way.
type visitor struct {
	prefix   netip.Prefix
	failures int
	last     time.Time // of the failures
	running  int       // turns that have begun; any of them may fail
	waiting  queue
	timer    *time.Timer // begins the next turn; nil until one had to wait
}

// A Turn is the permission to try one login. It must be ended once, with
// Failed or with Release.
type Turn struct {
	guard   *Guard
	visitor *visitor
	user    string
	begin   chan error // receives nil, or ErrTooMany
}

// Wait returns when it is the turn of addr to try a login as user. It returns
// ErrTooMany if there are too many before it, and the context's error if that
// ends first. An invalid addr, as a Unix socket has it, is a client like others.
func (g *Guard) Wait(ctx context.Context, addr netip.Addr, user string) (*Turn, error) {
	t := g.arrive(prefixOf(addr), user)
	select {
	case err := <-t.begin:
		if err != nil {
			return nil, err
		}
		return t, nil
	case <-ctx.Done():
		t.leave()
		return nil, ctx.Err()
	}
}

func (g *Guard) arrive(prefix netip.Prefix, user string) *Turn {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.visitor(prefix)
	t := &Turn{guard: g, visitor: v, user: user, begin: make(chan error, 1)}
	if dropped := v.waiting.push(t); dropped != nil {
		dropped.begin <- ErrTooMany
	}
	g.advance(v)
	return t
}

// visitor returns what is known of prefix.
func (g *Guard) visitor(prefix netip.Prefix) *visitor {
	if g.visitors == nil {
		g.visitors = newTable[netip.Prefix, *visitor](maxPrefixes, forgiveAfter)
	}
	v, ok := g.visitors.get(prefix)
	if !ok {
		v = &visitor{prefix: prefix}
		g.visitors.put(prefix, v)
	}
	return v
}

// leave gives up on a turn, whether it has begun meanwhile or not.
func (t *Turn) leave() {
	t.guard.mu.Lock()
	waiting := t.visitor.waiting.remove(t)
	t.guard.mu.Unlock()
	if waiting {
		return
	}
	if err := <-t.begin; err == nil {
		t.Release()
	}
}

// Failed ends the turn with a failure, which makes the next ones wait.
func (t *Turn) Failed() { t.end(true) }

// Release ends the turn without a failure: the login succeeded, or was not
// tried. It forgives no earlier failure, or an attacker with an account of his
// own would log in to it between his guesses.
func (t *Turn) Release() { t.end(false) }

func (t *Turn) end(failed bool) {
	g, v := t.guard, t.visitor
	g.mu.Lock()
	defer g.mu.Unlock()
	v.running--
	if failed {
		v.failures++
		v.last = time.Now()
	}
	g.advance(v)
	if v.failures > 0 || v.running > 0 || v.waiting.size > 0 {
		return
	}
	if current, _ := g.visitors.get(v.prefix); current == v {
		g.visitors.delete(v.prefix)
	}
}

// advance begins the turns that may begin, and sets the timer for the next.
func (g *Guard) advance(v *visitor) {
	for v.waiting.size > 0 {
		delay, ok := v.delay(time.Now())
		if !ok {
			return // the end of a running turn comes here again
		}
		if delay > 0 {
			g.wake(v, delay)
			return
		}
		v.running++
		v.waiting.pop().begin <- nil
	}
}

func (g *Guard) wake(v *visitor, delay time.Duration) {
	if v.timer != nil {
		v.timer.Reset(delay)
		return
	}
	v.timer = time.AfterFunc(delay, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.advance(v)
	})
}

// delay returns how long the next turn must wait, or false if that depends on
// those which are running. Every one of them is taken for a failure to come:
// as many as are free may run together, then one at a time.
func (v *visitor) delay(now time.Time) (time.Duration, bool) {
	if now.Sub(v.last) >= forgiveAfter {
		v.failures = 0
	}
	if v.failures+v.running < freeFailures {
		return 0, true
	}
	if v.running > 0 {
		return 0, false
	}
	const enough = 5 // doublings to be past maxDelay
	delay := min(firstDelay<<min(v.failures-freeFailures, enough), maxDelay)
	return v.last.Add(delay).Sub(now), true
}

// prefixOf returns what is taken for one client: an IPv4 address or an IPv6
// /64. Any program on this host may connect from all of 127.0.0.0/8.
func prefixOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	switch {
	case !addr.IsValid():
		return netip.Prefix{}
	case addr.Is4() && addr.IsLoopback():
		return netip.PrefixFrom(addr, 8).Masked()
	case addr.Is4():
		return netip.PrefixFrom(addr, 32)
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked()
}
