package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

func requests() []check {
	return []check{
		{"REQ-IPV4", "RFC 1928 §5", Must, "connects to an IPv4 address", reqIPv4, 0},
		{"REQ-NAME", "RFC 1928 §5", Must, "connects to a name", reqName, 0},
		{"REQ-IPV6", "RFC 1928 §5", Must, "connects to an IPv6 address", reqIPv6, 0},
		{"REQ-LITERAL", "T13", Robust, "takes an address that comes as a name", reqLiteral, 0},
		{"REQ-REPLY", "RFC 1928 §6, T10, T11", Must, "sends a reply with RSV 0, an address, and nothing more", reqReply, 0},
		{"REQ-BOUND", "RFC 1928 §6, T12", Should, "tells by BND where it connects from", reqBound, 0},
		{"REQ-TRUE", "T15", Must, "says that a connection was refused", reqTrue, 0},
		{"REQ-REFUSED", "RFC 1928 §6, T14", Must, "says it with REP 5", reqRefused, 0},
		{"REQ-LENGTH", "T11", Must, "sends the whole reply with an error, too", reqLength, 0},
		{"REQ-END", "RFC 1928 §6", Must, "ends the connection soon after an error", reqEnd, 0},
		{"REQ-UNKNOWN", "T14", Should, "answers a name that does not exist with REP 4", reqUnknown, 0},
		{"REQ-COMMAND", "RFC 1928 §6", Must, "answers an unknown command with REP 7", reqCommand, 0},
		{"REQ-ATYP", "RFC 1928 §6", Must, "answers an unknown address type with REP 8", reqATYP, 0},
		{"REQ-RSV", "T10", Robust, "does not mind RSV", reqRSV, 0},
		{"REQ-PORT0", "T16", Robust, "refuses port 0", reqPort0, 0},
		{"REQ-ADDR0", "T16", Robust, "refuses 0.0.0.0, which would be itself", reqAddr0, 0},
		{"REQ-NUL", "T13", Robust, "refuses names that are none", reqNUL, 0},
		{"REQ-EMPTY", "T13", Robust, "survives a name of no bytes", reqEmpty, 0},
		{"REQ-SELF", "T17", Robust, "does not connect to itself", reqSelf, 0},
		{"REQ-PRIVATE", "T16", Told, "the helper's address", reqPrivate, 0},
	}
}

func (s *session) helperAddr() string {
	return net.JoinHostPort(s.helper.host, strconv.Itoa(s.helper.port))
}

// reaches connects to a destination that is the helper.
func (s *session) reaches(ctx context.Context, dest []byte) error {
	c, r, err := s.ask(ctx, cmdConnect, dest)
	if err != nil {
		return err
	}
	if r.rep != repSucceeded {
		return failed("REP %d", r.rep)
	}
	if _, err := io.WriteString(c, s.helper.secret+" echo\nping"); err != nil {
		return err
	}
	if b, err := exactly(c, 4); err != nil || string(b) != "ping" {
		return failed("came back: %s", came(b, err))
	}
	return nil
}

// helperIP is an address of the helper.
func (s *session) helperIP(v4 bool) (netip.Addr, error) {
	if s.helper.host == "127.0.0.1" && !v4 {
		if s.helper.local != nil && len(s.helper.local.tcp) < 2 {
			return netip.Addr{}, skipped("this host has no ::1")
		}
		return netip.IPv6Loopback(), nil
	}
	ip, err := netip.ParseAddr(s.helper.host)
	if err != nil || ip.Is4() != v4 {
		return ip, skipped("the helper, %s, has no such address", s.helper.host)
	}
	return ip, nil
}

func reqIPv4(ctx context.Context, s *session) error {
	ip, err := s.helperIP(true)
	if err != nil {
		return err
	}
	return s.reaches(ctx, dest(ip.String(), s.helper.port))
}

func reqIPv6(ctx context.Context, s *session) error {
	ip, err := s.helperIP(false)
	if err != nil {
		return err
	}
	return s.reaches(ctx, dest(ip.String(), s.helper.port))
}

// helperName is a name of the helper.
func (s *session) helperName() (string, error) {
	if s.helper.host == "127.0.0.1" {
		return "localhost", nil
	}
	if _, err := netip.ParseAddr(s.helper.host); err == nil {
		return "", skipped("the helper, %s, has no name", s.helper.host)
	}
	return s.helper.host, nil
}

func reqName(ctx context.Context, s *session) error {
	name, err := s.helperName()
	if err != nil {
		return err
	}
	return s.reaches(ctx, dest(name, s.helper.port))
}

