package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

func datagrams() []check {
	return []check{
		{"UDP-ECHO", "RFC 1928 §7", Must, "carries datagrams both ways", udpCarries, 0},
		{"UDP-BOUND", "RFC 1928 §6, T24", Robust, "says with an address where datagrams go", udpBound, 0},
		{"UDP-HEADER", "RFC 1928 §7, T27", Must, "gives replies a header with RSV and FRAG 0 and the true source", udpHeader, 0},
		{"UDP-NAME", "RFC 1928 §7", Must, "carries datagrams to names", udpName, 0},
		{"UDP-IPV6", "RFC 1928 §7", Must, "carries datagrams to IPv6 addresses", udpIPv6, 0},
		{"UDP-FRAG", "RFC 1928 §7, T25", Must, "does not pass a fragment on as if it were whole", udpFrag, 0},
		{"UDP-REASSEMBLY", "RFC 1928 §7, T25", May, "puts fragments together", udpReassembly, 0},
		{"UDP-TIMER", "RFC 1928 §7", Must, "keeps fragments for 5 seconds, if it puts them together", udpTimer, 0},
		{"UDP-RESTART", "RFC 1928 §7", Must, "forgets fragments when a lower one comes, if it puts them together", udpRestart, 0},
		{"UDP-GARBAGE", "T26", Robust, "survives datagrams that are none", udpGarbage, 0},
		{"UDP-NXNAME", "T26", Robust, "survives a datagram to a name that does not exist", udpNXName, 0},
		{"UDP-REFUSED", "T26", Robust, "survives a datagram to a closed port", udpRefused, 0},
		{"UDP-SOURCE", "RFC 1928 §7, T23", Must, "drops datagrams from other addresses than the client's", udpSource, 0},
		{"UDP-PORT", "T23", Robust, "drops datagrams from other ports of the client's address", udpPort, 0},
		{"UDP-HINT", "T22", Robust, "does not mind a wrong address in the request", udpHint, 0},
		{"UDP-END", "RFC 1928 §6", Must, "ends the association with its TCP connection", udpEnd, 0},
		{"UDP-STAY", "T30", Robust, "does not end it for what is sent on that connection", udpStay, 0},
		{"UDP-LARGE", "T31", Should, "carries the largest datagrams that there are", udpLarge, 0},
		{"UDP-MAPPING", "RFC 4787 §4.1, T28", Told, "mapping", udpMapping, 0},
		{"UDP-FILTERING", "RFC 4787 §5, T28", Told, "filtering", udpFiltering, 0},
	}
}

// association is a UDP ASSOCIATE with a socket for it.
type association struct {
	*session
	control *tracedConn
	sock    *net.UDPConn
	relay   netip.AddrPort
}

// associate opens an association; hint is DST of the request.
func (s *session) associate(ctx context.Context, hint []byte) (*association, error) {
	c, r, err := s.ask(ctx, cmdAssociate, hint)
	if err != nil {
		return nil, unsupported("no answer: %s", plain(err))
	}
	if r.rep != repSucceeded {
		return nil, unsupported("REP %d", r.rep)
	}
	if !r.addr.IsValid() || r.addr.Port() == 0 {
		return nil, failed("no address to send to: % x", r.raw)
	}
	a := &association{session: s, control: c, relay: r.addr}
	if r.addr.Addr().IsUnspecified() {
		host, err := netip.ParseAddr(hostOf(s.proxy))
		if err != nil {
			return nil, skipped("the proxy has no address")
		}
		a.relay = netip.AddrPortFrom(host, r.addr.Port())
	}
	a.sock, err = s.socket(s.local)
	return a, err
}

var anywhere = []byte{1, 0, 0, 0, 0, 0, 0}

// socket opens a socket on an address of this host.
func (s *session) socket(local string) (*net.UDPConn, error) {
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(local)})
	if err != nil {
		return nil, err
	}
	_ = sock.SetReadBuffer(1 << 20)
	s.keep(sock)
	return sock, nil
}

