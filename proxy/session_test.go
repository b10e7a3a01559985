package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

// bindCall is a fakeCall that can BIND: it answers when its peer has come.
type bindCall struct {
	*fakeCall
	peer  func(ctx context.Context) (net.Conn, error)
	bound chan net.Addr
}

func (c *bindCall) AcceptBind(ctx context.Context, ln net.Listener) (client, peer net.Conn, err error) {
	defer ln.Close()
	c.bound <- ln.Addr()
	if peer, err = c.peer(ctx); err != nil {
		return nil, nil, err
	}
	return c.conn, peer, nil
}

// bindDialer is a fakeDialer that can listen.
type bindDialer struct {
	fakeDialer
	bind func(ctx context.Context, network, peer string) (net.Listener, error)
}

func (d *bindDialer) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	return d.bind(ctx, network, peer)
}

// fakeListener notes that it was closed.
type fakeListener struct {
	net.Listener
	closed bool
}

func (l *fakeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 9} }
func (l *fakeListener) Close() error   { l.closed = true; return nil }

// journal notes what a proxy tells of its sessions.
type journal struct {
	mu   sync.Mutex
	all  []*proxy.Session
	text []string
	log  lockedBuffer
}

// follow makes p write into a journal.
func follow(p *proxy.Proxy) *journal {
	j := new(journal)
	p.OnSession = func(s *proxy.Session) {
		j.mu.Lock()
		defer j.mu.Unlock()
		ended, err := s.Ended()
		if !ended {
			j.all = append(j.all, s)
		}
		j.text = append(j.text, fmt.Sprintf("%d %v %v", s.ID(), ended, err))
	}
	p.Log = slog.New(slog.NewTextHandler(&j.log, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	return j
}

// never waits for the end of a context, as a dial to nowhere does.
func never(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// BIND: the listener comes from the way out and knows whom to expect; the
// session is between the client and the peer that came.
func TestBind(t *testing.T) {
	client, near := tcpPair(t)
	peer, far := tcpPair(t)
	ln := new(fakeListener)
	out := &bindDialer{bind: func(_ context.Context, network, peer string) (net.Listener, error) {
		if network != "tcp" || peer != "host.example:80" {
			t.Errorf("listen %s for %s", network, peer)
		}
		return ln, nil
	}}
	p := &proxy.Proxy{Policy: via(out)}
	journal := follow(p)
	call := &bindCall{newCall(argyle.Bind), func(context.Context) (net.Conn, error) { return far, nil }, make(chan net.Addr, 1)}
	call.conn = near
	p.ServeCall(t.Context(), call)
	if bound := <-call.bound; bound != ln.Addr() && bound.String() != ln.Addr().String() {
		t.Errorf("bound %v", bound)
	}
	if !ln.closed {
		t.Error("the listener is open")
	}
	for _, c := range [][2]net.Conn{{client, peer}, {peer, client}} {
		if _, err := c[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c[0].(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c[1]); string(b) != "hello" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if accepted, rejected := call.answers(); accepted+rejected != 0 {
		t.Error("answered again")
	}
	if up, down := journal.all[0].Bytes(); up != 5 || down != 5 {
		t.Errorf("%d up, %d down", up, down)
	}
}

// The wait for a peer is bounded, and Close of the session ends it. The call
// has told its client; it is not rejected as well.
func TestBindTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serve := func(timeout time.Duration) (*proxy.Proxy, *bindCall, chan time.Duration) {
			out := &bindDialer{bind: func(context.Context, string, string) (net.Listener, error) { return new(fakeListener), nil }}
			p := &proxy.Proxy{Policy: via(out), Timeouts: proxy.Timeouts{BindTimeout: timeout, DialTimeout: time.Second}}
			call := &bindCall{newCall(argyle.Bind), never, make(chan net.Addr, 1)}
			took := make(chan time.Duration, 1)
			began := time.Now()
			go func() {
				p.ServeCall(t.Context(), call)
				took <- time.Since(began)
			}()
			return p, call, took
		}
		for timeout, want := range map[time.Duration]time.Duration{0: 2 * time.Minute, 3 * time.Second: 3 * time.Second} {
			_, call, took := serve(timeout)
			if d := <-took; d != want {
				t.Errorf("BindTimeout %v: gave up after %v", timeout, d)
			}
			if _, rejected := call.answers(); rejected != 0 {
				t.Errorf("BindTimeout %v: rejected", timeout)
			}
		}
		p, _, took := serve(-1)
		<-time.After(1000 * time.Hour)
		for s := range p.Sessions() {
			s.Close()
		}
		if d := <-took; d != 1000*time.Hour {
			t.Errorf("gave up after %v", d)
		}
	})
}

// Listening is bounded by the time of a dial.
func TestListenTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &bindDialer{bind: func(ctx context.Context, _, _ string) (net.Listener, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		call := newCall(argyle.Bind)
		(&proxy.Proxy{Policy: via(out)}).ServeCall(t.Context(), call)
		if err := <-call.rejected; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A session that moves no byte ends in its time.
func TestIdle(t *testing.T) {
	for idle, want := range map[time.Duration]time.Duration{0: time.Hour, time.Minute: time.Minute, -1: 0} {
		synctest.Test(t, func(t *testing.T) {
			far, upstream := net.Pipe()
			p := &proxy.Proxy{Timeouts: proxy.Timeouts{Idle: idle}, Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }})}
			journal := follow(p)
			call := newCall(argyle.Connect)
			client, near := net.Pipe()
			call.conn = near
			began := time.Now()
			p.ServeCall(t.Context(), call)
			if want == 0 {
				<-time.After(1000 * time.Hour)
				client.Close()
				far.Close()
			}
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			_, err := journal.all[0].Ended()
			if want > 0 && (err == nil || err.Error() != "idle for too long" || time.Since(began) != want) {
				t.Errorf("Idle %v: %v after %v", idle, err, time.Since(began))
			}
			if want == 0 && err != nil {
				t.Errorf("Idle %v: %v", idle, err)
			}
		})
	}
}

// Where an answer fails, nothing else is said and nothing stays open.
func TestAcceptPacketFails(t *testing.T) {
	p := new(proxy.Proxy)
	journal := follow(p)
	call := newCall(argyle.Associate)
	call.acceptErr = syscall.EPIPE
	p.ServeCall(t.Context(), call)
	if accepted, rejected := call.answers(); accepted != 1 || rejected != 0 {
		t.Errorf("accepted %d times, rejected %d times", accepted, rejected)
	}
	if got, want := fmt.Sprint(journal.text), "[1 false <nil> 1 true broken pipe]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Each session is told of twice, is listed in between, and has a number of its own.
func TestSessions(t *testing.T) {
	p := &proxy.Proxy{Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) {
		_, upstream := tcpPair(t)
		return upstream, nil
	}})}
	journal := follow(p)
	const n = 5
	ids := make(map[uint64]bool)
	began := time.Now()
	for range n {
		call := newCall(argyle.Connect)
		_, call.conn = tcpPair(t)
		p.ServeCall(t.Context(), call)
	}
	for s := range p.Sessions() {
		ids[s.ID()] = true
		if ended, err := s.Ended(); ended || err != nil {
			t.Errorf("session %d has ended: %v", s.ID(), err)
		}
		if s.Route() != "fake" || s.Request().User != "ann" || s.Start().Before(began) {
			t.Errorf("session %d: route %q, user %q, start %v", s.ID(), s.Route(), s.Request().User, s.Start())
		}
	}
	if len(ids) != n {
		t.Errorf("%d sessions, want %d", len(ids), n)
	}
	for s := range p.Sessions() {
		s.Close()
		break // the others go on
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for s := range p.Sessions() {
		t.Errorf("session %d is still there", s.ID())
	}
	if len(journal.all) != n || len(journal.text) != 2*n {
		t.Errorf("%d sessions began, %d lines: %q", len(journal.all), len(journal.text), journal.text)
	}
	for _, s := range journal.all {
		if ended, err := s.Ended(); !ended || err == nil || err.Error() != "session closed" {
			t.Errorf("session %d: %v, %v", s.ID(), ended, err)
		}
		s.Close() // does no harm
	}
}

