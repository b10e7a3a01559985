package transparent

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/udp"
)

// A PacketServer makes one UDP ASSOCIATE of all datagrams that one client, an
// address and port, sends through its socket: wherever they go, they have one
// mapping (RFC 4787, endpoint-independent). Its fields are not to be changed
// once it serves.
type PacketServer struct {
	// Handler answers the calls.
	Handler argyle.Handler

	// Dest is where all datagrams go, and then replies leave from the
	// socket itself. Zero means a socket of [ListenUDP], where every
	// datagram says where it goes.
	Dest argyle.Addr

	// Name returns the name that an address stands for, as [Server.Name].
	Name func(netip.Addr) (name string, fake bool)

	// Realms are asked before Name. A client has a mapping for each of them, and
	// one for all else.
	Realms []Realm

	// Reply opens a socket that sends from src. The server keeps it for a
	// while, and closes it. Needed if Dest is zero, unless there is Send.
	Reply func(src netip.AddrPort) (*net.UDPConn, error)

	// Send, if not nil, sends a datagram for which Reply is nil, or has no
	// socket, and reports whether it has gone.
	Send func(src, dst netip.AddrPort, payload []byte) bool

	// Refuse, if not nil, tells a client that nobody is there: at an address
	// that stands for no name, and where the handler has rejected its call.
	Refuse func(src, dst netip.AddrPort, payload []byte)

	// DNS, if not nil, gives the answer to a query that client sends to port
	// 53 of server, or nil for none. Handler does not see those. ctx ends with
	// the PacketServer.
	DNS func(ctx context.Context, client, server netip.AddrPort, query []byte) (answer []byte)

	// Inbound is what rules and logs call the way in.
	Inbound string

	// Idle is how long a client may be silent. 0 means one minute.
	Idle time.Duration

	// MaxClients bounds the clients; the one that has been silent for
	// longest makes room. One address (IPv4) or /64 (IPv6) may have half,
	// unless all come from one. 0 means 4096.
	MaxClients int

	// Log takes what an operator should know; nil discards it.
	Log *slog.Logger

	dropped atomic.Uint64
	queued  atomic.Int64 // bytes that wait for handlers
	replies replies
	fixed   *udp.Conn // the socket, if Dest is not zero

	mu      sync.Mutex
	sock    *net.UDPConn
	flows   map[flowKey]*flow
	clients map[netip.Prefix]int // how many of the flows each has
	recent  list.List            // the flows, latest first
	queries int
	ctx     context.Context // of the calls
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	done    chan struct{} // closed when Serve is at its end
	closed  bool
}

// Bounds of a PacketServer.
const (
	defaultIdle       = time.Minute
	defaultMaxClients = 4096
	maxFlowQueue      = 2 << 20 // bytes that wait for one handler
	maxFlowPackets    = 4096
	maxQueued         = 64 << 20 // bytes that wait for all of them
	maxQueries        = 512
	refusedTime       = time.Second // until a client that was rejected may call again
)

// packet is a datagram and where it was to go.
type packet struct {
	src, dst netip.AddrPort // dst is not valid where there is one destination for all
	payload  []byte
}

// Serve reads datagrams from conn, which it closes, until Shutdown or Close, and
// then returns [ErrServerClosed]. It may be called once.
func (s *PacketServer) Serve(conn *net.UDPConn) error {
	defer conn.Close()
	if !s.begin(conn) {
		return ErrServerClosed
	}
	defer s.end()
	read, err := s.reader(conn)
	if err != nil {
		return fmt.Errorf("serve %v: %w", conn.LocalAddr(), err)
	}
	for err = read(); err == nil; {
		err = read()
	}
	if s.isClosed() {
		return ErrServerClosed
	}
	return fmt.Errorf("read from %v: %w", conn.LocalAddr(), err)
}

// ServeFrom is Serve for datagrams that come by no socket; their answers leave by
// Send. read waits for some and hands each of them to receive, which keeps nothing
// of it. Close does not end read: its error does.
func (s *PacketServer) ServeFrom(read func(receive func(src, dst netip.AddrPort, payload []byte)) error) error {
	if !s.begin(nil) {
		return ErrServerClosed
	}
	defer s.end()
	one := make([]packet, 1)
	receive := func(src, dst netip.AddrPort, payload []byte) {
		one[0] = packet{src: src, dst: dst, payload: payload}
		s.received(one)
	}
	for {
		if err := read(receive); s.isClosed() {
			return ErrServerClosed
		} else if err != nil {
			return err
		}
	}
}

