package serve

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
)

// Unread returns a connection that reads b before what conn still has. If b is
// empty it is conn itself, so that the kernel can splice it.
func Unread(conn net.Conn, b []byte) net.Conn {
	if len(b) == 0 {
		return conn
	}
	return &unreadConn{Conn: conn, unread: b}
}

// unreadConn is a connection with bytes put back.
type unreadConn struct {
	net.Conn
	unread []byte
}

func (c *unreadConn) Read(b []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(b, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// Unwrap returns the connection inside and the bytes that it no longer has.
// The relay asks for it, to work on the bare connection.
func (c *unreadConn) Unwrap() (conn net.Conn, unread []byte) { return c.Conn, c.unread }

// CloseWrite ends the write side.
func (c *unreadConn) CloseWrite() error { return CloseWrite(c.Conn) }

// CloseWrite ends the write side of a connection that has such a thing.
func CloseWrite(conn net.Conn) error {
	if w, ok := conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return syscall.ENOTSUP
}

// Feed is a listener whose connections are put in by hand: it gives a server
// that wants a listener the connections that another server does not want.
type Feed struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// NewFeed returns a Feed that says it listens on addr.
func NewFeed(addr net.Addr) *Feed {
	return &Feed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Put hands conn, with its context, to the caller of Accept. It closes conn
// if the Feed is closed, or ctx ends, before anybody takes it.
func (f *Feed) Put(ctx context.Context, conn net.Conn) {
	event.Detach(ctx) // conn is for other goroutines now
	fed := &fedConn{Conn: conn}
	if fed.handshake, _ = ctx.Value(handshakeKey{}).(*handshake); fed.handshake != nil {
		fed.handshake.feed()
	}
	select {
	case f.conns <- fed:
	case <-f.done:
		fed.Close()
	case <-ctx.Done():
		fed.Close()
	}
}

// Accept waits for the next connection.
func (f *Feed) Accept() (net.Conn, error) {
	select {
	case conn := <-f.conns:
		return conn, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and Put.
func (f *Feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr returns the address given to NewFeed.
func (f *Feed) Addr() net.Addr { return f.addr }

// fedConn is a connection with the handshake that its first server began.
type fedConn struct {
	net.Conn
	handshake *handshake  // nil if there is none
	asked     atomic.Bool // the deadline of the first request has been lifted
}

// Close ends the handshake with the connection.
func (c *fedConn) Close() error {
	if c.handshake != nil {
		c.handshake.remove(false)
	}
	return c.Conn.Close()
}

// SetReadDeadline sets the deadline for reads, which during the handshake is
// not later than the handshake's. What an http.Server grants its first request,
// ReadHeaderTimeout, is the handshake's time, be it shorter or longer: the server
// serves listeners that differ in this. It says that the request has come by
// lifting the deadline.
func (c *fedConn) SetReadDeadline(t time.Time) error {
	if c.handshake == nil {
		return c.Conn.SetReadDeadline(t)
	}
	if t.IsZero() {
		c.asked.Store(true)
	} else if !c.asked.Load() && t.After(time.Now()) {
		t = time.Time{}
	}
	return c.handshake.setReadDeadline(c.Conn, t)
}

// SetDeadline sets both deadlines.
func (c *fedConn) SetDeadline(t time.Time) error {
	if err := c.Conn.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.SetReadDeadline(t)
}

// CloseWrite ends the write side: http.Server does so to end a connection
// without a reset.
func (c *fedConn) CloseWrite() error { return CloseWrite(c.Conn) }

// Unwrap returns the connection inside, bare if it can be.
func (c *fedConn) Unwrap() (conn net.Conn, unread []byte) {
	if u, ok := c.Conn.(*unreadConn); ok {
		return u.Unwrap()
	}
	return c.Conn, nil
}

// ConnContext gives ctx what [Established] and [Inbound] look for, if conn
// came through a [Feed]. It has the form of http.Server.ConnContext.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	fed, ok := conn.(*fedConn)
	if !ok || fed.handshake == nil {
		return ctx
	}
	ctx = context.WithValue(ctx, handshakeKey{}, fed.handshake)
	if t := fed.handshake.task; t != nil {
		ctx = event.WithTask(ctx, t)
	}
	return ctx
}
