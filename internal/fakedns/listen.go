package fakedns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	streamIdle   = 10 * time.Second // for each message, RFC 7766, section 6.2.3
	streamWrite  = 5 * time.Second
	maxFailures  = 10 // of a socket in a row that are none of its kind of passing ones
	firstBackoff = 5 * time.Millisecond
)

// ServePacket answers the queries that come to conn until that fails or Close
// is called. It closes conn.
func (s *Server) ServePacket(conn net.PacketConn) error {
	s.init()
	defer conn.Close()
	if !s.track(conn) {
		return ErrServerClosed
	}
	defer s.untrack(conn)
	read := s.reader(conn)
	buf := make([]byte, dns.MaxMsgSize)
	var failed backoff
	for {
		n, client, reply, err := read(buf)
		if err != nil {
			if err := s.failed(&failed, err); err != nil {
				return fmt.Errorf("read query: %w", err)
			}
			continue
		}
		failed = backoff{}
		s.answerPacket(client, append([]byte(nil), buf[:n]...), reply)
	}
}

// answerPacket answers in the background, since the next query need not wait
// for a resolver. What is too much is dropped.
func (s *Server) answerPacket(client netip.AddrPort, query []byte, reply func([]byte) error) {
	select {
	case s.packets <- struct{}{}:
	default:
		return
	}
	if !s.begin() {
		<-s.packets
		return
	}
	go func() {
		defer s.wg.Done()
		defer func() { <-s.packets }()
		if b := s.Answer(s.life, client, query, false); b != nil {
			if err := reply(b); err != nil {
				s.Log.Debug("dns reply not sent", "client", client, "err", err)
			}
		}
	}()
}

// A readFunc reads a query and returns how to reply to it.
type readFunc func(b []byte) (n int, client netip.AddrPort, reply func([]byte) error, err error)

// reader returns how to read from conn. A UDP socket that has all addresses of
// its host must reply with the one that was asked.
func (s *Server) reader(conn net.PacketConn) readFunc {
	udp, ok := conn.(*net.UDPConn)
	if !ok || !udp.LocalAddr().(*net.UDPAddr).IP.IsUnspecified() {
		return func(b []byte) (int, netip.AddrPort, func([]byte) error, error) {
			n, from, err := conn.ReadFrom(b)
			return n, addrPort(from), func(b []byte) error { _, err := conn.WriteTo(b, from); return err }, err
		}
	}
	// One of the two fails on a socket of one family.
	_ = ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	_ = ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	return func(b []byte) (int, netip.AddrPort, func([]byte) error, error) {
		n, session, err := dns.ReadFromSessionUDP(udp, b)
		if err != nil {
			return 0, netip.AddrPort{}, nil, err
		}
		reply := func(b []byte) error { _, err := dns.WriteToSessionUDP(udp, b, session); return err }
		return n, addrPort(session.RemoteAddr()), reply, nil
	}
}

// Serve answers the queries that come over the connections of ln until that
// fails or Close is called. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	s.init()
	defer ln.Close()
	if !s.track(ln) {
		return ErrServerClosed
	}
	defer s.untrack(ln)
	var failed backoff
	for {
		conn, err := ln.Accept()
		if err != nil {
			if err := s.failed(&failed, err); err != nil {
				return fmt.Errorf("accept: %w", err)
			}
			continue
		}
		failed = backoff{}
		if !s.begin() {
			conn.Close()
			return ErrServerClosed
		}
		go func() {
			defer s.wg.Done()
			_ = s.ServeConn(s.life, conn)
		}()
	}
}

// ServeConn answers the queries that come over conn until its peer ends it,
// says nothing for ten seconds, or ctx ends. It closes conn.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	s.init()
	defer conn.Close()
	client := addrPort(conn.RemoteAddr())
	who := clientPrefix(client.Addr())
	if !s.streams.enter(who) {
		return errBusy
	}
	defer s.streams.leave(who)
	if !s.track(conn) {
		return ErrServerClosed
	}
	defer s.untrack(conn)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		query, err := readMessage(conn)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read query: %w", err)
		}
		reply := s.Answer(ctx, client, query, true)
		if reply == nil {
			return nil // it does not speak DNS
		}
		if err := conn.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
			return err
		}
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)
		if _, err := conn.Write(framed); err != nil {
			return fmt.Errorf("write reply: %w", err)
		}
	}
}

// readMessage reads one message with its length (RFC 1035, section 4.2.2).
func readMessage(conn net.Conn) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(streamIdle)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(conn, b)
	return b, err
}

// backoff is how a socket has failed lately.
type backoff struct {
	n     int
	delay time.Duration
}

// failed waits before another try, or returns why there is to be none.
func (s *Server) failed(b *backoff, err error) error {
	if s.life.Err() != nil {
		return ErrServerClosed
	}
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	if b.n++; b.n > maxFailures && !starved(err) {
		return err
	}
	b.delay = min(max(2*b.delay, firstBackoff), time.Second)
	select {
	case <-s.life.Done():
		return ErrServerClosed
	case <-time.After(b.delay):
		return nil
	}
}

// starved reports whether the system is out of something that others will give
// back.
func starved(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// addrPort is the zero AddrPort for what is none.
func addrPort(addr net.Addr) netip.AddrPort {
	if a, ok := addr.(interface{ AddrPort() netip.AddrPort }); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}
