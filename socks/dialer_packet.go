package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

// ListenPacket opens an association with the server by UDP ASSOCIATE. Its
// datagrams may go to names, by [argyle.Addr]. It ends when the server ends
// the TCP connection that belongs to it. The address must be "".
func (d *Dialer) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if d.Version == 4 {
		return nil, d.opError("associate", network, address, fmt.Errorf("SOCKS 4 has no UDP: %w", errors.ErrUnsupported))
	}
	conn, relay, err := d.command(ctx, argyle.Associate, network, address)
	if err != nil {
		return nil, d.opError("associate", network, address, err)
	}
	p, err := d.associate(ctx, conn, relay)
	if err != nil {
		conn.Close()
		return nil, d.opError("associate", network, address, err)
	}
	keepAlive(conn)
	go p.watch()
	return p, nil
}

// associate opens the socket whose datagrams go to the relay.
func (d *Dialer) associate(ctx context.Context, control net.Conn, relay argyle.Addr) (*packetConn, error) {
	if !relay.IP.IsValid() || relay.IP.IsUnspecified() {
		// Many servers do not know their address; it is that of the server.
		server, err := d.server(control)
		if err != nil {
			return nil, err
		}
		relay.Name, relay.IP = server.Name, server.IP
	}
	if relay.Port == 0 {
		return nil, errors.New("the server's relay has no port")
	}
	sock, err := d.forward().ListenPacket(ctx, "udp", "")
	if err != nil {
		return nil, err
	}
	p := &packetConn{batchConn: argyle.Batch(sock), control: control, protection: protectionOf(control), relay: relay}
	p.receive = p.received
	return p, nil
}

// server returns the server's address: as the system sees it if there is no
// proxy between, else as the last proxy is told it.
func (d *Dialer) server(conn net.Conn) (argyle.Addr, error) {
	if d.isDirect() {
		if ip := d.serverIP(conn); ip.IsValid() {
			return argyle.Addr{IP: ip}, nil
		}
	}
	return argyle.ParseAddr(d.Addr)
}

// serverIP returns the address of the far end; not valid for a unix socket.
func (d *Dialer) serverIP(conn net.Conn) netip.Addr { return argyle.AddrOf(conn.RemoteAddr()).IP }

// batchConn gives [packetConn] the methods that it does not change.
type batchConn = argyle.BatchConn

// packetConn is the client's side of an association.
type packetConn struct {
	batchConn
	control    net.Conn
	protection *protection // nil: datagrams travel bare
	relay      argyle.Addr
	dropped    atomic.Uint64
	sent       atomic.Int64
	frags      reassembly

	// Of ReadBatch, reused.
	batch   []argyle.Datagram
	handle  func([]argyle.Datagram)
	receive func([]argyle.Datagram)
}

var _ argyle.BatchConn = (*packetConn)(nil)

// Dropped says how many datagrams were no use.
func (p *packetConn) Dropped() uint64 { return p.dropped.Load() }

// watch ends the association with its TCP connection.
func (p *packetConn) watch() {
	_, _ = io.Copy(io.Discard, p.control)
	p.Close()
}

// Close ends the association.
func (p *packetConn) Close() error {
	p.control.Close()
	return p.batchConn.Close()
}

// ReadBatch hands over what the relay sends, with the true sources.
func (p *packetConn) ReadBatch(handle func([]argyle.Datagram)) error {
	p.handle = handle
	return p.batchConn.ReadBatch(p.receive)
}

func (p *packetConn) received(ds []argyle.Datagram) {
	p.batch = p.batch[:0]
	for _, d := range ds {
		if d, ok := p.open(d); ok {
			p.batch = append(p.batch, d)
		}
	}
	if len(p.batch) > 0 {
		p.handle(p.batch)
		clear(p.batch)
	}
}