// payload is something that the helper answers, of that size.
func (s *session) payload(what byte, size int) []byte {
	b := append([]byte(s.helper.secret), what)
	for len(b) < size {
		b = append(b, byte(len(b)))
	}
	return b
}

// send sends a datagram to the relay, from sock.
func (a *association) send(sock *net.UDPConn, frag byte, dest, payload []byte) error {
	b := append([]byte{0, 0, frag}, dest...)
	b = append(b, payload...)
	a.trace("udp >", b)
	_, err := sock.WriteToUDPAddrPort(b, a.relay)
	return err
}

// receive reads what the relay sends to sock, and its header.
func (a *association) receive(sock *net.UDPConn, within time.Duration) (head []byte, source netip.AddrPort, payload []byte, err error) {
	_ = sock.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, 1<<16)
	n, _, err := sock.ReadFromUDPAddrPort(buf)
	if err != nil {
		return nil, source, nil, err
	}
	b := buf[:n]
	a.trace("udp <", b)
	if n < 4 {
		return nil, source, nil, failed("a datagram of %d bytes: % x", n, b)
	}
	size := map[byte]int{1: 4, 4: 16}[b[3]]
	if b[3] == 3 && n > 4 {
		size = 1 + int(b[4])
	}
	if size == 0 || n < 4+size+2 {
		return nil, source, nil, failed("a datagram without a header: % x", b[:min(n, 24)])
	}
	if ip, ok := netip.AddrFromSlice(b[4:][:size]); ok && b[3] != 3 {
		source = netip.AddrPortFrom(ip, uint16(b[4+size])<<8|uint16(b[5+size]))
	}
	return b[:4], source, b[4+size+2:], nil
}

// tries is how often a datagram is sent that may have been lost.
const tries = 3

// exchange sends a payload until something comes back.
func (a *association) exchange(dest, payload []byte) (head []byte, source netip.AddrPort, answer []byte, err error) {
	for range tries {
		if err = a.send(a.sock, 0, dest, payload); err != nil {
			return nil, source, nil, err
		}
		if head, source, answer, err = a.receive(a.sock, 800*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			return head, source, answer, err
		}
	}
	return nil, source, nil, failed("nothing comes back")
}

// echoes wants a payload back.
func (a *association) echoes(dest []byte, size int) error {
	want := a.payload(udpEcho, size)
	_, _, got, err := a.exchange(dest, want)
	if err == nil && !bytes.Equal(got, want) {
		err = failed("%d bytes came back of %d", len(got), len(want))
	}
	return err
}

// open opens an association that works, with what may be wrong apart from the
// row's own matter.
func (s *session) open(ctx context.Context) (*association, error) {
	a, err := s.associate(ctx, anywhere)
	if err != nil {
		return nil, err
	}
	if err := a.echoes(s.helperDest(), 32); err != nil {
		return nil, skipped("datagrams do not come back: %v", err)
	}
	return a, nil
}

func udpCarries(ctx context.Context, s *session) error {
	a, err := s.associate(ctx, anywhere)
	if err != nil {
		return err
	}
	for _, size := range []int{32, 1200, 4000} {
		if err := a.echoes(s.helperDest(), size); err != nil {
			return failed("%d bytes: %v", size, err)
		}
	}
	return nil
}

func udpBound(ctx context.Context, s *session) error {
	_, r, err := s.ask(ctx, cmdAssociate, anywhere)
	if err != nil || r.rep != repSucceeded {
		return unsupported("REP %d", r.rep)
	}
	if !r.addr.IsValid() || r.addr.Addr().IsUnspecified() {
		return failed("BND is %v", r.addr)
	}
	return nil
}

