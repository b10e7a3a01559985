package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

// mortal is a real SOCKS server that a test can kill: it takes no connections any more and cuts those that are still in
// their handshake. Sessions go on.
type mortal struct {
	addr  string
	kill  func()
	calls atomic.Int32
}

func startMortal(t testing.TB) *mortal {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{addr: ln.Addr().String()}
	carrier := new(proxy.Proxy)
	server := &socks.Server{Handler: argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		m.calls.Add(1)
		carrier.ServeCall(ctx, call)
	})}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ln) })
	m.kill = func() { server.Close() }
	t.Cleanup(func() {
		server.Close()
		carrier.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(server.Shutdown(ctx), carrier.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return m
}

// groupOf is a group of ways through SOCKS servers, or whatever the addresses' schemes say.
func groupOf(t testing.TB, pick Pick, addrs ...string) *Group {
	t.Helper()
	g := &Group{Name: "g", Pick: pick}
	for i, addr := range addrs {
		way, err := Chain([]string{addr})
		if err != nil {
			t.Fatal(err)
		}
		g.Members = append(g.Members, &Member{Name: string(rune('a' + i)), Dialer: way})
	}
	return g
}

// Two thousand requests of fifty clients, and one of three servers dies in the middle: no request fails.
func TestGroupUnderLoad(t *testing.T) {
	const requests, clients = 2000, 50
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	for _, pick := range []Pick{Failover, RoundRobin, Random, LeastSessions, LowestLatency, StickyUser, StickyHost} {
		t.Run(string(pick), func(t *testing.T) {
			servers := []*mortal{startMortal(t), startMortal(t), startMortal(t)}
			g := groupOf(t, pick, servers[0].addr, servers[1].addr, servers[2].addr)
			var failed, done atomic.Int32
			var all sync.WaitGroup
			for client := range clients {
				all.Go(func() {
					for i := range requests / clients {
						user := fmt.Sprint("user", client*requests+i)
						ctx, cancel := context.WithTimeout(requestOf(t, user, "192.0.2.1:1"), 10*time.Second)
						if err := exchange(ctx, g, dest); err != nil {
							failed.Add(1)
							t.Error(err)
						}
						cancel()
						if done.Add(1) == requests/2 { // who has most of the work
							slices.MaxFunc(servers, func(a, b *mortal) int { return int(a.calls.Load() - b.calls.Load()) }).kill()
						}
					}
				})
			}
			all.Wait()
			if failed.Load() > 0 {
				t.Errorf("%d of %d requests failed", failed.Load(), requests)
			}
			var sessions, up int
			for _, s := range g.Status() {
				sessions += s.Sessions
				if s.Up {
					up++
				}
			}
			if sessions != 0 || up < 2 {
				t.Errorf("status %+v", g.Status())
			}
			t.Logf("served: %d %d %d", servers[0].calls.Load(), servers[1].calls.Load(), servers[2].calls.Load())
		})
	}
}

// exchange makes a connection and has its words come back.
func exchange(ctx context.Context, d argyle.Dialer, dest string) error {
	conn, err := d.DialContext(ctx, "tcp", dest)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	b := make([]byte, 4)
	_, err = io.ReadFull(conn, b)
	return err
}

// blackHole accepts and never answers.
func blackHole(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String()
}

// nowhere is an address where nobody listens.
func nowhere(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// The port of a client's side is nobody else's as long as it is connected.
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client.LocalAddr().String()
}

// A black hole, of any protocol, has its share of the time once.
func TestGroupBlackHole(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	s := startMortal(t)
	for _, scheme := range []string{"socks5h://", "socks4a://", "http://"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			g := groupOf(t, Failover, scheme+blackHole(t), s.addr)
			for i := range 5 {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				began := time.Now()
				err := exchange(ctx, g, dest)
				took := time.Since(began)
				cancel()
				if err != nil {
					t.Errorf("request %d: %v", i, err)
				}
				// Half of two seconds, and nothing afterwards.
				if i == 0 && (took < time.Second || took > 1900*time.Millisecond) || i > 0 && took > 800*time.Millisecond {
					t.Errorf("request %d took %v", i, took)
				}
			}
		})
	}
}

