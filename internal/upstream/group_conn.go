package upstream

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
)

// lease is one session's share in a member, from the request to the end.
type lease struct {
	group  *Group
	member *Member
	once   sync.Once
}

// lease takes over the session that a request has counted.
func (g *Group) lease(m *Member) *lease { return &lease{group: g, member: m} }

func (l *lease) end() {
	l.once.Do(func() { l.member.record().sessions.Add(-1) })
}

// Via returns the group and the member that was chosen, "group/member".
func (l *lease) Via() string { return l.group.Name + "/" + l.member.name() }

// groupConn is a member's connection.
type groupConn struct {
	net.Conn
	*lease
}

// Close closes the connection and ends the session.
func (c *groupConn) Close() error {
	c.end()
	return c.Conn.Close()
}

// Unwrap returns the member's connection, for the relay to work on.
func (c *groupConn) Unwrap() (conn net.Conn, unread []byte) { return c.Conn, nil }

// Member returns the dialer of the member that was chosen, and its connection.
func (c *groupConn) Member() (argyle.Dialer, net.Conn) { return c.member.Dialer, c.Conn }

// CloseWrite ends the write side, where there is such a thing.
func (c *groupConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// groupListener is a member's listener.
type groupListener struct {
	net.Listener
	*lease
}

// Accept returns a connection that is a session by itself.
func (l *groupListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.member.record().sessions.Add(1)
	return &groupConn{Conn: conn, lease: l.group.lease(l.member)}, nil
}

// Close ends the wait, and the listener's own session.
func (l *groupListener) Close() error {
	l.end()
	return l.Listener.Close()
}

// groupPacket is a member's packet connection.
type groupPacket struct {
	argyle.BatchConn
	*lease
	opened time.Time
	closed atomic.Bool
	sent   atomic.Int64
}

// soon is the time after its opening in which an association's end is held
// against the member.
const soon = 10 * time.Second

// Close closes the connection and ends the session.
func (p *groupPacket) Close() error {
	p.closed.Store(true)
	p.end()
	return p.BatchConn.Close()
}

// ReadFrom reads one datagram.
func (p *groupPacket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.BatchConn.ReadFrom(b)
	p.watch(err)
	return n, from, err
}

// ReadBatch hands over the datagrams that are there.
func (p *groupPacket) ReadBatch(handle func([]argyle.Datagram)) error {
	err := p.BatchConn.ReadBatch(handle)
	p.watch(err)
	return err
}

// watch holds an end that nobody here wanted against the member, if it comes soon.
func (p *groupPacket) watch(err error) {
	if err == nil || p.closed.Load() || timedOut(err) || time.Since(p.opened) > soon {
		return
	}
	p.group.failed(attempt{member: p.member, began: p.opened, err: err}, true)
}

// WriteBatch sends datagrams.
func (p *groupPacket) WriteBatch(ds []argyle.Datagram) (int, error) {
	n, err := p.BatchConn.WriteBatch(ds)
	for _, d := range ds[:n] {
		p.sent.Add(int64(len(d.Payload)))
	}
	return n, err
}

// WriteTo sends one datagram.
func (p *groupPacket) WriteTo(b []byte, addr net.Addr) (int, error) {
	n, err := p.BatchConn.WriteTo(b, addr)
	p.sent.Add(int64(n))
	return n, err
}

// Sent says how many bytes of payload have been sent, as the member counts if it does.
func (p *groupPacket) Sent() int64 {
	if c, ok := p.BatchConn.(interface{ Sent() int64 }); ok {
		return c.Sent()
	}
	return p.sent.Load()
}

// Dropped says how many datagrams were no use, if the member counts them.
func (p *groupPacket) Dropped() uint64 {
	if c, ok := p.BatchConn.(interface{ Dropped() uint64 }); ok {
		return c.Dropped()
	}
	return 0
}
