package socks_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// associate opens an association by hand.
func associate(t testing.TB, addr string) (control *net.TCPConn, relay netip.AddrPort) {
	t.Helper()
	control = dialRaw(t, addr)
	// T22: the address is nonsense on purpose.
	write(t, control, append([]byte{5, 1, 0}, request5(3, netip.MustParseAddrPort("10.99.99.99:9"))...))
	expect(t, control, []byte{5, 0})
	rep, relay := answer5(t, control)
	if rep != wire.Succeeded {
		t.Fatal(rep)
	}
	return control, relay
}

// udpFrom opens a UDP socket on a local address.
func udpFrom(t testing.TB, local string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(local)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// datagram puts a header before a payload.
func datagram(t testing.TB, frag wire.Frag, to argyle.Addr, payload string) []byte {
	t.Helper()
	b, err := wire.Header{Frag: frag, Addr: to}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

func sendTo(t testing.TB, conn *net.UDPConn, to netip.AddrPort, b []byte) {
	t.Helper()
	if _, err := conn.WriteToUDPAddrPort(b, to); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram from the relay, without its header.
func receive(t testing.TB, conn *net.UDPConn, relay netip.AddrPort) (argyle.Addr, string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1<<16)
	n, from, err := conn.ReadFromUDPAddrPort(b)
	if err != nil || from != relay {
		t.Fatalf("from %v: %v", from, err)
	}
	h, head, err := wire.ParseHeader(b[:n])
	if err != nil || h.Frag != 0 || b[0] != 0 || b[1] != 0 {
		t.Fatalf("header % x: %v", b[:min(n, 10)], err)
	}
	return h.Addr, string(b[head:n])
}

// exchange sends a datagram and wants it back from where it went.
func exchange(t testing.TB, conn *net.UDPConn, relay netip.AddrPort, to argyle.Addr, source netip.AddrPort, payload string) {
	t.Helper()
	sendTo(t, conn, relay, datagram(t, 0, to, payload))
	if from, got := receive(t, conn, relay); from.AddrPort() != source || got != payload {
		t.Fatalf("%d bytes from %v, want %d from %v", len(got), from, len(payload), source)
	}
}

// T24, T27, T31: one association, both families, names and literals that come
// as names, every size; the source of an answer is the true sender.
func TestUDP(t *testing.T) {
	_, relay := associate(t, start(t, &socks.Server{}))
	if relay.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("BND %v is not the address that the client used", relay)
	}
	conn := udpFrom(t, "127.0.0.1")
	v4, v6 := udpEcho(t, "127.0.0.1"), udpEcho(t, "::1")
	for _, payload := range []string{"", "x", string(bytes.Repeat([]byte("p"), 1400)), string(bytes.Repeat([]byte("q"), 65507-10-20))} {
		exchange(t, conn, relay, argyle.AddrFrom(v4), v4, payload)
		if len(payload) < 60000 { // its header is 12 bytes longer
			exchange(t, conn, relay, argyle.AddrFrom(v6), v6, payload)
		}
	}
	exchange(t, conn, relay, argyle.Addr{Name: "127.0.0.1", Port: v4.Port()}, v4, "literal")
	exchange(t, conn, relay, argyle.Addr{Name: "[::1]", Port: v6.Port()}, v6, "literal")
	sendTo(t, conn, relay, datagram(t, 0, argyle.Addr{Name: "localhost", Port: v4.Port()}, "name"))
	if from, got := receive(t, conn, relay); got != "name" || !from.IP.IsLoopback() {
		t.Errorf("%q from %v", got, from)
	}
}

// T26: no datagram ends the association.
func TestBadDatagrams(t *testing.T) {
	p := new(proxy.Proxy)
	defer p.Close()
	_, relay := associate(t, start(t, &socks.Server{Handler: p}))
	conn := udpFrom(t, "127.0.0.1")
	to := udpEcho(t, "127.0.0.1")
	// A closed port, whose ICMP error comes back to the relay's socket.
	closed := udpFrom(t, "127.0.0.1")
	gone := argyle.AddrOf(closed.LocalAddr())
	closed.Close()
	bad := [][]byte{
		{}, {0}, {0, 0, 0}, {0, 0, 0, 1}, {0, 0, 0, 1, 127, 0, 0, 1, 0}, {0, 0, 0, 9, 1, 2, 3, 4, 0, 80, 'x'},
		{0, 0, 0, 3, 200, 'a', 'b'},
		datagram(t, 0, argyle.Addr{IP: netip.IPv4Unspecified(), Port: 53}, "x"),
		datagram(t, 0, argyle.Addr{IP: to.Addr()}, "port 0"),
		datagram(t, 0, argyle.Addr{Name: "127.1", Port: 53}, "x"),
		datagram(t, 0, argyle.Addr{Name: "no such name.", Port: 53}, "x"),
		datagram(t, 0, argyle.Addr{Name: "nosuch.invalid", Port: 53}, "x"),
		datagram(t, 0, argyle.AddrFrom(netip.MustParseAddrPort("255.255.255.255:9")), "broadcast"),
		datagram(t, 0x80, argyle.AddrFrom(to), "last fragment of none"),
		datagram(t, 5, argyle.AddrFrom(to), "fragment in the middle"),
		datagram(t, 0, gone, "nobody there"),
	}
	for _, b := range bad {
		sendTo(t, conn, relay, b)
		exchange(t, conn, relay, argyle.AddrFrom(to), to, "still here")
	}
}

// The bytes of a session are those that went somewhere.
func TestUDPBytes(t *testing.T) {
	ended := make(chan *proxy.Session, 1)
	refuse := &argyle.Direct{Check: func(_ context.Context, _ string, addr netip.AddrPort) error {
		if addr.Port() == 9 {
			return argyle.ErrNotAllowed
		}
		return nil
	}}
	p := &proxy.Proxy{
		Policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return refuse, nil }),
		OnSession: func(s *proxy.Session) {
			if over, _ := s.Ended(); over {
				ended <- s
			}
		},
	}
	defer p.Close()
	control, relay := associate(t, start(t, &socks.Server{Handler: p}))
	conn := udpFrom(t, "127.0.0.1")
	dest := udpEcho(t, "127.0.0.1")
	exchange(t, conn, relay, argyle.AddrFrom(dest), dest, "1234")
	sendTo(t, conn, relay, datagram(t, 0, argyle.AddrFrom(netip.MustParseAddrPort("127.0.0.1:9")), "refused"))
	sendTo(t, conn, relay, datagram(t, 0, argyle.Addr{Name: "localhost", Port: 9}, "refused, too"))
	sendTo(t, conn, relay, datagram(t, 0, argyle.Addr{Name: "localhost", Port: dest.Port()}, "by name"))
	if _, got := receive(t, conn, relay); got != "by name" {
		t.Error(got)
	}
	control.Close()
	if up, down := (<-ended).Bytes(); up != 4+7 || down != 4+7 {
		t.Errorf("up %d, down %d", up, down)
	}
}

