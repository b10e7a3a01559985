package argyle

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fixed is a Resolver of one answer.
type fixed []netip.Addr

func (f fixed) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return slices.Clone(f), nil
}

func addrs(text string) (ips []netip.Addr) {
	for ip := range strings.FieldsSeq(text) {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	return ips
}

func TestInterleave(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":                                 "192.0.2.1",
		"2001:db8::1 2001:db8::2 192.0.2.1":         "2001:db8::1 192.0.2.1 2001:db8::2",
		"192.0.2.1 192.0.2.2 2001:db8::1":           "192.0.2.1 2001:db8::1 192.0.2.2",
		"192.0.2.1 2001:db8::1 192.0.2.2 192.0.2.3": "192.0.2.1 2001:db8::1 192.0.2.2 192.0.2.3",
	} {
		if got := interleave(addrs(in)); !slices.Equal(got, addrs(want)) {
			t.Errorf("%s becomes %v, want %s", in, got, want)
		}
	}
}

// An address that does not answer delays the next one by raceDelay only, and
// one that refuses not at all.
func TestRace(t *testing.T) {
	e := newEcho(t, "127.0.0.1:0")
	port := e.addr().Port()
	silent := func(ctx context.Context, _ string, to netip.AddrPort) error {
		if to.Addr().Is6() {
			<-ctx.Done() // as a connection attempt would
			return ctx.Err()
		}
		return nil
	}
	d := &Direct{Resolver: fixed(addrs("2001:db8::1 127.0.0.1")), Check: silent}
	begin := time.Now()
	conn := dial(t, d, name("a.test", port).String())
	if took := time.Since(begin); took < raceDelay || took > 10*raceDelay {
		t.Errorf("took %v", took)
	}
	e.onlyCame(t, conn)

	refusing := &Direct{Resolver: fixed(addrs("127.0.0.2 127.0.0.3 127.0.0.1"))}
	begin = time.Now()
	conn = dial(t, refusing, name("a.test", port).String())
	if took := time.Since(begin); took > raceDelay {
		t.Errorf("took %v", took)
	}
	e.onlyCame(t, conn)
}

// When all fail, the error is that which says most of the destination.
func TestRaceErrors(t *testing.T) {
	fail := map[string]error{"2001:db8::1": syscall.ENETUNREACH, "2001:db8::2": ErrNotAllowed, "192.0.2.1": syscall.ECONNREFUSED, "192.0.2.2": syscall.EHOSTUNREACH}
	for ips, want := range map[string]error{
		"2001:db8::1 192.0.2.1":             syscall.ECONNREFUSED,
		"2001:db8::1 2001:db8::2":           ErrNotAllowed,
		"2001:db8::2 192.0.2.2 192.0.2.1":   syscall.EHOSTUNREACH,
		"2001:db8::1 2001:db8::1":           syscall.ENETUNREACH,
		"192.0.2.1 2001:db8::2 2001:db8::1": syscall.ECONNREFUSED,
	} {
		d := &Direct{Resolver: fixed(addrs(ips)), Check: func(_ context.Context, _ string, to netip.AddrPort) error {
			return fail[to.Addr().String()]
		}}
		if _, err := d.DialContext(t.Context(), "tcp", "a.test:80"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", ips, err, want)
		}
	}
}

// Sockets come from the address that Local chooses, and Control sees them all.
func TestLocal(t *testing.T) {
	loopbackAliases(t)
	e := newEcho(t, "127.0.0.1:0")
	var seen []string
	d := &Direct{
		Local: func(_ context.Context, remote netip.Addr) (netip.Addr, error) {
			if remote.Is6() {
				return netip.Addr{}, syscall.EADDRNOTAVAIL
			}
			return netip.MustParseAddr("127.0.0.2"), nil
		},
		Control: func(network, address string, _ syscall.RawConn) error {
			seen = append(seen, network)
			return nil
		},
	}
	conn := dial(t, d, e.Addr().String())
	if got := AddrOf(conn.LocalAddr()).Host(); got != "127.0.0.2" {
		t.Errorf("connected from %s", got)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "[2001:db8::1]:80"); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("%v, want EADDRNOTAVAIL", err)
	}
	ln, err := d.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := AddrOf(ln.Addr()).Host(); got != "127.0.0.2" {
		t.Errorf("BIND at %s", got)
	}
	far := listenUDP(t, "127.0.0.1:0")
	p := listenPacket(t, d, "")
	write(t, p, AddrOf(far.LocalAddr()), "1")
	if from := readsFrom(t, far, "1"); AddrOf(from).Host() != "127.0.0.2" {
		t.Errorf("a datagram from %v", from)
	}
	if want := []string{"tcp4", "tcp4", "udp4"}; !slices.Equal(seen, want) {
		t.Errorf("Control saw %q, want %q", seen, want)
	}
}

// With a local address of each family there are two sockets, of one connection.
func TestLocalOfBothFamilies(t *testing.T) {
	loopbackAliases(t)
	far4, far6 := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "[::1]:0")
	d := &Direct{Local: func(_ context.Context, remote netip.Addr) (netip.Addr, error) {
		if remote.Is6() {
			return netip.IPv6Loopback(), nil
		}
		return netip.MustParseAddr("127.0.0.2"), nil
	}}
	p := listenPacket(t, d, "")
	for i, far := range []net.PacketConn{far4, far6, far4, far6} {
		text := string(rune('0' + i))
		write(t, p, AddrOf(far.LocalAddr()), text)
		from := readsFrom(t, far, text)
		if _, err := far.WriteTo([]byte("back "+text), udpAddr(AddrOf(from))); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, back, err := p.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "back "+text || AddrOf(back) != AddrOf(far.LocalAddr()) {
			t.Errorf("got %q from %v, %v", buf[:n], back, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
