package socks

import (
	"context"
	"net"
	"sync"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// Listen asks the server by BIND to wait for one connection from peer. Addr is
// where the peer may connect. The first Accept returns the connection, whose
// RemoteAddr is the peer's address as the server saw it; every other waits
// until Close.
func (d *Dialer) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	conn, bound, err := d.command(ctx, argyle.Bind, network, peer)
	if err != nil {
		return nil, d.opError("listen", network, peer, err)
	}
	if bound.IP.IsUnspecified() {
		// The memo of SOCKS 4: then it is the address of the server.
		bound.IP = d.serverIP(conn)
	}
	return &bindListener{dialer: d, conn: conn, bound: bound, done: make(chan struct{})}, nil
}

// bindListener is the client's side of a BIND.
type bindListener struct {
	dialer *Dialer
	conn   net.Conn
	bound  argyle.Addr

	mu       sync.Mutex
	accepted bool // conn is the caller's, or gone
	closed   bool
	done     chan struct{} // closed by Close
}

// Accept waits for the second reply.
func (l *bindListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	first := !l.accepted && !l.closed
	l.accepted = true
	l.mu.Unlock()
	if !first {
		<-l.done
		return nil, l.opError(net.ErrClosed)
	}
	peer, err := l.dialer.nextReply(l.conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		err = net.ErrClosed
	case err == nil:
		conn := l.conn
		l.conn = nil
		return &peerConn{Conn: conn, peer: peer}, nil
	}
	l.conn.Close()
	l.conn = nil
	return nil, l.opError(err)
}

func (l *bindListener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: err}
}

// Close ends the wait. A connection that Accept has returned stays.
func (l *bindListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.opError(net.ErrClosed)
	}
	l.closed = true
	close(l.done)
	if l.conn != nil {
		return l.conn.Close()
	}
	return nil
}

// Addr returns BND.ADDR and BND.PORT of the first reply.
func (l *bindListener) Addr() net.Addr { return tcpAddr(l.bound) }

// peerConn is a connection whose far end is the peer that the server accepted.
type peerConn struct {
	net.Conn
	peer argyle.Addr
}

// RemoteAddr returns the address in the second reply.
func (c *peerConn) RemoteAddr() net.Addr { return tcpAddr(c.peer) }

// Unwrap returns the connection to the server, for the relay to work on.
func (c *peerConn) Unwrap() (conn net.Conn, unread []byte) { return c.Conn, nil }

// CloseWrite ends the write side.
func (c *peerConn) CloseWrite() error { return serve.CloseWrite(c.Conn) }