// T23: only the client's address, and its first port.
func TestUDPPinning(t *testing.T) {
	_, relay := associate(t, start(t, &socks.Server{}))
	to := udpEcho(t, "127.0.0.1")
	// A stranger first, who must not take the association, nor garbage pin it.
	stranger := udpFrom(t, "127.0.0.2")
	sendTo(t, stranger, relay, datagram(t, 0, argyle.AddrFrom(to), "stranger"))
	garbage := udpFrom(t, "127.0.0.1")
	sendTo(t, garbage, relay, []byte("garbage"))
	client := udpFrom(t, "127.0.0.1")
	exchange(t, client, relay, argyle.AddrFrom(to), to, "client")
	second := udpFrom(t, "127.0.0.1")
	sendTo(t, second, relay, datagram(t, 0, argyle.AddrFrom(to), "second port"))
	sendTo(t, stranger, relay, datagram(t, 0, argyle.AddrFrom(to), "stranger"))
	exchange(t, client, relay, argyle.AddrFrom(to), to, "client again")
	for _, conn := range []*net.UDPConn{stranger, garbage, second} {
		// What was sent before the client's last exchange would be here.
		_ = conn.SetReadDeadline(time.Now())
		if n, _, err := conn.ReadFrom(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v got %d bytes, %v", conn.LocalAddr(), n, err)
		}
	}
}

// T28: one outgoing port whatever the destination, and anybody may answer to it.
func TestUDPMapping(t *testing.T) {
	_, relay := associate(t, start(t, &socks.Server{}))
	client := udpFrom(t, "127.0.0.1")
	a, b := udpFrom(t, "127.0.0.1"), udpFrom(t, "127.0.0.2")
	mapped := func(conn *net.UDPConn) netip.AddrPort {
		sendTo(t, client, relay, datagram(t, 0, argyle.AddrOf(conn.LocalAddr()), "?"))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, from, err := conn.ReadFromUDPAddrPort(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		return from
	}
	first := mapped(a)
	if second := mapped(b); second.Port() != first.Port() {
		t.Errorf("mapped to %v and %v", first, second)
	}
	third := udpFrom(t, "127.0.0.3")
	sendTo(t, third, first, []byte("unasked"))
	if from, got := receive(t, client, relay); got != "unasked" || from != argyle.AddrOf(third.LocalAddr()) {
		t.Errorf("%q from %v", got, from)
	}
}

// T30: the association lives as long as its TCP connection, whatever comes on it.
func TestAssociationLifetime(t *testing.T) {
	ended := make(chan error, 1)
	p := &proxy.Proxy{OnSession: func(s *proxy.Session) {
		if over, err := s.Ended(); over {
			ended <- err
		}
	}}
	defer p.Close()
	control, relay := associate(t, start(t, &socks.Server{Handler: p}))
	conn := udpFrom(t, "127.0.0.1")
	to := udpEcho(t, "127.0.0.1")
	write(t, control, bytes.Repeat([]byte("noise"), 10000))
	exchange(t, conn, relay, argyle.AddrFrom(to), to, "one")
	select {
	case err := <-ended:
		t.Fatalf("ended early: %v", err)
	default:
	}
	control.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	// The port is free again, once another goroutine has let go of the socket.
	deadline := time.Now().Add(10 * time.Second)
	for {
		again, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(relay))
		if err == nil {
			again.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

// T25: fragments become one datagram.
func TestFragments(t *testing.T) {
	_, relay := associate(t, start(t, &socks.Server{}))
	conn := udpFrom(t, "127.0.0.1")
	to := udpEcho(t, "127.0.0.1")
	dest := argyle.AddrFrom(to)
	for _, f := range []struct {
		frag    wire.Frag
		payload string
	}{{1, "one "}, {2, "two "}, {3 | 0x80, "three"}} {
		sendTo(t, conn, relay, datagram(t, f.frag, dest, f.payload))
	}
	if _, got := receive(t, conn, relay); got != "one two three" {
		t.Errorf("got %q", got)
	}
	// A sequence of one.
	sendTo(t, conn, relay, datagram(t, 0x81, dest, "alone"))
	if _, got := receive(t, conn, relay); got != "alone" {
		t.Errorf("got %q", got)
	}
}
