package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/socks/wire"
)

// protection encapsulates what is sent within a context (RFC 1961, section 5).
type protection struct {
	sec   SecurityContext
	level wire.ProtectionLevel
}

// tokenHeader is the length of a [wire.TokenHeader].
const tokenHeader = 4

// maxTokenOverhead is by how much a token may be longer than its message: those
// of Kerberos are by 72 bytes at most.
const maxTokenOverhead = 512

// maxPlain is how much one token of a stream carries at most.
const maxPlain = wire.MaxToken - maxTokenOverhead

// errTooLong is the error of what has no room in a token.
var errTooLong = errors.New("too long for a token")

// seal appends msg to dst as a message of RFC 1961.
func (p *protection) seal(dst, msg []byte) ([]byte, error) {
	start := len(dst)
	dst, _ = wire.TokenHeader{Type: wire.DataToken}.Append(dst) // the length comes when it is known
	dst, err := p.sec.Wrap(dst, msg, p.level == wire.Confidentiality)
	if err != nil {
		return dst[:start], err
	}
	size := len(dst) - start - tokenHeader
	if size > wire.MaxToken {
		return dst[:start], errTooLong
	}
	binary.BigEndian.PutUint16(dst[start+2:], uint16(size))
	return dst, nil
}

// open returns what is in a token, whose memory it uses.
func (p *protection) open(token []byte, ordered bool) ([]byte, error) {
	msg, conf, err := p.sec.Unwrap(token, ordered)
	if err == nil && !conf && p.level == wire.Confidentiality {
		err = errors.New("token that is not confidential, though that was agreed on")
	}
	return msg, err
}

// openDatagram returns what is in a datagram.
func (p *protection) openDatagram(b []byte) ([]byte, error) {
	h, n, err := wire.ParseTokenHeader(b)
	if err != nil {
		return nil, err
	}
	if h.Type != wire.DataToken || n+h.Len != len(b) {
		return nil, errors.New("datagram that is not encapsulated")
	}
	return p.open(b[n:], false)
}

// tokens holds buffers for one message of RFC 1961 each.
var tokens = sync.Pool{New: func() any { return new([tokenHeader + wire.MaxToken]byte) }}

// protectedConn is a connection whose bytes travel encapsulated. One that is
// idle holds no buffer.
type protectedConn struct {
	net.Conn
	*protection

	reading sync.Mutex
	head    [tokenHeader]byte
	have    int                                // of the message: a read may end within it, by its deadline
	buf     *[tokenHeader + wire.MaxToken]byte // of the message, nil if none is there
	unread  []byte                             // what is in it, if that is known

	writing sync.Mutex
	broken  error // a message was written in part
}

func newProtectedConn(conn net.Conn, p *protection) *protectedConn {
	return &protectedConn{Conn: conn, protection: p}
}

// Read reads what the other side has sent.
func (c *protectedConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for len(c.unread) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.unread)
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		c.release()
	}
	return n, nil
}

// release gives the buffer back.
func (c *protectedConn) release() {
	tokens.Put(c.buf)
	c.buf, c.unread = nil, nil
}

// next reads one message, or what comes of it before the deadline.
func (c *protectedConn) next() error {
	h, n, err := c.header()
	switch {
	case err != nil:
		return err
	case h.Type == wire.Abort:
		return errAborted
	case h.Type != wire.DataToken:
		return fmt.Errorf("GSS-API message of type %d, want %d", h.Type, wire.DataToken)
	}
	size := n + h.Len
	if c.buf == nil {
		c.buf = tokens.Get().(*[tokenHeader + wire.MaxToken]byte)
	}
	if err := c.fill(c.buf[:size], size); err != nil {
		return err
	}
	c.have = 0
	c.unread, err = c.open(c.buf[tokenHeader:size], true)
	if err != nil || len(c.unread) == 0 {
		c.release()
	}
	return err
}

// header reads the header of a message, and waits for no more than it needs: a
// refusal has only two bytes.
func (c *protectedConn) header() (h wire.TokenHeader, n int, err error) {
	for {
		h, n, err = wire.ParseTokenHeader(c.head[:min(c.have, tokenHeader)])
		if !errors.Is(err, wire.ErrShort) {
			return h, n, err
		}
		if err := c.fill(c.head[:], n); err != nil {
			return h, n, err
		}
	}
}

// fill reads into b, of which c.have bytes have been read, until it has least.
func (c *protectedConn) fill(b []byte, least int) error {
	for c.have < least {
		n, err := c.Conn.Read(b[c.have:])
		c.have += n
		if err == io.EOF && c.have > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && c.have < least {
			return err
		}
	}
	return nil
}

// Write sends b, in as many messages as it takes.
func (c *protectedConn) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var some int
		some, err = c.WriteSome(b)
		n, b = n+some, b[some:]
	}
	return n, err
}

// WriteSome sends as much of b as one message takes.
func (c *protectedConn) WriteSome(b []byte) (int, error) {
	b = b[:min(len(b), maxPlain)]
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.broken != nil {
		return 0, c.broken
	}
	buf := tokens.Get().(*[tokenHeader + wire.MaxToken]byte)
	defer tokens.Put(buf)
	message, err := c.seal(buf[:0], b)
	if err != nil {
		return 0, err
	}
	if _, err = c.Conn.Write(message); err != nil {
		c.broken = err // the other side would take the rest for another message
		return 0, err
	}
	return len(b), nil
}

// CloseWrite ends the write side.
func (c *protectedConn) CloseWrite() error { return serve.CloseWrite(c.Conn) }

// NetConn returns the connection that carries the messages.
func (c *protectedConn) NetConn() net.Conn { return c.Conn }

// protectionOf returns what protects the datagrams that belong to a connection;
// nil if nothing does.
func protectionOf(conn net.Conn) *protection {
	if c, ok := conn.(*protectedConn); ok {
		return c.protection
	}
	return nil
}
