package transparent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// held returns a world that holds SYNs for a handler.
func held(t *testing.T, s *Server, handler func(ctx context.Context, call argyle.Call)) *world {
	t.Helper()
	w := newWorld(t, Rules{Hold: true, Queue: 7})
	s.Handler = argyle.HandlerFunc(handler)
	w.serve(s)
	return w
}

// connect(2) fails as the dial has.
func TestTrueResults(t *testing.T) {
	reasons := map[uint16]error{
		1: syscall.ECONNREFUSED,
		2: syscall.EHOSTUNREACH,
		3: syscall.ENETUNREACH,
		4: argyle.ErrNotAllowed,
		5: &net.DNSError{IsNotFound: true},
		6: nil, // not answered at all
	}
	w := held(t, &Server{}, func(_ context.Context, call argyle.Call) {
		if reason := reasons[call.Request().Dest.Port]; reason != nil {
			call.Reject(reason)
		}
	})
	for port, want := range map[uint16]string{
		1: "ECONNREFUSED", 2: "EHOSTUNREACH", 3: "ENETUNREACH", 4: "ECONNREFUSED", 5: "EHOSTUNREACH", 6: "EHOSTUNREACH",
	} {
		for _, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
			addr := fmt.Sprintf("%s:%d", host, port)
			out := w.run(w.client("connect", addr))
			if !strings.HasPrefix(out, want+" ") {
				t.Errorf("%s: %s, want %s", addr, out, want)
			}
		}
	}
	if waiting, overflow := w.held(); waiting != 0 || overflow != 0 {
		t.Errorf("%d wait, %d were let through", waiting, overflow)
	}
}

// What is rejected does not reach a listener that the program has itself: every
// address of the namespace is its own.
func TestRejectedIsNotLocal(t *testing.T) {
	w := held(t, &Server{}, func(_ context.Context, call argyle.Call) { call.Reject(syscall.ECONNREFUSED) })
	if out := w.run(w.client("listen", "192.0.2.1:80")); out != "ECONNREFUSED" {
		t.Error(out)
	}
}

// While the dial goes on, so does connect, past the time of the first SYN sent
// again, and there is one call.
func TestSlowDial(t *testing.T) {
	var got seen
	wait := 1500 * time.Millisecond
	w := held(t, &Server{}, func(_ context.Context, call argyle.Call) {
		got.add(call.Request())
		time.Sleep(wait)
		if call.Request().Dest.Port == 80 {
			echo(call)
			return
		}
		call.Reject(syscall.ECONNREFUSED)
	})
	for port, want := range map[int]string{80: "ok", 81: "ECONNREFUSED"} {
		var result string
		var ms int64
		out := w.run(w.client("connect", fmt.Sprintf("192.0.2.1:%d", port)))
		fmt.Sscan(out, &result, &ms)
		if result != want || ms < wait.Milliseconds() {
			t.Errorf("port %d: %s", port, out)
		}
	}
	if n := len(got.dests()); n != 2 {
		t.Errorf("%d calls", n)
	}
}

// A dial that runs out of time looks like a host that does not answer.
func TestTimeout(t *testing.T) {
	calls := make(chan struct{}, 10)
	w := held(t, &Server{}, func(_ context.Context, call argyle.Call) {
		calls <- struct{}{}
		call.Reject(os.ErrDeadlineExceeded)
	})
	// It gives up after one SYN more, which makes no call.
	out, err := w.command("curl", "-sS", "--connect-timeout", "1.5", "http://192.0.2.1/").CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "28") {
		t.Errorf("curl: %v: %s", err, out)
	}
	if len(calls) != 1 {
		t.Errorf("%d calls", len(calls))
	}
}

// A client that gives up ends the dial.
func TestGivenUp(t *testing.T) {
	ended := make(chan error, 1)
	w := held(t, &Server{}, func(ctx context.Context, call argyle.Call) {
		<-ctx.Done()
		call.Reject(ctx.Err())
		ended <- ctx.Err()
	})
	start := time.Now()
	if out, err := w.command("curl", "-sS", "--connect-timeout", "0.3", "http://192.0.2.1/").CombinedOutput(); err == nil {
		t.Errorf("curl: %s", out)
	}
	select {
	case <-ended:
		t.Logf("the dial ended after %v", time.Since(start))
	case <-time.After(20 * time.Second):
		t.Error("the dial goes on")
	}
	if waiting, _ := w.held(); waiting != 0 {
		t.Errorf("%d wait", waiting)
	}
}

// A second attempt from the same port ends the first, and has a call of its own.
func TestReusedPort(t *testing.T) {
	began, ended := make(chan struct{}, 2), make(chan struct{}, 2)
	w := held(t, &Server{}, func(ctx context.Context, call argyle.Call) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
	})
	w.run(w.client("reuse", "192.0.2.1:80"))
	<-began
	<-began
	<-ended
}

// Accepted too late, a call fails, and holds nothing.
func TestAcceptGone(t *testing.T) {
	failed := make(chan error, 1)
	goOn := make(chan struct{})
	w := held(t, &Server{}, func(_ context.Context, call argyle.Call) {
		<-goOn
		_, err := call.Accept(nil)
		failed <- err
	})
	w.command("curl", "-sS", "--connect-timeout", "0.2", "http://192.0.2.1/").Run()
	close(goOn)
	if err := <-failed; err == nil {
		t.Error("accepted a client that is gone")
	}
}

