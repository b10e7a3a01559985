package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// policyOf is a function as a whole Policy.
type policyOf func(ctx context.Context, req *argyle.Request) (proxy.Route, error)

func (f policyOf) Route(ctx context.Context, req *argyle.Request) (proxy.Route, error) {
	return f(ctx, req)
}

// count is a Limit that counts.
type count struct {
	refuse error
	gate   proxy.Gate

	mu          sync.Mutex
	begun, over int
}

func (c *count) Begin(*argyle.Request) (proxy.Share, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return proxy.Share{}, c.refuse
	}
	c.begun++
	return proxy.Share{Up: c.gate, Down: c.gate, End: func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.over++
	}}, nil
}

func (c *count) counts() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d begun, %d over", c.begun, c.over)
}

// tally is a Gate that lets a number of bytes pass.
type tally struct {
	mu   sync.Mutex
	left int
}

var errSpent = errors.New("spent")

func (g *tally) take(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > g.left {
		return false
	}
	g.left -= n
	return true
}

func (g *tally) Wait(n int, _ <-chan struct{}) error {
	if !g.take(n) {
		return errSpent
	}
	return nil
}

func (g *tally) Allow(n int) bool { return g.take(n) }
func (g *tally) Chunk() int       { return 10 }

// A session joins each of its limits once and leaves it at its end, and what
// one of them refuses is refused.
func TestLimits(t *testing.T) {
	upstream, far := tcpPair(t)
	client, near := tcpPair(t)
	gate := &tally{left: 25}
	first, second := &count{gate: gate}, new(count)
	ended := make(chan error, 1)
	p := &proxy.Proxy{
		Policy: policyOf(func(context.Context, *argyle.Request) (proxy.Route, error) {
			return proxy.Route{
				Dialer: &fakeDialer{dial: func(context.Context) (net.Conn, error) { return upstream, nil }},
				Limits: []proxy.Limit{first, second, first},
			}, nil
		}),
		OnSession: func(s *proxy.Session) {
			if over, err := s.Ended(); over {
				ended <- err
			}
		},
	}
	call := newCall(argyle.Connect)
	call.conn = client
	p.ServeCall(t.Context(), call)
	for _, want := range []string{"hello", "world"} {
		if _, err := near.Write([]byte(want)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := far.Read(buf); err != nil || string(buf) != want {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	if first.counts() != "1 begun, 0 over" || second.counts() != "1 begun, 0 over" {
		t.Errorf("%s and %s", first.counts(), second.counts())
	}
	_, _ = near.Write(make([]byte, 100))
	if err := <-ended; !errors.Is(err, errSpent) {
		t.Errorf("%v", err)
	}
	if first.counts() != "1 begun, 1 over" || second.counts() != "1 begun, 1 over" {
		t.Errorf("%s and %s", first.counts(), second.counts())
	}

	second.refuse = errors.New("too many")
	call = newCall(argyle.Connect)
	p.ServeCall(t.Context(), call)
	if err := <-call.rejected; !errors.Is(err, second.refuse) {
		t.Errorf("rejected with %v", err)
	}
	if err := <-ended; !errors.Is(err, second.refuse) {
		t.Errorf("ended with %v", err)
	}
	if first.counts() != "2 begun, 2 over" {
		t.Errorf("what was joined before the refusal: %s", first.counts())
	}
}

// The way out gets the destination that the policy gives, and knows the request.
func TestRouteDest(t *testing.T) {
	dialer := new(noting)
	p := &proxy.Proxy{Policy: policyOf(func(_ context.Context, req *argyle.Request) (proxy.Route, error) {
		return proxy.Route{Dialer: dialer, Dest: argyle.AddrFrom(to(443, "").Addr.AddrPort())}, nil
	})}
	call := newCall(argyle.Connect)
	p.ServeCall(t.Context(), call)
	<-call.rejected
	if dialer.address != "192.0.2.1:443" || dialer.request == nil || dialer.request.User != "ann" || dialer.request.Dest.Name != "host.example" {
		t.Errorf("dialled %s for %+v", dialer.address, dialer.request)
	}
}

// noting is a dialer that notes what it is asked for.
type noting struct {
	argyle.StreamOnly
	address string
	request *argyle.Request
}

func (d *noting) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	d.address, d.request = address, argyle.RequestOf(ctx)
	return nil, errors.New("enough")
}

// The time that a decision takes is part of the time for the way to the
// destination, which may be the one that the decision gives.
func TestDecisionTime(t *testing.T) {
	for _, tt := range []struct{ general, own, decision, left, total time.Duration }{
		{0, 0, 4 * time.Second, 6 * time.Second, 10 * time.Second},
		{5 * time.Second, 0, 4 * time.Second, time.Second, 5 * time.Second},
		{0, 5 * time.Second, 3 * time.Second, 2 * time.Second, 5 * time.Second},
		{0, 5 * time.Second, 6 * time.Second, -1, 6 * time.Second},
		{5 * time.Second, 7 * time.Second, 4 * time.Second, 3 * time.Second, 7 * time.Second},
		{5 * time.Second, 7 * time.Second, time.Minute, -1, 5 * time.Second},
		{-1, 7 * time.Second, time.Minute, -1, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			left := time.Duration(-1)
			out := &fakeDialer{dial: func(ctx context.Context) (net.Conn, error) {
				deadline, _ := ctx.Deadline()
				left = time.Until(deadline)
				return never(ctx)
			}}
			p := &proxy.Proxy{
				Timeouts: proxy.Timeouts{DialTimeout: tt.general},
				Policy: policyOf(func(ctx context.Context, _ *argyle.Request) (proxy.Route, error) {
					select {
					case <-time.After(tt.decision):
						return proxy.Route{Dialer: out, Timeouts: proxy.Timeouts{DialTimeout: tt.own}}, nil
					case <-ctx.Done():
						return proxy.Route{}, ctx.Err()
					}
				}),
			}
			call := newCall(argyle.Connect)
			began := time.Now()
			p.ServeCall(t.Context(), call)
			if err := <-call.rejected; !errors.Is(err, context.DeadlineExceeded) || left != tt.left || time.Since(began) != tt.total {
				t.Errorf("%v: %v after %v, with %v left for the dial", tt, err, time.Since(began), left)
			}
		})
	}
}

// MaxTime ends a session that is busy, and CloseFor gives a reason.
func TestMaxTime(t *testing.T) {
	for reason, end := range map[error]func(*proxy.Session){
		proxy.ErrMaxTime: func(*proxy.Session) {},
		errSpent:         func(s *proxy.Session) { s.CloseFor(errSpent) },
	} {
		synctest.Test(t, func(t *testing.T) {
			client, out := newMemPacket(), newOutbound()
			var session *proxy.Session
			p := &proxy.Proxy{
				Policy: policyOf(func(context.Context, *argyle.Request) (proxy.Route, error) {
					return proxy.Route{Dialer: out, Timeouts: proxy.Timeouts{MaxTime: time.Hour}}, nil
				}),
				OnSession: func(s *proxy.Session) {
					if session == nil {
						session = s
					}
				},
			}
			wait := begin(t, p, client)
			began := time.Now()
			for range 59 {
				client.in <- to(1, "busy")
				time.Sleep(time.Minute)
			}
			end(session)
			wait()
			if _, err := session.Ended(); !errors.Is(err, reason) {
				t.Errorf("ended with %v, want %v", err, reason)
			}
			if took := time.Since(began); reason == proxy.ErrMaxTime && took != time.Hour {
				t.Errorf("took %v", took)
			}
		})
	}
}

// The peer of a BIND that the rules refuse is sent away, and the wait goes on.
func TestBindReply(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var came []argyle.Addr
	p := &proxy.Proxy{Policy: policyOf(func(context.Context, *argyle.Request) (proxy.Route, error) {
		return proxy.Route{
			Dialer: &bindDialer{bind: func(context.Context, string, string) (net.Listener, error) { return ln, nil }},
			Reply: func(peer argyle.Addr) error {
				came = append(came, peer)
				if len(came) == 1 {
					return argyle.ErrNotAllowed
				}
				return nil
			},
		}, nil
	})}
	client, _ := tcpPair(t)
	call := &listenCall{fakeCall: newCall(argyle.Bind)}
	call.conn = client
	done := make(chan struct{})
	go func() { p.ServeCall(t.Context(), call); close(done) }()
	stranger, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_ = stranger.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := stranger.Read(make([]byte, 1)); err == nil {
		t.Error("the stranger is served")
	}
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	<-done
	if len(came) != 2 || came[1] != argyle.AddrOf(peer.LocalAddr()) {
		t.Errorf("asked about %v", came)
	}
	p.Close()
}

// listenCall is a fakeCall whose BIND waits for a peer.
type listenCall struct{ *fakeCall }

func (c *listenCall) AcceptBind(_ context.Context, ln net.Listener) (client, peer net.Conn, err error) {
	defer ln.Close()
	peer, err = ln.Accept()
	return c.conn, peer, err
}

// Datagrams whose source the rules refuse do not reach the client, and those
// beyond a limit go nowhere.
func TestUDPReplyAndGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		limited := &count{gate: &tally{left: 10}}
		var session *proxy.Session
		p := &proxy.Proxy{
			Policy: policyOf(func(_ context.Context, req *argyle.Request) (proxy.Route, error) {
				route := proxy.Route{Dialer: out, Reply: func(from argyle.Addr) error {
					if from.Port == 666 {
						return argyle.ErrNotAllowed
					}
					return nil
				}}
				if req.Dest.Port == 2 {
					route.Limits = []proxy.Limit{limited}
				}
				return route, nil
			}),
			OnSession: func(s *proxy.Session) {
				if session == nil {
					session = s
				}
			},
		}
		wait := begin(t, p, client)
		for _, d := range []argyle.Datagram{to(1, "free of any limit"), to(2, "six by"), to(2, "beyond"), to(2, "four")} {
			client.in <- d
		}
		far := <-out.opened
		for _, want := range []string{"free of any limit", "six by", "four"} {
			expectPacket(t, far, want)
		}
		far.in <- to(666, "refused")
		far.in <- to(2, "over the limit")
		far.in <- to(1, "back")
		far.in <- to(77, "from elsewhere")
		expectPacket(t, client, "back")
		expectPacket(t, client, "from elsewhere")
		client.Close()
		wait()
		if n := session.Dropped(); n != 3+2 { // the fakes claim one each
			t.Errorf("%d dropped", n)
		}
		if got := limited.counts(); got != "1 begun, 1 over" {
			t.Error(got)
		}
	})
}