// Close of a session ends it in whatever it is doing; the reason is in its line.
func TestSessionClose(t *testing.T) {
	closeAll := func(p *proxy.Proxy) {
		for s := range p.Sessions() {
			s.Close()
		}
	}
	cut := map[string]func(*proxy.Proxy){
		"session": closeAll,
		"proxy":   func(p *proxy.Proxy) { p.Close() },
	}
	steps := map[string]func(p *proxy.Proxy) argyle.Call{
		"dial": func(p *proxy.Proxy) argyle.Call {
			p.Policy = via(&fakeDialer{dial: never})
			return newCall(argyle.Connect)
		},
		"policy": func(p *proxy.Proxy) argyle.Call {
			p.Policy = proxy.PolicyFunc(func(ctx context.Context, _ *argyle.Request) (argyle.Dialer, error) {
				_, err := never(ctx)
				return nil, err
			})
			return newCall(argyle.Connect)
		},
		"listen": func(p *proxy.Proxy) argyle.Call {
			p.Policy = via(&bindDialer{bind: func(ctx context.Context, _, _ string) (net.Listener, error) {
				_, err := never(ctx)
				return nil, err
			}})
			return newCall(argyle.Bind)
		},
		"bind": func(p *proxy.Proxy) argyle.Call {
			p.Policy = via(&bindDialer{bind: func(context.Context, string, string) (net.Listener, error) { return new(fakeListener), nil }})
			return &bindCall{newCall(argyle.Bind), never, make(chan net.Addr, 1)}
		},
		"relay": func(p *proxy.Proxy) argyle.Call {
			_, upstream := net.Pipe()
			p.Policy = via(&fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }})
			call := newCall(argyle.Connect)
			_, call.conn = net.Pipe()
			return call
		},
		"association": func(p *proxy.Proxy) argyle.Call {
			p.Policy = via(newOutbound())
			call := newCall(argyle.Associate)
			call.packet = newMemPacket()
			return call
		},
	}
	for what, end := range cut {
		for step, prepare := range steps {
			t.Run(step+" by "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := &proxy.Proxy{Timeouts: proxy.Timeouts{DialTimeout: -1, BindTimeout: -1, Idle: -1}}
					journal := follow(p)
					done := make(chan struct{})
					call := prepare(p)
					go func() {
						defer func() { done <- struct{}{} }()
						p.ServeCall(t.Context(), call)
					}()
					<-time.After(time.Hour)
					end(p)
					<-done
					synctest.Wait()
					if len(journal.text) != 2 {
						t.Fatalf("%q", journal.text)
					}
					if ended, err := journal.all[0].Ended(); !ended || err == nil {
						t.Errorf("%v, %v: want an end with a reason", ended, err)
					}
					if !bytes.Contains([]byte(journal.log.String()), []byte("err=")) {
						t.Errorf("no reason in %s", journal.log.String())
					}
				})
			})
		}
	}
}

