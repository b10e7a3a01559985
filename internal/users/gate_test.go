package users

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A counter counts the hashes that a store computes.
type counter struct{ n atomic.Int64 }

// since returns how many were computed since the last call.
func (c *counter) since() int { return int(c.n.Swap(0)) }

// newGate returns a gate to the store of newStore, and counts its hashes.
func newGate(t testing.TB, lines ...string) (gate *Gate, hashed *counter, path string) {
	t.Helper()
	store, path := newStore(t, lines...)
	hashed = new(counter)
	store.hashed = func(passwordHash) { hashed.n.Add(1) }
	return NewGate(store, new(Guard)), hashed, path
}

// login says how a login ends and how long it takes.
func login(t *testing.T, g *Gate, addr netip.Addr, user, password string) (took time.Duration, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	begin := time.Now()
	err = g.Login(ctx, addr, user, password)
	return time.Since(begin), err
}

func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, _ := newGate(t, "ann:"+cheap("a"))
		for _, test := range []struct {
			user, password string
			want           error
		}{
			{"ann", "a", nil},
			{"ann", "b", ErrDenied},
			{"bob", "a", ErrDenied},
			{"ann", "", ErrDenied},
			{"", "", ErrDenied},
			{"ann", "a", nil},
		} {
			took, err := login(t, g, home, test.user, test.password)
			if !errors.Is(err, test.want) {
				t.Errorf("Login(%q, %q): %v, want %v", test.user, test.password, err, test.want)
			}
			if failed := err != nil; failed && took != floor || !failed && took != 0 {
				t.Errorf("Login(%q, %q) took %v", test.user, test.password, took)
			}
		}
		if _, err := login(t, g, netip.Addr{}, "ann", "a"); err != nil {
			t.Errorf("from a Unix socket: %v", err)
		}
	})
}

// A wrong password of a user and of a stranger are the same: in the answer, in
// its time, and in the hashes computed, however often they come.
func TestStrangersLookLikeUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, _ := newGate(t, "ann:"+cheap("a"), "bob:"+hashes[0].hash)
		for i, addr := range []netip.Addr{home, away} {
			user := []string{"ann", "stranger"}[i]
			for _, want := range []int{1, 0, 0} {
				took, err := login(t, g, addr, user, "wrong")
				if !errors.Is(err, ErrDenied) || took != floor {
					t.Errorf("%s: %v after %v", user, err, took)
				}
				if got := hashed.since(); got != want {
					t.Errorf("%s: %d hashes, want %d", user, got, want)
				}
			}
		}
	})
}

func TestLoginCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, _ := newGate(t, "ann:"+cheap("a"))
		ctx, cancel := context.WithTimeout(t.Context(), floor/3)
		defer cancel()
		begin := time.Now()
		if err := g.Login(ctx, home, "ann", "b"); !errors.Is(err, ErrDenied) || time.Since(begin) != floor/3 {
			t.Errorf("denied, then cancelled: %v after %v", err, time.Since(begin))
		}
		if err := g.Login(ctx, home, "ann", "c"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled before: %v", err)
		}
		if n := len(g.tests); n != 0 {
			t.Errorf("%d tests are left", n)
		}
	})
}

func TestSuccessIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, path := newGate(t, "ann:"+cheap("a"))
		try := func(what string, addr netip.Addr, password string, wantErr error, want int) {
			t.Helper()
			if _, err := login(t, g, addr, "ann", password); !errors.Is(err, wantErr) {
				t.Errorf("%s: %v, want %v", what, err, wantErr)
			}
			if got := hashed.since(); got != want {
				t.Errorf("%s: %d hashes, want %d", what, got, want)
			}
		}
		try("first", home, "a", nil, 1)
		try("second", home, "a", nil, 0)
		try("wrong", home, "b", ErrDenied, 1)
		try("third", home, "a", nil, 0)
		try("elsewhere", away, "a", nil, 1)
		elapse(memoryTime - time.Second)
		try("in time", home, "a", nil, 0)
		elapse(memoryTime)
		try("too late", home, "a", nil, 1)

		write(t, path, "ann:"+Hash("a"))
		if err := g.store.Reload(); err != nil {
			t.Fatal(err)
		}
		try("another hash", home, "a", nil, 1)
		write(t, path, "ann:"+cheap("b"))
		if err := g.store.Reload(); err != nil {
			t.Fatal(err)
		}
		try("changed password, the old one", home, "a", ErrDenied, 1)
		try("changed password, the new one", home, "b", nil, 1)
		write(t, path, "bob:"+cheap("b"))
		if err := g.store.Reload(); err != nil {
			t.Fatal(err)
		}
		try("removed", home, "b", ErrDenied, 1)
	})
}

// A stranger who was refused gets in once the file has him.
func TestRefusalIsNotRememberedForANewUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, path := newGate(t, "ann:"+cheap("a"))
		if _, err := login(t, g, home, "bob", "b"); !errors.Is(err, ErrDenied) {
			t.Errorf("stranger: %v", err)
		}
		write(t, path, "bob:"+cheap("b"))
		if err := g.store.Reload(); err != nil {
			t.Fatal(err)
		}
		if _, err := login(t, g, home, "bob", "b"); err != nil {
			t.Errorf("new user: %v", err)
		}
	})
}

// Who is removed while his login waits for its turn is not let in any more.
func TestUserRemovedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, path := newGate(t, "ann:"+cheap("a"))
		fail(t, g.guard, home, 10)
		result := make(chan error)
		go func() { result <- g.Login(t.Context(), home, "ann", "a") }()
		synctest.Wait()
		write(t, path)
		if err := g.store.Reload(); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, ErrDenied) {
			t.Errorf("Login: %v", err)
		}
	})
}

