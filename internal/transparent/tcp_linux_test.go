package transparent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
)

// echo accepts a call and sends back what comes, to the end.
func echo(call argyle.Call) {
	conn, err := call.Accept(nil)
	if err != nil {
		return
	}
	defer conn.Close()
	io.Copy(conn, conn)
}

// seen collects requests.
type seen struct {
	mu   sync.Mutex
	reqs []argyle.Request
}

func (s *seen) add(req *argyle.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reqs = append(s.reqs, *req)
}

func (s *seen) all() []argyle.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reqs)
}

func (s *seen) dests() (dests []string) {
	for _, req := range s.all() {
		dests = append(dests, req.Dest.String())
	}
	return dests
}

// Both with and without held SYNs.
func eachWay(t *testing.T, test func(t *testing.T, w *world)) {
	for name, rules := range map[string]Rules{"accept first": {}, "held": {Hold: true, Queue: 7}} {
		t.Run(name, func(t *testing.T) { test(t, newWorld(t, rules)) })
	}
}

func TestDestinations(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		var got seen
		w.serve(&Server{Inbound: "run", Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			got.add(call.Request())
			echo(call)
		})})
		for _, dest := range []string{"93.184.216.34:80", "[2001:db8::5]:443", "127.0.0.53:53", "[::1]:53", "10.0.85.1:53", "192.0.2.1:53"} {
			cmd := w.client("stream", dest)
			cmd.Stdin = strings.NewReader("hello " + dest)
			if out := w.run(cmd); out != "hello "+dest {
				t.Errorf("%s: %q", dest, out)
			}
			reqs := got.all()
			if len(reqs) == 0 {
				t.Fatalf("%s: no call", dest)
			}
			last := reqs[len(reqs)-1]
			if last.Dest.String() != dest || last.Command != argyle.Connect || last.Inbound != "run" || !last.Client.IsValid() {
				t.Errorf("%s: request %+v", dest, last)
			}
		}
	})
}

// What the namespace has itself is not ours, and our own sockets are nobody's.
func TestNotOurs(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		w.serve(&Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			t.Errorf("call to %v", call.Request().Dest)
			call.Reject(nil)
		})})
		port := argyle.AddrOf(w.ln.Addr()).Port
		for _, dest := range []string{"127.0.0.1", "10.0.85.1", "::1", "fd00:85::1"} {
			for _, port := range []uint16{port, 81} {
				addr := netip.AddrPortFrom(netip.MustParseAddr(dest), port).String()
				if out := w.run(w.client("connect", addr)); !strings.HasPrefix(out, "ECONNREFUSED ") {
					t.Errorf("%s: %s", addr, out)
				}
			}
		}
		if out := w.run(w.client("listen", "127.0.0.1:80")); out != "ok" {
			t.Errorf("its own port: %s", out)
		}
	})
}

func TestNames(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		var got seen
		w.serve(&Server{
			Name: func(ip netip.Addr) (string, bool) {
				if ip == netip.MustParseAddr("198.18.0.5") {
					return "origin.test", true
				}
				return "", netip.MustParsePrefix("198.18.0.0/15").Contains(ip)
			},
			Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
				got.add(call.Request())
				echo(call)
			}),
		})
		w.run(w.client("connect", "198.18.0.5:80"))
		w.run(w.client("connect", "198.18.0.6:80"))
		w.run(w.client("connect", "192.0.2.6:80"))
		// A connection that is accepted first is there before its call.
		if !poll(func() bool { return strings.Join(got.dests(), " ") == "origin.test:80 192.0.2.6:80" }) {
			t.Errorf("calls to %s", got.dests())
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		w.serve(&Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) { echo(call) })})
		if out := w.run(w.client("many", "93.184.216.34:80", "200")); out != "200" {
			t.Errorf("%s of 200 connections", out)
		}
	})
}

// A reset of the far side is a reset, and a rejection after the handshake, too.
func TestReset(t *testing.T) {
	w := newWorld(t, Rules{})
	w.serve(&Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		if call.Request().Dest.Port == 80 {
			call.Reject(syscall.ECONNREFUSED)
		} // else forgotten
	})})
	for _, dest := range []string{"192.0.2.1:80", "192.0.2.1:81"} {
		cmd := w.client("stream", dest)
		cmd.Stdin = strings.NewReader("x")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "reset") && !strings.Contains(string(out), "broken pipe") {
			t.Errorf("%s: %v: %s", dest, err, out)
		}
	}
}

func TestFixed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var got seen
	s := &Server{
		Dest: Fixed(argyle.Addr{Name: "db.lan", Port: 5432}),
		Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			got.add(call.Request())
			echo(call)
		}),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "hello")
	conn.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(conn); string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	conn.Close()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != ErrServerClosed {
		t.Error(err)
	}
	if reqs := got.all(); len(reqs) != 1 || reqs[0].Dest.String() != "db.lan:5432" || reqs[0].Inbound != ln.Addr().String() {
		t.Errorf("requests %+v", reqs)
	}
}

// A connection straight to the listener would be dialled back to it.
func TestLoop(t *testing.T) {
	for name, dest := range map[string]func(net.Conn) (argyle.Addr, error){"TPROXY": nil, "REDIRECT": OriginalDst} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := &Server{Dest: dest, Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
				t.Errorf("call to %v", call.Request().Dest)
				call.Reject(nil)
			})}
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(ln) }()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
				conn.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a reset", err)
			}
			s.Close()
			<-ended
		})
	}
}
