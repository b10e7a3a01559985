package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: func(ctx context.Context, conn net.Conn) {
			defer conn.Close()
			io.WriteString(conn, Inbound(ctx)+" "+conn.RemoteAddr().String())
		}}
		plain, named := newMemory(), namedListener{newMemory()}
		wait, waitNamed := run(s, plain), run(s, named)
		for want, ln := range map[string]*memory{
			"127.0.0.1:1080 192.0.2.1:5000": plain,
			"office 192.0.2.1:5000":         named.memory,
		} {
			if got, err := io.ReadAll(ln.dial("192.0.2.1:5000")); string(got) != want || err != nil {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}
		s.Close()
		if err := errors.Join(wait(), waitNamed()); !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
		if !plain.closed() || !named.closed() {
			t.Error("a listener is still open")
		}
	})
}

// A panic ends its connection, and is told, but ends nothing else.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &Server{Log: slog.New(slog.NewTextHandler(&log, nil)), Handle: func(_ context.Context, conn net.Conn) {
			if conn.RemoteAddr().String() == "192.0.2.1:1" {
				panic("oops")
			}
			io.WriteString(conn, "fine")
			conn.Close()
		}}
		ln := newMemory()
		wait := run(s, ln)
		for client, want := range map[string]string{"192.0.2.1:1": "", "192.0.2.1:2": "fine"} {
			if got, err := io.ReadAll(ln.dial(client)); string(got) != want || err != nil {
				t.Errorf("%s: %q, %v; want %q", client, got, err, want)
			}
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		_ = wait()
		if !strings.Contains(log.String(), "panic=oops") || !strings.Contains(log.String(), "client=192.0.2.1:1") {
			t.Errorf("log: %s", log.String())
		}
	})
}

type namedListener struct{ *memory }

func (namedListener) Name() string { return "office" }

func TestShutdownWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: hold}
		ln := newMemory()
		wait := run(s, ln)
		handshake, session := ln.dial("192.0.2.1:1"), ln.dial("192.0.2.1:2")
		establish(t, session)

		done := make(chan error, 1)
		go func() { done <- s.Shutdown(t.Context()) }()
		if err := wait(); err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		if isCut(t, handshake) || isCut(t, session) {
			t.Error("Shutdown cut a connection")
		}
		handshake.Close()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Shutdown did not wait for the session: %v", err)
		default:
		}
		session.Close()
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// When its context ends, Shutdown cuts the handshakes, cancels the rest, and
// returns when the handlers have.
func TestShutdownInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		s := &Server{Timeout: -1, Handle: func(ctx context.Context, conn net.Conn) {
			defer ended.Add(1)
			context.AfterFunc(ctx, func() {
				<-time.After(time.Second) // a session's last words
				conn.Close()
			})
			hold(ctx, conn)
		}}
		ln := newMemory()
		wait := run(s, ln)
		ln.dial("192.0.2.1:1")
		establish(t, ln.dial("192.0.2.1:2"))
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(start); took != time.Minute+time.Second {
			t.Errorf("Shutdown took %v", took)
		}
		if n := ended.Load(); n != 2 {
			t.Errorf("%d of 2 handlers had ended", n)
		}
		if err := wait(); err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := make(chan struct{}, 1)
		s := &Server{Handle: func(ctx context.Context, conn net.Conn) {
			stop := context.AfterFunc(ctx, func() { cancelled <- struct{}{} })
			defer stop()
			hold(ctx, conn)
		}}
		ln := newMemory()
		wait := run(s, ln)
		session := ln.dial("192.0.2.1:2")
		establish(t, session)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := wait(); err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
		<-cancelled
		if isCut(t, session) {
			t.Error("Close cut a session, which belongs to its handler")
		}
		session.Close()
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestCloseCutsHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: hold}
		ln := newMemory()
		wait := run(s, ln)
		clients := []net.Conn{ln.dial("192.0.2.1:1"), ln.dial("192.0.2.2:1"), ln.dial("192.0.2.3:1")}
		synctest.Wait()
		s.Close()
		for i, c := range clients {
			if !isCut(t, c) {
				t.Errorf("handshake %d was not cut", i)
			}
		}
		if err := wait(); err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

// ends are the two ways to end a server.
var ends = map[string]func(context.Context, *Server) error{
	"Close":    func(_ context.Context, s *Server) error { return s.Close() },
	"Shutdown": func(ctx context.Context, s *Server) error { return s.Shutdown(ctx) },
}

func TestServeAfterClose(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			s := &Server{Handle: func(context.Context, net.Conn) { t.Error("a connection was served") }}
			if err := end(t.Context(), s); err != nil {
				t.Error(err)
			}
			ln := newMemory()
			client := ln.dial("192.0.2.1:1")
			if err := s.Serve(ln); err != ErrServerClosed {
				t.Errorf("Serve: %v", err)
			}
			if !ln.closed() {
				t.Error("the listener is still open")
			}
			client.Close()
		})
	}
}

// A connection that was accepted while the server closed is closed too.
func TestAcceptedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: func(context.Context, net.Conn) { t.Error("served") }}
		ln := lateListener{memory: newMemory(), release: make(chan struct{})}
		wait := run(s, ln)
		client := ln.dial("192.0.2.1:1")
		synctest.Wait()
		s.Close()
		close(ln.release)
		if !isCut(t, client) {
			t.Error("the connection is still open")
		}
		if err := wait(); err != ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

