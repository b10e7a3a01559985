package users

import (
	"context"
	"errors"
	"github.com/argyle-socks/argyle/internal/event"
	"net/netip"
	"sync"
	"time"
)

// floor is how long a refusal takes at least, from the beginning of the login,
// so that it does not tell how the password is hashed or if it was at all.
const floor = 300 * time.Millisecond

// A Gate answers the logins of all protocols against one users file.
type Gate struct {
	store  *Store
	guard  *Guard
	memory *memory

	mu    sync.Mutex
	tests map[fingerprint]chan struct{} // closed when the test is over
}

// NewGate returns a Gate to the users of store. Gates may share a guard.
func NewGate(store *Store, guard *Guard) *Gate {
	return &Gate{store: store, guard: guard, memory: newMemory(), tests: make(map[fingerprint]chan struct{})}
}

// Login reports whether user may log in with password from addr: nil if so,
// ErrDenied if not, ErrTooMany or the context's error if it was not looked at.
// A wrong password takes 300 ms or more.
//
// A login that was right or wrong before, from the same prefix and against the
// same hash, is answered from memory: it needs no turn of the Guard, for
// whoever repeats himself learns nothing. So a program that keeps on sending an
// old password slows down nobody, and users who were in already stay in while
// a neighbour behind their address is guessing. Equal logins at the same time
// are one.
func (g *Gate) Login(ctx context.Context, addr netip.Addr, user, password string) error {
	begin := time.Now()
	err := g.login(ctx, addr, user, password)
	if errors.Is(err, ErrDenied) {
		event.Detach(ctx)
		sleep(ctx, floor-time.Since(begin))
	}
	return err
}

func (g *Gate) login(ctx context.Context, addr netip.Addr, user, password string) error {
	if !plausible(user, password) {
		return ErrDenied
	}
	a := attempt{account: account{from: prefixOf(addr), user: user}, password: password}
	for {
		g.look(&a)
		switch g.memory.recall(a.account, a.fingerprint) {
		case passed:
			return nil
		case refused:
			return ErrDenied
		}
		event.Detach(ctx)
		over, mine := g.begin(a.fingerprint)
		if mine {
			defer g.end(a.fingerprint)
			return g.test(ctx, addr, a)
		}
		select {
		case <-over: // and remembered, unless its client gave up
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// An attempt is a login with what decides about it.
type attempt struct {
	account
	password    string
	entry       entry
	known       bool
	fingerprint fingerprint
}

// look finds what decides about a as the file is now.
func (g *Gate) look(a *attempt) {
	a.entry, a.known = g.store.lookup(a.user)
	a.fingerprint = g.memory.fingerprint(a.account, a.entry, a.password)
}

// begin registers a test, or returns what is closed when an equal one is over.
func (g *Gate) begin(f fingerprint) (over <-chan struct{}, mine bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if over, ok := g.tests[f]; ok {
		return over, false
	}
	g.tests[f] = make(chan struct{})
	return nil, true
}

func (g *Gate) end(f fingerprint) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.tests[f])
	delete(g.tests, f)
}

// test waits for its turn, compares the password and remembers the verdict.
func (g *Gate) test(ctx context.Context, addr netip.Addr, a attempt) error {
	g.memory.guessed(a.account)
	turn, err := g.guard.Wait(ctx, addr, a.user)
	if err != nil {
		return err
	}
	g.look(&a) // again: the file may have changed while it waited
	err = g.store.check(ctx, a.entry, a.known, a.password)
	switch {
	case err == nil:
		g.memory.remember(a.account, a.fingerprint, passed)
		turn.Release()
	case errors.Is(err, ErrDenied):
		g.memory.remember(a.account, a.fingerprint, refused)
		turn.Failed()
	default:
		turn.Release()
	}
	return err
}

// sleep returns after d, or when the context ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