// The decision about a name is made beside the path of the datagrams: others
// pass meanwhile, and those that wait keep their order. It is made anew after
// some time, which holds up nobody.
func TestUDPNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		answer := make(chan argyle.Addr)
		p := &proxy.Proxy{Policy: policyOf(func(ctx context.Context, req *argyle.Request) (proxy.Route, error) {
			if req.Dest.Name == "" {
				return proxy.Route{Dialer: out}, nil
			}
			select {
			case dest := <-answer:
				return proxy.Route{Dialer: out, Dest: dest}, nil
			case <-ctx.Done():
				return proxy.Route{}, ctx.Err()
			}
		})}
		wait := begin(t, p, client)
		name := argyle.Addr{Name: "a.example", Port: 53}
		for _, text := range []string{"1", "2", "3"} {
			client.in <- argyle.Datagram{Addr: name, Payload: []byte(text)}
		}
		client.in <- to(1, "meanwhile")
		far := <-out.opened
		expectPacket(t, far, "meanwhile")
		answer <- to(53, "").Addr
		for _, want := range []string{"1", "2", "3"} {
			d := <-far.out
			if string(d.Payload) != want || d.Addr != to(53, "").Addr {
				t.Errorf("%q to %v", d.Payload, d.Addr)
			}
		}

		time.Sleep(11 * time.Second)
		client.in <- argyle.Datagram{Addr: name, Payload: []byte("4")}
		if d := <-far.out; string(d.Payload) != "4" || d.Addr.Port != 53 {
			t.Errorf("%q to %v while the name is asked about again", d.Payload, d.Addr)
		}
		answer <- to(5353, "").Addr
		synctest.Wait()
		client.in <- argyle.Datagram{Addr: name, Payload: []byte("5")}
		if d := <-far.out; string(d.Payload) != "5" || d.Addr.Port != 5353 {
			t.Errorf("%q to %v after the name has moved", d.Payload, d.Addr)
		}

		// With the mapping gone, datagrams wait rather than go nowhere.
		time.Sleep(2 * time.Minute)
		client.in <- argyle.Datagram{Addr: name, Payload: []byte("6")}
		answer <- to(53, "").Addr
		expectPacket(t, <-out.opened, "6")
		client.Close()
		wait()
	})
}

