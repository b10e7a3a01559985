package argyle

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// listenPacket opens a packet connection of d for the time of the test.
func listenPacket(t testing.TB, d *Direct, address string) *directPacket {
	t.Helper()
	conn, err := d.ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	return conn.(*directPacket)
}

// port is the port of a socket on loopback.
func port(c net.PacketConn) uint16 { return AddrOf(c.LocalAddr()).Port }

// write sends texts to one destination.
func write(t testing.TB, p *directPacket, to Addr, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if n, err := p.WriteTo([]byte(text), to); n != len(text) || err != nil {
			t.Fatalf("%q to %v: %d, %v", text, to, n, err)
		}
	}
}

// reads checks that texts are what arrives next.
func reads(t testing.TB, c net.PacketConn, texts ...string) {
	t.Helper()
	for _, want := range texts {
		if got, from := readFrom(t, c); got != want {
			t.Errorf("received %q from %v, want %q", got, from, want)
		}
	}
}

// eventually waits for what goroutines do on their own.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting: %s", what)
		}
	}
}

// idle reports whether no look-up is under way.
func (p *directPacket) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending == 0
}

// One socket, one port, whatever it sends to: endpoint-independent mapping.
func TestListenPacketMapping(t *testing.T) {
	p := listenPacket(t, new(Direct), "")
	a, b, c := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0"), listenUDP(t, "[::1]:0")
	for _, far := range []*net.UDPConn{a, b, c, a} {
		write(t, p, AddrOf(far.LocalAddr()), "there")
		text, from := readFrom(t, far)
		if text != "there" || from.Port != port(p) || !from.IP.IsLoopback() {
			t.Errorf("%v received %q from %v, want port %d", far.LocalAddr(), text, from, port(p))
		}
		// Back from there, and from where nothing was sent to.
		far.WriteTo([]byte("back"), udpAddr(from))
		if got := readBatch(t, p); len(got) != 1 || string(got[0].Payload) != "back" || got[0].Addr != AddrOf(far.LocalAddr()) {
			t.Errorf("received %+v, want it from %v", got, far.LocalAddr())
		}
		far.WriteTo([]byte("again"), udpAddr(from))
		if text, from := readFrom(t, p); text != "again" || from != AddrOf(far.LocalAddr()) {
			t.Errorf("ReadFrom: %q from %v, want it from %v", text, from, far.LocalAddr())
		}
	}
	stranger := listenUDP(t, "127.0.0.1:0")
	stranger.WriteTo([]byte("hello"), udpAddr(literal("127.0.0.1", port(p))))
	if got := readBatch(t, p); got[0].Addr != AddrOf(stranger.LocalAddr()) {
		t.Errorf("received from %v, want %v", got[0].Addr, stranger.LocalAddr())
	}
}

func TestListenPacketBatch(t *testing.T) {
	p := listenPacket(t, new(Direct), "")
	a, b := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	var ds []Datagram
	for i := range 50 {
		far := []*net.UDPConn{a, b}[i%2]
		ds = append(ds, Datagram{AddrOf(far.LocalAddr()), fmt.Append(nil, i)})
	}
	if n, err := p.WriteBatch(ds); n != len(ds) || err != nil {
		t.Fatalf("sent %d, %v", n, err)
	}
	for i := range ds {
		reads(t, []*net.UDPConn{a, b}[i%2], fmt.Sprint(i))
	}
	if n, err := p.WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("nothing: sent %d, %v", n, err)
	}
}

func TestListenPacketLocal(t *testing.T) {
	p := listenPacket(t, new(Direct), "127.0.0.1:0")
	if got := AddrOf(p.LocalAddr()).IP; got != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("bound to %v", got)
	}
	for _, address := range []string{"localhost:0", "127.0.0.1", "127.1:0", "127.0.0.1:http"} {
		conn, err := new(Direct).ListenPacket(t.Context(), "udp", address)
		if err == nil {
			conn.Close()
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "listen" {
			t.Errorf("%q: error %v", address, err)
		}
	}
	if _, err := new(Direct).ListenPacket(t.Context(), "udp", p.LocalAddr().String()); err == nil {
		t.Error("one address for two sockets")
	}
}