// reader returns a function that waits for datagrams and deals them out.
func (s *PacketServer) reader(conn *net.UDPConn) (func() error, error) {
	if s.Dest.IsZero() {
		return receiver(conn, s.received)
	}
	sock, err := udp.New(conn)
	if err != nil {
		return nil, err
	}
	s.fixed = sock
	return func() error { return sock.ReadBatch(s.receivedFixed) }, nil
}

// Dropped says how many datagrams nobody was there for, or had room for.
func (s *PacketServer) Dropped() uint64 { return s.dropped.Load() }

// Waiting says how many bytes of datagrams wait for the handlers of their calls.
func (s *PacketServer) Waiting() int64 { return s.queued.Load() }

func (s *PacketServer) begin(sock *net.UDPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.done != nil {
		return false
	}
	s.sock = sock
	s.flows = make(map[flowKey]*flow)
	s.clients = make(map[netip.Prefix]int)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.done = make(chan struct{})
	s.replies.open = s.Reply
	return true
}

// end waits for the calls, and takes them along if reading has failed.
func (s *PacketServer) end() {
	if !s.isClosed() {
		s.Close()
	}
	s.wg.Wait()
	s.cancel()
	s.replies.close()
	close(s.done)
}

func (s *PacketServer) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Shutdown stops reading and waits for the calls, which end when nothing more
// comes for their clients. When ctx ends first, it cuts them and returns the
// error of ctx.
func (s *PacketServer) Shutdown(ctx context.Context) error {
	if !s.stop() {
		return nil
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.Close()
		<-s.done
		return ctx.Err()
	}
}

// Close stops reading and ends the calls.
func (s *PacketServer) Close() error {
	if !s.stop() {
		return nil
	}
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flows {
		s.remove(f)
	}
	return nil
}

// stop ends the reading, but not the socket, by which replies may leave. It
// reports false if nothing has begun.
func (s *PacketServer) stop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.done == nil {
		return false
	}
	if s.sock != nil {
		_ = s.sock.SetReadDeadline(time.Unix(1, 0))
	}
	return true
}

// receivedFixed takes what was read from a socket that stands for one destination.
func (s *PacketServer) receivedFixed(ms []udp.Message) {
	for _, m := range ms {
		s.deal(packet{src: m.Addr, payload: m.Payload}, nil, s.Dest)
	}
}

// received takes what was read from a transparent socket.
func (s *PacketServer) received(ps []packet) {
	for _, p := range ps {
		if !p.sane() {
			s.dropped.Add(1)
			continue
		}
		if p.dst.Port() == 53 && s.DNS != nil {
			s.query(p)
			continue
		}
		realm, dest, err := s.located(p.dst)
		if err != nil {
			s.dropped.Add(1)
			s.refuse(p)
			continue
		}
		s.deal(p, realm, dest)
	}
}

// refuse tells the client of a datagram that nobody is there.
func (s *PacketServer) refuse(p packet) {
	if s.Refuse != nil && p.dst.IsValid() {
		s.Refuse(p.src, p.dst, p.payload)
	}
}

// located returns what dst stands for, and in which realm, nil for none.
func (s *PacketServer) located(dst netip.AddrPort) (*Realm, argyle.Addr, error) {
	if realm, ip := realmOf(s.Realms, dst.Addr()); realm != nil {
		return realm, argyle.Addr{IP: ip, Port: dst.Port()}, nil
	}
	dest, err := named(s.Name, argyle.AddrFrom(dst))
	return nil, dest, err
}

// sane reports whether a datagram can have an answer: no port is 0, and the
// destination is one host.
func (p *packet) sane() bool {
	dst := p.dst.Addr()
	return p.src.Port() != 0 && p.dst.Port() != 0 && dst.IsValid() && !dst.IsUnspecified() && !dst.IsMulticast() &&
		dst != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// query has a DNS query answered, beside the path of the datagrams.
func (s *PacketServer) query(p packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.queries >= maxQueries {
		s.dropped.Add(1)
		return
	}
	s.queries++
	msg := bytes.Clone(p.payload)
	s.wg.Go(func() {
		defer s.survive(p.src)
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.queries--
		}()
		if answer := s.DNS(s.ctx, p.src, p.dst, msg); answer != nil {
			if s.send(p.dst, []udp.Message{{Payload: answer, Addr: p.src}}) == 0 {
				s.dropped.Add(1)
			}
		}
	})
}