func reqLiteral(ctx context.Context, s *session) error {
	ip, err := s.helperIP(true)
	if err != nil {
		return err
	}
	text := ip.String()
	b := append([]byte{3, byte(len(text))}, text...)
	return s.reaches(ctx, append(b, byte(s.helper.port>>8), byte(s.helper.port)))
}

func reqReply(ctx context.Context, s *session) error {
	c, r, err := s.ask(ctx, cmdConnect, s.helperDest())
	if err != nil {
		return err
	}
	switch {
	case r.rep != repSucceeded:
		return failed("REP %d", r.rep)
	case r.rsv != 0:
		return failed("RSV is %d", r.rsv)
	case !r.addr.IsValid():
		return failed("BND.ADDR is no address: % x", r.raw)
	}
	if _, err := io.WriteString(c, s.helper.secret+" peer\n"); err != nil {
		return err
	}
	text, err := line(c)
	if _, wrong := netip.ParseAddrPort(text); err != nil || wrong != nil {
		return failed("behind the reply came %q", text)
	}
	return nil
}

func reqBound(ctx context.Context, s *session) error {
	c, r, err := s.ask(ctx, cmdConnect, s.helperDest())
	if err != nil {
		return err
	}
	if r.rep != repSucceeded {
		return failed("REP %d", r.rep)
	}
	if _, err := io.WriteString(c, s.helper.secret+" peer\n"); err != nil {
		return err
	}
	text, err := line(c)
	if err != nil {
		return err
	}
	if r.addr.String() != text {
		return failed("BND is %v, it came from %s", r.addr, text)
	}
	return nil
}

// closed asks for what nobody listens on.
func (s *session) closed(ctx context.Context) (*tracedConn, reply, error) {
	port, err := s.helper.ask(ctx, "closed")
	n, wrong := strconv.Atoi(port)
	if err != nil || wrong != nil || n == 0 {
		return nil, reply{}, skipped("the helper has no closed port: %v", err)
	}
	return s.ask(ctx, cmdConnect, dest(s.helper.host, n))
}

func reqTrue(ctx context.Context, s *session) error {
	_, r, err := s.closed(ctx)
	if isStatus(err, Skipped) {
		return err
	}
	if err == nil && r.rep == repSucceeded {
		return failed("it says that it has connected to a closed port")
	}
	return nil
}

func reqRefused(ctx context.Context, s *session) error {
	_, r, err := s.closed(ctx)
	if err == nil && r.rep != repRefused {
		err = failed("REP %d", r.rep)
	}
	return err
}

func reqLength(ctx context.Context, s *session) error {
	c, r, err := s.closed(ctx)
	if err != nil {
		return err
	}
	if r.rep == repSucceeded {
		return failed("see REQ-TRUE")
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if b, _ := io.ReadAll(io.LimitReader(c, 64)); len(b) > 0 {
		return failed("behind the reply came % x", b)
	}
	return nil
}

func reqEnd(ctx context.Context, s *session) error {
	c, _, err := s.closed(ctx)
	if err != nil {
		return err
	}
	if end := ended(c, 5*time.Second); end != "" && end != "reset" {
		return failed("%s", end)
	}
	return nil
}

func reqUnknown(ctx context.Context, s *session) error {
	_, r, err := s.ask(ctx, cmdConnect, dest("no-such-host.invalid", 80))
	switch {
	case err != nil:
		return err
	case r.rep == repSucceeded:
		return failed("it says that it has connected")
	case r.rep != repHostUnreach:
		return failed("REP %d", r.rep)
	}
	return nil
}

func reqCommand(ctx context.Context, s *session) error {
	_, r, err := s.ask(ctx, 0x7e, s.helperDest())
	if err == nil && r.rep != repNoCommand {
		err = failed("REP %d", r.rep)
	}
	return err
}

func reqATYP(ctx context.Context, s *session) error {
	_, r, err := s.ask(ctx, cmdConnect, []byte{9, 1, 2, 3, 4, 0, 80})
	if err == nil && r.rep != repNoAddrType {
		err = failed("REP %d", r.rep)
	}
	return err
}

func reqRSV(ctx context.Context, s *session) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	if err := s.greet(c); err != nil {
		return err
	}
	if _, err := c.Write(append([]byte{5, cmdConnect, 0x5a}, s.helperDest()...)); err != nil {
		return err
	}
	r, err := readReply(c)
	if err == nil && r.rep != repSucceeded {
		err = failed("REP %d", r.rep)
	}
	return err
}

