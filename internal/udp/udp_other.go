//go:build !linux

package udp

import (
	"net"
	"net/netip"
	"sync"
)

// sys is what a system adds to a socket: nothing here.
type sys struct{}

func (*sys) init(*net.UDPConn) error { return nil }

// ReadBatch waits for a datagram and hands it to handle. It is valid until
// handle returns.
func (c *Conn) ReadBatch(handle func([]Message)) error {
	buf := single.Get().(*[maxMessage]byte)
	defer single.Put(buf)
	n, from, err := c.ReadFromUDPAddrPort(buf[:])
	switch {
	case err == nil:
		handle([]Message{{Payload: buf[:n], Addr: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}})
	case fatal(err):
		return err
	}
	return nil
}

// WriteBatch sends each message and says how many the system took. It fails
// only on a closed socket.
func (c *Conn) WriteBatch(ms []Message) (int, error) {
	buf := single.Get().(*[maxMessage]byte)
	defer single.Put(buf)
	sent := 0
	for _, m := range ms {
		if len(m.Head)+len(m.Payload) > len(buf) {
			continue
		}
		n := copy(buf[:], m.Head)
		n += copy(buf[n:], m.Payload)
		if _, err := c.WriteToUDPAddrPort(buf[:n], m.Addr); err == nil {
			sent++
			c.sent.Add(int64(len(m.Payload)))
		} else if fatal(err) {
			return sent, err
		}
	}
	return sent, nil
}

var single = sync.Pool{New: func() any { return new([maxMessage]byte) }}
