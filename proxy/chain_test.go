package proxy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// serve runs a SOCKS server in front of p until the test ends.
func serve(t *testing.T, p *proxy.Proxy) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &socks.Server{Handler: p}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(event.Listen(ln)) })
	t.Cleanup(func() {
		s.Close()
		p.Close()
		wg.Wait()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// ways are the ways through two of our servers and through one. The proxies
// are those that the client meets, in order.
func ways(t *testing.T, each func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy)) {
	t.Run("one", func(t *testing.T) {
		p := new(proxy.Proxy)
		each(t, &socks.Dialer{Addr: serve(t, p)}, []*proxy.Proxy{p})
	})
	t.Run("the client chains", func(t *testing.T) {
		a, b := new(proxy.Proxy), new(proxy.Proxy)
		first := &socks.Dialer{Addr: serve(t, a)}
		each(t, &socks.Dialer{Addr: serve(t, b), Forward: first}, []*proxy.Proxy{a, b})
	})
	t.Run("the server chains", func(t *testing.T) {
		a, b := new(proxy.Proxy), new(proxy.Proxy)
		second := serve(t, b)
		a.Policy = via(&socks.Dialer{Addr: second})
		each(t, &socks.Dialer{Addr: serve(t, a)}, []*proxy.Proxy{a, b})
	})
}

// dest runs a TCP server on loopback for one connection after another.
func dest(t *testing.T, handle func(conn *net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			wg.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// halfCloser is what every stream of ours is.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// dial connects through d; the connection ends with the test and never hangs.
func dial(t *testing.T, d argyle.Dialer, address string) halfCloser {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(halfCloser)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// T33: 2 MiB, the end, and half a MiB back.
func TestHalfCloseThrough(t *testing.T) {
	ways(t, func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy) {
		up, down := noise(2<<20), noise(512<<10)
		var journals []*journal
		for _, p := range proxies {
			journals = append(journals, follow(p))
		}
		got := make(chan []byte, 1)
		conn := dial(t, d, dest(t, func(conn *net.TCPConn) {
			b, err := io.ReadAll(conn)
			if err != nil {
				t.Error(err)
			}
			got <- b
			conn.Write(down)
		}))
		if _, err := conn.Write(up); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(b, down) {
			t.Errorf("%d bytes down, %v", len(b), err)
		}
		if b := <-got; !bytes.Equal(b, up) {
			t.Errorf("%d bytes up", len(b))
		}
		conn.Close()
		for i, p := range proxies {
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			s := journals[i].all[0]
			up, down := s.Bytes()
			if _, err := s.Ended(); up < 2<<20 || down < 512<<10 || err != nil {
				t.Errorf("proxy %d: %d up, %d down, %v", i, up, down, err)
			}
		}
	})
}

// T34: a reset travels to both ends.
func TestResetThrough(t *testing.T) {
	isReset := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	ways(t, func(t *testing.T, d argyle.Dialer, _ []*proxy.Proxy) {
		seen := make(chan error, 1)
		conn := dial(t, d, dest(t, func(conn *net.TCPConn) {
			conn.Write([]byte("hello"))
			_, err := io.Copy(io.Discard, conn)
			seen <- err
		}))
		if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		conn.(interface{ SetLinger(int) error }).SetLinger(0)
		conn.Close()
		if err := <-seen; !isReset(err) {
			t.Errorf("the destination got %v", err)
		}
		conn = dial(t, d, dest(t, func(conn *net.TCPConn) {
			conn.Write([]byte("hello"))
			io.ReadFull(conn, make([]byte, 5))
			conn.SetLinger(0)
		}))
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); string(b) != "hello" || !isReset(err) {
			t.Errorf("the client got %q, %v", b, err)
		}
	})
}

// T14: the true reason travels back, unchanged.
func TestReasonsThrough(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().String()
	ln.Close()
	ways(t, func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy) {
		last := proxies[len(proxies)-1]
		refuse := func(_ context.Context, req *argyle.Request) (argyle.Dialer, error) {
			switch req.Dest.Port {
			case 1:
				return nil, argyle.ErrNotAllowed
			case 2:
				return nil, context.DeadlineExceeded
			case 3:
				return nil, syscall.ENETUNREACH
			}
			return new(argyle.Direct), nil
		}
		last.Policy = proxy.PolicyFunc(refuse)
		for address, want := range map[string]wire.Reply{
			closed:           wire.ConnectionRefused,
			"127.0.0.1:1":    wire.NotAllowed,
			"127.0.0.1:2":    wire.TTLExpired,
			"127.0.0.1:3":    wire.NetworkUnreachable,
			"nowhere.test:4": wire.HostUnreachable,
		} {
			if want == wire.HostUnreachable {
				last.Policy = via(&argyle.Direct{Resolver: noNames})
			}
			conn, err := d.DialContext(t.Context(), "tcp", address)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", address, err, want)
			}
			last.Policy = proxy.PolicyFunc(refuse)
		}
	})
}

