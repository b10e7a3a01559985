package transparent

import (
	"container/list"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/udp"
)

// flowKey is what a call is made of: a client, the realm that it sends to and,
// where one client's flow has had to be split, a destination.
type flowKey struct {
	client, dest netip.AddrPort
	realm        *Realm
}

// flow is one client's datagrams: the connection that AcceptPacket returns.
type flow struct {
	first    packet      // until the call is answered, for a refusal
	rejected atomic.Bool // is its call

	server  *PacketServer
	key     flowKey
	element *list.Element // guarded by server.mu
	active  atomic.Int64  // when a datagram last passed, on our clock
	idle    *time.Timer
	wake    chan struct{} // something has come
	done    chan struct{} // closed at the end
	dropped atomic.Uint64

	mu       sync.Mutex
	in       *queue
	names    map[uint16]netip.AddrPort // what stands for a name, by port
	literals map[netip.AddrPort]struct{}
	ended    bool
	deadline time.Time

	batch []argyle.Datagram // of ReadBatch, reused
}

var _ argyle.BatchConn = (*flow)(nil)

// maxLiterals bounds the addresses that a flow remembers beside a name.
const maxLiterals = 256

// queue is datagrams that wait: their payloads in a row.
type queue struct {
	payload []byte
	packets []waiting
}

type waiting struct {
	addr argyle.Addr
	end  int // of its payload
}

var queues = sync.Pool{New: func() any { return new(queue) }}

func (q *queue) release() {
	clear(q.packets)
	q.payload, q.packets = q.payload[:0], q.packets[:0]
	queues.Put(q)
}

var clock = time.Now()

func newFlow(s *PacketServer, key flowKey) *flow {
	f := &flow{server: s, key: key, wake: make(chan struct{}, 1), done: make(chan struct{})}
	f.touch()
	f.idle = time.AfterFunc(s.idleTime(), f.rest)
	return f
}

func (s *PacketServer) idleTime() time.Duration {
	if s.Idle <= 0 {
		return defaultIdle
	}
	return s.Idle
}

func (f *flow) touch() { f.active.Store(int64(time.Since(clock))) }

// rest is called when the client may have been silent for too long.
func (f *flow) rest() {
	left := f.server.idleTime() - (time.Since(clock) - time.Duration(f.active.Load()))
	if left <= 0 {
		f.Close()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.idle.Reset(left)
	}
}

// standsFor reports whether the address that a datagram was sent to stands for a
// name, or for another address.
func (f *flow) standsFor(p packet, dest argyle.Addr) bool {
	return f.key.realm == nil && p.dst.IsValid() && dest.IP != p.dst.Addr()
}

// named notes that dst stands for a name. It reports false if the flow has
// another name of the same port. f.server.mu is held.
func (f *flow) named(dst netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.names[dst.Port()]; ok {
		return known == dst
	}
	if f.names == nil {
		f.names = make(map[uint16]netip.AddrPort)
	}
	f.names[dst.Port()] = dst
	return true
}

// put adds a datagram to those that wait for the handler. It reports false if
// there is no room.
func (f *flow) put(p packet, dest argyle.Addr) bool {
	f.touch()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	if len(f.names) > 0 && !f.standsFor(p, dest) {
		f.literal(dest.AddrPort())
	}
	if f.in == nil {
		f.in = queues.Get().(*queue)
	}
	n := len(p.payload)
	if len(f.in.payload)+n > maxFlowQueue || len(f.in.packets) >= maxFlowPackets {
		return false
	}
	if f.server.queued.Add(int64(n)) > maxQueued {
		f.server.queued.Add(-int64(n))
		return false
	}
	f.in.payload = append(f.in.payload, p.payload...)
	f.in.packets = append(f.in.packets, waiting{addr: dest, end: len(f.in.payload)})
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return true
}

// literal notes that the client itself sends to an address, so that what comes
// from there is not taken for the answer of a name. f.mu is held.
func (f *flow) literal(dst netip.AddrPort) {
	if _, known := f.literals[dst]; known {
		return
	}
	if f.literals == nil || len(f.literals) >= maxLiterals {
		f.literals = make(map[netip.AddrPort]struct{})
	}
	f.literals[dst] = struct{}{}
}

// source returns the address by which the client knows a sender: the one that
// stands for the name, if it has sent to a name of that port and not to this
// very address; else its own. It reports false for a sender that the client
// shall not hear.
func (f *flow) source(from argyle.Addr) (netip.AddrPort, bool) {
	if dest := f.server.Dest; !dest.IsZero() {
		same := from == dest || dest.Name != "" && from.Port == dest.Port
		return from.AddrPort(), same
	}
	if realm := f.key.realm; realm != nil {
		ip, ok := realm.Source(from.IP)
		return netip.AddrPortFrom(ip, from.Port), ok
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.names[from.Port]; ok {
		if _, literal := f.literals[from.AddrPort()]; from.Name != "" || !literal {
			return known, true
		}
	}
	return from.AddrPort(), from.IP.IsValid()
}

// take waits for datagrams and takes all of them.
func (f *flow) take() (*queue, error) {
	for {
		f.mu.Lock()
		q, deadline, ended := f.in, f.deadline, f.ended
		if !deadline.IsZero() && time.Until(deadline) <= 0 && !ended {
			f.mu.Unlock()
			return nil, os.ErrDeadlineExceeded
		}
		f.in = nil
		f.mu.Unlock()
		if q != nil {
			f.server.queued.Add(-int64(len(q.payload)))
			return q, nil
		}
		if ended {
			return nil, net.ErrClosed
		}
		f.wait(deadline)
	}
}

// wait waits until something has come or has changed, or for deadline.
func (f *flow) wait(deadline time.Time) {
	var late <-chan time.Time // never, without a deadline
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-f.wake:
	case <-f.done:
	case <-late:
	}
}

