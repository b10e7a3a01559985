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
	p := &directPacket{Conn: sock, direct: d, network: network}
	p.receive = p.received
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Bounds on what one packet connection keeps for names.
const (
	maxNames   = 256              // known addresses of names
	maxPending = 32               // names being looked up at once
	maxWaiting = 64 << 10         // bytes that wait for them
	nameTTL    = 60 * time.Second // how long an address is trusted
)

// directPacket is the packet connection of a Direct.
type directPacket struct {
	*udp.Conn
	direct  *Direct
	network string
	ctx     context.Context // ends the look-ups
	cancel  context.CancelFunc
	dropped atomic.Uint64

	out     []udp.Message // of WriteBatch, reused
	in      []Datagram    // of ReadBatch, reused
	handle  func([]Datagram)
	receive func([]udp.Message)

	mu      sync.Mutex
	names   map[string]*lookup // nil until the first name
	pending int                // look-ups under way
	waiting int                // bytes that wait for them
}

// lookup is what is known of one name.
type lookup struct {
	done    bool
	ip      netip.Addr // not valid: unknown or not allowed
	expires time.Time
	waiting []Datagram
}

// Dropped says how many datagrams could not be sent.
func (p *directPacket) Dropped() uint64 { return p.dropped.Load() }

// Close ends the look-ups and closes the socket.
func (p *directPacket) Close() error {
	p.cancel()
	return p.Conn.Close()
}

// ReadBatch hands over datagrams with their true sources.
func (p *directPacket) ReadBatch(handle func([]Datagram)) error {
	p.handle = handle
	return p.Conn.ReadBatch(p.receive)
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

// WriteBatch sends the datagrams whose destination is known and allowed. Only
// one WriteBatch may run at a time.
func (p *directPacket) WriteBatch(ds []Datagram) (int, error) {
	p.out = p.out[:0]
	for _, d := range ds {
		to := d.Addr
		if to.Name != "" {
			if to.IP = p.resolve(d); !to.IP.IsValid() {
				continue
			}
		}
		if p.allowed(to) {
			p.out = append(p.out, udp.Message{Payload: d.Payload, Addr: to.AddrPort()})
		}
	}
	if len(p.out) == 0 {
		return 0, nil
	}
	n, err := p.Conn.WriteBatch(p.out)
	p.dropped.Add(uint64(len(p.out) - n))
	clear(p.out)
	return n, err
}

func (p *directPacket) allowed(to Addr) bool {
	if to.Port != 0 && to.IP.IsValid() && !to.IP.IsUnspecified() &&
		p.direct.check(p.ctx, p.network, to.AddrPort()) == nil {
		return true
	}
	p.dropped.Add(1)
	return false
}

// WriteTo sends one datagram.
func (p *directPacket) WriteTo(b []byte, addr net.Addr) (int, error) {
	if _, err := p.WriteBatch([]Datagram{{Addr: AddrOf(addr), Payload: b}}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// resolve returns the address of d's name if it is known. If not, d waits for
// it or is dropped.
func (p *directPacket) resolve(d Datagram) netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.names[d.Addr.Name]
	if l != nil && l.done && time.Now().Before(l.expires) {
		if !l.ip.IsValid() {
			p.dropped.Add(1)
		}
		return l.ip
	}
	if l == nil || l.done {
		if l = p.begin(d.Addr); l == nil {
			p.dropped.Add(1)
			return netip.Addr{}
		}
	}
	if p.waiting+len(d.Payload) > maxWaiting {
		p.dropped.Add(1)
		return netip.Addr{}
	}
	p.waiting += len(d.Payload)
	d.Payload = append([]byte(nil), d.Payload...)
	l.waiting = append(l.waiting, d)
	return netip.Addr{}
}

// begin starts a look-up, or returns nil if too many are under way. p.mu is held.
func (p *directPacket) begin(dest Addr) *lookup {
	if p.pending >= maxPending {
		return nil
	}
	if p.names == nil || len(p.names) >= maxNames {
		p.forget()
	}
	p.pending++
	l := new(lookup)
	p.names[dest.Name] = l
	go p.look(l, dest)
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

// look finds the address of a name and sends what waits for it, in order: p.mu
// is held while it does so, and later datagrams must pass resolve first.
func (p *directPacket) look(l *lookup, dest Addr) {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	ips, err := p.direct.lookup(ctx, p.network, dest)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending--
	l.done = true
	l.expires = time.Now().Add(nameTTL)
	if err == nil {
		l.ip = ips[0]
	} else {
		l.expires = time.Now().Add(5 * time.Second)
	}
	var ms []udp.Message
	for _, d := range l.waiting {
		p.waiting -= len(d.Payload)
		to := Addr{IP: l.ip, Port: d.Addr.Port}
		if p.allowed(to) {
			ms = append(ms, udp.Message{Payload: d.Payload, Addr: to.AddrPort()})
		}
	}
	l.waiting = nil
	n, _ := p.Conn.WriteBatch(ms) // a closed socket ends the reader, who tells
	p.dropped.Add(uint64(len(ms) - n))
}
