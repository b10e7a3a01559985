//go:build linux

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A session is a connection through a server with both its ends in our hands.
type session struct {
	client, target *net.TCPConn
}

// openSessions opens n sessions one after the other. The sample counts those that fail; it gives up after a few in
// a row, which would each take as long as a timeout.
func openSessions(s *server, n int, out *sample) ([]session, error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	var sessions []session
	for inRow := 0; len(sessions) < n && inRow < 3; {
		sess, err := openSession(s, ln)
		if err != nil {
			out.fail(err)
			inRow++
			continue
		}
		sessions = append(sessions, sess)
		inRow = 0
	}
	if len(sessions) == 0 {
		return nil, errors.New("no session could be opened")
	}
	return sessions, nil
}

// openSession opens one session to ln and sends a token there and back: a server that never relays a byte does not
// count as having a session, and what a server allocates with the first byte is there.
func openSession(s *server, ln *net.TCPListener) (session, error) {
	client, err := s.dial(ln.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		return session{}, err
	}
	deadline := time.Now().Add(patience)
	token := []byte(rand.Text())
	_ = client.SetDeadline(deadline)
	if _, err = client.Write(token); err == nil {
		var target *net.TCPConn
		if target, err = acceptToken(ln, token, deadline); err == nil {
			if err = echoToken(target, client, token); err == nil {
				_ = client.SetDeadline(time.Time{})
				_ = target.SetDeadline(time.Time{})
				return session{client, target}, nil
			}
			target.Close()
		}
	}
	client.Close()
	return session{}, fmt.Errorf("first bytes: %w", err)
}

// acceptToken returns the connection on which the token arrives. Others belong to sessions that failed halfway.
func acceptToken(ln *net.TCPListener, token []byte, deadline time.Time) (*net.TCPConn, error) {
	if err := ln.SetDeadline(deadline); err != nil {
		return nil, err
	}
	for {
		conn, err := ln.AcceptTCP()
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(deadline)
		got := make([]byte, len(token))
		if _, err := io.ReadFull(conn, got); err == nil && string(got) == string(token) {
			return conn, nil
		}
		conn.Close()
	}
}

func echoToken(from, to net.Conn, token []byte) error {
	if _, err := from.Write(token); err != nil {
		return err
	}
	_, err := io.ReadFull(to, make([]byte, len(token)))
	return err
}

// closeAll resets the sessions: no byte that is still under way occupies the server afterwards, and no port is left
// in TIME_WAIT.
func closeAll(sessions []session) {
	for _, sess := range sessions {
		for _, conn := range []*net.TCPConn{sess.client, sess.target} {
			_ = conn.SetLinger(0)
			conn.Close()
		}
	}
}
