// Package proxyproto reads and writes the header of the PROXY protocol, version
// 1 and 2, by which a balancer tells whom it speaks for.
package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pires/go-proxyproto"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// Accept returns conn itself, unless it comes from a trusted network. One that
// does must begin with a PROXY header, which the first Read takes off; its
// client is then the one in the header. A header from elsewhere is never
// believed: it is what the client sends, and no more. The local address stays
// ours: that of the balancer is none that BIND or UDP ASSOCIATE could listen on.
func Accept(conn net.Conn, trusted []netip.Prefix) net.Conn {
	from := argyle.AddrOf(conn.RemoteAddr()).IP.WithZone("")
	if !slices.ContainsFunc(trusted, func(n netip.Prefix) bool { return n.Contains(from) }) {
		return conn
	}
	return &headed{Conn: conn}
}

// How long headers may be: version 1 by its specification, version 2 with all
// that balancers put into it.
const (
	maxHeader1 = 107
	maxHeader2 = 4096
)

// headed is a connection that begins with a header.
type headed struct {
	net.Conn
	once   sync.Once
	err    error // of the header
	unread []byte
	client atomic.Pointer[net.TCPAddr] // nil until the header has told
}

// Read reads what comes after the header.
func (c *headed) Read(b []byte) (int, error) {
	c.once.Do(func() { c.err = c.readHeader() })
	if c.err != nil {
		return 0, c.err
	}
	if len(c.unread) > 0 {
		n := copy(b, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// readHeader reads the header, and keeps what has been read beyond it.
func (c *headed) readHeader() error {
	b, n, err := c.collect()
	if err != nil {
		if len(b) == 0 {
			return err // a health check, which says nothing
		}
		return fmt.Errorf("PROXY header from %v: %w", c.Conn.RemoteAddr(), err)
	}
	header, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b[:n])))
	if err != nil {
		return fmt.Errorf("PROXY header from %v: %w", c.Conn.RemoteAddr(), err)
	}
	c.unread = b[n:]
	// LOCAL and UNKNOWN speak for the balancer itself.
	if client, _, ok := header.TCPAddrs(); ok && !header.Command.IsLocal() {
		c.client.Store(client)
	}
	return nil
}

// collect reads until the header is there, in however many pieces it comes. b is
// what has been read, n the length of the header.
func (c *headed) collect() (b []byte, n int, err error) {
	b = make([]byte, 0, 256)
	for {
		if n, err = length(b); err != nil || n > 0 && n <= len(b) {
			return b, n, err
		}
		if len(b) == cap(b) {
			b = slices.Grow(b, max(n-len(b), 1))
		}
		got, err := c.Conn.Read(b[len(b):cap(b)])
		b = b[:len(b)+got]
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && got == 0 {
			return b, 0, err
		}
	}
}

var (
	begin1 = []byte("PROXY ")
	begin2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// length returns the length of the header that b begins with, 0 if it is not
// known yet.
func length(b []byte) (int, error) {
	switch {
	case bytes.HasPrefix(b, begin1):
		if end := bytes.IndexByte(b, '\n'); end >= 0 {
			return end + 1, nil
		}
		if len(b) > maxHeader1 {
			return 0, fmt.Errorf("version 1 has at most %d bytes", maxHeader1)
		}
	case bytes.HasPrefix(b, begin2):
		if len(b) < 16 {
			return 0, nil
		}
		n := 16 + int(binary.BigEndian.Uint16(b[14:]))
		if n > maxHeader2 {
			return 0, fmt.Errorf("%d bytes, which is more than %d", n, maxHeader2)
		}
		return n, nil
	case bytes.HasPrefix(begin1, b) || bytes.HasPrefix(begin2, b):
	default:
		return 0, errors.New("there is none")
	}
	return 0, nil
}

// RemoteAddr returns the client that the header tells of; before it has been
// read, the balancer.
func (c *headed) RemoteAddr() net.Addr {
	if client := c.client.Load(); client != nil {
		return client
	}
	return c.Conn.RemoteAddr()
}

// Unwrap returns the connection inside and the bytes that it no longer has: the
// relay works on the bare connection.
func (c *headed) Unwrap() (conn net.Conn, unread []byte) { return c.Conn, c.unread }

// CloseWrite ends the write side.
func (c *headed) CloseWrite() error { return serve.CloseWrite(c.Conn) }