// A session that is closed between its answer and its relay is cut all the same.
func TestSessionCloseAtAnswer(t *testing.T) {
	client, near := tcpPair(t)
	far, upstream := tcpPair(t)
	p := &proxy.Proxy{Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }})}
	call := &closingCall{newCall(argyle.Connect), p}
	call.conn = near
	p.ServeCall(t.Context(), call)
	for _, conn := range []net.Conn{client, far} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

type closingCall struct {
	*fakeCall
	proxy *proxy.Proxy
}

func (c *closingCall) Accept(bound net.Addr) (net.Conn, error) {
	for s := range c.proxy.Sessions() {
		s.Close()
	}
	return c.fakeCall.Accept(bound)
}

// OnSession may refuse a session that has just begun.
func TestOnSessionMayClose(t *testing.T) {
	var ends int
	p := &proxy.Proxy{
		Policy:   via(&fakeDialer{dial: never}),
		Timeouts: proxy.Timeouts{DialTimeout: -1},
	}
	p.OnSession = func(s *proxy.Session) {
		if ended, _ := s.Ended(); ended {
			ends++
			return
		}
		s.Close()
		s.Close()
	}
	call := newCall(argyle.Connect)
	p.ServeCall(t.Context(), call)
	if err := <-call.rejected; !errors.Is(err, context.Canceled) || ends != 1 {
		t.Errorf("%v, %d ends", err, ends)
	}
}

// Shutdown of a proxy without sessions does not wait, a call after it is told
// and leaves no session, and all of them may be called at once.
func TestShutdownAlone(t *testing.T) {
	p := new(proxy.Proxy)
	journal := follow(p)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { p.Close() })
	}
	wg.Wait()
	for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind, argyle.Associate, 7} {
		call := newCall(cmd)
		p.ServeCall(t.Context(), call)
		if accepted, rejected := call.answers(); accepted != 0 || rejected != 1 {
			t.Fatalf("accepted %d times, rejected %d times", accepted, rejected)
		}
		if err := <-call.rejected; err != proxy.ErrProxyClosed {
			t.Error(err)
		}
	}
	if len(journal.text) != 0 {
		t.Errorf("%q", journal.text)
	}
}

// Shutdown waits for as long as sessions last, and no longer.
func TestShutdownWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, upstream := net.Pipe()
		p := &proxy.Proxy{Policy: via(&fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }})}
		call := newCall(argyle.Connect)
		client, near := net.Pipe()
		call.conn = near
		p.ServeCall(t.Context(), call)
		began := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- p.Shutdown(t.Context()) }()
		<-time.After(30 * time.Minute)
		synctest.Wait()
		if len(ended) != 0 {
			t.Error("did not wait")
		}
		client.Close()
		far.Close()
		if err := <-ended; err != nil || time.Since(began) != 30*time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// The line of a session: the same keys in the same order, whatever it was, and
