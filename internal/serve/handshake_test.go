package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHandshakeTimeout(t *testing.T) {
	for _, c := range []struct{ timeout, want time.Duration }{
		{0, 10 * time.Second},
		{3 * time.Second, 3 * time.Second},
		{-1, time.Hour}, // when the client goes
	} {
		t.Run(c.timeout.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ended := make(chan error, 1)
				s := &Server{Timeout: c.timeout, Handle: func(_ context.Context, conn net.Conn) {
					defer conn.Close()
					_, err := io.Copy(io.Discard, conn)
					ended <- err
				}}
				ln := newMemory()
				wait := run(s, ln)
				client := ln.dial("192.0.2.1:1")
				var speaking sync.WaitGroup
				speaking.Go(func() { // all the time, and never gets anywhere
					for time.Since(start) < time.Hour {
						if _, err := client.Write([]byte("x")); err != nil {
							return
						}
						<-time.After(time.Second - time.Millisecond)
					}
					client.Close()
				})
				err := <-ended
				if took := time.Since(start).Truncate(time.Second); took != c.want {
					t.Errorf("the handshake ended after %v with %v, want %v", took, err, c.want)
				}
				if late := errors.Is(err, os.ErrDeadlineExceeded); late != (c.timeout >= 0) {
					t.Errorf("the handshake ended with %v", err)
				}
				speaking.Wait()
				s.Close()
				wait()
			})
		})
	}
}

func TestEstablishedLiftsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: hold}
		ln := newMemory()
		wait := run(s, ln)
		quick, slow := ln.dial("192.0.2.1:1"), ln.dial("192.0.2.1:2")
		establish(t, quick)
		establish(t, quick) // twice does no harm
		<-time.After(9 * time.Second)
		if isCut(t, slow) {
			t.Error("cut before its time")
		}
		<-time.After(time.Second)
		if !isCut(t, slow) {
			t.Error("the handshake outlives its time")
		}
		<-time.After(time.Hour)
		if isCut(t, quick) {
			t.Error("the session ended with the time of its handshake")
		}
		quick.Close()
		s.Close()
		wait()
	})
}

// A session sets deadlines as it likes; a second Established leaves them alone.
func TestEstablishedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		s := &Server{Handle: func(ctx context.Context, conn net.Conn) {
			defer conn.Close()
			Established(ctx)
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			Established(ctx)
			_, err := conn.Read(make([]byte, 1))
			ended <- err
		}}
		ln := newMemory()
		wait := run(s, ln)
		client := ln.dial("192.0.2.1:1")
		defer client.Close()
		time.AfterFunc(time.Hour, func() { client.Close() })
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the session's deadline was lifted: %v", err)
		}
		s.Close()
		wait()
	})
}

// Contexts of elsewhere have no handshake.
func TestNoHandshake(t *testing.T) {
	Established(t.Context())
	if name := Inbound(t.Context()); name != "" {
		t.Errorf("Inbound is %q", name)
	}
}

// Another server's deadlines do not outlast the handshake's.
func TestFedDeadlineIsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := NewFeed(nil)
		s := &Server{Handle: func(ctx context.Context, conn net.Conn) { feed.Put(ctx, conn) }}
		ln := newMemory()
		wait := run(s, ln)
		began := time.Now()
		client := ln.dial("192.0.2.1:1")
		conn, err := feed.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range []func(time.Time) error{conn.SetReadDeadline, conn.SetDeadline} {
			for _, d := range []time.Time{{}, began.Add(time.Hour)} {
				if err := set(d); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != DefaultTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		Established(ConnContext(t.Context(), conn))
		if err := conn.SetReadDeadline(began.Add(time.Minute)); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		conn.Close()
		client.Close()
		s.Close()
		_ = wait()
	})
}

// Shutdown does not wait for who has said nothing.
func TestShutdownCutsHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: func(_ context.Context, conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
			conn.Close()
		}}
		ln := newMemory()
		wait := run(s, ln)
		client := ln.dial("192.0.2.1:1")
		synctest.Wait()
		began := time.Now()
		if err := s.Shutdown(t.Context()); err != nil || time.Since(began) > lastCall {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		client.Close()
		_ = wait()
	})
}

func TestMaxHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		s := &Server{Handle: hold, MaxHandshakes: 3, MaxPerClient: 3, Log: log.logger()}
		ln := newMemory()
		wait := run(s, ln)
		clients := map[string]net.Conn{}
		dial := func(name string) {
			clients[name] = ln.dial(fmt.Sprintf("192.0.2.%d:1", len(clients)+1))
			synctest.Wait()
		}
		expect := func(when string, cut ...string) {
			t.Helper()
			for name, c := range clients {
				if got := isCut(t, c); got != slices.Contains(cut, name) {
					t.Errorf("%s: %s is cut: %v", when, name, got)
				}
			}
		}
		dial("a")
		dial("b")
		dial("c")
		expect("three")
		dial("d")
		expect("a fourth", "a")
		establish(t, clients["b"]) // one place less is taken
		dial("e")
		expect("another after an established one", "a")
		dial("f")
		expect("one more", "a", "c")
		clients["e"].Close()
		synctest.Wait()
		delete(clients, "e")
		dial("g")
		expect("another after one that left", "a", "c")
		if n := log.count("handshake cut to make room"); n != 2 {
			t.Errorf("%d lines about 2 handshakes", n)
		}
		for _, c := range clients {
			c.Close()
		}
		s.Close()
		wait()
	})
}

