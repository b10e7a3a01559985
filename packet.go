package argyle

import (
	"net"
)

// A Datagram is a payload and its far end: the destination on the way up, the
// true source on the way down.
type Datagram struct {
	Addr    Addr
	Payload []byte
}

// A BatchConn is a [net.PacketConn] that moves many datagrams at once. Every
// packet connection of this module is one; [Batch] makes one of any other.
type BatchConn interface {
	net.PacketConn

	// ReadBatch waits for datagrams and hands over those that are there.
	// They are valid until handle returns. handle is not called for an
	// empty batch, and ReadBatch may return nil without having called it.
	// Only one ReadBatch may run at a time.
	ReadBatch(handle func([]Datagram)) error

	// WriteBatch sends the datagrams and says how many it took. Those that
	// cannot be sent are dropped; an error means that the connection is
	// of no more use. Several may run at a time.
	WriteBatch(ds []Datagram) (int, error)
}

// MaxDatagram is the length of the longest UDP payload over IPv4.
const MaxDatagram = 65507

// Batch returns conn itself if it is a [BatchConn], else one that moves its
// datagrams one at a time.
func Batch(conn net.PacketConn) BatchConn {
	if b, ok := conn.(BatchConn); ok {
		return b
	}
	return &single{PacketConn: conn}
}

// single is a BatchConn of one datagram a batch.
type single struct {
	net.PacketConn
	buf []byte
}

func (s *single) ReadBatch(handle func([]Datagram)) error {
	if s.buf == nil {
		s.buf = make([]byte, 1<<16) // IPv6 has longer ones than MaxDatagram
	}
	n, from, err := s.ReadFrom(s.buf)
	if err != nil {
		return err
	}
	handle([]Datagram{{Addr: AddrOf(from), Payload: s.buf[:n]}})
	return nil
}

func (s *single) WriteBatch(ds []Datagram) (int, error) {
	sent := 0
	for _, d := range ds {
		if _, err := s.WriteTo(d.Payload, udpAddr(d.Addr)); err == nil {
			sent++
		} else if isClosed(err) {
			return sent, err
		}
	}
	return sent, nil
}

// udpAddr returns a in the form that every packet connection takes, if it has one.
func udpAddr(a Addr) net.Addr {
	if a.IP.IsValid() {
		return net.UDPAddrFromAddrPort(a.AddrPort())
	}
	return a
}
