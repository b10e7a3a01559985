package transparent

import (
	"container/list"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/argyle-socks/argyle/internal/udp"
)

// Bounds on the sockets that replies leave from.
const (
	maxReplySockets = 512
	replyIdle       = time.Minute
	replyRetry      = time.Second // until an address that could not be bound is tried again
)

// replies holds the sockets that replies leave from, one for each source,
// whoever they go to.
type replies struct {
	open func(src netip.AddrPort) (*net.UDPConn, error)

	mu     sync.Mutex
	socks  map[netip.AddrPort]*list.Element // of *replySocket
	recent list.List                        // latest first
	timer  *time.Timer
	closed bool
}

// replySocket is the socket of one source.
type replySocket struct {
	src    netip.AddrPort
	opened time.Time
	used   time.Time // guarded by replies.mu
	once   sync.Once // opens it

	mu     sync.Mutex
	sock   *udp.Conn
	failed bool // to open
	closed bool
}

// send sends ms from src and says how many of them have gone.
func (r *replies) send(src netip.AddrPort, ms []udp.Message) int {
	for range 2 { // the socket may have been closed just now
		s := r.socket(src)
		if s == nil {
			return 0
		}
		s.once.Do(func() { s.begin(r.open) })
		if s.sock == nil {
			return 0
		}
		if n, err := s.sock.WriteBatch(ms); err == nil || n > 0 {
			return n
		}
	}
	return 0
}

// begin opens the socket.
func (s *replySocket) begin(open func(netip.AddrPort) (*net.UDPConn, error)) {
	sock, err := s.listen(open)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sock, s.failed = sock, err != nil
	if s.closed && err == nil {
		sock.Close()
	}
}

func (s *replySocket) listen(open func(netip.AddrPort) (*net.UDPConn, error)) (*udp.Conn, error) {
	if open == nil {
		return nil, errors.ErrUnsupported
	}
	conn, err := open(s.src)
	if err != nil {
		return nil, err
	}
	sock, err := udp.New(conn)
	if err != nil {
		conn.Close()
	}
	return sock, err
}

// stale reports whether the socket could not be opened, and a while ago.
func (s *replySocket) stale(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed && now.Sub(s.opened) >= replyRetry
}

func (s *replySocket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.sock != nil {
		s.sock.Close()
	}
}

// socket returns the socket of a source, not open yet if it is new; nil when
// all is over.
func (r *replies) socket(src netip.AddrPort) *replySocket {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	now := time.Now()
	if e := r.socks[src]; e != nil {
		if s := e.Value.(*replySocket); !s.stale(now) {
			s.used = now
			r.recent.MoveToFront(e)
			return s
		}
		r.remove(e)
	}
	if r.socks == nil {
		r.socks = make(map[netip.AddrPort]*list.Element)
	}
	if len(r.socks) >= maxReplySockets {
		r.remove(r.recent.Back())
	}
	s := &replySocket{src: src, opened: now, used: now}
	r.socks[src] = r.recent.PushFront(s)
	if r.timer == nil {
		r.timer = time.AfterFunc(replyIdle, r.sweep)
	}
	return s
}

// remove closes a socket. r.mu is held.
func (r *replies) remove(e *list.Element) {
	s := r.recent.Remove(e).(*replySocket)
	delete(r.socks, s.src)
	s.close()
}

// sweep closes the sockets that have not been used for long.
func (r *replies) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = nil
	for e := r.recent.Back(); e != nil && time.Since(e.Value.(*replySocket).used) >= replyIdle; e = r.recent.Back() {
		r.remove(e)
	}
	if e := r.recent.Back(); e != nil && !r.closed {
		r.timer = time.AfterFunc(replyIdle-time.Since(e.Value.(*replySocket).used), r.sweep)
	}
}

// close closes all sockets.
func (r *replies) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for e := r.recent.Back(); e != nil; e = r.recent.Back() {
		r.remove(e)
	}
	if r.timer != nil {
		r.timer.Stop()
	}
}