// open takes a datagram of the relay out of its header. It reports false if
// there is nothing to hand over yet, or ever.
func (p *packetConn) open(d argyle.Datagram) (argyle.Datagram, bool) {
	d, ok := p.parse(d)
	if !ok {
		p.dropped.Add(1)
		return d, false
	}
	return d, d.Payload != nil
}

// parse reports false for a datagram to be dropped; a fragment that waits for
// others has a nil payload.
func (p *packetConn) parse(d argyle.Datagram) (_ argyle.Datagram, ok bool) {
	// Behind a name or a further proxy the relay's address is not known here.
	if p.relay.IP.IsValid() && d.Addr != p.relay {
		return d, false
	}
	var err error
	if p.protection != nil {
		if d.Payload, err = p.protection.openDatagram(d.Payload); err != nil {
			return d, false
		}
	}
	h, n, err := wire.ParseHeader(d.Payload)
	if err != nil {
		return d, false
	}
	payload, ok := p.frags.add(h, d.Payload[n:])
	return argyle.Datagram{Addr: h.Addr, Payload: payload}, ok
}

// ReadFrom reads one datagram; addr is its true source.
func (p *packetConn) ReadFrom(b []byte) (n int, addr net.Addr, err error) {
	size := len(b) + wire.MaxHeader
	if p.protection != nil {
		size += tokenHeader + maxTokenOverhead
	}
	buf := make([]byte, size)
	for {
		n, from, err := p.batchConn.ReadFrom(buf)
		if err != nil {
			return 0, nil, err
		}
		if d, ok := p.open(argyle.Datagram{Addr: argyle.AddrOf(from), Payload: buf[:n]}); ok {
			return copy(b, d.Payload), source(d.Addr), nil
		}
	}
}

// source returns an address in the form that callers of ReadFrom expect.
func source(a argyle.Addr) net.Addr {
	if a.IP.IsValid() {
		return net.UDPAddrFromAddrPort(a.AddrPort())
	}
	return a
}

// WriteBatch sends datagrams through the relay.
func (p *packetConn) WriteBatch(ds []argyle.Datagram) (int, error) {
	w := wrappers.Get().(*wrapper)
	defer w.release()
	for _, d := range ds {
		if !w.add(d, p.relay, p.protection) {
			p.dropped.Add(1)
		}
	}
	n, err := p.batchConn.WriteBatch(w.ds)
	for _, size := range w.sizes[:n] {
		p.sent.Add(int64(size))
	}
	return n, err
}

// Sent says how many bytes of payload have been sent to the relay.
func (p *packetConn) Sent() int64 { return p.sent.Load() }

// wrapper puts datagrams, with their headers, into datagrams to a relay.
type wrapper struct {
	ds    []argyle.Datagram
	sizes []int // of the payloads
	buf   []byte
}

var wrappers = sync.Pool{New: func() any { return new(wrapper) }}

// add reports false for an address that has no form on the wire, and for a
// datagram that is too long once it is protected.
func (w *wrapper) add(d argyle.Datagram, relay argyle.Addr, p *protection) bool {
	// Growing moves buf, but earlier datagrams keep the memory they point to.
	start := len(w.buf)
	b, err := appendDatagram(w.buf, d, p)
	if err != nil {
		return false
	}
	if w.buf = b; p == nil {
		w.buf = append(b, d.Payload...)
	}
	w.sizes = append(w.sizes, len(d.Payload))
	w.ds = append(w.ds, argyle.Datagram{Addr: relay, Payload: w.buf[start:]})
	return true
}

func (w *wrapper) release() {
	clear(w.ds)
	w.ds, w.sizes, w.buf = w.ds[:0], w.sizes[:0], w.buf[:0]
	wrappers.Put(w)
}

// WriteTo sends one datagram to addr, which may be an [argyle.Addr] with a name.
func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if _, err := p.WriteBatch([]argyle.Datagram{{Addr: argyle.AddrOf(addr), Payload: b}}); err != nil {
		return 0, err
	}
	return len(b), nil
}
