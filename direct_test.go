package argyle

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// checker is a Check that remembers what it was asked.
type checker struct {
	allow func(netip.AddrPort) bool // nil: everything

	mu    sync.Mutex
	asked []netip.AddrPort
}

func (c *checker) check(_ context.Context, network string, addr netip.AddrPort) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, addr)
	if c.allow == nil || c.allow(addr) {
		return nil
	}
	return ErrNotAllowed
}

// calls returns what was asked since the last time.
func (c *checker) calls() []netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

// only allows one address.
func only(ip string) func(netip.AddrPort) bool {
	return func(ap netip.AddrPort) bool { return ap.Addr() == netip.MustParseAddr(ip) }
}

func nothing(netip.AddrPort) bool { return false }

// echo is a TCP server that says who came.
type echo struct {
	net.Listener
	came chan string // remote addresses
	wg   sync.WaitGroup
}

// newEcho listens on an "address:port".
func newEcho(t *testing.T, address string) *echo {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil && address == "[::1]:0" {
		t.Skipf("no IPv6: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: ln, came: make(chan string, 100)}
	e.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			e.came <- conn.RemoteAddr().String()
			e.wg.Go(func() {
				io.Copy(conn, conn)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		e.wg.Wait()
	})
	return e
}

func (e *echo) addr() netip.AddrPort { return e.Addr().(*net.TCPAddr).AddrPort() }

// at returns host with e's port.
func (e *echo) at(host string) string { return name(host, e.addr().Port()).String() }

// onlyCame checks that conns came, and nobody else before them.
func (e *echo) onlyCame(t *testing.T, conns ...net.Conn) {
	t.Helper()
	for _, c := range conns {
		if got := <-e.came; got != c.LocalAddr().String() {
			t.Errorf("a connection from %s, want %v", got, c.LocalAddr())
		}
	}
	if len(e.came) > 0 {
		t.Errorf("another connection from %s", <-e.came)
	}
}

func dial(t *testing.T, d *Direct, address string) net.Conn {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestDialChecks(t *testing.T) {
	ns := newNameServer(t, map[string]string{
		"four.test": "127.0.0.1",
		"six.test":  "::1",
	})
	for _, c := range []struct{ listen, host string }{
		{"127.0.0.1:0", "127.0.0.1"},
		{"127.0.0.1:0", "::ffff:127.0.0.1"},
		{"127.0.0.1:0", "four.test"},
		{"[::1]:0", "::1"},
		{"[::1]:0", "six.test"},
	} {
		t.Run(c.host, func(t *testing.T) {
			e := newEcho(t, c.listen)
			var k checker
			d := &Direct{Resolver: ns.resolver(), Check: k.check}
			conn := dial(t, d, e.at(c.host))
			if got := k.calls(); len(got) != 1 || got[0] != e.addr() {
				t.Errorf("Check was asked about %v, want %v once", got, e.addr())
			}
			e.onlyCame(t, conn)

			k.allow = nothing
			refused, err := d.DialContext(t.Context(), "tcp", e.at(c.host))
			if err == nil {
				refused.Close()
			}
			var op *net.OpError
			if !errors.Is(err, ErrNotAllowed) || !errors.As(err, &op) || op.Op != "dial" {
				t.Errorf("error %#v, want ErrNotAllowed in a *net.OpError", err)
			}
			if got := k.calls(); len(got) != 1 || got[0] != e.addr() {
				t.Errorf("Check was asked about %v, want %v once", got, e.addr())
			}
			// Had the refused one come, it would have come before this.
			k.allow = nil
			e.onlyCame(t, dial(t, d, e.at(c.host)))
		})
	}
}

// The rules see what the resolver said and nothing else is dialled: not the
// addresses that they refuse, and not what the resolver says later.
func TestDialOnlyChecked(t *testing.T) {
	ns := newNameServer(t, map[string]string{"some.test": "127.0.0.1 127.0.0.2 127.0.0.3"})
	e := newEcho(t, "0.0.0.0:0")
	d := &Direct{Resolver: ns.resolver()}
	d.Check = func(_ context.Context, _ string, addr netip.AddrPort) error {
		ns.set("some.test", "127.0.0.1") // the name now means something else
		if addr.Addr() != netip.MustParseAddr("127.0.0.3") {
			return ErrNotAllowed
		}
		return nil
	}
	conn := dial(t, d, e.at("some.test"))
	if got := AddrOf(conn.RemoteAddr()); got != literal("127.0.0.3", e.addr().Port()) {
		t.Errorf("connected to %v, which Check refuses", got)
	}
	e.onlyCame(t, conn)
	if n := ns.questions("some.test"); n != 1 {
		t.Errorf("the name was looked up %d times", n)
	}
}

// A host in /etc/hosts is no different: localhost is what people try first.
func TestDialLocalhost(t *testing.T) {
	k := checker{allow: func(ap netip.AddrPort) bool { return !ap.Addr().IsLoopback() }}
	d := &Direct{Check: k.check}
	conn, err := d.DialContext(t.Context(), "tcp", "localhost:9")
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, ErrNotAllowed) || len(k.calls()) == 0 {
		t.Errorf("error %v, want ErrNotAllowed", err)
	}
}

func TestDialErrors(t *testing.T) {
	ns := newNameServer(t, map[string]string{"refused.test": "127.0.0.1", "xn--bcher-kva.test": "127.0.0.1"})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := AddrOf(closed.Addr()).Port
	closed.Close()
	notFound := func(err error) bool {
		var dns *net.DNSError
		return errors.As(err, &dns) && dns.IsNotFound
	}
	refused := func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
	badAddr := func(err error) bool {
		var addr *net.AddrError
		return errors.As(err, &addr)
	}
	d := &Direct{Resolver: ns.resolver()}
	for address, want := range map[string]func(error) bool{
		"":                                  badAddr,
		"example.com":                       badAddr,
		"127.0.0.1:http":                    badAddr,
		"127.1:80":                          notFound,
		"a b:80":                            notFound,
		":80":                               notFound,
		"nosuchname.test.:80":               notFound,
		"１２７.０.０.１:80":                      notFound, // digits of full width
		"127。0。0。1:80":                      notFound,
		"bü cher.test:80":                   notFound,
		"\u00ad:80":                         notFound, // nothing, once it is mapped
		"\xff\xfe.test:80":                  notFound,
		name("127.0.0.1", port).String():    refused,
		name("refused.test", port).String(): refused,
		name("bücher.test", port).String():  refused,
	} {
		conn, err := d.DialContext(t.Context(), "tcp", address)
		if err == nil {
			conn.Close()
		}
		var op *net.OpError
		if !want(err) || !errors.As(err, &op) || op.Op != "dial" || op.Net != "tcp" {
			t.Errorf("%q: error %#v", address, err)
		}
	}
	if n := ns.questions("xn--bcher-kva.test"); n != 1 {
		t.Errorf("%d questions for the A-label of bücher.test", n)
	}
}

// The context bounds the dial, look-up included, and not the connection.
func TestDialContext(t *testing.T) {
	ns := newNameServer(t, map[string]string{"slow.test": "127.0.0.1"})
	release := ns.hold("slow.test")
	e := newEcho(t, "127.0.0.1:0")
	d := &Direct{Resolver: ns.resolver()}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		conn, err := d.DialContext(ctx, "tcp", e.at("slow.test"))
		if err == nil {
			conn.Close()
		}
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v after cancel", err)
	}
	release()

	ctx, cancel = context.WithCancel(t.Context())
	conn, err := d.DialContext(ctx, "tcp", e.at("slow.test"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if _, err := conn.Write([]byte("after")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestDirectString(t *testing.T) {
	if got := new(Direct).String(); got != "direct" {
		t.Errorf("%q", got)
	}
}

// listenFor opens a listener that waits for peer.
func listenFor(t *testing.T, d *Direct, peer string) net.Listener {
	t.Helper()
	ln, err := d.Listen(t.Context(), "tcp", peer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(10 * time.Second))
	return ln
}

// comeFrom connects to ln from a local address.
func comeFrom(t *testing.T, ip string, ln net.Listener) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0))}
	conn, err := dialer.DialContext(t.Context(), "tcp", AddrOf(ln.Addr()).String())
	if err != nil {
		t.Fatalf("from %s to %v: %v", ip, ln.Addr(), err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// accepts checks that the next connection that ln hands over is that of peer.
func accepts(t *testing.T, ln net.Listener, peer net.Conn) {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, want := conn.RemoteAddr().String(), peer.LocalAddr().String(); got != want {
		t.Errorf("accepted %s, want %s", got, want)
	}
}

// wasSentAway checks that the far end has closed conn without a word.
func wasSentAway(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
		t.Errorf("a stranger's read: %v", err)
	}
}

// loopbackAliases skips where 127.0.0.2 is nobody's address.
func loopbackAliases(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" && runtime.GOOS != "windows" {
		t.Skip("127.0.0.2 is not there")
	}
}

func TestListen(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			if ip == "::1" {
				listenUDP(t, "[::1]:0") // skips without IPv6
			}
			var k checker
			ln := listenFor(t, &Direct{Check: k.check}, name(ip, 0).String())
			addr := AddrOf(ln.Addr())
			if addr.IP != netip.MustParseAddr(ip) || addr.Port == 0 {
				t.Errorf("listens on %v, which %s may not reach", addr, ip)
			}
			if got := k.calls(); len(got) != 1 || got[0] != literal(ip, 0).AddrPort() {
				t.Errorf("Check was asked about %v before the listener", got)
			}
			peer := comeFrom(t, ip, ln)
			accepts(t, ln, peer)
			if got := k.calls(); len(got) != 1 || got[0] != AddrOf(peer.LocalAddr()).AddrPort() {
				t.Errorf("Check was asked about %v when %v came", got, peer.LocalAddr())
			}
		})
	}
}