// lateListener returns what it accepted when it is released.
type lateListener struct {
	*memory
	release chan struct{}
}

func (l lateListener) Accept() (net.Conn, error) {
	conn, err := l.memory.Accept()
	<-l.release
	return conn, err
}

// A listener that fails for good ends its Serve and nothing else.
func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handle: hold}
		ln, other := newMemory(), newMemory()
		wait, waitOther := run(s, ln), run(s, other)
		synctest.Wait()
		early := ln.dial("192.0.2.1:1")
		ln.fail(syscall.EBADF)
		if err := wait(); !errors.Is(err, syscall.EBADF) || errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v, want EBADF", err)
		}
		if !ln.closed() {
			t.Error("the listener is still open")
		}
		s.mu.Lock()
		if n := len(s.listeners); n != 1 {
			t.Errorf("the server knows %d listeners, one of which has failed", n)
		}
		s.mu.Unlock()
		later := other.dial("192.0.2.1:2")
		for _, c := range []net.Conn{early, later} {
			if isCut(t, c) {
				t.Error("a connection was cut")
			}
			c.Close()
		}
		s.Close()
		if err := waitOther(); err != ErrServerClosed {
			t.Errorf("Serve of the other: %v", err)
		}
	})
}

func TestBackoff(t *testing.T) {
	passing := []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOMEM, syscall.EINTR,
		os.NewSyscallError("accept4", syscall.EMFILE), os.ErrDeadlineExceeded,
	}
	for _, err := range passing {
		t.Run(err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testBackoff(t, err) })
		})
	}
}

// testBackoff lets Accept fail ten times and then succeed.
func testBackoff(t *testing.T, err error) {
	var log journal
	s := &Server{Log: log.logger(), Handle: hold}
	ln := newMemory()
	for range 10 {
		ln.fail(err)
	}
	client := ln.dial("192.0.2.1:1")
	wait := run(s, ln)
	establish(t, client)
	client.Close()

	var delays []time.Duration
	for i := range len(ln.calls) - 1 {
		delays = append(delays, ln.calls[i+1].Sub(ln.calls[i])/time.Millisecond)
	}
	if want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 0}; !slices.Equal(delays, want) {
		t.Errorf("waited for %d ms, want %d", delays, want)
	}
	if warned, told := log.count("level=WARN"), log.count("accepting connections again"); warned != 1 || told != 1 {
		t.Errorf("%d warnings, %d ends of them, want one each", warned, told)
	}

	// The next spell begins anew.
	before := len(ln.calls)
	ln.fail(err)
	ln.dial("192.0.2.1:2").Close()
	ln.dial("192.0.2.1:3").Close()
	<-time.After(5 * time.Millisecond)
	synctest.Wait()
	if n := len(ln.calls) - before; n != 3 {
		t.Errorf("%d more calls of Accept after 5 ms, want 3", n)
	}
	if warned, told := log.count("level=WARN"), log.count("accepting connections again"); warned != 2 || told != 2 {
		t.Errorf("%d warnings, %d ends of them, after two spells", warned, told)
	}
	s.Close()
	if err := wait(); err != ErrServerClosed {
		t.Errorf("Serve: %v", err)
	}
}

// Close and Shutdown end a Serve that waits between failed accepts, at once.
func TestCloseInBackoff(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{Handle: hold}
				ln := newMemory()
				for range 1000 {
					ln.fail(syscall.EMFILE)
				}
				wait := run(s, ln)
				<-time.After(time.Minute + time.Millisecond)
				start := time.Now()
				if err := end(t.Context(), s); err != nil {
					t.Error(err)
				}
				if err := wait(); err != ErrServerClosed {
					t.Errorf("Serve: %v", err)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("Serve ended %v later", took)
				}
			})
		})
	}
}

// Connections come and go, are established, cut and fed, all at once; in the
// end the books are balanced.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := NewFeed(newMemory().Addr())
		s := &Server{MaxHandshakes: 16, MaxPerClient: 4}
		s.Handle = func(ctx context.Context, conn net.Conn) {
			b := make([]byte, 1)
			if _, err := conn.Read(b); err == nil && b[0] == 'f' {
				feed.Put(ctx, conn)
				return
			}
			Established(ctx)
			conn.Close()
		}
		behind := &Server{Handle: func(_ context.Context, conn net.Conn) { conn.Close() }}
		ln := newMemory()
		wait, waitBehind := run(s, ln), run(behind, feed)
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				client := ln.dial([]string{"192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1", ""}[i%4])
				defer client.Close()
				switch i % 5 {
				case 0: // gone at once
				case 1:
					client.Read(make([]byte, 1)) // says nothing until it is cut
				case 2:
					client.Write([]byte("f"))
				default:
					client.Write([]byte("e"))
				}
			})
		}
		wg.Wait()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := behind.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if a, b := wait(), waitBehind(); a != ErrServerClosed || b != ErrServerClosed {
			t.Errorf("Serve: %v, %v", a, b)
		}
		if p := &s.pending; p.n != 0 || len(p.clients) != 0 || p.ring.next != &p.ring || p.ring.prev != &p.ring {
			t.Errorf("%d handshakes of %d clients are left", p.n, len(p.clients))
		}
	})
}