// Datagrams that can go nowhere are dropped and counted, whatever they are
// among.
func TestListenPacketNowhere(t *testing.T) {
	var k checker
	p := listenPacket(t, &Direct{Check: k.check}, "")
	far := listenUDP(t, "127.0.0.1:0")
	nowhere := []Addr{
		{}, {Port: 53}, literal("127.0.0.1", 0), literal("0.0.0.0", port(far)), literal("::", port(far)),
		literal("::ffff:0.0.0.0", port(far)),
	}
	for i, to := range nowhere {
		ds := []Datagram{{AddrOf(far.LocalAddr()), []byte("a")}, {to, []byte("lost")}, {AddrOf(far.LocalAddr()), []byte("b")}}
		if n, err := p.WriteBatch(ds); n != 2 || err != nil {
			t.Errorf("%v: sent %d, %v", to, n, err)
		}
		reads(t, far, "a", "b")
		if got := p.Dropped(); got != uint64(i+1) {
			t.Errorf("%v: %d dropped, want %d", to, got, i+1)
		}
	}
	for _, asked := range k.calls() {
		if asked != AddrOf(far.LocalAddr()).AddrPort() {
			t.Errorf("Check was asked about %v, which is nowhere", asked)
		}
	}
	before := p.Dropped()
	for _, to := range []net.Addr{nil, &net.UDPAddr{}, &net.UnixAddr{Name: "x", Net: "unixgram"}} {
		if n, err := p.WriteTo([]byte("lost"), to); n != 4 || err != nil {
			t.Errorf("%v: %d, %v", to, n, err)
		}
	}
	write(t, p, AddrOf(far.LocalAddr()), strings.Repeat("x", MaxDatagram+1))
	if got := p.Dropped() - before; got != 4 {
		t.Errorf("%d dropped, want 4", got)
	}
}

// Check is asked about every destination, since rules and ports differ, and its
// answer holds for the next datagrams there.
func TestListenPacketCheck(t *testing.T) {
	good, bad := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	k := checker{allow: func(ap netip.AddrPort) bool { return ap.Port() == port(good) }}
	p := listenPacket(t, &Direct{Check: k.check}, "")
	to := []Addr{AddrOf(good.LocalAddr()), AddrOf(bad.LocalAddr()), literal("127.0.0.1", port(good)), AddrOf(bad.LocalAddr())}
	var ds []Datagram
	var want []netip.AddrPort
	for i, addr := range to {
		ds = append(ds, Datagram{addr, fmt.Append(nil, i)})
		if i < 2 {
			want = append(want, addr.AddrPort())
		}
	}
	if n, err := p.WriteBatch(ds); n != 2 || err != nil {
		t.Errorf("sent %d, %v", n, err)
	}
	if got := k.calls(); !slices.Equal(got, want) {
		t.Errorf("Check was asked about %v, want %v", got, want)
	}
	reads(t, good, "0", "2")
	if got := p.Dropped(); got != 2 {
		t.Errorf("%d dropped, want 2", got)
	}
	// Had the refused ones been sent, they would have come first.
	good.WriteTo([]byte("last"), udpAddr(AddrOf(bad.LocalAddr())))
	reads(t, bad, "last")
}

// No other method gets a datagram past Check; libraries look for such by type
// assertion.
func TestListenPacketNoBypass(t *testing.T) {
	var conn net.PacketConn = listenPacket(t, new(Direct), "")
	if _, ok := conn.(interface {
		WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	}); ok {
		t.Error("WriteMsgUDP sends unchecked")
	}
	if _, ok := conn.(interface {
		WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	}); ok {
		t.Error("WriteToUDPAddrPort sends unchecked")
	}
	if _, ok := conn.(interface {
		WriteToUDP(b []byte, addr *net.UDPAddr) (int, error)
	}); ok {
		t.Error("WriteToUDP sends unchecked")
	}
	if _, ok := conn.(syscall.Conn); ok {
		t.Error("SyscallConn sends unchecked")
	}
}