// noNames is a resolver that knows nobody.
var noNames = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
	return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}}

// The addresses of BIND: where the peer may connect, and who came. Strangers
// are sent away and end nothing (T20).
func TestBindThrough(t *testing.T) {
	ways(t, func(t *testing.T, d argyle.Dialer, _ []*proxy.Proxy) {
		ln, err := d.Listen(t.Context(), "tcp", "127.0.0.3:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		from := func(ip string) (net.Conn, error) {
			conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext(t.Context(), "tcp", ln.Addr().String())
			if err == nil {
				t.Cleanup(func() { conn.Close() })
				conn.SetDeadline(time.Now().Add(20 * time.Second))
			}
			return conn, err
		}
		for range 3 {
			stranger, err := from("127.0.0.2")
			if err == nil { // else the reset was faster than Dial
				_, err = stranger.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a stranger got %v", err)
			}
		}
		peer, err := from("127.0.0.3")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if conn.RemoteAddr().String() != peer.LocalAddr().String() {
			t.Errorf("%v came, it is said; it was %v", conn.RemoteAddr(), peer.LocalAddr())
		}
		up, down := noise(300<<10), noise(300<<10)
		var wg sync.WaitGroup
		for _, c := range []struct {
			conn halfCloser
			say  []byte
		}{{peer.(halfCloser), down}, {conn.(halfCloser), up}} {
			wg.Go(func() {
				c.conn.Write(c.say)
				c.conn.CloseWrite()
			})
		}
		if b, err := io.ReadAll(peer); err != nil || !bytes.Equal(b, up) {
			t.Errorf("%d bytes up, %v", len(b), err)
		}
		if b, err := io.ReadAll(conn); err != nil || !bytes.Equal(b, down) {
			t.Errorf("%d bytes down, %v", len(b), err)
		}
		wg.Wait()
	})
}

// What a client sends ahead of its peer is kept, and comes first.
func TestBindEarlyData(t *testing.T) {
	addr := serve(t, new(proxy.Proxy))
	conn := dial(t, new(argyle.Direct), addr)
	early := noise(40_000) // less than what is kept
	if _, err := conn.Write(append([]byte{5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 0}, early...)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2+10)
	if _, err := io.ReadFull(conn, b); err != nil || b[1] != 0 || b[3] != 0 {
		t.Fatalf("% x, %v", b, err)
	}
	bound := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[6:])), uint16(b[10])<<8|uint16(b[11]))
	peer := dial(t, new(argyle.Direct), bound.String())
	if _, err := io.ReadFull(conn, b[:10]); err != nil || b[1] != 0 {
		t.Fatalf("% x, %v", b, err)
	}
	late := noise(40_000)
	if _, err := conn.Write(late); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, append(early, late...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	peer.Close()
	if b, err := io.ReadAll(conn); err != nil || len(b) != 0 {
		t.Errorf("% x, %v", b, err)
	}
}

// A client that goes away while it waits for its peer ends the wait, and a wait
// that is over says so with the reply of a timeout.
func TestBindWait(t *testing.T) {
	p := new(proxy.Proxy)
	d := &socks.Dialer{Addr: serve(t, p)}
	ln, err := d.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	where := ln.Addr().String()
	ln.Close()
	if err := p.Shutdown(t.Context()); err != nil { // once the proxy has noticed
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", where); err == nil {
		conn.Close()
		t.Error("still listening")
	}

	d = &socks.Dialer{Addr: serve(t, &proxy.Proxy{Timeouts: proxy.Timeouts{BindTimeout: 50 * time.Millisecond}})}
	if ln, err = d.Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, wire.TTLExpired) {
		t.Errorf("%v, want %v", err, wire.TTLExpired)
	}
}

// packets opens an association through d.
func packets(t *testing.T, d argyle.Dialer) net.PacketConn {
	t.Helper()
	conn, err := d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// udpEcho answers each datagram with the address that it came from, a space,
// and the datagram.
func udpEcho(t *testing.T, ip string) argyle.Addr {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(append([]byte(from.String()+" "), b[:n]...), from)
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return argyle.AddrOf(conn.LocalAddr())
}

// exchange sends to an echo until an answer comes, and returns who it says that
// we are. On loopback nothing is lost, but a way may need time to open.
func exchange(t *testing.T, conn net.PacketConn, to argyle.Addr, payload []byte) string {
	t.Helper()
	if _, err := conn.WriteTo(payload, to); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, from, err := conn.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	us, rest, _ := bytes.Cut(b[:n], []byte(" "))
	if from.String() != to.String() || !bytes.Equal(rest, payload) {
		t.Errorf("%d bytes from %v, want %d from %v", len(rest), from, len(payload), to)
	}
	return string(us)
}

// T27, T28: answers come from their true source, over both families, and one
// mapping serves all destinations.
func TestDatagramsThrough(t *testing.T) {
	ways(t, func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy) {
		conn := packets(t, d)
		four, other, six := udpEcho(t, "127.0.0.1"), udpEcho(t, "127.0.0.2"), udpEcho(t, "::1")
		us := make(map[string]bool)
		for i := range 20 {
			for _, to := range []argyle.Addr{four, other, six} {
				ap := netip.MustParseAddrPort(exchange(t, conn, to, []byte(fmt.Sprint(i))))
				us[fmt.Sprint(ap.Port())] = true
			}
		}
		if len(us) != 1 {
			t.Errorf("the destinations saw %d ports of ours: %v", len(us), us)
		}
		exchange(t, conn, four, nil)
		exchange(t, conn, six, noise(1400))
		exchange(t, conn, four, noise(60_000)) // T31
		// One association in every proxy, which counts. The last datagram may
		// be here before it has been counted there.
		for i, p := range proxies {
			counted := func() (found int) {
				for s := range p.Sessions() {
					if up, down := s.Bytes(); s.Request().Command == argyle.Associate && up >= 61_400 && down >= 61_400 {
						found++
					}
				}
				return found
			}
			if !poll(func() bool { return counted() == 1 }) {
				t.Errorf("proxy %d has %d associations", i, counted())
			}
		}
	})
}