// isRefused asks for what a proxy should not connect to.
func (s *session) isRefused(ctx context.Context, dest []byte) error {
	_, r, err := s.ask(ctx, cmdConnect, dest)
	switch {
	case isStatus(err, Fail):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failed("neither an answer nor an end")
	case err != nil:
		return nil //nolint:nilerr // it closes
	case r.rep == repSucceeded:
		return failed("it connects")
	}
	s.note("REP %d", r.rep)
	return nil
}

func reqPort0(ctx context.Context, s *session) error {
	return s.isRefused(ctx, dest(s.helper.host, 0))
}

func reqAddr0(ctx context.Context, s *session) error {
	return s.isRefused(ctx, dest("0.0.0.0", s.helper.port))
}

func reqNUL(ctx context.Context, s *session) error {
	for _, name := range []string{"127.0.0.1\x00.example", "local host", "a..b", "x\r\ny"} {
		b := append([]byte{3, byte(len(name))}, name...)
		if err := s.isRefused(ctx, append(b, byte(s.helper.port>>8), byte(s.helper.port))); err != nil {
			return failed("%q: %v", name, err)
		}
	}
	s.notes = nil
	return nil
}

func reqEmpty(ctx context.Context, s *session) error {
	return s.isRefused(ctx, []byte{3, 0, 0, 80})
}

// reqSelf goes to the proxy through the proxy, once.
func reqSelf(ctx context.Context, s *session) error {
	addr, err := netip.ParseAddrPort(s.proxy.String())
	if err != nil {
		return skipped("the proxy is not reached by TCP")
	}
	c, r, err := s.ask(ctx, cmdConnect, dest(addr.Addr().Unmap().String(), int(addr.Port())))
	if err != nil || r.rep != repSucceeded {
		return nil //nolint:nilerr // however it says so
	}
	if _, err := c.Write([]byte{5, 1, 0x80}); err == nil {
		if b, err := exactly(c, 2); err == nil && b[0] == 5 {
			return failed("it is its own client")
		}
	}
	return nil
}

func reqPrivate(ctx context.Context, s *session) error {
	ip, err := netip.ParseAddr(s.helper.host)
	kind := "a public address"
	if err == nil && (ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()) {
		kind = "a private address"
	}
	_, r, err := s.ask(ctx, cmdConnect, s.helperDest())
	if err != nil {
		return err
	}
	if r.rep != repSucceeded {
		return skipped("%s, which this client may not reach: REP %d", kind, r.rep)
	}
	s.note("%s, which this client may reach", kind)
	return nil
}

func isStatus(err error, status Status) bool {
	var v *verdict
	return errors.As(err, &v) && v.status == status
}

// answer4 is a reply of SOCKS 4.
type answer4 struct {
	vn, cd byte
	raw    []byte
}

const granted = 90

// ask4 sends a request of SOCKS 4, or of 4a if name is not "".
func (s *session) ask4(ctx context.Context, command byte, name string) (answer4, *tracedConn, error) {
	ip, err := s.helperIP(true)
	if err != nil {
		return answer4{}, nil, err
	}
	b := append([]byte{4, command}, byte(s.helper.port>>8), byte(s.helper.port))
	if name == "" {
		b = append(append(b, ip.AsSlice()...), "probe\x00"...)
	} else {
		b = append(append(b, 0, 0, 0, 7), "probe\x00"+name+"\x00"...)
	}
	return s.send4(ctx, b, false)
}

func (s *session) send4(ctx context.Context, b []byte, inPieces bool) (answer4, *tracedConn, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return answer4{}, nil, err
	}
	if inPieces {
		err = pieces(c, b)
	} else {
		_, err = c.Write(b)
	}
	if err != nil {
		return answer4{}, c, err
	}
	raw, err := exactly(c, 8)
	if err != nil {
		return answer4{}, c, err
	}
	return answer4{raw[0], raw[1], raw}, c, nil
}

func socks4() []check {
	return []check{
		{"V4-CONNECT", "SOCKS 4", Should, "connects for SOCKS 4", v4Connect, 0},
		{"V4-NAME", "SOCKS 4a", Should, "connects to a name for SOCKS 4a", v4Name, 0},
		{"V4-REPLY", "SOCKS 4, T9", Must, "sends replies of 8 bytes with VN 0", v4Reply, 0},
		{"V4-REFUSED", "SOCKS 4", Must, "answers 91 to 93 for a refused connection", v4Refused, 0},
		{"V4-SPLIT", "T1", Must, "reads SOCKS 4 in pieces", v4Split, 0},
		{"V4-BIND", "SOCKS 4", May, "waits for a connection for SOCKS 4", v4Bind, 0},
		{"V4-USERID", "T9", Robust, "survives a USERID without an end", v4UserID, 0},
	}
}

