package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCall is a Call that records its answer.
type fakeCall struct {
	argyle.ConnectOnly
	request   argyle.Request
	conn      net.Conn         // what Accept returns
	packet    argyle.BatchConn // what AcceptPacket returns
	acceptErr error
	accepted  chan net.Addr // gets bound
	rejected  chan error
}

func newCall(cmd argyle.Command) *fakeCall {
	return &fakeCall{
		request: argyle.Request{
			Command: cmd, User: "ann", Inbound: "test",
			Client: netip.MustParseAddrPort("192.0.2.7:4711"),
			Dest:   argyle.Addr{Name: "host.example", Port: 80},
		},
		accepted: make(chan net.Addr, 2),
		rejected: make(chan error, 2),
	}
}

func (c *fakeCall) Request() *argyle.Request { return &c.request }

func (c *fakeCall) Accept(bound net.Addr) (net.Conn, error) {
	c.accepted <- bound
	return c.conn, c.acceptErr
}

func (c *fakeCall) AcceptPacket() (net.PacketConn, error) {
	c.accepted <- nil
	return c.packet, c.acceptErr
}

func (c *fakeCall) Reject(reason error) { c.rejected <- reason }

// answers returns how often the call was accepted and rejected.
func (c *fakeCall) answers() (accepted, rejected int) { return len(c.accepted), len(c.rejected) }

// fakeDialer dials with a function.
type fakeDialer struct {
	argyle.StreamOnly
	dial   func(ctx context.Context) (net.Conn, error)
	listen func(ctx context.Context) (net.PacketConn, error)
}

func (*fakeDialer) String() string { return "fake" }

func (d *fakeDialer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return d.dial(ctx)
}

func (d *fakeDialer) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if d.listen == nil {
		return d.StreamOnly.ListenPacket(ctx, network, address)
	}
	return d.listen(ctx)
}

// via is a policy with one way out.
func via(d argyle.Dialer) proxy.Policy {
	return proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return d, nil })
}

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{a, b} {
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return a, b
}

// Whatever goes wrong before the answer, the call gets exactly one, with the reason.
func TestOneAnswer(t *testing.T) {
	reason := errors.New("reason")
	failing := &fakeDialer{dial: func(context.Context) (net.Conn, error) { return nil, reason }}
	tests := []struct {
		name   string
		cmd    argyle.Command
		policy proxy.Policy
		want   error
	}{
		{"policy refuses", argyle.Connect, proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return nil, argyle.ErrNotAllowed }), argyle.ErrNotAllowed},
		{"policy refuses BIND", argyle.Bind, proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return nil, argyle.ErrNotAllowed }), argyle.ErrNotAllowed},
		{"policy refuses UDP", argyle.Associate, proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return nil, argyle.ErrNotAllowed }), argyle.ErrNotAllowed},
		{"dial fails", argyle.Connect, via(failing), reason},
		{"no BIND by this way", argyle.Bind, via(failing), errors.ErrUnsupported},
		{"unknown command", 9, via(failing), errors.ErrUnsupported},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := &proxy.Proxy{Policy: test.policy}
			call := newCall(test.cmd)
			p.ServeCall(t.Context(), call)
			accepted, rejected := call.answers()
			if accepted != 0 || rejected != 1 {
				t.Fatalf("accepted %d times, rejected %d times", accepted, rejected)
			}
			if err := <-call.rejected; !errors.Is(err, test.want) {
				t.Errorf("rejected with %v, want %v", err, test.want)
			}
			for range p.Sessions() {
				t.Error("the session is still there")
			}
		})
	}
}

// T15: the answer comes after the dial.
func TestDialBeforeAnswer(t *testing.T) {
	upstream, far := tcpPair(t)
	client, near := tcpPair(t)
	dialing, dialed := make(chan struct{}), make(chan struct{})
	p := &proxy.Proxy{Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) {
		close(dialing)
		<-dialed
		return upstream, nil
	}})}
	call := newCall(argyle.Connect)
	call.conn = near
	done := make(chan struct{})
	go func() { p.ServeCall(t.Context(), call); close(done) }()
	<-dialing
	if accepted, rejected := call.answers(); accepted+rejected != 0 {
		t.Error("answered before the dial was over")
	}
	close(dialed)
	if bound := <-call.accepted; bound.String() != upstream.LocalAddr().String() {
		t.Errorf("bound %v, want %v", bound, upstream.LocalAddr())
	}
	<-done // the session goes on without its goroutine
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(far, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	p.Close()
}