// The peer of a link-local address is known by its address, not by the name of
// our interface.
func TestListenLinkLocal(t *testing.T) {
	ip, ok := linkLocal()
	if !ok {
		t.Skip("no interface has a link-local address")
	}
	ln := listenFor(t, new(Direct), name(ip, 0).String())
	peer, stranger := comeFrom(t, ip, ln), make(chan error, 1)
	go func() {
		_, err := peer.Read(make([]byte, 1))
		stranger <- err
	}()
	accepted := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			io.WriteString(conn, "x")
			conn.Close()
		}
		accepted <- err
	}()
	if err := <-stranger; err != nil {
		ln.Close()
		t.Errorf("the peer was sent away: %v", err)
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
}

// linkLocal finds an IPv6 link-local address of ours, with its zone.
func linkLocal() (string, bool) {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() && i.Flags&net.FlagUp != 0 {
				return n.IP.String() + "%" + i.Name, true
			}
		}
	}
	return "", false
}

// freePort returns a port that nobody listens on now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return AddrOf(ln.Addr()).Port
}

func TestListenPortWish(t *testing.T) {
	d := new(Direct)
	t.Run("free", func(t *testing.T) {
		// Somebody may take the port between the two, but not every time.
		for range 10 {
			port := freePort(t)
			if got := AddrOf(listenFor(t, d, literal("127.0.0.1", port).String()).Addr()).Port; got == port {
				return
			}
		}
		t.Error("a free port was never granted")
	})
	t.Run("taken", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		ln := listenFor(t, d, taken.Addr().String())
		if got := AddrOf(ln.Addr()).Port; got == AddrOf(taken.Addr()).Port || got == 0 {
			t.Errorf("listens on port %d, which is taken", got)
		}
		accepts(t, ln, comeFrom(t, "127.0.0.1", ln))
	})
	t.Run("privileged", func(t *testing.T) {
		for _, port := range []uint16{0, 1, 80, 1023} {
			if got := AddrOf(listenFor(t, d, literal("127.0.0.1", port).String()).Addr()).Port; got < 1024 {
				t.Errorf("the wish for port %d was granted with %d", port, got)
			}
		}
	})
}