// poll waits until cond holds. It reports false if it never does.
func poll(cond func() bool) bool {
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

// T26: what goes wrong with a datagram concerns that datagram.
func TestBadDatagramsThrough(t *testing.T) {
	ways(t, func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy) {
		proxies[len(proxies)-1].Policy = via(&argyle.Direct{Resolver: noNames})
		closed, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		nobody := argyle.AddrOf(closed.LocalAddr())
		closed.Close()
		conn := packets(t, d)
		good := udpEcho(t, "127.0.0.1")
		us := exchange(t, conn, good, []byte("before"))
		for range 3 {
			for _, bad := range []argyle.Datagram{
				{Addr: nobody, Payload: []byte("nobody listens")},
				{Addr: argyle.Addr{Name: "nowhere.test", Port: 53}, Payload: []byte("there is no such name")},
				{Addr: argyle.AddrFrom(netip.MustParseAddrPort("255.255.255.255:9")), Payload: []byte("broadcast")},
				{Addr: argyle.AddrFrom(netip.MustParseAddrPort("[2001:db8::1]:9")), Payload: []byte("there may be no route")},
				{Addr: good, Payload: make([]byte, 65_500)}, // too long with a header
			} {
				conn.WriteTo(bad.Payload, bad.Addr)
			}
			if now := exchange(t, conn, good, []byte("after")); now != us {
				t.Errorf("we were %s, and are %s now", us, now)
			}
		}
	})
}

// T30: the association ends with its TCP connection, in order or not, and the
// other way round.
func TestAssociationEndsThrough(t *testing.T) {
	ways(t, func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy) {
		conn := packets(t, d)
		exchange(t, conn, udpEcho(t, "127.0.0.1"), []byte("x"))
		conn.Close()
		for _, p := range proxies {
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	ways(t, func(t *testing.T, d argyle.Dialer, proxies []*proxy.Proxy) {
		conn := packets(t, d)
		exchange(t, conn, udpEcho(t, "127.0.0.1"), []byte("x"))
		proxies[0].Close()
		if _, _, err := conn.ReadFrom(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want a closed connection", err)
		}
		for _, p := range proxies[1:] {
			if err := p.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// T30: a reset ends an association, and what is sent over its TCP connection
// means nothing.
func TestAssociationControl(t *testing.T) {
	p := new(proxy.Proxy)
	conn := dial(t, new(argyle.Direct), serve(t, p))
	if _, err := conn.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2+10)
	if _, err := io.ReadFull(conn, b); err != nil || b[3] != 0 {
		t.Fatalf("% x, %v", b, err)
	}
	if _, err := conn.Write(noise(1 << 20)); err != nil {
		t.Fatal(err)
	}
	n := 0
	for s := range p.Sessions() {
		if ended, _ := s.Ended(); !ended {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d associations", n)
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A mapping of an upstream that ends is opened again by the next datagram; the
// client's association does not notice.
func TestUpstreamAssociationEnds(t *testing.T) {
	second := new(proxy.Proxy)
	first := &proxy.Proxy{Policy: via(&socks.Dialer{Addr: serve(t, second)})}
	conn := packets(t, &socks.Dialer{Addr: serve(t, first)})
	echo := udpEcho(t, "127.0.0.1")
	before := exchange(t, conn, echo, []byte("before"))
	for s := range second.Sessions() {
		s.Close()
		for ended := false; !ended; ended, _ = s.Ended() {
			runtime.Gosched() // or the next datagram could still go through
		}
	}
	var after string
	for after == "" { // what is sent until the end is noticed is lost
		conn.WriteTo([]byte("after"), echo)
		conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		b := make([]byte, 100)
		if n, _, err := conn.ReadFrom(b); err == nil {
			after = string(b[:n])
		}
	}
	if after == before+" after" {
		t.Errorf("%q: the same mapping as before", after)
	}
}
