package argyle

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle/internal/udp"
)

// ListenPacket opens one socket for destinations of both families, so that a
// client keeps one mapping whatever it sends to (RFC 4787, endpoint-independent).
// Where Local chooses addresses, each family has a socket of its own.
// Names are looked up beside the path of the datagrams; those for a name wait,
// within bounds, until its address is known.
func (d *Direct) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	sock, err := d.sockets(ctx, network, address)
	if err != nil {
		return nil, err
	}
	p := &directPacket{PacketConn: sock, sock: sock, local: AddrOf(sock.LocalAddr()).IP, direct: d, network: network}
	if _, pair := sock.(*udp.Pair); pair {
		p.local = netip.IPv6Unspecified() // it reaches both families
	}
	p.receive = p.received
	// The request in ctx stays for Check; its end is that of this call only.
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return p, nil
}

// socket is a [udp.Conn] or a [udp.Pair].
type socket interface {
	net.PacketConn
	ReadBatch(handle func([]udp.Message)) error
	WriteBatch(ms []udp.Message) (int, error)
	Sent() int64
}

// sockets opens what ListenPacket needs.
func (d *Direct) sockets(ctx context.Context, network, address string) (socket, error) {
	if address != "" {
		addr, err := ParseAddr(address)
		if err != nil || !addr.IP.IsValid() {
			return nil, &net.OpError{Op: "listen", Net: network, Err: &net.AddrError{Err: "not an IP address and port", Addr: address}}
		}
		return d.socket(ctx, addr.AddrPort())
	}
	local4, err4 := d.local(ctx, netip.IPv4Unspecified())
	local6, err6 := d.local(ctx, netip.IPv6Unspecified())
	switch {
	case err4 != nil && err6 != nil:
		return nil, &net.OpError{Op: "listen", Net: network, Err: err4}
	case err4 != nil:
		return d.socket(ctx, netip.AddrPortFrom(local6, 0))
	case err6 != nil:
		return d.socket(ctx, netip.AddrPortFrom(local4, 0))
	case !local4.IsValid() && !local6.IsValid():
		return d.socket(ctx, netip.AddrPort{})
	}
	return d.pair(ctx, local4, local6)
}

// pair opens a socket for each family.
func (d *Direct) pair(ctx context.Context, local4, local6 netip.Addr) (socket, error) {
	if !local4.IsValid() {
		local4 = netip.IPv4Unspecified()
	}
	if !local6.IsValid() {
		local6 = netip.IPv6Unspecified()
	}
	six, err := d.socket(ctx, netip.AddrPortFrom(local6, 0))
	if err != nil {
		return nil, err
	}
	four, err := d.socket(ctx, netip.AddrPortFrom(local4, 0))
	if err != nil {
		six.Close()
		return nil, err
	}
	return udp.NewPair(six, four), nil
}

// socket opens one socket, for both families if local is not valid.
func (d *Direct) socket(ctx context.Context, local netip.AddrPort) (*udp.Conn, error) {
	address := ":0"
	if local.Addr().IsValid() {
		address = local.String()
	}
	config := net.ListenConfig{Control: d.Control}
	conn, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	return udp.New(conn.(*net.UDPConn))
}

// Bounds on what one packet connection keeps.
const (
	maxNames    = 256              // known addresses of names
	maxVerdicts = 1024             // destinations about which Check has been asked
	maxPending  = 32               // names being looked up at once
	maxWaiting  = 64 << 10         // bytes that wait for them
	maxQueued   = 512              // datagrams that wait for them
	nameTTL     = 60 * time.Second // how long an address is trusted
	verdictTTL  = 10 * time.Second // how long an answer of Check is
)

// directPacket is the packet connection of a Direct. It shows no more of its
// socket than a net.PacketConn, since every other way to write goes around Check.
type directPacket struct {
	net.PacketConn // sock
	sock           socket
	local          netip.Addr
	direct         *Direct
	network        string
	ctx            context.Context // ends the look-ups
	cancel         context.CancelFunc
	dropped        atomic.Uint64
	lookups        sync.WaitGroup

	in      []Datagram // of ReadBatch, reused
	handle  func([]Datagram)
	receive func([]udp.Message)

	mu       sync.Mutex
	verdicts map[Addr]verdict
	names    map[string]*lookup // nil until the first name
	pending  int                // look-ups under way
	waiting  int                // bytes that wait for them
	queued   int                // datagrams that wait for them
}

// verdict is what Check has said of a destination.
type verdict struct {
	to      netip.AddrPort // not valid: refused
	expires time.Time
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

// Names returns the names, as they were asked for, that have been found to have
// an address: what comes from there may answer what went to any of them.
func (p *directPacket) Names(ip netip.Addr) (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, l := range p.names {
		if slices.Contains(l.ips, ip) {
			names = append(names, name)
		}
	}
	return names
}

// Close ends the look-ups and closes the socket. What has been sent is then
// counted.
func (p *directPacket) Close() error {
	p.cancel()
	err := p.sock.Close()
	p.lookups.Wait()
	return err
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
		return p.choose(d.Addr, []netip.Addr{d.Addr.IP.Unmap()})
	}
	ips, known := p.resolve(d)
	if !known {
		return netip.AddrPort{}, false
	}
	return p.choose(d.Addr, ips)
}

