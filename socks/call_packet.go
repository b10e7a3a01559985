package socks

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/udp"
	"github.com/argyle-socks/argyle/socks/wire"
)

// AcceptPacket answers a UDP ASSOCIATE with the address of a relay socket of
// its own, on the address that the client has reached us by.
func (c *call) AcceptPacket() (net.PacketConn, error) {
	local := c.localIP()
	if !local.IsValid() {
		err := errors.New("UDP ASSOCIATE over a connection without an IP address")
		c.Reject(errors.ErrUnsupported)
		return nil, err
	}
	sock, err := udp.Listen(netip.AddrPortFrom(local, 0))
	if err != nil {
		c.Reject(err)
		return nil, err
	}
	a := &association{
		PacketConn: sock,
		sock:       sock,
		control:    c.conn,
		protection: protectionOf(c.conn),
		client:     c.request.Client.Addr().WithZone(""),
	}
	a.receive = a.received
	if err := c.answer(nil, argyle.AddrOf(sock.LocalAddr())); err != nil {
		sock.Close()
		c.conn.Close()
		return nil, opError("write reply", err)
	}
	keepAlive(c.conn)
	go a.watch()
	return a, nil
}

// keepAlive keeps a silent TCP connection known to routers on its way, and
// finds out when the other side is gone.
func keepAlive(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	if u, ok := conn.(interface {
		Unwrap() (net.Conn, []byte)
	}); ok {
		conn, _ = u.Unwrap()
	}
	if k, ok := conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		_ = k.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 30 * time.Second})
	}
}

// association is the client's side of a UDP ASSOCIATE: the relay socket, which
// lives as long as the TCP connection. It shows no more of its socket than a
// net.PacketConn, since every other way to read goes around the pinning.
type association struct {
	net.PacketConn
	sock        *udp.Conn
	control     net.Conn
	*protection            // nil: datagrams travel bare
	client      netip.Addr // the only address that may send
	pinned      atomic.Pointer[netip.AddrPort]
	dropped     atomic.Uint64
	frags       reassembly

	reading sync.Mutex        // guards the next
	unread  []argyle.Datagram // read with one that ReadFrom wanted

	batch   []argyle.Datagram // of ReadBatch, reused
	handle  func([]argyle.Datagram)
	receive func([]udp.Message) // received, made once

}

// Dropped says how many datagrams of the client, or of others, were dropped.
func (a *association) Dropped() uint64 { return a.dropped.Load() }

// Sent says how many bytes of payload have been sent to the client.
func (a *association) Sent() int64 { return a.sock.Sent() }

// watch ends the association with its TCP connection. What the client sends
// there has no meaning.
func (a *association) watch() {
	_, _ = io.Copy(io.Discard, a.control)
	a.Close()
}

// Close ends the association.
func (a *association) Close() error {
	a.control.Close()
	return a.sock.Close()
}

// ReadBatch hands over the client's datagrams, whole and without headers.
func (a *association) ReadBatch(handle func([]argyle.Datagram)) error {
	a.handle = handle
	return a.sock.ReadBatch(a.receive)
}

func (a *association) received(ms []udp.Message) {
	a.batch = a.batch[:0]
	for _, m := range ms {
		if d, ok := a.open(m); ok {
			a.batch = append(a.batch, d)
		}
	}
	if len(a.batch) > 0 {
		a.handle(a.batch)
		clear(a.batch)
	}
}

// open takes a message from the client out of its header. It reports false if
// there is nothing to hand over yet, or ever.
func (a *association) open(m udp.Message) (argyle.Datagram, bool) {
	d, ok := a.parse(m)
	if !ok {
		a.dropped.Add(1)
		return d, false
	}
	return d, d.Payload != nil
}

// parse reports false for a datagram to be dropped; a fragment that waits for
// others has a nil payload.
func (a *association) parse(m udp.Message) (d argyle.Datagram, ok bool) {
	if !a.fromClient(m.Addr) {
		return d, false
	}
	datagram := m.Payload
	if a.protection != nil {
		var err error
		if datagram, err = a.protection.openDatagram(datagram); err != nil {
			return d, false
		}
	}
	h, n, err := wire.ParseHeader(datagram)
	if err != nil {
		return d, false
	}
	if h.Addr.Name != "" || !h.Addr.IP.IsValid() {
		if h.Addr, err = argyle.ParseHost(h.Addr.Name, h.Addr.Port); err != nil {
			return d, false
		}
	}
	if h.Addr.Port == 0 || h.Addr.IP.IsUnspecified() {
		return d, false
	}
	// Only a datagram that could be for somebody pins the port.
	if a.pinned.Load() == nil {
		from := m.Addr
		a.pinned.Store(&from)
	}
	payload, ok := a.frags.add(h, datagram[n:])
	return argyle.Datagram{Addr: h.Addr, Payload: payload}, ok
}

// fromClient reports whether a datagram comes from the client's address, and
// from the port that it first sent from.
func (a *association) fromClient(from netip.AddrPort) bool {
	if pinned := a.pinned.Load(); pinned != nil {
		return *pinned == from
	}
	return from.Addr().WithZone("") == a.client
}

// ReadFrom reads one datagram of the client; its address is the destination.
func (a *association) ReadFrom(b []byte) (n int, to net.Addr, err error) {
	a.reading.Lock()
	defer a.reading.Unlock()
	for len(a.unread) == 0 {
		err := a.sock.ReadBatch(func(ms []udp.Message) {
			for _, m := range ms {
				if d, ok := a.open(m); ok {
					a.unread = append(a.unread, argyle.Datagram{Addr: d.Addr, Payload: bytes.Clone(d.Payload)})
				}
			}
		})
		if err != nil {
			return 0, nil, err
		}
	}
	d := a.unread[0]
	a.unread = a.unread[1:]
	return copy(b, d.Payload), d.Addr, nil
}

// WriteBatch sends datagrams to the client, each with its source in the
// header. Before the client has sent anything there is nowhere to send to.
func (a *association) WriteBatch(ds []argyle.Datagram) (int, error) {
	client := a.pinned.Load()
	if client == nil {
		a.dropped.Add(uint64(len(ds)))
		return 0, nil
	}
	out := outgoings.Get().(*outgoing)
	defer out.release()
	for _, d := range ds {
		out.add(d, *client, a.protection)
	}
	n, err := a.sock.WriteBatch(out.ms)
	a.dropped.Add(uint64(len(ds) - n))
	return n, err
}

// WriteTo sends one datagram to the client, from addr.
func (a *association) WriteTo(b []byte, addr net.Addr) (int, error) {
	if _, err := a.WriteBatch([]argyle.Datagram{{Addr: argyle.AddrOf(addr), Payload: b}}); err != nil {
		return 0, err
	}
	return len(b), nil
}