// A destination that is refused, silent or unknown leaves all members up.
func TestGroupBadDestinations(t *testing.T) {
	t.Parallel()
	a, b := startMortal(t), startMortal(t)
	g := groupOf(t, RoundRobin, a.addr, b.addr)
	for range 20 {
		if err := request(t, dialTo{g, nowhere(t)}, patience); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
		if err := request(t, dialTo{g, "nobody.invalid:80"}, patience); err == nil {
			t.Error("an unknown name is reached")
		}
	}
	for _, s := range g.Status() {
		if !s.Up {
			t.Errorf("%+v", s)
		}
	}
	if calls := a.calls.Load() + b.calls.Load(); calls != 40 {
		t.Errorf("%d calls for 40 requests", calls)
	}
}

// dialTo is a way out to one destination.
type dialTo struct {
	argyle.Dialer
	dest string
}

func (d dialTo) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return d.Dialer.DialContext(ctx, network, d.dest)
}

// udpEcho sends back what it gets.
func udpEcho(t testing.TB) net.Addr {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2000)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr()
}

// Datagrams go through a member that can carry them, and a session counts as long as it lasts.
func TestGroupUDP(t *testing.T) {
	t.Parallel()
	s := startMortal(t)
	dest := udpEcho(t)
	g := groupOf(t, Failover, nowhere(t), "http://"+s.addr, "socks4a://"+s.addr, s.addr)
	for range 3 {
		conn, err := g.ListenPacket(t.Context(), "udp", "")
		if err != nil {
			t.Fatal(err)
		}
		batch := conn.(argyle.BatchConn)
		_ = conn.SetDeadline(time.Now().Add(patience))
		if n, err := batch.WriteBatch([]argyle.Datagram{{Addr: argyle.AddrOf(dest), Payload: []byte("ping")}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		got := ""
		for got == "" {
			if err := batch.ReadBatch(func(ds []argyle.Datagram) { got = string(ds[0].Payload) }); err != nil {
				t.Fatal(err)
			}
		}
		if got != "ping" || conn.(interface{ Sent() int64 }).Sent() != 4 || conn.(interface{ Dropped() uint64 }).Dropped() != 0 {
			t.Errorf("%q", got)
		}
		if conn.(interface{ Via() string }).Via() != "g/d" || g.Status()[3].Sessions != 1 {
			t.Errorf("%+v", g.Status())
		}
		conn.Close()
	}
	status := g.Status()
	if status[0].Up || !status[1].Up || !status[2].Up || !status[3].Up || status[3].Sessions != 0 {
		t.Errorf("%+v", status)
	}
	none := groupOf(t, Failover, "http://"+s.addr, "socks4a://"+s.addr)
	if _, err := none.ListenPacket(t.Context(), "udp", ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// A member whose association ends soon, and not by us, goes down.
func TestGroupUDPDies(t *testing.T) {
	t.Parallel()
	a, b := startMortal(t), startMortal(t)
	g := groupOf(t, Failover, a.addr, b.addr)
	ours, err := g.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	reads := make(chan error, 1)
	go func() { _, _, err := ours.ReadFrom(make([]byte, 1)); reads <- err }()
	ours.Close()
	if <-reads; !g.Status()[0].Up {
		t.Errorf("our Close: %+v", g.Status())
	}
	theirs, err := g.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	a.kill()
	_ = theirs.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := theirs.ReadFrom(make([]byte, 1)); err == nil || timedOut(err) {
		t.Skipf("a server that is closed keeps its associations: %v", err)
	}
	if g.Status()[0].Up {
		t.Errorf("%+v", g.Status())
	}
	conn, err := g.ListenPacket(t.Context(), "udp", "")
	if err != nil || conn.(interface{ Via() string }).Via() != "g/b" {
		t.Fatal(err)
	}
	conn.Close()
}

// BIND goes through a member that can, and both the wait and the connection count.
func TestGroupBind(t *testing.T) {
	t.Parallel()
	s := startMortal(t)
	g := groupOf(t, Failover, "http://"+s.addr, nowhere(t), s.addr)
	ln, err := g.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if near.RemoteAddr().String() != far.LocalAddr().String() || g.Status()[2].Sessions != 2 {
		t.Errorf("%v, %+v", near.RemoteAddr(), g.Status())
	}
	ln.Close()
	go func() { _, _ = io.Copy(far, far) }()
	pingPong(t, near)
	near.Close()
	if n := g.Status()[2].Sessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
	if g.Status()[1].Up || !g.Status()[0].Up {
		t.Errorf("%+v", g.Status())
	}
}

// A check greets and logs in, and asks for nothing.
func TestProbe(t *testing.T) {
	t.Parallel()
	pair, ca, _ := certificate(t)
	open, closed, secure := startServer(t, listen(t), false), startServer(t, listen(t), true), startTLS(t, pair, true)
	sshd := startSSH(t)
	hole := blackHole(t)
	for _, tt := range []struct {
		url  string
		want string // of the error; "" for none
	}{
		{"socks5h://" + open.addr, ""},
		{"socks5://" + login + closed.addr, ""},
		{"socks5h+tls://" + login + secure.addr + "?ca=" + ca, ""},
		{"socks4://" + open.addr, ""},
		{"http://" + open.addr, ""},
		{"https://" + secure.addr + "?ca=" + ca, ""},
		{"ssh://ann:" + sshPassword + "@" + sshd.addr + "?known_hosts=" + sshd.known, ""},
		{"direct://", ""},

		{"socks5h://" + closed.addr, "no acceptable authentication method"},
		{"socks5h://ann:sesame@" + closed.addr, "login refused"},
		{"socks5h+tls://" + login + secure.addr, "unknown authority"},
		{"https://" + secure.addr, "unknown authority"},
		{"socks5h://" + nowhere(t), "connection refused"},
		{"http://" + nowhere(t), "connection refused"},
		{"socks5h://" + hole, "context deadline exceeded"},
		{"https://" + hole, "context deadline exceeded"},
		{"ssh://ann:sesame@" + sshd.addr + "?known_hosts=" + sshd.known, "unable to authenticate"},
	} {
		d, err := Chain([]string{tt.url})
		if err != nil {
			t.Fatal(err)
		}
		within := patience
		if strings.Contains(tt.url, hole) {
			within = 100 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		err = probe(ctx, d)
		cancel()
		Close(d)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.url, err, tt.want)
		}
		if strings.Contains(fmt.Sprint(err), "sesame") {
			t.Errorf("the password is in %v", err)
		}
		if _, addr, _ := strings.Cut(tt.url, "://"); err != nil && !strings.Contains(err.Error(), addr[strings.LastIndexByte(addr, '@')+1:][:9]) {
			t.Errorf("%v does not name %s", err, addr)
		}
	}
	for _, s := range []*server{open, closed, secure} {
		if got := s.asked(); len(got) > 0 {
			t.Errorf("a server was asked for %q", got)
		}
	}
}

// Run sees members come and go without a request.
func TestGroupRun(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	for _, target := range []string{"", dest} {
		a, b := startMortal(t), startMortal(t)
		g := groupOf(t, LowestLatency, a.addr, b.addr, blackHole(t))
		g.Check = &Check{Every: 50 * time.Millisecond, Timeout: 400 * time.Millisecond, Target: target}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- g.Run(ctx) }()
		eventually(t, "the first checks", func() bool {
			s := g.Status()
			return s[0].Latency > 0 && s[1].Latency > 0 && !s[2].Up && s[0].Up && s[1].Up
		})
		a.kill()
		eventually(t, "one to be found dead", func() bool { return !g.Status()[0].Up })
		ln, err := net.Listen("tcp", a.addr)
		if err != nil {
			t.Skip(err) // somebody else has the port
		}
		startServer(t, ln, false)
		eventually(t, "it to be found alive", func() bool { return g.Status()[0].Up })
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if err := (&Group{}).Run(t.Context()); err != nil {
			t.Error(err)
		}
		if slices.ContainsFunc(g.Status(), func(s MemberStatus) bool { return s.Sessions != 0 }) {
			t.Errorf("%+v", g.Status())
		}
	}
}