// choose returns the first of a destination's addresses that the socket
// reaches and Check lets pass. If there is none, the datagram is dropped.
func (p *directPacket) choose(dest Addr, ips []netip.Addr) (netip.AddrPort, bool) {
	var v verdict
	if p.direct.Check == nil {
		v.to = p.first(dest, ips, func(netip.AddrPort) bool { return true })
	} else {
		p.mu.Lock()
		v = p.verdicts[dest]
		p.mu.Unlock()
		if time.Now().After(v.expires) {
			v = p.judge(dest, ips)
		}
	}
	if !v.to.IsValid() {
		p.dropped.Add(1)
		return netip.AddrPort{}, false
	}
	return v.to, true
}

// judge asks Check about a destination.
func (p *directPacket) judge(dest Addr, ips []netip.Addr) (v verdict) {
	ctx := p.ctx
	if base := RequestOf(ctx); base != nil {
		req := *base
		req.Dest = dest
		ctx = WithRequest(ctx, &req)
	}
	v.to = p.first(dest, ips, func(to netip.AddrPort) bool { return p.direct.check(ctx, p.network, to) == nil })
	v.expires = time.Now().Add(verdictTTL)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verdicts == nil || len(p.verdicts) >= maxVerdicts {
		p.verdicts = make(map[Addr]verdict)
	}
	p.verdicts[dest] = v
	return v
}

// first returns the first of a destination's addresses that the socket reaches
// and that is allowed; it is not valid if there is none.
func (p *directPacket) first(dest Addr, ips []netip.Addr, allowed func(netip.AddrPort) bool) netip.AddrPort {
	for _, ip := range ips {
		to := netip.AddrPortFrom(ip, dest.Port)
		if dest.Port != 0 && p.reaches(ip) && allowed(to) {
			return to
		}
	}
	return netip.AddrPort{}
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
	p.lookups.Go(func() { p.look(l, name) })
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
// p.mu is held while it sends, and later datagrams must pass resolve first.
func (p *directPacket) look(l *lookup, name string) {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	ips, err := p.direct.resolve(ctx, name)
	ips = p.direct.routedFirst(ctx, ips)
	verdicts := make(map[Addr]verdict)
	for {
		// Check may take its time, so that it is asked without the lock.
		for dest := range p.unjudged(l, verdicts) {
			verdicts[dest] = p.judge(dest, ips)
		}
		p.mu.Lock()
		if p.finish(l, verdicts, ips, err) {
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// routedFirst puts the addresses of a family that this host has a way to before
// those of the other: a datagram has no second try, as a connection has.
func (d *Direct) routedFirst(ctx context.Context, ips []netip.Addr) []netip.Addr {
	if !slices.ContainsFunc(ips, netip.Addr.Is4) || !slices.ContainsFunc(ips, netip.Addr.Is6) {
		return ips
	}
	isSecond := func(ip netip.Addr) bool { return ip.Is4() != ips[0].Is4() }
	if d.hasRoute(ctx, ips[0]) || !d.hasRoute(ctx, ips[slices.IndexFunc(ips, isSecond)]) {
		return ips
	}
	sorted := slices.DeleteFunc(slices.Clone(ips), func(ip netip.Addr) bool { return !isSecond(ip) })
	return append(sorted, slices.DeleteFunc(slices.Clone(ips), isSecond)...)
}

// hasRoute reports whether the system would send a datagram to ip.
func (d *Direct) hasRoute(ctx context.Context, ip netip.Addr) bool {
	dialer := net.Dialer{Control: d.Control}
	conn, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(ip, 9).String()) // nothing is sent
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// unjudged returns the destinations of what waits that have no verdict yet.
func (p *directPacket) unjudged(l *lookup, verdicts map[Addr]verdict) map[Addr]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[Addr]bool)
	for _, d := range l.waiting {
		if _, known := verdicts[d.Addr]; !known {
			all[d.Addr] = true
		}
	}
	return all
}

// finish ends a look-up, unless a datagram has come meanwhile whose verdict is
// not known. p.mu is held.
func (p *directPacket) finish(l *lookup, verdicts map[Addr]verdict, ips []netip.Addr, err error) bool {
	var ms []udp.Message
	for _, d := range l.waiting {
		v, known := verdicts[d.Addr]
		if !known {
			return false
		}
		if v.to.IsValid() {
			ms = append(ms, udp.Message{Payload: d.Payload, Addr: v.to})
		} else {
			p.dropped.Add(1)
		}
	}
	p.pending--
	l.done = true
	l.ips = ips
	l.expires = time.Now().Add(nameTTL)
	if err != nil {
		l.expires = time.Now().Add(5 * time.Second)
	}
	for _, d := range l.waiting {
		p.queued--
		p.waiting -= len(d.Payload)
	}
	l.waiting = nil
	_, _ = p.send(ms) // a closed socket ends the reader, who tells
	return true
}