// send sends datagrams from src and says how many have gone.
func (s *PacketServer) send(src netip.AddrPort, ms []udp.Message) (sent int) {
	if s.Reply != nil {
		sent = s.replies.send(src, ms)
	}
	if s.Send == nil || sent > 0 {
		return sent
	}
	for _, m := range ms {
		if s.Send(src, m.Addr, m.Payload) {
			sent++
		}
	}
	return sent
}

// deal gives a datagram to its client's flow.
func (s *PacketServer) deal(p packet, realm *Realm, dest argyle.Addr) {
	s.mu.Lock()
	f := s.flow(p, realm, dest)
	s.mu.Unlock()
	switch {
	case f != nil && f.rejected.Load():
		s.dropped.Add(1)
		s.refuse(p)
	case f == nil || !f.put(p, dest):
		s.dropped.Add(1)
	}
}

// flow returns the flow of a datagram, nil if there can be none. s.mu is held.
func (s *PacketServer) flow(p packet, realm *Realm, dest argyle.Addr) *flow {
	key := flowKey{client: p.src, realm: realm}
	f := s.flows[key]
	if f != nil && f.standsFor(p, dest) && !f.named(p.dst) {
		// Replies come from an address that nobody can tell the name of,
		// so two names of one port need associations of their own.
		key.dest = p.dst
		f = s.flows[key]
	}
	if f != nil {
		s.recent.MoveToFront(f.element)
		return f
	}
	if s.closed {
		return nil
	}
	s.makeRoom(p.src.Addr())
	return s.start(key, p, dest)
}

// start begins a flow and its call. s.mu is held.
func (s *PacketServer) start(key flowKey, p packet, dest argyle.Addr) *flow {
	f := newFlow(s, key)
	if f.standsFor(p, dest) {
		f.named(p.dst)
	}
	if s.Refuse != nil {
		f.first = packet{src: p.src, dst: p.dst, payload: bytes.Clone(p.payload)}
	}
	s.flows[key] = f
	s.clients[prefixOf(p.src.Addr())]++
	f.element = s.recent.PushFront(f)
	s.wg.Go(func() {
		defer s.survive(p.src)
		c := &packetCall{flow: f, request: argyle.Request{Command: argyle.Associate, Client: p.src, Inbound: s.Inbound}}
		if key.realm != nil {
			c.request.Inbound = key.realm.Inbound
		}
		defer c.end()
		s.Handler.ServeCall(s.ctx, c)
	})
	return f
}

// makeRoom ends the flow that has been silent for longest, if there are too
// many. s.mu is held.
func (s *PacketServer) makeRoom(client netip.Addr) {
	limit := s.MaxClients
	if limit <= 0 {
		limit = defaultMaxClients
	}
	if len(s.flows) < limit {
		return
	}
	prefix := prefixOf(client)
	greedy := s.clients[prefix] > limit/2
	for e := s.recent.Back(); e != nil; e = e.Prev() {
		f := e.Value.(*flow)
		if !greedy || prefixOf(f.key.client.Addr()) == prefix {
			s.remove(f)
			return
		}
	}
}

// remove ends a flow. s.mu is held.
func (s *PacketServer) remove(f *flow) {
	if s.flows[f.key] != f {
		return
	}
	delete(s.flows, f.key)
	s.recent.Remove(f.element)
	prefix := prefixOf(f.key.client.Addr())
	if s.clients[prefix]--; s.clients[prefix] == 0 {
		delete(s.clients, prefix)
	}
	f.end()
}

// prefixOf returns what counts as one client: an IPv4 address or an IPv6 /64.
func prefixOf(ip netip.Addr) netip.Prefix {
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // fails only for an invalid address
	return prefix
}

// survive keeps a panic in one call's handler from ending all others.
func (s *PacketServer) survive(client netip.AddrPort) {
	if v := recover(); v != nil && s.Log != nil {
		s.Log.Error("panic while serving", "client", client.String(), "panic", v, "stack", string(debug.Stack()))
	}
}