// A client that is gone when the answer is written leaves no connection behind.
func TestAcceptFails(t *testing.T) {
	upstream, far := tcpPair(t)
	p := &proxy.Proxy{Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }})}
	call := newCall(argyle.Connect)
	call.acceptErr = syscall.EPIPE
	p.ServeCall(t.Context(), call)
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the upstream connection: %v", err)
	}
	if _, rejected := call.answers(); rejected != 0 {
		t.Error("answered twice")
	}
}

// A dial is bounded, and Close of its session ends it.
func TestDialTimeout(t *testing.T) {
	never := via(&fakeDialer{dial: func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	synctest.Test(t, func(t *testing.T) {
		for timeout, want := range map[time.Duration]time.Duration{0: 10 * time.Second, 3 * time.Second: 3 * time.Second} {
			p := &proxy.Proxy{Policy: never, Timeouts: proxy.Timeouts{DialTimeout: timeout}}
			call := newCall(argyle.Connect)
			began := time.Now()
			p.ServeCall(t.Context(), call)
			if err := <-call.rejected; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != want {
				t.Errorf("DialTimeout %v: %v after %v", timeout, err, time.Since(began))
			}
		}
		p := &proxy.Proxy{Policy: never, Timeouts: proxy.Timeouts{DialTimeout: -1}}
		call := newCall(argyle.Connect)
		go p.ServeCall(t.Context(), call)
		synctest.Wait()
		time.Sleep(time.Hour)
		for s := range p.Sessions() {
			s.Close()
		}
		if err := <-call.rejected; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// The line that operators and their programs read.
func TestSessionLine(t *testing.T) {
	var buf lockedBuffer
	upstream, far := tcpPair(t)
	client, near := tcpPair(t)
	ended := make(chan struct{})
	p := &proxy.Proxy{
		Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }}),
		Log:    slog.New(slog.NewTextHandler(&buf, nil)),
		OnSession: func(s *proxy.Session) {
			if over, _ := s.Ended(); over {
				close(ended)
			}
		},
	}
	call := newCall(argyle.Connect)
	call.conn = near
	p.ServeCall(t.Context(), call)
	write := func(conn net.Conn, s string) {
		if _, err := conn.Write([]byte(s)); err != nil {
			t.Error(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	write(client, "request")
	write(far, "the answer")
	_, _ = io.Copy(io.Discard, client)
	_, _ = io.Copy(io.Discard, far)
	<-ended
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := `level=INFO msg=session session=1 inbound=test client=192.0.2.7:4711 user=ann cmd=connect dest=host.example:80 route=fake up=7 down=10 dur=D`
	line := regexp.MustCompile(`^time=\S+ `).ReplaceAllString(strings.TrimSpace(buf.String()), "")
	line = regexp.MustCompile(`dur=\S+`).ReplaceAllString(line, "dur=D")
	if line != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// Shutdown refuses calls, waits for sessions, and cuts them when its time is over.
func TestShutdown(t *testing.T) {
	upstream, far := tcpPair(t)
	_, near := tcpPair(t)
	dials := make(chan net.Conn, 1)
	dials <- upstream
	p := &proxy.Proxy{Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) {
		select {
		case conn := <-dials:
			return conn, nil
		default:
			return nil, syscall.ECONNREFUSED
		}
	}})}
	call := newCall(argyle.Connect)
	call.conn = near
	p.ServeCall(t.Context(), call)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Shutdown(ctx) }()
	for err := error(nil); !errors.Is(err, proxy.ErrProxyClosed); { // the other goroutine may not have begun
		late := newCall(argyle.Connect)
		p.ServeCall(t.Context(), late)
		if err = <-late.rejected; !errors.Is(err, proxy.ErrProxyClosed) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a session that is cut: %v", err)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A panic in what is called for a session ends it: it is not counted for ever.
func TestPanic(t *testing.T) {
	p := &proxy.Proxy{Policy: policyOf(func(context.Context, *argyle.Request) (proxy.Route, error) { panic("oops") })}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("nobody hears of it")
			}
		}()
		p.ServeCall(t.Context(), newCall(argyle.Connect))
	}()
	for s := range p.Sessions() {
		t.Errorf("session %d is still there", s.ID())
	}
	p.Close()
}
