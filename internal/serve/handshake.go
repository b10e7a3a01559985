package serve

import (
	"context"
	"iter"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
)

// handshake is a connection whose client has not yet said what it wants.
// It is the context of what is done for it, too.
type handshake struct {
	context.Context
	server  *Server
	conn    net.Conn
	inbound string
	task    *event.Task // nil without an event loop

	setting  sync.Mutex // held while a deadline is set
	deadline time.Time  // of the handshake; zero for none

	// Guarded by server.mu.
	fed        bool    // another server goes on with the handshake
	from       *client // nil once established
	prev, next *handshake
}

type handshakeKey struct{}

// Established says that the client of this connection has completed its
// handshake: its deadline is lifted, and it no longer counts among those that
// may be cut to make room. It may be called more than once.
func Established(ctx context.Context) {
	if h, ok := ctx.Value(handshakeKey{}).(*handshake); ok {
		h.established()
	}
}

// Limit gives the client of this connection until d from now to complete its
// handshake, in place of [Server.Timeout]. A negative d means no bound.
func Limit(ctx context.Context, d time.Duration) {
	h, ok := ctx.Value(handshakeKey{}).(*handshake)
	switch {
	case !ok:
	case d < 0:
		h.limit(time.Time{})
	default:
		h.limit(time.Now().Add(d))
	}
}

// Inbound returns the name of the listener that the connection came from, ""
// if none is known.
func Inbound(ctx context.Context) string {
	if h, ok := ctx.Value(handshakeKey{}).(*handshake); ok {
		return h.inbound
	}
	return ""
}

// Value is that of [context.Context].
func (h *handshake) Value(key any) any {
	if key == (handshakeKey{}) {
		return h
	}
	return h.Context.Value(key)
}

func (h *handshake) established() {
	if h.remove(false) {
		h.limit(time.Time{})
	}
}

// limit sets the deadline of the handshake; zero means none.
func (h *handshake) limit(deadline time.Time) {
	h.setting.Lock()
	defer h.setting.Unlock()
	h.deadline = deadline
	_ = h.conn.SetReadDeadline(deadline)
}

// setReadDeadline sets the deadline of conn, the client's connection, to t, or
// to the handshake's if that comes first.
func (h *handshake) setReadDeadline(conn net.Conn, t time.Time) error {
	h.setting.Lock()
	defer h.setting.Unlock()
	if !h.deadline.IsZero() && (t.IsZero() || t.After(h.deadline)) {
		t = h.deadline
	}
	return conn.SetReadDeadline(t)
}

// leave is called when Handle has returned.
func (h *handshake) leave() { h.remove(true) }

// feed says that the handshake outlives Handle.
func (h *handshake) feed() {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	h.fed = true
}

// remove ends the handshake and reports whether it had not ended before. A
// handshake that another server goes on with stays if unlessFed is set.
func (h *handshake) remove(unlessFed bool) bool {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	if h.from == nil || unlessFed && h.fed {
		return false
	}
	h.server.pending.remove(h)
	return true
}

// cut ends a handshake to make room for another.
func (h *handshake) cut() {
	if h.server.Log != nil {
		h.server.Log.Debug("handshake cut to make room", "client", h.conn.RemoteAddr().String())
	}
	h.conn.Close()
}

// pending holds the handshakes under way: a ring, the oldest first, and their
// number per client. Ordinary clients leave it within milliseconds, so the
// oldest is almost surely one that does not mean to finish.
type pending struct {
	max, maxPerClient int
	n                 int
	ring              handshake // sentinel
	clients           map[netip.Prefix]*client
}

// client is the number of handshakes from one address prefix.
type client struct {
	prefix netip.Prefix
	n      int
}

func (p *pending) init(limit, perClient int) {
	if limit <= 0 {
		limit = 4096
	}
	if perClient <= 0 {
		perClient = max(limit/2, 1)
	}
	p.max, p.maxPerClient = limit, perClient
	p.ring.prev, p.ring.next = &p.ring, &p.ring
	p.clients = make(map[netip.Prefix]*client)
}

// add enters h and returns the handshake to be cut for it, if any.
func (p *pending) add(h *handshake) (victim *handshake) {
	prefix := clientPrefix(h.conn)
	from := p.clients[prefix]
	if from == nil {
		from = &client{prefix: prefix}
		p.clients[prefix] = from
	}
	switch {
	case from.n >= p.maxPerClient:
		victim = p.oldest(from)
	case p.n >= p.max:
		victim = p.ring.next
	}
	if victim != nil {
		p.remove(victim)
		p.clients[prefix] = from // in case the victim was its last
	}
	h.from = from
	from.n++
	p.n++
	h.prev, h.next = p.ring.prev, &p.ring
	h.prev.next, h.next.prev = h, h
	return victim
}

// oldest returns the oldest handshake from one client. The search is short
// where it matters: a client at its bound owns half of the ring.
func (p *pending) oldest(from *client) *handshake {
	for h := range p.all() {
		if h.from == from {
			return h
		}
	}
	return nil
}

func (p *pending) all() iter.Seq[*handshake] {
	return func(yield func(*handshake) bool) {
		for h := p.ring.next; h != nil && h != &p.ring; h = h.next {
			if !yield(h) {
				return
			}
		}
	}
}

// remove takes h out, if it is still in.
func (p *pending) remove(h *handshake) {
	if h.from == nil {
		return
	}
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
	p.n--
	if h.from.n--; h.from.n == 0 {
		delete(p.clients, h.from.prefix)
	}
	h.from = nil
}

// clientPrefix returns what counts as one client: an IPv4 address or an IPv6
// /64; the zero prefix for a unix socket.
func clientPrefix(conn net.Conn) netip.Prefix {
	var from netip.AddrPort
	if known, ok := conn.(interface{ RemoteAddrPort() netip.AddrPort }); ok { // without an allocation
		from = known.RemoteAddrPort()
	} else if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		from = tcp.AddrPort()
	}
	ip := from.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // fails only for an invalid address: the zero prefix
	return prefix
}