// Datagrams for a name wait for its address, in order; others do not wait.
func TestListenPacketNames(t *testing.T) {
	ns := newNameServer(t, map[string]string{"slow.test": "127.0.0.1", "quick.test": "127.0.0.1"})
	release := ns.hold("slow.test")
	slow, quick := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")

	payload := []byte("s0")
	if _, err := p.WriteTo(payload, name("slow.test", port(slow))); err != nil {
		t.Fatal(err)
	}
	clear(payload) // the buffer is the caller's again
	write(t, p, name("quick.test", port(quick)), "q0")
	write(t, p, literal("127.0.0.1", port(quick)), "q1")
	write(t, p, name("slow.test", port(slow)), "s1", "", "s3")
	if got := []string{first(readFrom(t, quick)), first(readFrom(t, quick))}; !slices.Contains(got, "q0") || !slices.Contains(got, "q1") {
		t.Errorf("received %q", got)
	}
	release()
	reads(t, slow, "s0", "s1", "", "s3")

	// Now the address is known, for every port.
	write(t, p, name("slow.test", port(slow)), "s4")
	write(t, p, name("slow.test", port(quick)), "q2")
	reads(t, slow, "s4")
	reads(t, quick, "q2")
	if n := ns.questions("slow.test"); n != 1 {
		t.Errorf("the name was looked up %d times", n)
	}
	if n := p.Dropped(); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

func first(s string, _ Addr) string { return s }

// A packet connection tells which names have an address.
func TestListenPacketNamesOf(t *testing.T) {
	ns := newNameServer(t, map[string]string{"one.test": "127.0.0.1", "two.test": "127.0.0.2 127.0.0.1"})
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	if got := p.Names(netip.MustParseAddr("127.0.0.1")); got != nil {
		t.Errorf("%q before any look-up", got)
	}
	for _, name := range []string{"one.test", "two.test", "none.test"} {
		write(t, p, Addr{Name: name, Port: 9}, "")
	}
	eventually(t, "the look-ups", p.idle)
	for ip, want := range map[string][]string{
		"127.0.0.1": {"one.test", "two.test"}, "127.0.0.2": {"two.test"}, "127.0.0.3": nil,
	} {
		got := p.Names(netip.MustParseAddr(ip))
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", ip, got, want)
		}
	}
}

// The same in a batch, where names and addresses are mixed.
func TestListenPacketNamesInBatch(t *testing.T) {
	ns := newNameServer(t, map[string]string{"a.test": "127.0.0.1"})
	far := listenUDP(t, "127.0.0.1:0")
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	var ds []Datagram
	for i := range 20 {
		ds = append(ds, Datagram{name("a.test", port(far)), fmt.Append(nil, i)})
	}
	if _, err := p.WriteBatch(ds); err != nil {
		t.Fatal(err)
	}
	for i := range ds {
		reads(t, far, fmt.Sprint(i))
	}
}

// A name that does not exist costs a question and the datagrams for it.
func TestListenPacketUnknownName(t *testing.T) {
	ns := newNameServer(t, map[string]string{"zero.test": "0.0.0.0"})
	far := listenUDP(t, "127.0.0.1:0")
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	for i, unknown := range []string{"nosuchname.test.", "zero.test", "１２７.０.０.１"} {
		write(t, p, name(unknown, port(far)), "lost")
		eventually(t, unknown, p.idle)
		write(t, p, name(unknown, port(far)), "lost, too")
		if got := p.Dropped(); got != uint64(2*i+2) {
			t.Errorf("%s: %d dropped, want %d", unknown, got, 2*i+2)
		}
	}
	write(t, p, AddrOf(far.LocalAddr()), "last")
	reads(t, far, "last")
	if n := ns.questions("nosuchname.test"); n != 1 {
		t.Errorf("an unknown name was looked up %d times", n)
	}
}

// An address is trusted for a while and then looked up again.
func TestListenPacketNameExpires(t *testing.T) {
	loopbackAliases(t)
	ns := newNameServer(t, map[string]string{"a.test": "127.0.0.1"})
	before := listenUDP(t, "127.0.0.1:0")
	after := listenUDP(t, fmt.Sprintf("127.0.0.2:%d", port(before)))
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	to := name("a.test", port(before))
	write(t, p, to, "1")
	reads(t, before, "1")
	ns.set("a.test", "127.0.0.2")
	write(t, p, to, "2")
	reads(t, before, "2")
	p.mu.Lock()
	p.names["a.test"].expires = time.Now()
	p.mu.Unlock()
	write(t, p, to, "3")
	reads(t, after, "3")
}