func udpHeader(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	head, source, _, err := a.exchange(s.helperDest(), s.payload(udpEcho, 32))
	if err != nil {
		return err
	}
	want := netip.AddrPortFrom(netip.Addr{}, uint16(s.helper.port))
	if ip, err := netip.ParseAddr(s.helper.host); err == nil {
		want = netip.AddrPortFrom(ip, uint16(s.helper.port))
	} else if source.IsValid() {
		want = netip.AddrPortFrom(source.Addr(), uint16(s.helper.port))
	}
	switch {
	case head[0] != 0 || head[1] != 0 || head[2] != 0:
		return failed("it begins with % x", head)
	case source != want:
		return failed("the source is %v (address type %d), want %v", source, head[3], want)
	}
	return nil
}

func udpName(ctx context.Context, s *session) error {
	name, err := s.helperName()
	if err != nil {
		return err
	}
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	return a.echoes(dest(name, s.helper.port), 32)
}

func udpIPv6(ctx context.Context, s *session) error {
	ip, err := s.helperIP(false)
	if err != nil {
		return err
	}
	a, err := s.associate(ctx, anywhere)
	if err != nil {
		return err
	}
	return a.echoes(dest(ip.String(), s.helper.port), 32)
}

func udpFrag(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	if err := a.send(a.sock, 1, s.helperDest(), s.payload(udpEcho, 40)); err != nil {
		return err
	}
	if _, _, got, err := a.receive(a.sock, 700*time.Millisecond); err == nil {
		return failed("a first fragment is passed on as a datagram of %d bytes", len(got))
	}
	if err := a.echoes(s.helperDest(), 32); err != nil {
		return failed("a fragment ends the association")
	}
	return nil
}

func udpReassembly(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	want := s.payload(udpEcho, 90)
	for range tries {
		got, err := a.fragments(want, 0, 1, 2, 0x83)
		if err == nil && bytes.Equal(got, want) {
			return nil
		}
		if err == nil {
			return failed("of three fragments came %d bytes, want %d", len(got), len(want))
		}
	}
	return unsupported("fragments are dropped")
}

// fragments sends fragments, of 30 bytes of a payload each, and reads what
// comes of them.
func (a *association) fragments(payload []byte, pause time.Duration, frags ...byte) ([]byte, error) {
	for i, frag := range frags {
		if i == len(frags)-1 {
			time.Sleep(pause)
		}
		at := 30 * (int(frag&0x7f) - 1)
		if err := a.send(a.sock, frag, a.helperDest(), payload[at:][:30]); err != nil {
			return nil, err
		}
	}
	_, _, got, err := a.receive(a.sock, 500*time.Millisecond)
	return got, err
}

// reassembles ends a row if fragments are dropped.
func (s *session) reassembles(ctx context.Context) (*association, error) {
	a, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	want := s.payload(udpEcho, 60)
	for range tries {
		if got, err := a.fragments(want, 0, 1, 0x82); err == nil && bytes.Equal(got, want) {
			return a, nil
		}
	}
	return nil, unsupported("fragments are dropped, or see UDP-REASSEMBLY")
}

func udpTimer(ctx context.Context, s *session) error {
	a, err := s.reassembles(ctx)
	if err != nil {
		return err
	}
	want := s.payload(udpEcho, 60)
	if got, err := a.fragments(want, 4500*time.Millisecond, 1, 0x82); err != nil || !bytes.Equal(got, want) {
		return failed("a fragment is gone after 4.5s")
	}
	return nil
}

func udpRestart(ctx context.Context, s *session) error {
	a, err := s.reassembles(ctx)
	if err != nil {
		return err
	}
	want := s.payload(udpEcho, 90)
	got, err := a.fragments(want, 0, 1, 2, 1, 0x82)
	if err != nil || !bytes.Equal(got, want[:60]) {
		return failed("of fragments 1, 2, and then 1 and a last 2 came %d bytes, want 60", len(got))
	}
	return nil
}

