package argyle

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle/internal/udp"
)

// ListenPacket opens one socket for destinations of both families, so that a
// client keeps one mapping whatever it sends to (RFC 4787, endpoint-independent).
// Names are looked up beside the path of the datagrams; those for a name wait,
// within bounds, until its address is known.
func (d *Direct) ListenPacket(_ context.Context, network, address string) (net.PacketConn, error) {
	var local netip.AddrPort
	if address != "" {
		addr, err := ParseAddr(address)
		if err != nil || !addr.IP.IsValid() {
			return nil, &net.OpError{Op: "listen", Net: network, Err: &net.AddrError{Err: "not an IP address and port", Addr: address}}
		}
		local = addr.AddrPort()
	}
	sock, err := udp.Listen(local)
	if err != nil {
		return nil, err
	}
	p := &directPacket{PacketConn: sock, sock: sock, local: AddrOf(sock.LocalAddr()).IP, direct: d, network: network}
	p.receive = p.received
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Bounds on what one packet connection keeps for names.
const (
	maxNames   = 256              // known addresses of names
	maxPending = 32               // names being looked up at once
	maxWaiting = 64 << 10         // bytes that wait for them
	maxQueued  = 512              // datagrams that wait for them
	nameTTL    = 60 * time.Second // how long an address is trusted
)

// directPacket is the packet connection of a Direct. It shows no more of its
// socket than a net.PacketConn, since every other way to write goes around Check.
type directPacket struct {
	net.PacketConn
	sock    *udp.Conn
	local   netip.Addr
	direct  *Direct
	network string
	ctx     context.Context // ends the look-ups
	cancel  context.CancelFunc
	dropped atomic.Uint64

	in      []Datagram // of ReadBatch, reused
	handle  func([]Datagram)
	receive func([]udp.Message)

	mu      sync.Mutex
	names   map[string]*lookup // nil until the first name
	pending int                // look-ups under way
	waiting int                // bytes that wait for them
	queued  int                // datagrams that wait for them
}

// lookup is what is known of one name.
type lookup struct {
	done    bool
	ips     []netip.Addr // none: unknown
	expires time.Time
	waiting []Datagram
}

// Dropped says how many datagrams could not be sent.
func (p *directPacket) Dropped() uint64 { return p.dropped.Load() }

// Sent says how many bytes of payload have been sent.
func (p *directPacket) Sent() int64 { return p.sock.Sent() }

// Close ends the look-ups and closes the socket.
func (p *directPacket) Close() error {
	p.cancel()
	return p.sock.Close()
}

// ReadBatch hands over datagrams with their true sources.
func (p *directPacket) ReadBatch(handle func([]Datagram)) error {
	p.handle = handle
	return p.sock.ReadBatch(p.receive)
}

// received is the inside of ReadBatch; the field receive holds it, made once.
func (p *directPacket) received(ms []udp.Message) {
	p.in = p.in[:0]
	for _, m := range ms {
		p.in = append(p.in, Datagram{Addr: AddrFrom(m.Addr), Payload: m.Payload})
	}
	p.handle(p.in)
	clear(p.in)
}

// outgoing is a batch on its way out, reused.
type outgoing struct{ ms []udp.Message }

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// WriteBatch sends the datagrams whose destination is known and allowed.
func (p *directPacket) WriteBatch(ds []Datagram) (int, error) {
	out := outgoings.Get().(*outgoing)
	defer func() {
		clear(out.ms)
		out.ms = out.ms[:0]
		outgoings.Put(out)
	}()
	for _, d := range ds {
		if to, ok := p.dest(d); ok {
			out.ms = append(out.ms, udp.Message{Payload: d.Payload, Addr: to})
		}
	}
	return p.send(out.ms)
}

// send sends ms and counts those that the system refuses.
func (p *directPacket) send(ms []udp.Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	n, err := p.sock.WriteBatch(ms)
	p.dropped.Add(uint64(len(ms) - n))
	return n, err
}

// dest returns where d is to be sent. If not now, d waits for the address of a
// name or is dropped.
func (p *directPacket) dest(d Datagram) (netip.AddrPort, bool) {
	if d.Addr.Name == "" {
		return p.choose([]netip.Addr{d.Addr.IP.Unmap()}, d.Addr.Port)
	}
	ips, known := p.resolve(d)
	if !known {
		return netip.AddrPort{}, false
	}
	return p.choose(ips, d.Addr.Port)
}

// choose returns the first of a destination's addresses that the socket
// reaches and Check lets pass. If there is none, the datagram is dropped.
func (p *directPacket) choose(ips []netip.Addr, port uint16) (netip.AddrPort, bool) {
	for _, ip := range ips {
		to := netip.AddrPortFrom(ip, port)
		if port != 0 && p.reaches(ip) && p.direct.check(p.ctx, p.network, to) == nil {
			return to, true
		}
	}
	p.dropped.Add(1)
	return netip.AddrPort{}, false
}

// reaches reports whether ip is a destination of a family that the socket speaks.
func (p *directPacket) reaches(ip netip.Addr) bool {
	switch {
	case !ip.IsValid() || ip.IsUnspecified():
		return false
	case p.local.Is4():
		return ip.Is4()
	case !p.local.IsUnspecified():
		return ip.Is6()
	}
	return true
}

// WriteTo sends one datagram.
func (p *directPacket) WriteTo(b []byte, addr net.Addr) (int, error) {
	if _, err := p.WriteBatch([]Datagram{{Addr: AddrOf(addr), Payload: b}}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// resolve returns the addresses of d's name if they are known. If not, d waits
// for them or is dropped.
func (p *directPacket) resolve(d Datagram) (ips []netip.Addr, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.names[d.Addr.Name]
	if l != nil && l.done && time.Now().Before(l.expires) {
		return l.ips, true
	}
	if l == nil || l.done {
		l = p.begin(d.Addr.Name)
	}
	if l == nil || p.queued >= maxQueued || p.waiting+len(d.Payload) > maxWaiting {
		p.dropped.Add(1)
		return nil, false
	}
	p.queued++
	p.waiting += len(d.Payload)
	d.Payload = append([]byte(nil), d.Payload...)
	l.waiting = append(l.waiting, d)
	return nil, false
}

// begin starts a look-up, or returns nil if too many are under way or p is
// closed. p.mu is held.
func (p *directPacket) begin(name string) *lookup {
	if p.pending >= maxPending || p.ctx.Err() != nil {
		return nil
	}
	if p.names == nil || len(p.names) >= maxNames {
		p.forget()
	}
	p.pending++
	l := new(lookup)
	p.names[name] = l
	go p.look(l, name)
	return l
}

// forget makes room: only look-ups under way stay. p.mu is held.
func (p *directPacket) forget() {
	kept := make(map[string]*lookup)
	for name, l := range p.names {
		if !l.done {
			kept[name] = l
		}
	}
	p.names = kept
}

// look finds the addresses of a name and sends what waits for them, in order:
// p.mu is held while it does so, and later datagrams must pass resolve first.
func (p *directPacket) look(l *lookup, name string) {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	ips, err := p.direct.resolve(ctx, name)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending--
	l.done = true
	l.ips = ips
	l.expires = time.Now().Add(nameTTL)
	if err != nil {
		l.expires = time.Now().Add(5 * time.Second)
	}
	var ms []udp.Message
	for _, d := range l.waiting {
		p.queued--
		p.waiting -= len(d.Payload)
		if to, ok := p.choose(ips, d.Addr.Port); ok {
			ms = append(ms, udp.Message{Payload: d.Payload, Addr: to})
		}
	}
	l.waiting = nil
	_, _ = p.send(ms) // a closed socket ends the reader, who tells
}