func TestMaxPerClient(t *testing.T) {
	for _, c := range []struct {
		name         string
		limit, each  int
		from         []string // in this order
		cut          []int
		establishing bool // the first is past its handshake
	}{
		{name: "one address", each: 2, from: []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"}, cut: []int{0}},
		{name: "two addresses", each: 2, from: []string{"192.0.2.1:1", "192.0.2.2:2", "192.0.2.1:3"}},
		{name: "its own oldest, not anybody's", each: 2,
			from: []string{"192.0.2.2:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4"}, cut: []int{1, 2}},
		{name: "one at a time", each: 1, from: []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"}, cut: []int{0, 1}},
		{name: "IPv4-mapped", each: 1, from: []string{"192.0.2.1:1", "[::ffff:192.0.2.1]:2"}, cut: []int{0}},
		{name: "a /64", each: 1, from: []string{"[2001:db8::1]:1", "[2001:db8::ffff:1]:2"}, cut: []int{0}},
		{name: "two of /64", each: 1, from: []string{"[2001:db8::1]:1", "[2001:db8:0:1::1]:2"}},
		{name: "link-local, whatever the zone", each: 1, from: []string{"[fe80::1%1]:1", "[fe80::1%2]:2"}, cut: []int{0}},
		{name: "unix sockets are one client", each: 1, from: []string{"", ""}, cut: []int{0}},
		{name: "half of the limit is the default", limit: 4, from: []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"}, cut: []int{0}},
		{name: "but at least one", limit: 1, from: []string{"192.0.2.1:1"}},
		{name: "the established do not count", each: 1, from: []string{"192.0.2.1:1", "192.0.2.1:2"}, establishing: true},
		{name: "both bounds reached", limit: 3, each: 2,
			from: []string{"192.0.2.9:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"}, cut: []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{Handle: hold, MaxHandshakes: c.limit, MaxPerClient: c.each}
				ln := newMemory()
				wait := run(s, ln)
				var clients []net.Conn
				for _, from := range c.from {
					clients = append(clients, ln.dial(from))
					synctest.Wait()
					if c.establishing && len(clients) == 1 {
						establish(t, clients[0])
					}
				}
				for i, client := range clients {
					if got := isCut(t, client); got != slices.Contains(c.cut, i) {
						t.Errorf("number %d, from %s, is cut: %v", i, c.from[i], got)
					}
					client.Close()
				}
				s.Close()
				wait()
			})
		})
	}
}

// The bounds that stand for 0.
func TestDefaultBounds(t *testing.T) {
	for _, c := range []struct{ limit, each, wantLimit, wantEach int }{
		{0, 0, 4096, 2048}, {-1, -1, 4096, 2048}, {10, 0, 10, 5}, {1, 0, 1, 1}, {0, 10, 4096, 10},
	} {
		var p pending
		p.init(c.limit, c.each)
		if p.max != c.wantLimit || p.maxPerClient != c.wantEach {
			t.Errorf("%d, %d: %d and %d, want %d and %d", c.limit, c.each, p.max, p.maxPerClient, c.wantLimit, c.wantEach)
		}
	}
}

// The ring against a list that does the same slowly.
func TestPendingModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s := new(Server)
		limit, each := 1+random.IntN(8), 1+random.IntN(8)
		s.pending.init(limit, each)
		var model []*handshake // the oldest first
		drop := func(h *handshake) {
			model = slices.DeleteFunc(model, func(other *handshake) bool { return other == h })
		}
		address := func(h *handshake) string { return h.conn.RemoteAddr().String() }
		for range 300 {
			if len(model) > 0 && random.IntN(3) == 0 {
				h := model[random.IntN(len(model))]
				drop(h)
				if !h.remove(false) || h.remove(false) {
					t.Fatal("a handshake ends once")
				}
				continue
			}
			conn := &memoryConn{remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, byte(random.IntN(3)))}}
			h := &handshake{server: s, conn: conn}
			var own []*handshake
			for _, other := range model {
				if address(other) == address(h) {
					own = append(own, other)
				}
			}
			var want *handshake
			switch {
			case len(own) >= each:
				want = own[0]
			case len(model) >= limit:
				want = model[0]
			}
			drop(want)
			model = append(model, h)
			if got := s.pending.add(h); got != want {
				t.Fatalf("of %d handshakes (%d from this client), bounds %d and %d, the wrong one was cut", len(model), len(own), limit, each)
			}
			if got := slices.Collect(s.pending.all()); !slices.Equal(got, model) || s.pending.n != len(model) {
				t.Fatalf("%d handshakes in the ring, %d counted, want %d", len(got), s.pending.n, len(model))
			}
			sum := 0
			for _, from := range s.pending.clients {
				sum += from.n
			}
			if sum != len(model) {
				t.Fatalf("%d handshakes counted per client, want %d", sum, len(model))
			}
		}
	}
}