// survives wants an association to go on working after something.
func (s *session) survives(ctx context.Context, what func(a *association) error) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	if err := what(a); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	for end := time.Now().Add(time.Second); time.Now().Before(end); { // what has come of it
		_, _, _, err := a.receive(a.sock, 20*time.Millisecond)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	if err := a.echoes(s.helperDest(), 32); err != nil {
		return failed("then %v", err)
	}
	return nil
}

func udpGarbage(ctx context.Context, s *session) error {
	return s.survives(ctx, func(a *association) error {
		for _, b := range [][]byte{{}, {0}, {0, 0, 0}, {0, 0, 0, 9, 1}, {0, 0, 0, 1, 127}, {0, 0, 0, 3, 200, 'x'}, []byte("GET / HTTP/1.0\r\n")} {
			a.trace("udp >", b)
			if _, err := a.sock.WriteToUDPAddrPort(b, a.relay); err != nil {
				return err
			}
		}
		return nil
	})
}

func udpNXName(ctx context.Context, s *session) error {
	return s.survives(ctx, func(a *association) error {
		return a.send(a.sock, 0, dest("no-such-host.invalid", 9), []byte("hello"))
	})
}

func udpRefused(ctx context.Context, s *session) error {
	return s.survives(ctx, func(a *association) error {
		for range 3 {
			if err := a.send(a.sock, 0, dest(s.helper.host, 9), []byte("hello")); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
}

func udpSource(ctx context.Context, s *session) error {
	a, err := s.associate(ctx, anywhere)
	if err != nil {
		return err
	}
	if s.local != "127.0.0.1" || !a.relay.Addr().IsLoopback() {
		return skipped("needs a proxy on this host")
	}
	other, err := s.socket(stranger)
	if err != nil {
		return skipped("this host has no %s", stranger)
	}
	for _, first := range []bool{true, false} { // before the client has sent anything, and after
		if err := a.send(other, 0, s.helperDest(), s.payload(udpEcho, 32)); err != nil {
			return err
		}
		if _, _, _, err := a.receive(other, 400*time.Millisecond); err == nil {
			return failed("a datagram from %s is relayed", stranger)
		}
		if err := a.echoes(s.helperDest(), 32); err != nil && first {
			return failed("after a datagram from %s, the client's own do not come back", stranger)
		}
	}
	return nil
}

func udpPort(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	other, err := s.socket(s.local)
	if err != nil {
		return err
	}
	if err := a.send(other, 0, s.helperDest(), s.payload(udpEcho, 32)); err != nil {
		return err
	}
	if _, _, _, err := a.receive(other, 400*time.Millisecond); err == nil {
		return failed("a datagram from another port is relayed, and answered there")
	}
	if _, _, _, err := a.receive(a.sock, 200*time.Millisecond); err == nil {
		return failed("a datagram from another port is relayed")
	}
	return nil
}

func udpHint(ctx context.Context, s *session) error {
	for _, hint := range [][]byte{dest("10.99.99.99", 9), dest("::", 0), dest("no-such-host.invalid", 1)} {
		a, err := s.associate(ctx, hint)
		if err != nil {
			if err2 := s.works(ctx); err2 != nil {
				return err2
			}
			return failed("with % x: %v", hint, err)
		}
		if err := a.echoes(s.helperDest(), 32); err != nil {
			return failed("with % x: %v", hint, err)
		}
	}
	return nil
}

// works ends a row if there are no associations.
func (s *session) works(ctx context.Context) error {
	_, err := s.open(ctx)
	return err
}

func udpEnd(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	a.control.Close()
	time.Sleep(500 * time.Millisecond)
	if err := a.send(a.sock, 0, s.helperDest(), s.payload(udpEcho, 32)); err != nil {
		return nil //nolint:nilerr // the port is closed
	}
	if _, _, _, err := a.receive(a.sock, 700*time.Millisecond); err == nil {
		return failed("it goes on after the connection has ended")
	}
	return nil
}

func udpStay(ctx context.Context, s *session) error {
	return s.survives(ctx, func(a *association) error {
		_, err := io.WriteString(a.control, "hello?")
		return err
	})
}

// maxPayload is what fits into a datagram of IPv4 with the header of SOCKS.
const maxPayload = 1<<16 - 1 - 20 - 8 - 10

func udpLarge(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	largest := 0
	for _, size := range []int{1472, 4096, 9000, 16 << 10, 32 << 10, maxPayload} {
		if err := a.echoes(s.helperDest(), size); err != nil {
			return failed("up to %d bytes, not %d", largest, size)
		}
		largest = size
	}
	s.note("%d bytes", largest)
	return nil
}

func udpMapping(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	if s.helper.local == nil {
		return skipped("needs a helper on this host")
	}
	ports := []int{s.helper.port, s.helper.local.other[0].LocalAddr().(*net.UDPAddr).Port}
	var seen []string
	for _, port := range ports {
		_, _, answer, err := a.exchange(dest(s.helper.host, port), s.payload(udpPeer, 0))
		if err != nil {
			return err
		}
		seen = append(seen, string(answer))
	}
	if seen[0] == seen[1] {
		s.note("endpoint-independent")
	} else {
		s.note("dependent on the target: %s, %s", seen[0], seen[1])
	}
	return nil
}

func udpFiltering(ctx context.Context, s *session) error {
	a, err := s.open(ctx)
	if err != nil {
		return err
	}
	passes := func(what byte) bool {
		for range tries {
			if a.send(a.sock, 0, s.helperDest(), s.payload(what, 32)) != nil {
				return false
			}
			if _, _, _, err := a.receive(a.sock, 300*time.Millisecond); err == nil {
				return true
			}
		}
		return false
	}
	canTell := s.helper.local != nil && s.helper.local.alien != nil
	switch otherPort := passes(udpOther); {
	case otherPort && canTell && passes(udpAlien):
		s.note("endpoint-independent")
	case otherPort && canTell:
		s.note("address-dependent")
	case otherPort:
		s.note("endpoint-independent or address-dependent")
	default:
		s.note("address and port-dependent")
	}
	return nil
}

// measure measures what a user feels.
func (e *environment) measure(ctx context.Context) (figures []Figure) {
	const limit = 8 * time.Second
	s := &session{environment: e, deadline: time.Now().Add(limit)}
	defer s.close()
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	add := func(name string, value float64, unit string) {
		figures = append(figures, Figure{name, value, unit})
	}
	var dials []time.Duration
	turns := 0
	for range 9 {
		began := time.Now()
		c, r, err := s.ask(ctx, cmdConnect, s.helperDest())
		if err != nil || r.rep != repSucceeded {
			return figures
		}
		dials, turns = append(dials, time.Since(began)), 1+c.turns // the first is TCP's
		c.Close()
	}
	add("connect", float64(median(dials).Microseconds())/1000, "ms")
	add("round trips before data", float64(turns), "")
	if c, err := s.command(ctx, "send %d", 1<<30); err == nil {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		began := time.Now()
		n, _ := io.Copy(io.Discard, c.Conn)
		add("throughput", float64(n)*8/1e6/time.Since(began).Seconds(), "Mbit/s")
		_ = c.reset()
	}
	if a, err := s.open(ctx); err == nil {
		const count, ahead = 400, 16
		back := 0
		for sent := 0; sent < count; sent += ahead {
			for range ahead {
				_ = a.send(a.sock, 0, s.helperDest(), s.payload(udpEcho, 1000))
			}
			for range ahead {
				if _, _, _, err := a.receive(a.sock, 200*time.Millisecond); err != nil {
					break
				}
				back++
			}
		}
		add("UDP loss, 16 datagrams of 1000 bytes at a time", 100*float64(count-back)/count, "%")
	}
	return figures
}

func median(all []time.Duration) time.Duration {
	for i := range all {
		for j := i; j > 0 && all[j] < all[j-1]; j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
	return all[len(all)/2]
}