// What Check says of one port of a name says nothing of another.
func TestListenPacketNameCheck(t *testing.T) {
	loopbackAliases(t)
	ns := newNameServer(t, map[string]string{"a.test": "127.0.0.1", "two.test": "127.0.0.1 127.0.0.2"})
	good, bad := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	k := checker{allow: func(ap netip.AddrPort) bool { return ap.Port() == port(good) }}
	p := listenPacket(t, &Direct{Resolver: ns.resolver(), Check: k.check}, "")
	write(t, p, name("a.test", port(bad)), "lost")
	eventually(t, "a.test", p.idle)
	write(t, p, name("a.test", port(good)), "1")
	reads(t, good, "1")
	write(t, p, name("a.test", port(bad)), "lost")
	if got := p.Dropped(); got != 2 {
		t.Errorf("%d dropped, want 2", got)
	}

	// Of several addresses one that is allowed is taken.
	other := listenUDP(t, "127.0.0.2:0")
	k = checker{allow: only("127.0.0.2")}
	p = listenPacket(t, &Direct{Resolver: ns.resolver(), Check: k.check}, "")
	write(t, p, name("two.test", port(other)), "2")
	reads(t, other, "2")
	write(t, p, name("two.test", port(other)), "3")
	reads(t, other, "3")
	if got := p.Dropped(); got != 0 {
		t.Errorf("%d dropped, want none", got)
	}
}

// A socket bound to an address of one family takes that family's addresses of
// a name.
func TestListenPacketNameFamily(t *testing.T) {
	ns := newNameServer(t, map[string]string{"both.test": "::1 127.0.0.1"})
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(local, func(t *testing.T) {
			far := listenUDP(t, local)
			p := listenPacket(t, &Direct{Resolver: ns.resolver()}, local)
			write(t, p, name("both.test", port(far)), "1", "2")
			reads(t, far, "1", "2")
		})
	}
}

// Which of a name's addresses a socket takes, by the address that it has itself.
func TestListenPacketChoice(t *testing.T) {
	for _, c := range []struct{ local, addrs, want string }{
		{"::", "192.0.2.1 2001:db8::1", "192.0.2.1"},
		{"::", "2001:db8::1 192.0.2.1", "2001:db8::1"},
		{"0.0.0.0", "2001:db8::1 192.0.2.1", "192.0.2.1"},
		{"127.0.0.1", "2001:db8::1 192.0.2.1", "192.0.2.1"},
		{"::1", "192.0.2.1 2001:db8::1", "2001:db8::1"},
		{"::1", "192.0.2.1", "invalid IP"},
		{"127.0.0.1", "2001:db8::1", "invalid IP"},
		{"::", "0.0.0.0 :: 192.0.2.1", "192.0.2.1"},
		{"::", "", "invalid IP"},
	} {
		p := &directPacket{direct: new(Direct), local: netip.MustParseAddr(c.local)}
		var ips []netip.Addr
		for ip := range strings.FieldsSeq(c.addrs) {
			ips = append(ips, netip.MustParseAddr(ip))
		}
		to, ok := p.choose(Addr{Name: "a.test", Port: 53}, ips)
		if got := to.Addr().String(); got != c.want || ok != to.IsValid() || p.Dropped() == 0 != ok {
			t.Errorf("bound to %s, of %q: %s, %v, %d dropped; want %s", c.local, c.addrs, got, ok, p.Dropped(), c.want)
		}
	}
}

func TestListenPacketBoundOfPending(t *testing.T) {
	ns := newNameServer(t, map[string]string{})
	far := listenUDP(t, "127.0.0.1:0")
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	var releases []func()
	for i := range maxPending + 3 {
		host := fmt.Sprintf("%d.test", i)
		ns.set(host, "127.0.0.1")
		releases = append(releases, ns.hold(host))
		write(t, p, name(host, port(far)), host)
	}
	if got := p.Dropped(); got != 3 {
		t.Errorf("%d dropped, want the 3 beyond %d names", got, maxPending)
	}
	for i := range maxPending {
		releases[i]()
		reads(t, far, fmt.Sprintf("%d.test", i))
	}
	eventually(t, "look-ups", p.idle)
	releases[maxPending]()
	write(t, p, name(fmt.Sprintf("%d.test", maxPending), port(far)), "after")
	reads(t, far, "after")
}

