package httpconnect

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// pipe returns the two ends of a connection in memory. Unlike those of
// [net.Pipe], its directions end one by one, as those of TCP do, and a reset is
// not an end. Like those, it buffers nothing: what was written was read.
func pipe(local, remote net.Addr) (a, b *pipeConn) {
	aIn, bOut := net.Pipe()
	bIn, aOut := net.Pipe()
	var aReset, bReset atomic.Bool
	a = &pipeConn{in: aIn, out: aOut, local: local, remote: remote, reset: &aReset, resetPeer: &bReset}
	b = &pipeConn{in: bIn, out: bOut, local: remote, remote: local, reset: &bReset, resetPeer: &aReset}
	return a, b
}

// pipeConn is one end. Each direction is a net.Pipe of which one half is used.
type pipeConn struct {
	in, out          net.Conn
	local, remote    net.Addr
	shut             atomic.Bool // we have ended our direction
	abort            atomic.Bool // Close sends a reset
	reset, resetPeer *atomic.Bool
	onClose          func() // called by the first Close; nil for nothing
	closed           atomic.Bool
}

// Read reads what the peer has written. At the peer's end it is [io.EOF], or
// ECONNRESET after a reset.
func (c *pipeConn) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	switch {
	case errors.Is(err, io.EOF) && c.reset.Load():
		err = c.opError("read", syscall.ECONNRESET)
	case errors.Is(err, io.ErrClosedPipe):
		err = c.opError("read", net.ErrClosed)
	}
	return n, err
}

// Write returns when the peer has read b, or EPIPE if the peer has gone.
func (c *pipeConn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // net.Pipe would wait for a reader
	}
	n, err := c.out.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		cause := error(syscall.EPIPE)
		if c.shut.Load() {
			cause = net.ErrClosed
		}
		err = c.opError("write", cause)
	}
	return n, err
}

func (c *pipeConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "pipe", Source: c.local, Addr: c.remote, Err: err}
}

// CloseWrite ends our direction: the peer reads what was written, then EOF.
func (c *pipeConn) CloseWrite() error {
	c.shut.Store(true)
	return c.out.Close()
}

// SetLinger makes Close a reset if sec is 0, as that of [net.TCPConn] does.
func (c *pipeConn) SetLinger(sec int) error {
	c.abort.Store(sec == 0)
	return nil
}

// Close ends both directions.
func (c *pipeConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if c.abort.Load() {
		c.resetPeer.Store(true)
	}
	_ = c.CloseWrite()
	_ = c.in.Close()
	if c.onClose != nil {
		c.onClose()
	}
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *pipeConn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
