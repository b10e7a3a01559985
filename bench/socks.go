//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

const (
	commandConnect   = 1
	commandAssociate = 3

	methodNone     = 0
	methodPassword = 2

	replyUnsupported = refusal(7) // command not supported
)

// A refusal is a SOCKS 5 reply code other than success.
type refusal byte

func (r refusal) Error() string { return fmt.Sprintf("the server replied %d", byte(r)) }

// A step is one message of a conversation and the reply it waits for. The same steps are taken by blocking
// connections and by those of a poller, and cost nothing but their system calls.
type step struct {
	send []byte

	// replyLen returns the length of the whole reply, as far as its beginning b tells, or why b is a refusal.
	replyLen func(b []byte) (int, error)
}

// steps returns the handshake for command: none without a proxy, three with a password.
func (s *server) steps(command byte, dest netip.AddrPort) []step {
	if s.direct() {
		return nil
	}
	method := byte(methodNone)
	if s.user != "" {
		method = methodPassword
	}
	steps := []step{{[]byte{5, 1, method}, methodReplyLen}}
	if s.user != "" {
		steps = append(steps, step{passwordRequest(s.user, s.password), passwordReplyLen})
	}
	return append(steps, step{appendAddr([]byte{5, command, 0}, dest), requestReplyLen})
}

// passwordRequest is the request of RFC 1929.
func passwordRequest(user, password string) []byte {
	b := append([]byte{1, byte(len(user))}, user...)
	b = append(b, byte(len(password)))
	return append(b, password...)
}

// appendAddr appends ATYP, an IPv4 address and the port; nothing else is ever asked for here.
func appendAddr(b []byte, addr netip.AddrPort) []byte {
	b = append(b, 1)
	b = append(b, addr.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, addr.Port())
}

func methodReplyLen(b []byte) (int, error) {
	if len(b) >= 2 && b[1] == 0xff {
		return 0, errors.New("the server accepts none of the methods")
	}
	return 2, nil
}

func passwordReplyLen(b []byte) (int, error) {
	if len(b) >= 2 && b[1] != 0 {
		return 0, errors.New("the server refused the password")
	}
	return 2, nil
}

func requestReplyLen(b []byte) (int, error) {
	if len(b) >= 2 && b[1] != 0 {
		return 0, refusal(b[1])
	}
	if len(b) < 5 {
		return 10, nil
	}
	switch b[3] {
	case 1:
		return 4 + 4 + 2, nil
	case 3:
		return 4 + 1 + int(b[4]) + 2, nil
	case 4:
		return 4 + 16 + 2, nil
	}
	return 0, fmt.Errorf("the server replied with address type %d", b[3])
}

// converse takes the steps one after the other and returns the last reply.
func converse(conn net.Conn, steps []step) ([]byte, error) {
	var reply []byte
	for _, st := range steps {
		if _, err := conn.Write(st.send); err != nil {
			return nil, err
		}
		reply = make([]byte, 0, 300)
		for {
			need, err := st.replyLen(reply)
			if err != nil {
				return nil, err
			}
			if len(reply) >= need {
				break
			}
			n, err := conn.Read(reply[len(reply):need])
			if n == 0 && err != nil {
				return nil, unexpected(err)
			}
			reply = reply[:len(reply)+n]
		}
	}
	return reply, nil
}

// unexpected turns the end of a stream into an error that says it came too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// boundAddr returns BND.ADDR and BND.PORT of a reply; an unspecified address stands for the server's own.
func boundAddr(reply []byte, serverIP netip.Addr) (netip.AddrPort, error) {
	if len(reply) < 10 || reply[3] != 1 {
		return netip.AddrPort{}, errors.New("the server's reply has no IPv4 address")
	}
	ip := netip.AddrFrom4([4]byte(reply[4:8]))
	if ip.IsUnspecified() {
		ip = serverIP
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(reply[8:])), nil
}
