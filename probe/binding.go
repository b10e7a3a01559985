package probe

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

func binding() []check {
	return []check{
		{"BIND-REPLY", "RFC 1928 §6, T19", Must, "says where the peer may connect, with an address", bindReply, 0},
		{"BIND-PEER", "RFC 1928 §6", Must, "tells who has connected, and relays", bindPeer, 0},
		{"BIND-STRANGER", "RFC 1928 §4, T20", Robust, "lets nobody but the peer connect, and goes on waiting", bindStranger, 0},
		{"BIND-END", "T20", Robust, "stops waiting when the client goes", bindEnd, 0},
	}
}

// bind asks for a connection from the helper, and returns where it may connect.
func (s *session) bind(ctx context.Context) (*tracedConn, netip.AddrPort, error) {
	c, r, err := s.ask(ctx, cmdBind, dest(s.helper.host, 0))
	if err != nil {
		return nil, netip.AddrPort{}, unsupported("no answer: %s", plain(err))
	}
	switch {
	case r.rep != repSucceeded:
		return nil, netip.AddrPort{}, unsupported("REP %d", r.rep)
	case !r.addr.IsValid() || r.addr.Port() == 0:
		return nil, netip.AddrPort{}, failed("no address to connect to: % x", r.raw)
	}
	addr := r.addr
	if addr.Addr().IsUnspecified() {
		host, err := netip.ParseAddr(hostOf(s.proxy))
		if err != nil {
			return nil, addr, skipped("the proxy has no address")
		}
		addr = netip.AddrPortFrom(host, addr.Port())
	}
	return c, addr, nil
}

func bindReply(ctx context.Context, s *session) error {
	c, r, err := s.ask(ctx, cmdBind, dest(s.helper.host, 0))
	if err != nil {
		return unsupported("no answer: %s", plain(err))
	}
	defer c.Close()
	switch {
	case r.rep != repSucceeded:
		return unsupported("REP %d", r.rep)
	case !r.addr.IsValid() || r.addr.Port() == 0 || r.addr.Addr().IsUnspecified():
		return failed("BND is %v", r.addr)
	}
	return nil
}

// friend has the helper connect to addr, and returns from where it did so. The
// connection that it is told by keeps it there.
func (s *session) friend(ctx context.Context, addr netip.AddrPort) (from string, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(s.helper.host, strconv.Itoa(s.helper.port)))
	if err != nil {
		return "", fmt.Errorf("helper: %w", err)
	}
	s.keep(conn)
	_ = conn.SetDeadline(s.deadline)
	fmt.Fprintf(conn, "%s dial %s\n", s.helper.secret, addr)
	text, err := bufio.NewReader(conn).ReadString('\n')
	if text = strings.TrimSpace(text); strings.HasPrefix(text, "error") || err != nil {
		return "", failed("nobody listens at %v: %s %v", addr, text, err)
	}
	return text, nil
}

func bindPeer(ctx context.Context, s *session) error {
	c, addr, err := s.bind(ctx)
	if err != nil {
		return err
	}
	from, err := s.friend(ctx, addr)
	if err != nil {
		return err
	}
	return s.comes(c, from)
}

// comes reads the second reply, and uses the connection.
func (s *session) comes(c *tracedConn, from string) error {
	r, err := readReply(c)
	switch {
	case err != nil:
		return fmt.Errorf("second %w", err)
	case r.rep != repSucceeded:
		return failed("the second reply is REP %d", r.rep)
	case r.addr.String() != from:
		return failed("the second reply says %v, it was %s", r.addr, from)
	}
	if text, err := line(c); text != "hello" {
		return failed("from the peer came %q: %s", text, endText(err))
	}
	if _, err := io.WriteString(c, "back"); err != nil {
		return err
	}
	if b, err := exactly(c, 4); err != nil || string(b) != "back" {
		return failed("to the peer and back came %s", came(b, err))
	}
	return nil
}

// stranger is an address of this host that is not the helper's.
const stranger = "127.0.0.55"

func bindStranger(ctx context.Context, s *session) error {
	c, addr, err := s.bind(ctx)
	if err != nil {
		return err
	}
	if s.helper.host != "127.0.0.1" || !addr.Addr().IsLoopback() {
		return skipped("needs a proxy on this host")
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(stranger)}}
	if conn, err := dialer.DialContext(ctx, "tcp", addr.String()); err == nil {
		s.keep(conn)
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if b, err := exactly(c, 4); err == nil {
			if b[1] != repSucceeded {
				return failed("it gives up when a stranger comes: REP %d", b[1])
			}
			return failed("a stranger came in")
		}
		_ = c.SetReadDeadline(s.deadline)
	}
	from, err := s.friend(ctx, addr)
	if err != nil {
		return failed("after a stranger: %v", err)
	}
	return s.comes(c, from)
}

func bindEnd(ctx context.Context, s *session) error {
	c, addr, err := s.bind(ctx)
	if err != nil {
		return err
	}
	c.Close()
	time.Sleep(1500 * time.Millisecond)
	if _, err := s.friend(ctx, addr); err == nil {
		return failed("it still listens after 1.5s")
	}
	return nil
}