// What waits is bounded in bytes, and in number, since nothing has no bytes.
func TestListenPacketBoundOfWaiting(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 32 << 10, MaxDatagram} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ns := newNameServer(t, map[string]string{"slow.test": "127.0.0.1"})
			release := ns.hold("slow.test")
			far := listenUDP(t, "127.0.0.1:0")
			p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
			payload := strings.Repeat("x", size)
			const sent = 2000
			for range sent {
				write(t, p, name("slow.test", port(far)), payload)
			}
			dropped := int(p.Dropped())
			kept := sent - dropped
			if kept == 0 || kept > 1000 || kept*size > 64<<10 {
				t.Errorf("%d datagrams of %d bytes wait", kept, size)
			}
			release()
			for range min(kept, 100) { // as many as fit into a small receive buffer
				reads(t, far, payload)
			}
			eventually(t, "look-up", p.idle)
			if got := int(p.Dropped()); got != dropped {
				t.Errorf("%d dropped, and %d before the address was known", got, dropped)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if left := p.names["slow.test"].waiting; p.waiting != 0 || p.queued != 0 || left != nil {
				t.Errorf("%d bytes in %d datagrams still wait, %d are kept", p.waiting, p.queued, len(left))
			}
		})
	}
}

func TestListenPacketBoundOfNames(t *testing.T) {
	ns := newNameServer(t, map[string]string{"slow.test": "127.0.0.1"})
	far := listenUDP(t, "127.0.0.1:0")
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	release := ns.hold("slow.test")
	write(t, p, name("slow.test", port(far)), "slow")
	for i := range maxNames + 20 {
		host := fmt.Sprintf("%d.test", i)
		ns.set(host, "127.0.0.1")
		write(t, p, name(host, port(far)), host)
		reads(t, far, host)
		p.mu.Lock()
		if len(p.names) > maxNames {
			t.Errorf("%d names are kept", len(p.names))
		}
		p.mu.Unlock()
	}
	release() // what was being looked up has not been forgotten
	reads(t, far, "slow")
}

// Close ends readers, writers and look-ups.
func TestListenPacketClose(t *testing.T) {
	ns := newNameServer(t, map[string]string{"slow.test": "127.0.0.1"})
	defer ns.hold("slow.test")()
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	write(t, p, name("slow.test", 9), "a", "b")
	ended := make(chan error, 1)
	go func() { ended <- p.ReadBatch(func([]Datagram) { t.Error("read something") }) }()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch: %v, want net.ErrClosed", err)
	}
	eventually(t, "the end of the look-up", p.idle)
	eventually(t, "the end of its goroutine", func() bool { return !running("(*directPacket).look(") })
	if got := p.Dropped(); got != 2 {
		t.Errorf("%d dropped, want the 2 that waited", got)
	}
	if n, err := p.WriteBatch([]Datagram{{literal("127.0.0.1", 9), []byte("x")}}); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteBatch: %d, %v, want net.ErrClosed", n, err)
	}
	if _, err := p.WriteTo([]byte("x"), literal("127.0.0.1", 9)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteTo: %v, want net.ErrClosed", err)
	}
	if _, _, err := p.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom: %v, want net.ErrClosed", err)
	}
	before := p.Dropped()
	write(t, p, name("other.test", 9), "x")
	if !p.idle() || p.Dropped() != before+1 {
		t.Errorf("after Close: a look-up began (%v), or %d dropped, want 1", !p.idle(), p.Dropped()-before)
	}
}

// running reports whether a goroutine is in a function.
func running(function string) bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte(function))
}