// A port scanner does not end the wait for the peer.
func TestListenStrangers(t *testing.T) {
	loopbackAliases(t)
	ns := newNameServer(t, map[string]string{"peers.test": "127.0.0.1 127.0.0.3"})
	d := &Direct{Resolver: ns.resolver()}
	for _, peer := range []string{"127.0.0.1:0", "peers.test:0"} {
		t.Run(peer, func(t *testing.T) {
			ln := listenFor(t, d, peer)
			stranger, again := comeFrom(t, "127.0.0.2", ln), comeFrom(t, "127.0.0.2", ln)
			accepts(t, ln, comeFrom(t, "127.0.0.1", ln))
			wasSentAway(t, stranger)
			wasSentAway(t, again)
			if peer == "peers.test:0" {
				accepts(t, ln, comeFrom(t, "127.0.0.3", ln))
			}
		})
	}
}

// Where anybody may come, Check decides who.
func TestListenWildcard(t *testing.T) {
	loopbackAliases(t)
	k := checker{allow: only("127.0.0.2")}
	for _, peer := range []string{"0.0.0.0:0", "[::]:0"} {
		t.Run(peer, func(t *testing.T) {
			if peer == "[::]:0" {
				listenUDP(t, "[::1]:0") // skips without IPv6
			}
			ln := listenFor(t, &Direct{Check: k.check}, peer)
			if got := k.calls(); len(got) != 0 {
				t.Errorf("Check was asked about %v before anybody came", got)
			}
			reach := &fixedAddr{ln, literal("127.0.0.1", AddrOf(ln.Addr()).Port)}
			stranger, welcome := comeFrom(t, "127.0.0.1", reach), comeFrom(t, "127.0.0.2", reach)
			accepts(t, ln, welcome)
			wasSentAway(t, stranger)
			want := []netip.AddrPort{AddrOf(stranger.LocalAddr()).AddrPort(), AddrOf(welcome.LocalAddr()).AddrPort()}
			if got := k.calls(); !slices.Equal(got, want) {
				t.Errorf("Check was asked about %v, want %v", got, want)
			}
			accepts(t, ln, comeFrom(t, "127.0.0.2", reach))
			k.calls()
		})
	}
	ln := listenFor(t, new(Direct), "0.0.0.0:0")
	accepts(t, ln, comeFrom(t, "127.0.0.3", &fixedAddr{ln, literal("127.0.0.1", AddrOf(ln.Addr()).Port)}))
}