// speaks4 ends a row if the proxy does not speak SOCKS 4.
func (s *session) speaks4(ctx context.Context) error {
	if s.hasAccount() {
		return skipped("with an account, see AUTH-BYPASS4")
	}
	r, _, err := s.ask4(ctx, cmdConnect, "")
	if isStatus(err, Skipped) {
		return err
	}
	if err != nil || r.vn == 5 {
		return unsupported("no SOCKS 4")
	}
	return nil
}

func (s *session) works4(c *tracedConn, r answer4, err error) error {
	if err != nil {
		return err
	}
	if r.cd != granted {
		return failed("CD %d", r.cd)
	}
	if _, err := fmt.Fprintf(c, "%s echo\nping", s.helper.secret); err != nil {
		return err
	}
	if b, err := exactly(c, 4); err != nil || string(b) != "ping" {
		return failed("came back: %s", came(b, err))
	}
	return nil
}

func v4Connect(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	r, c, err := s.ask4(ctx, cmdConnect, "")
	return s.works4(c, r, err)
}

func v4Name(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	name, err := s.helperName()
	if err != nil {
		name = s.helper.host // an address is a name, too
	}
	r, c, err := s.ask4(ctx, cmdConnect, name)
	return s.works4(c, r, err)
}

func v4Reply(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	r, c, err := s.ask4(ctx, cmdConnect, "")
	if err != nil {
		return err
	}
	if r.vn != 0 {
		return failed("VN is %d", r.vn)
	}
	if r.cd != granted {
		return failed("CD %d", r.cd)
	}
	if _, err := fmt.Fprintf(c, "%s peer\n", s.helper.secret); err != nil {
		return err
	}
	text, err := line(c)
	if _, wrong := netip.ParseAddrPort(text); err != nil || wrong != nil {
		return failed("behind the reply came %q", text)
	}
	return nil
}

func v4Refused(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	ip, err := s.helperIP(true)
	if err != nil {
		return err
	}
	text, err := s.helper.ask(ctx, "closed")
	port, wrong := strconv.Atoi(text)
	if err != nil || wrong != nil {
		return skipped("the helper has no closed port")
	}
	b := append([]byte{4, cmdConnect, byte(port >> 8), byte(port)}, ip.AsSlice()...)
	r, _, err := s.send4(ctx, append(b, 0), false)
	if err == nil && (r.cd < 91 || r.cd > 93) {
		err = failed("CD %d", r.cd)
	}
	return err
}

func v4Split(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	ip, err := s.helperIP(true)
	if err != nil {
		return err
	}
	b := append([]byte{4, cmdConnect, byte(s.helper.port >> 8), byte(s.helper.port)}, ip.AsSlice()...)
	r, c, err := s.send4(ctx, append(b, "probe\x00"...), true)
	return s.works4(c, r, err)
}

func v4Bind(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	r, c, err := s.ask4(ctx, cmdBind, "")
	if err != nil || r.cd != granted {
		return unsupported("CD %d", r.cd)
	}
	ip, _ := netip.AddrFromSlice(r.raw[4:])
	if ip.IsUnspecified() { // the memo: then it is the proxy's
		if ip, err = netip.ParseAddr(hostOf(s.proxy)); err != nil {
			return skipped("the proxy has no address")
		}
	}
	from, err := s.friend(ctx, netip.AddrPortFrom(ip, uint16(r.raw[2])<<8|uint16(r.raw[3])))
	if err != nil {
		return err
	}
	second, err := exactly(c, 8)
	if err != nil || second[1] != granted {
		return failed("the second reply: %s", came(second, err))
	}
	if text, err := line(c); text != "hello" {
		return failed("from the peer, %s, came %q, %s", from, text, endText(err))
	}
	return nil
}

func v4UserID(ctx context.Context, s *session) error {
	if err := s.speaks4(ctx); err != nil {
		return err
	}
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	b := append([]byte{4, cmdConnect, 0, 80, 192, 0, 2, 1}, strings.Repeat("x", 64<<10)...)
	if _, err := c.Write(b); err != nil {
		return nil //nolint:nilerr // it has had enough
	}
	if end := ended(c, 4*time.Second); end != "" && end != "reset" {
		return failed("%s, after 64 KiB", end)
	}
	return nil
}