// A PacketConn may be used by many at once.
func TestListenPacketConcurrent(t *testing.T) {
	ns := newNameServer(t, map[string]string{"a.test": "127.0.0.1", "b.test": "127.0.0.1"})
	p := listenPacket(t, &Direct{Resolver: ns.resolver()}, "")
	var wg sync.WaitGroup
	for w := range 4 {
		far := listenUDP(t, "127.0.0.1:0")
		wg.Go(func() {
			b := make([]byte, 100)
			for i := range 50 {
				to := []Addr{AddrOf(far.LocalAddr()), name("a.test", port(far)), name("b.test", port(far))}[i%3]
				want := fmt.Sprintf("%d of %d", i, w)
				if w == 0 {
					p.WriteBatch([]Datagram{{to, []byte(want)}})
				} else {
					p.WriteTo([]byte(want), to)
				}
				if n, _, err := far.ReadFrom(b); err != nil || string(b[:n]) != want {
					t.Errorf("received %q, %v; want %q", b[:n], err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestListenPacketAllocs(t *testing.T) {
	if raced || runtime.GOOS != "linux" {
		t.Skip("needs a sync.Pool that keeps what it is given, and batches")
	}
	ns := newNameServer(t, map[string]string{"a.test": "127.0.0.1"})
	p, far := listenPacket(t, &Direct{Resolver: ns.resolver()}, ""), listenPacket(t, new(Direct), "127.0.0.1:0")
	write(t, p, name("a.test", port(far)), "so that it is known")
	readBatch(t, far)
	round := packetRound(t, p, far)
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations for %d datagrams", n, roundSize)
	}
}

// roundSize is how many datagrams one round of packetRound carries.
const roundSize = 32

// packetRound returns what sends datagrams from p to far, for an address and
// for a name, and waits for them.
func packetRound(t testing.TB, p, far *directPacket) func() {
	ds := make([]Datagram, roundSize)
	for i := range ds {
		ds[i] = Datagram{literal("127.0.0.1", port(far)), make([]byte, 1200)}
		if p.direct.Resolver != nil && i%2 == 0 {
			ds[i].Addr = name("a.test", port(far))
		}
	}
	seen := 0
	handle := func(got []Datagram) { seen += len(got) }
	return func() {
		if n, err := p.WriteBatch(ds); n != len(ds) || err != nil {
			t.Fatal(n, err)
		}
		for seen = 0; seen < len(ds); {
			if err := far.ReadBatch(handle); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func BenchmarkPacket(b *testing.B) {
	p, far := listenPacket(b, new(Direct), ""), listenPacket(b, new(Direct), "127.0.0.1:0")
	far.SetReadDeadline(time.Now().Add(time.Minute))
	round := packetRound(b, p, far)
	b.SetBytes(roundSize * 1200)
	b.ReportAllocs()
	for b.Loop() {
		round()
	}
}

// readsFrom is reads of one datagram, and says where it came from.
func readsFrom(t testing.TB, c net.PacketConn, want string) net.Addr {
	t.Helper()
	got, from := readFrom(t, c)
	if got != want {
		t.Errorf("received %q from %v, want %q", got, from, want)
	}
	return from
}

// The addresses of the family that this host has a way to come first, each family in its order.
func TestListenPacketRoutedFirst(t *testing.T) {
	for _, test := range []struct{ without, ips, want string }{
		{"udp6", "::1 127.0.0.1 ::2 127.0.0.2", "127.0.0.1 127.0.0.2 ::1 ::2"},
		{"udp4", "127.0.0.1 ::1 127.0.0.2", "::1 127.0.0.1 127.0.0.2"},
		{"udp4", "::1 127.0.0.1", "::1 127.0.0.1"},
		{"udp", "::1 127.0.0.1", "::1 127.0.0.1"}, // neither
		{"udp6", "::1 ::2", "::1 ::2"},
	} {
		d := &Direct{Control: func(network, _ string, _ syscall.RawConn) error {
			if strings.HasPrefix(network, test.without) {
				return syscall.ENETUNREACH
			}
			return nil
		}}
		var ips []netip.Addr
		for text := range strings.FieldsSeq(test.ips) {
			ips = append(ips, netip.MustParseAddr(text))
		}
		if got := strings.Trim(fmt.Sprint(d.routedFirst(t.Context(), ips)), "[]"); got != test.want {
			t.Errorf("without %s, of %s: %s, want %s", test.without, test.ips, got, test.want)
		}
	}
}