// ReadBatch hands over what the client has sent.
func (f *flow) ReadBatch(handle func([]argyle.Datagram)) error {
	q, err := f.take()
	if err != nil {
		return err
	}
	defer q.release()
	f.batch = f.batch[:0]
	start := 0
	for _, w := range q.packets {
		f.batch = append(f.batch, argyle.Datagram{Addr: w.addr, Payload: q.payload[start:w.end:w.end]})
		start = w.end
	}
	handle(f.batch)
	clear(f.batch)
	return nil
}

// ReadFrom reads one datagram; addr is its destination.
func (f *flow) ReadFrom(b []byte) (n int, addr net.Addr, err error) {
	q, err := f.take()
	if err != nil {
		return 0, nil, err
	}
	defer q.release()
	n = copy(b, q.payload[:q.packets[0].end])
	addr = q.packets[0].addr
	f.putBack(q)
	return n, addr, nil
}

// putBack puts all but the first datagram of q before those that have come since.
func (f *flow) putBack(q *queue) {
	if len(q.packets) == 1 {
		return
	}
	rest := queues.Get().(*queue)
	first := q.packets[0].end
	rest.payload = append(rest.payload, q.payload[first:]...)
	for _, w := range q.packets[1:] {
		rest.packets = append(rest.packets, waiting{addr: w.addr, end: w.end - first})
	}
	f.server.queued.Add(int64(len(rest.payload)))
	f.mu.Lock()
	defer f.mu.Unlock()
	if later := f.in; later != nil {
		base := len(rest.payload)
		rest.payload = append(rest.payload, later.payload...)
		for _, w := range later.packets {
			rest.packets = append(rest.packets, waiting{addr: w.addr, end: base + w.end})
		}
		later.release()
	}
	f.in = rest
}

// outgoing is what WriteBatch gives to a socket.
type outgoing struct{ ms []udp.Message }

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// WriteBatch sends datagrams to the client, each from the address that the
// client knows their sender by.
func (f *flow) WriteBatch(ds []argyle.Datagram) (int, error) {
	select {
	case <-f.done:
		return 0, net.ErrClosed
	default:
	}
	f.touch()
	out := outgoings.Get().(*outgoing)
	defer outgoings.Put(out)
	sent := 0
	for len(ds) > 0 {
		src, ok := f.source(ds[0].Addr)
		n := 1
		for n < len(ds) && ds[n].Addr == ds[0].Addr {
			n++
		}
		if ok {
			sent += f.send(out, src, ds[:n])
		}
		f.dropped.Add(uint64(n))
		ds = ds[n:]
	}
	f.dropped.Add(-uint64(sent))
	return sent, nil
}

// send sends datagrams from one source.
func (f *flow) send(out *outgoing, src netip.AddrPort, ds []argyle.Datagram) int {
	for _, d := range ds {
		out.ms = append(out.ms, udp.Message{Payload: d.Payload, Addr: f.key.client})
	}
	defer func() {
		clear(out.ms)
		out.ms = out.ms[:0]
	}()
	s := f.server
	if s.Dest.IsZero() {
		return s.send(src, out.ms)
	}
	n, _ := s.fixed.WriteBatch(out.ms) // an error ends the reader, too
	return n
}

// WriteTo sends one datagram to the client, from addr.
func (f *flow) WriteTo(b []byte, addr net.Addr) (int, error) {
	if _, err := f.WriteBatch([]argyle.Datagram{{Addr: argyle.AddrOf(addr), Payload: b}}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Dropped says how many datagrams to the client were dropped.
func (f *flow) Dropped() uint64 { return f.dropped.Load() }

// Close ends the flow: its client's next datagram begins a new one.
func (f *flow) Close() error {
	f.server.mu.Lock()
	defer f.server.mu.Unlock()
	f.server.remove(f)
	return nil
}

// end is the end of a flow that is in no table any more. f.server.mu is held.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.idle.Stop()
	close(f.done)
	if f.in != nil {
		f.server.dropped.Add(uint64(len(f.in.packets)))
		f.server.queued.Add(-int64(len(f.in.payload)))
		f.in.release()
		f.in = nil
	}
}

// LocalAddr returns the address of the socket that reads.
func (f *flow) LocalAddr() net.Addr {
	if sock := f.server.sock; sock != nil {
		return sock.LocalAddr()
	}
	return new(net.UDPAddr)
}

// SetReadDeadline sets the time at which reads end.
func (f *flow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = t
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}

// SetDeadline is SetReadDeadline: writes do not wait.
func (f *flow) SetDeadline(t time.Time) error { return f.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes do not wait.
func (f *flow) SetWriteDeadline(time.Time) error { return nil }
