// Package udp moves datagrams in batches: with one system call for many on
// Linux, which has recvmmsg and sendmmsg, one at a time elsewhere. On Linux
// nothing is allocated per datagram, and no buffer is held while none arrives.
package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
)

// A Message is one datagram and its far end. On the way out it is Head
// followed by Payload; on the way in it is all Payload.
type Message struct {
	Head    []byte
	Payload []byte
	Addr    netip.AddrPort
}

// batchSize is how many messages one system call reads at most, and maxSegments how
// many datagrams one of them may be cut into, and a batch has.
const batchSize, maxSegments = 16, 64

// maxMessage is one byte more than the longest UDP payload, so that a
// datagram that was cut short can be told.
const maxMessage = 1 << 16

// Conn is a UDP socket that is not connected.
type Conn struct {
	*net.UDPConn
	sys
	sent atomic.Int64
}

// Sent says how many bytes of payload WriteBatch has sent, heads apart.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// New makes a Conn of a socket.
func New(c *net.UDPConn) (*Conn, error) {
	// The default buffer holds some 150 full datagrams, which is less than
	// a burst. The kernel bounds it, and it is charged only when it is used.
	_ = c.SetReadBuffer(1 << 20)
	_ = c.SetWriteBuffer(1 << 20)
	conn := &Conn{UDPConn: c}
	if err := conn.init(c); err != nil {
		return nil, err
	}
	return conn, nil
}

// Listen opens a socket bound to local, or to every address and a free port of
// both families if local is not valid.
func Listen(local netip.AddrPort) (*Conn, error) {
	var laddr *net.UDPAddr
	if local.IsValid() {
		laddr = net.UDPAddrFromAddrPort(local)
	}
	c, err := net.ListenUDP("udp", laddr)
	if err != nil {
		return nil, err
	}
	conn, err := New(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	return conn, nil
}

// fatal reports whether a socket that returned err is of no more use to a
// reader: it was closed, or the reader's time is over. All else (an ICMP
// error, a lack of memory) concerns one datagram.
func fatal(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// buffers holds the memory that a batch is read into.
var buffers = sync.Pool{New: func() any { return new([batchSize * maxMessage]byte) }}
