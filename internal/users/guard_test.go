package users

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	home = netip.MustParseAddr("192.0.2.1")
	away = netip.MustParseAddr("198.51.100.1")
)

// fail lets n logins from addr fail, one after the other.
func fail(t *testing.T, g *Guard, addr netip.Addr, n int) {
	t.Helper()
	for range n {
		turn, err := g.Wait(t.Context(), addr, "eve")
		if err != nil {
			t.Fatal(err)
		}
		turn.Failed()
	}
}

// waited returns how long a login from addr waits; it then succeeds.
func waited(t *testing.T, g *Guard, addr netip.Addr) time.Duration {
	t.Helper()
	begin := time.Now()
	turn, err := g.Wait(t.Context(), addr, "ann")
	if err != nil {
		t.Fatal(err)
	}
	turn.Release()
	return time.Since(begin)
}

func TestGuardDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(Guard)
		for i, want := range []time.Duration{
			0, 0, 0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second,
			5 * time.Second, 5 * time.Second,
		} {
			begin := time.Now()
			fail(t, g, home, 1)
			if got := time.Since(begin); got != want {
				t.Errorf("login %d waited %v, want %v", i+1, got, want)
			}
		}
		fail(t, g, home, 100)
		if got := waited(t, g, home); got != maxDelay {
			t.Errorf("after 110 failures: %v", got)
		}
		if got := waited(t, g, away); got != 0 {
			t.Errorf("from elsewhere: %v", got)
		}
	})
}

func TestGuardCountsTheTimeSinceTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(Guard)
		fail(t, g, home, 5)
		elapse(700 * time.Millisecond)
		if got := waited(t, g, home); got != 300*time.Millisecond {
			t.Errorf("waited %v of a second of which 700 ms were over", got)
		}
		if got := waited(t, g, home); got != 0 {
			t.Errorf("waited %v after a success", got)
		}
		fail(t, g, home, 1)
		if got := waited(t, g, home); got != 2*time.Second {
			t.Errorf("a success forgave: the next delay is %v", got)
		}
	})
}

func TestGuardForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(Guard)
		fail(t, g, home, 8)
		elapse(forgiveAfter - time.Second)
		waited(t, g, home) // is not a failure
		elapse(time.Second)
		begin := time.Now()
		fail(t, g, home, 3)
		if got := time.Since(begin); got != 0 {
			t.Errorf("three failures after ten quiet minutes took %v", got)
		}
	})
}

func TestGuardKeepsNothingOfSuccess(t *testing.T) {
	g := new(Guard)
	for i := range 10 {
		waited(t, g, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	if n := len(g.visitors.rows); n != 0 {
		t.Errorf("%d visitors are remembered", n)
	}
}

func TestGuardIsBounded(t *testing.T) {
	g := new(Guard)
	for i := range maxPrefixes + 10 {
		fail(t, g, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)
	}
	if n := len(g.visitors.rows); n != maxPrefixes {
		t.Errorf("%d visitors are remembered", n)
	}
}

// The end of a turn whose visitor was evicted must not touch its successor.
func TestGuardEvictsVisitorsWithTurns(t *testing.T) {
	g := new(Guard)
	turn, err := g.Wait(t.Context(), home, "ann")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxPrefixes {
		fail(t, g, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
	}
	fail(t, g, home, 1)
	turn.Release()
	if v, ok := g.visitors.get(prefixOf(home)); !ok || v.failures != 1 {
		t.Error("the failure is forgotten")
	}
}

// Parallel logins get no more tries than those one after the other.
func TestGuardParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(Guard)
		begin := time.Now()
		var tried []time.Duration
		var refused, late int
		var mu sync.Mutex
		for i := range 200 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				turn, err := g.Wait(ctx, home, fmt.Sprint("user", i%7))
				if err == nil {
					<-time.After(50 * time.Millisecond) // hash
					turn.Failed()
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					tried = append(tried, time.Since(begin).Truncate(10*time.Millisecond))
				case errors.Is(err, ErrTooMany):
					refused++
				case errors.Is(err, context.DeadlineExceeded):
					late++
				}
			}()
		}
		synctest.Wait()
		mu.Lock()
		if refused != 200-freeFailures-maxWaiting {
			t.Errorf("%d were refused at once", refused)
		}
		mu.Unlock()
		elapse(11 * time.Second)
		want := "[50ms 50ms 50ms 350ms 900ms 1.95s 4s 8.05s]"
		if got := fmt.Sprint(tried); got != want {
			t.Errorf("tried at %s, want %s", got, want)
		}
		if late+len(tried) != freeFailures+maxWaiting {
			t.Errorf("%d ran out of time", late)
		}
		if v, _ := g.visitors.get(prefixOf(home)); v.running != 0 || v.waiting.size != 0 {
			t.Errorf("%d run, %d wait", v.running, v.waiting.size)
		}
	})
}

// Many users of one address who come at the same time have to wait for
// nothing but each other's hash.
func TestGuardParallelSuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := new(Guard)
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				turn, err := g.Wait(t.Context(), home, fmt.Sprint("user", i))
				if err != nil {
					t.Error(err)
					return
				}
				<-time.After(50 * time.Millisecond) // hash
				turn.Release()
			})
		}
		wg.Wait()
		if got := time.Since(begin); got != time.Second {
			t.Errorf("60 logins, three at a time, took %v", got)
		}
	})
}

// While many connections hammer at one name, another's next login waits for
// one turn at most.
func TestGuardIsFairToOtherNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := new(Guard)
		fail(t, g, home, 20)
		for range 100 {
			go func() {
				for ctx.Err() == nil {
					turn, err := g.Wait(ctx, home, "eve")
					if err == nil {
						turn.Failed()
					}
					<-time.After(time.Second)
				}
			}()
		}
		elapse(time.Minute)
		for range 20 {
			if got := waited(t, g, home); got > maxDelay {
				t.Errorf("waited %v", got)
			}
			elapse(777 * time.Millisecond)
		}
		cancel()
		elapse(time.Second)
	})
}

// A turn that begins while its login gives up is passed on.
func TestGuardTurnOfAGivenUpLogin(t *testing.T) {
	g := new(Guard)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		turn, err := g.Wait(ctx, home, "ann")
		if err == nil {
			turn.Release()
		}
	}
	if len(g.visitors.rows) != 0 {
		t.Error("a turn was not ended")
	}
}

func TestPrefixOf(t *testing.T) {
	for _, test := range []struct{ addr, want string }{
		{"192.0.2.1", "192.0.2.1/32"},
		{"::ffff:192.0.2.1", "192.0.2.1/32"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
		{"fe80::1%eth0", "fe80::/64"},
		{"127.0.0.1", "127.0.0.0/8"},
		{"127.1.2.3", "127.0.0.0/8"},
		{"::ffff:127.1.2.3", "127.0.0.0/8"},
		{"::1", "::/64"},
	} {
		if got := prefixOf(netip.MustParseAddr(test.addr)).String(); got != test.want {
			t.Errorf("prefixOf(%s) = %s, want %s", test.addr, got, test.want)
		}
	}
	if got := prefixOf(netip.Addr{}); got.IsValid() {
		t.Errorf("prefixOf(no address) = %s", got)
	}
}
