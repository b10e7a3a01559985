package names

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// begin begins a look-up of www.example, whose error comes by the channel.
func begin(ctx context.Context, r *Resolver) <-chan error {
	ended := make(chan error, 1)
	go func() {
		addrs, err := r.LookupNetIP(ctx, "ip4", "www.example")
		if err == nil && len(addrs) != 1 {
			err = errors.New("not one address")
		}
		ended <- err
	}()
	return ended
}

func TestOneQuestionForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = z.after(500 * time.Millisecond)
		r, _ := over(t, "udp", z)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := <-begin(t.Context(), r); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := z.total(); n != 1 {
			t.Errorf("%d questions, want 1", n)
		}
	})
}

// Who leaves leaves alone, be it the one who began.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = z.after(500 * time.Millisecond)
		r, _ := over(t, "udp", z)
		first, cancel := context.WithCancel(t.Context())
		leaving := begin(first, r)
		synctest.Wait()
		staying := begin(t.Context(), r)
		hurried, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer stop()
		hurrying := begin(hurried, r)
		synctest.Wait()

		cancel()
		var described *net.DNSError
		if err := <-leaving; !errors.Is(err, context.Canceled) || !errors.As(err, &described) || described.IsTimeout || described.IsNotFound {
			t.Errorf("who left got %v", err)
		}
		if err := <-hurrying; !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &described) || !described.IsTimeout {
			t.Errorf("who was in a hurry got %v", err)
		}
		if err := <-staying; err != nil {
			t.Errorf("who stayed got %v", err)
		}
		if n := z.total(); n != 1 {
			t.Errorf("%d questions, want 1", n)
		}
	})
}

// When all have left, the look-up ends: no server is blamed for it, nothing is
// kept, and the next caller begins anew.
func TestAllLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = silent
		r, _ := over(t, "udp", z, newZone(t))
		ctx, cancel := context.WithCancel(t.Context())
		one, two := begin(ctx, r), begin(ctx, r)
		synctest.Wait()
		cancel()
		<-one
		<-two
		z.mu.Lock()
		z.instead = nil
		z.mu.Unlock()
		if err := <-begin(t.Context(), r); err != nil {
			t.Errorf("the next caller got %v", err)
		}
		synctest.Wait()
		if len(r.flights) != 0 {
			t.Errorf("%d flights are left", len(r.flights))
		}
	})
}

func TestEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := over(t, "udp", newZone(t, wwwRecord))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := <-begin(ctx, r); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead []*zone
		for range 8 {
			z := newZone(t)
			z.instead = silent
			dead = append(dead, z)
		}
		r, _ := over(t, "udp", dead...)
		began := time.Now()
		err := wantError(t, r, "www.example")
		if took := time.Since(began); took != lookupTimeout || !err.IsTimeout {
			t.Errorf("took %v, want %v; %v", took, lookupTimeout, err)
		}
	})
}

// What a flight dials must not depend on who happened to be the first.
func TestNoValuesOfCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type caller struct{}
		z := newZone(t, wwwRecord)
		r, w := over(t, "tcp", z)
		r.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if ctx.Value(caller{}) != nil {
				t.Error("the dial knows its caller")
			}
			return w.dial(ctx, network, address)
		}
		if err := <-begin(context.WithValue(t.Context(), caller{}, 1), r); err != nil {
			t.Error(err)
		}
	})
}