// fixedAddr is a listener under another address.
type fixedAddr struct {
	net.Listener
	addr net.Addr
}

func (f *fixedAddr) Addr() net.Addr { return f.addr }

func TestListenErrors(t *testing.T) {
	ns := newNameServer(t, map[string]string{"mixed.test": "127.0.0.1 192.0.2.1", "local.test": "127.0.0.1"})
	k := checker{allow: func(ap netip.AddrPort) bool { return !ap.Addr().IsLoopback() }}
	d := &Direct{Resolver: ns.resolver(), Check: k.check}
	var dns *net.DNSError
	for peer, want := range map[string]func(error) bool{
		"127.0.0.1:0":        func(err error) bool { return errors.Is(err, ErrNotAllowed) },
		"local.test:0":       func(err error) bool { return errors.Is(err, ErrNotAllowed) },
		"nosuchname.test.:0": func(err error) bool { return errors.As(err, &dns) && dns.IsNotFound },
		"127.1:0":            func(err error) bool { return errors.As(err, &dns) && dns.IsNotFound },
		"１２７.０.０.１:0":        func(err error) bool { return errors.As(err, &dns) && dns.IsNotFound },
		"127.0.0.1":          func(err error) bool { return err != nil },
	} {
		ln, err := d.Listen(t.Context(), "tcp", peer)
		if err == nil {
			ln.Close()
		}
		var op *net.OpError
		if !want(err) || !errors.As(err, &op) || op.Op != "listen" {
			t.Errorf("%s: error %#v", peer, err)
		}
	}
	// One address that is allowed is enough, and then the only one.
	got, err := d.lookup(t.Context(), "tcp", name("mixed.test", 0))
	if err != nil || len(got) != 1 || got[0] != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("would wait for %v, %v", got, err)
	}
}

// The context bounds the look-up of the peer.
func TestListenContext(t *testing.T) {
	ns := newNameServer(t, map[string]string{"slow.test": "127.0.0.1"})
	release := ns.hold("slow.test")
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ln, err := (&Direct{Resolver: ns.resolver()}).Listen(ctx, "tcp", "slow.test:0")
	if err == nil {
		ln.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestListenClose(t *testing.T) {
	ln := listenFor(t, new(Direct), "127.0.0.1:0")
	ended := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		ended <- err
	}()
	ln.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want net.ErrClosed", err)
	}
}