// no secrets.
func TestSessionLines(t *testing.T) {
	const password = "hunter2"
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	gw := &socks.Dialer{Addr: "gw.example:1080", User: "bob", Password: password, Forward: &fakeDialer{dial: func(context.Context) (net.Conn, error) {
		return nil, refused
	}}}
	tests := []struct {
		name string
		req  argyle.Request
		via  proxy.Policy
		want string
	}{
		{
			"refused by the rules",
			argyle.Request{Command: argyle.Connect, Dest: argyle.Addr{Name: "host.example", Port: 443}, Client: netip.MustParseAddrPort("192.0.2.7:4711"), Inbound: "127.0.0.1:1080"},
			proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) {
				return nil, fmt.Errorf("%w: no reason", argyle.ErrNotAllowed)
			}),
			`level=INFO msg=session session=1 inbound=127.0.0.1:1080 client=192.0.2.7:4711 user="" cmd=connect dest=host.example:443 route="" up=0 down=0 dur=1s err="not allowed by the rules: no reason"`,
		},
		{
			"refused by an upstream, with a password, over IPv6",
			argyle.Request{Command: argyle.Connect, Dest: argyle.AddrFrom(netip.MustParseAddrPort("[2001:db8::1]:80")), Client: netip.MustParseAddrPort("[2001:db8::7]:4711"), User: "ann", Inbound: "lan"},
			via(gw),
			`level=INFO msg=session session=1 inbound=lan client=[2001:db8::7]:4711 user=ann cmd=connect dest=[2001:db8::1]:80 route=socks5h://gw.example:1080 up=0 down=0 dur=1s err="dial tcp [2001:db8::1]:80: through socks5h://gw.example:1080: dial tcp: connection refused"`,
		},
		{
			"BIND that no way out can, from a unix socket",
			argyle.Request{Command: argyle.Bind, Dest: argyle.AddrFrom(netip.MustParseAddrPort("192.0.2.1:0")), User: "o'hara\nx", Inbound: "unix:/run/argyle"},
			via(&fakeDialer{}),
			`level=INFO msg=session session=1 inbound=unix:/run/argyle client=unix user="o'hara\nx" cmd=bind dest=192.0.2.1:0 route=fake up=0 down=0 dur=1s err="unsupported operation"`,
		},
		{
			"a command that there is not",
			argyle.Request{Command: 9, Dest: argyle.AddrFrom(netip.MustParseAddrPort("192.0.2.1:1"))},
			nil,
			`level=INFO msg=session session=1 inbound="" client=unix user="" cmd="command 0x09" dest=192.0.2.1:1 route="" up=0 down=0 dur=1s err="unsupported operation"`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &proxy.Proxy{Policy: test.via}
				journal := follow(p)
				call := &slowCall{newCall(0)}
				call.request = test.req
				p.ServeCall(t.Context(), call)
				if got := journal.log.String(); got != test.want+"\n" {
					t.Errorf("got  %swant %s", got, test.want)
				}
				if bytes.Contains([]byte(journal.log.String()), []byte(password)) {
					t.Error("the password is in the line")
				}
			})
		})
	}
}

// slowCall takes a second to reject.
type slowCall struct{ *fakeCall }

func (c *slowCall) Reject(reason error) {
	<-time.After(time.Second)
	c.fakeCall.Reject(reason)
}

// The line of an association has no destination, and counts what was dropped.
func TestAssociationLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		p := &proxy.Proxy{Policy: byPort(map[uint16]argyle.Dialer{53: out})}
		journal := follow(p)
		wait := begin(t, p, client)
		client.in <- to(53, "question")
		only := <-out.opened
		expectPacket(t, only, "question")
		client.in <- to(666, "refused")
		only.in <- to(53, "answer")
		expectPacket(t, client, "answer")
		<-time.After(1500 * time.Millisecond)
		client.Close()
		wait()
		want := `level=INFO msg=session session=1 inbound=test client=192.0.2.7:4711 user=ann cmd=udp dest="" route=fake up=8 down=6 dur=1.5s dropped=3` + "\n"
		if got := journal.log.String(); got != want {
			t.Errorf("got  %swant %s", got, want)
		}
	})
}

// A log that does not want sessions is not asked to write them, and none at
// all is as good.
func TestNoLine(t *testing.T) {
	var b lockedBuffer
	for _, log := range []*slog.Logger{nil, slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelWarn}))} {
		p := &proxy.Proxy{Log: log, Policy: via(&fakeDialer{})}
		p.ServeCall(t.Context(), newCall(argyle.Bind))
		client := newMemPacket()
		wait := begin(t, &proxy.Proxy{Log: log, Policy: byPort(nil)}, client)
		client.in <- to(1, "refused")
		client.Close()
		wait()
	}
	if b.Len() != 0 {
		t.Errorf("%s", b.String())
	}
}