// A browser opens all of its connections at once.
func TestEqualLoginsAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, _ := newGate(t, "ann:"+cheap("a"))
		for _, test := range []struct {
			password string
			want     error
		}{{"a", nil}, {"b", ErrDenied}} {
			for range cap(g.store.slots) {
				g.store.slots <- struct{}{} // hashing takes a while
			}
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					if err := g.Login(t.Context(), home, "ann", test.password); !errors.Is(err, test.want) {
						t.Errorf("Login: %v, want %v", err, test.want)
					}
				})
			}
			synctest.Wait()
			for range cap(g.store.slots) {
				<-g.store.slots
			}
			wg.Wait()
			if got := hashed.since(); got != 1 {
				t.Errorf("%d hashes, want 1", got)
			}
		}
		if v, ok := g.guard.visitors.get(prefixOf(home)); !ok || v.failures != 1 {
			t.Error("equal failures are not one failure")
		}
	})
}

// When the login that is being tested gives up, an equal one takes over.
func TestEqualLoginTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, _ := newGate(t, "ann:"+cheap("a"))
		fail(t, g.guard, home, 10)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error), make(chan error)
		go func() { first <- g.Login(ctx, home, "ann", "a") }()
		synctest.Wait()
		go func() { second <- g.Login(t.Context(), home, "ann", "a") }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("first: %v", err)
		}
		if err := <-second; err != nil || hashed.since() != 1 {
			t.Errorf("second: %v", err)
		}
	})
}

// A program with an old password, and a person behind the same address.
func TestRepeatedFailureSlowsDownNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, _ := newGate(t, "ann:"+cheap("a"))
		for range 1000 {
			if took, err := login(t, g, home, "ann", "old"); !errors.Is(err, ErrDenied) || took != floor {
				t.Fatalf("old password: %v after %v", err, took)
			}
		}
		if took, err := login(t, g, home, "ann", "a"); err != nil || took != 0 {
			t.Errorf("new password: %v after %v", err, took)
		}
		if got := hashed.since(); got != 2 {
			t.Errorf("%d hashes, want 2", got)
		}
	})
}

// attack lets 100 connections from addr guess without end, at the names given
// in turn, until the context ends.
func attack(ctx context.Context, g *Gate, addr netip.Addr, names ...string) {
	for i := range 100 {
		go func() {
			for n := 0; ctx.Err() == nil; n++ {
				attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
				_ = g.Login(attempt, addr, names[n%len(names)], fmt.Sprint("guess", i, "-", n))
				cancel()
				<-time.After(time.Second)
			}
		}()
	}
}

func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, _ := newGate(t, "ann:"+cheap("a"), "bob:"+cheap("b"), "eve:"+cheap("e"))
		if _, err := login(t, g, home, "ann", "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		attack(ctx, g, home, "admin", "eve")
		elapse(time.Minute)
		hashed.since()
		elapse(time.Minute)
		if got := hashed.since(); got != int(time.Minute/maxDelay) {
			t.Errorf("%d guesses in a minute", got)
		}
		for range 3 {
			if took, err := login(t, g, home, "ann", "a"); err != nil || took != 0 {
				t.Errorf("a user who was in: %v after %v", err, took)
			}
		}
		if took, err := login(t, g, home, "bob", "b"); err != nil || took > maxDelay {
			t.Errorf("a user who was not: %v after %v", err, took)
		}
		if took, err := login(t, g, away, "bob", "b"); err != nil || took != 0 {
			t.Errorf("elsewhere: %v after %v", err, took)
		}
		cancel()
		elapse(11 * time.Second)
		if n := len(g.tests); n != 0 {
			t.Errorf("%d tests are left", n)
		}
	})
}

// What is remembered of a user must not answer a neighbour's guesses without
// end, each of which would be tested against it for nothing.
func TestGuessingAtWhatIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, hashed, _ := newGate(t, "ann:"+cheap("right"))
		if _, err := login(t, g, home, "ann", "right"); err != nil {
			t.Fatal(err)
		}
		fail(t, g.guard, home, 20)
		hashed.since()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for i := range maxGuesses {
			if err := g.Login(ctx, home, "ann", fmt.Sprint("guess", i)); err == nil {
				t.Fatal("a wrong password was right")
			}
		}
		if err := g.Login(ctx, home, "ann", "right"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the right guess after %d wrong ones: %v", maxGuesses, err)
		}
		if got := hashed.since(); got != 0 {
			t.Errorf("%d hashes", got)
		}
	})
}

// Everything at once, for the race detector.
func TestLoginRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _, path := newGate(t, "ann:"+cheap("a"), "bob:"+cheap("b"))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 30 {
					addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(n % 3)})
					_ = g.Login(t.Context(), addr, []string{"ann", "bob", "eve"}[(i+n)%3], []string{"a", "b"}[n%2])
					if n%10 == 0 {
						write(t, fmt.Sprint(path, i), "ann:"+cheap("a"))
						_ = g.store.Reload()
					}
				}
			})
		}
		wg.Wait()
	})
}

func BenchmarkLoginRemembered(b *testing.B) {
	g, _, _ := newGate(b, "ann:"+cheap("correct horse battery staple"))
	ctx := b.Context()
	run := func() {
		if err := g.Login(ctx, home, "ann", "correct horse battery staple"); err != nil {
			b.Fatal(err)
		}
	}
	run()
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

func BenchmarkLoginHashed(b *testing.B) {
	store, _ := newStore(b, "ann:"+Hash("correct horse"))
	b.ReportAllocs()
	for b.Loop() {
		if err := store.Verify(b.Context(), "ann", "correct horse"); err != nil {
			b.Fatal(err)
		}
	}
}