// Beyond the bound connections are accepted first.
func TestOverflow(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 100)
	w := held(t, &Server{MaxHeld: 3}, func(_ context.Context, call argyle.Call) {
		arrived <- struct{}{}
		<-release
		echo(call)
	})
	done := make(chan string, 1)
	cmd := w.client("many", "192.0.2.1:80", "20")
	go func() { done <- w.run(cmd) }()
	for range 20 {
		<-arrived // also those that are not held, since they have been accepted
	}
	if waiting, overflow := w.held(); waiting != 3 || overflow != 17 {
		t.Errorf("%d wait, %d were let through", waiting, overflow)
	}
	close(release)
	if out := <-done; out != "20" {
		t.Errorf("%s of 20 connections", out)
	}
}

// Shutdown waits for what is held; Close does not.
func TestHoldShutdown(t *testing.T) {
	for _, how := range []string{"Shutdown", "Close", "Shutdown cut short"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, Rules{Hold: true, Queue: 7})
			began, release := make(chan struct{}), make(chan struct{})
			s := &Server{Handler: argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
				close(began)
				select {
				case <-ctx.Done():
					call.Reject(ctx.Err())
				case <-release:
					echo(call)
				}
			})}
			w.serve(s)
			result := make(chan string, 1)
			cmd := w.client("connect", "192.0.2.1:80")
			if how != "Shutdown" { // its SYN is dropped: do not wait for it
				cmd = w.command("curl", "-sS", "--connect-timeout", "1", "http://192.0.2.1/")
			}
			go func() {
				out, _ := cmd.CombinedOutput()
				result <- string(out)
			}()
			<-began
			switch how {
			case "Close":
				s.Close()
			case "Shutdown cut short":
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := s.Shutdown(ctx); err != context.Canceled {
					t.Errorf("Shutdown: %v", err)
				}
			case "Shutdown":
				ended := make(chan error, 1)
				go func() { ended <- s.Shutdown(t.Context()) }()
				if !poll(s.hold.isClosed) {
					t.Fatal("not closed")
				}
				close(release)
				if out := <-result; !strings.HasPrefix(out, "ok ") {
					t.Errorf("connect: %s", out)
				}
				if err := <-ended; err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				return
			}
			<-result
			if err := s.Hold(os.NewFile(^uintptr(0), "none")); err != ErrServerClosed {
				t.Errorf("Hold: %v", err)
			}
		})
	}
}

// When nobody serves any more, nothing answers: not the namespace itself either.
func TestNobodyServes(t *testing.T) {
	w := newWorld(t, Rules{Hold: true, Queue: 7})
	s := &Server{Handler: argyle.HandlerFunc(func(context.Context, argyle.Call) {})}
	w.serve(s)
	s.Close()
	w.sock.Close()
	if !poll(func() bool { return strings.HasPrefix(w.run(w.client("connect", "192.0.2.1:80")), "ECONNREFUSED ") }) {
		t.Error("a connection was not refused")
	}
	if out := w.run(w.client("listen", "192.0.2.1:80")); out != "ECONNREFUSED" {
		t.Errorf("a connection reached the namespace itself: %s", out)
	}
}

// way is a way out that knows one address.
type way struct {
	argyle.StreamOnly
	to map[string]string
}

func (w *way) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, ok := w.to[address]
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

type policy struct{ argyle.Dialer }

func (p policy) Route(context.Context, *argyle.Request) (proxy.Route, error) {
	return proxy.Route{Dialer: p.Dialer}, nil
}

// The whole way, with a proxy.Proxy: half-close and reset both ways, bulk.
func TestProxy(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		p := &proxy.Proxy{Policy: policy{&way{to: map[string]string{"192.0.2.1:80": ln.Addr().String()}}}}
		defer p.Close()
		w.serve(&Server{Handler: p})

		payload := strings.Repeat("0123456789abcdef", 1<<16)
		cmd := w.client("stream", "192.0.2.1:80")
		cmd.Stdin = strings.NewReader(payload)
		done := make(chan string, 1)
		go func() { done <- w.run(cmd) }()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(conn) // to the client's EOF
		if err != nil || string(all) != payload {
			t.Errorf("read %d bytes, %v", len(all), err)
		}
		io.WriteString(conn, payload)
		conn.Close()
		if out := <-done; out != payload {
			t.Errorf("the client read %d bytes", len(out))
		}

		// The server resets.
		cmd = w.client("stream", "192.0.2.1:80")
		cmd.Stdin = strings.NewReader("x")
		result := make(chan string, 1)
		go func() {
			out, err := cmd.CombinedOutput()
			result <- fmt.Sprint(err, " ", string(out))
		}()
		conn, err = ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(conn, make([]byte, 1))
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
		if out := <-result; !strings.Contains(out, "reset") {
			t.Errorf("the client: %s", out)
		}

		// The client does.
		python := w.command("/usr/bin/python3", "-c", `
import socket, struct
s = socket.create_connection(("192.0.2.1", 80))
s.sendall(b"x")
s.recv(1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()`)
		go func() { done <- w.run(python) }()
		conn, err = ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(conn, make([]byte, 1))
		io.WriteString(conn, "y")
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read: %v, want a reset", err)
		}
		conn.Close()
		<-done
	})
}

// held returns what [Server.Held] of the server does.
func (w *world) held() (waiting int, overflow uint64) { return w.server.Held() }