// Names that wait for a decision are bounded in number and bytes.
func TestUDPNamesBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		var session *proxy.Session
		p := &proxy.Proxy{
			Policy: policyOf(func(ctx context.Context, req *argyle.Request) (proxy.Route, error) {
				if req.Dest.IsZero() {
					return proxy.Route{Dialer: out}, nil
				}
				<-ctx.Done()
				return proxy.Route{}, ctx.Err()
			}),
			OnSession: func(s *proxy.Session) {
				if session == nil {
					session = s
				}
			},
		}
		wait := begin(t, p, client)
		for i := range 2000 {
			client.in <- argyle.Datagram{Addr: argyle.Addr{Name: fmt.Sprintf("n%d.example", i), Port: 1}, Payload: make([]byte, 100)}
		}
		big := argyle.Datagram{Addr: argyle.Addr{Name: "n0.example", Port: 1}, Payload: make([]byte, 60000)}
		client.in <- big
		client.in <- big
		synctest.Wait()
		if n := session.Dropped(); n != 2000-32+1 {
			t.Errorf("%d dropped while the policy is being asked", n)
		}
		client.Close()
		wait()
	})
}

// The line of a session says why it was allowed, at the level that the rule
// wants, or is left out.
func TestRouteLog(t *testing.T) {
	for _, c := range []struct {
		route proxy.Route
		err   error
		want  string
	}{
		{proxy.Route{Reason: `rule "web" (a.yaml:3) allows`}, nil, `level=INFO msg=session .* why="rule \"web\" (a.yaml:3) allows"`},
		{proxy.Route{Level: slog.LevelWarn}, nil, `level=WARN msg=session`},
		{proxy.Route{Quiet: true}, errors.New("dial fails"), `level=INFO msg=session .* err="dial fails"`},
		{proxy.Route{}, levelError(slog.LevelError), `level=ERROR msg=session .* err="no way"`},
		{proxy.Route{}, levelError(-100), ``},
	} {
		var log bytes.Buffer
		out := &fakeDialer{dial: func(context.Context) (net.Conn, error) { return nil, c.err }}
		c.route.Dialer = out
		p := &proxy.Proxy{
			Log: slog.New(slog.NewTextHandler(&log, nil)),
			Policy: policyOf(func(context.Context, *argyle.Request) (proxy.Route, error) {
				if _, refused := c.err.(levelError); refused {
					return proxy.Route{}, c.err
				}
				return c.route, nil
			}),
		}
		if c.err == nil {
			client, near := tcpPair(t)
			upstream, far := tcpPair(t)
			out.dial = func(context.Context) (net.Conn, error) { return upstream, nil }
			near.Close()
			far.Close()
			call := newCall(argyle.Connect)
			call.conn = client
			p.ServeCall(t.Context(), call)
			if err := p.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			p.ServeCall(t.Context(), newCall(argyle.Connect))
		}
		checkLine(t, log.String(), c.want)
	}
}

// levelError is a refusal whose line has a level, or none at all.
type levelError slog.Level

func (levelError) Error() string       { return "no way" }
func (e levelError) Level() slog.Level { return slog.Level(e) }
func (e levelError) Quiet() bool       { return e == -100 }

// checkLine wants the parts of want, which stand between " .* ", in order.
func checkLine(t *testing.T, line, want string) {
	t.Helper()
	if want == "" && line != "" {
		t.Errorf("logged %q", line)
	}
	rest := line
	for part := range strings.SplitSeq(want, " .* ") {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Errorf("%q is not in %q", part, line)
			return
		}
		rest = after
	}
}
