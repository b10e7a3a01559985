package transparent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/argyle-socks/argyle"
)

const (
	defaultMaxHeld = 1024
	maxRemembered  = 16384            // answered SYNs that are kept for those sent again
	acceptTime     = 10 * time.Second // for a handshake within the system
)

// errGone ends the wait for a connection whose client has given up.
var errGone = errors.New("client has given up")

// Hold makes a call of every SYN that waits in queue (see [OpenQueue]) and lets
// the answer decide: accepted, the system finishes the handshake, and the
// connection, which Serve accepts, is the call's; rejected, the client's
// connect fails as the dial has. A SYN that is dropped is one whose dial has
// run out of time. Hold closes queue, returns as Serve does, and may be called
// once.
func (s *Server) Hold(queue *os.File) error {
	defer queue.Close()
	h := &s.hold
	if !h.begin(s, queue) {
		return ErrServerClosed
	}
	defer h.end()
	buf := make([]byte, 1<<16)
	for {
		n, err := queue.Read(buf)
		switch {
		case h.isClosed():
			return ErrServerClosed
		case errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.EINTR):
			continue // what did not fit in has gone on without us
		case err != nil:
			h.cancel()
			return fmt.Errorf("read queue of held connections: %w", err)
		}
		h.received(queue, buf[:n])
	}
}

// Held says how many SYNs wait for an answer now, and how many have been let
// through without one because there were too many.
func (s *Server) Held() (waiting int, overflow uint64) {
	s.hold.mu.Lock()
	defer s.hold.mu.Unlock()
	return s.hold.waiting, s.hold.overflow
}

// holder is what Hold knows.
type holder struct {
	begun  atomic.Bool
	server *Server
	queue  *os.File
	done   chan struct{}   // closed when Hold is at its end
	ctx    context.Context // of the calls
	cancel context.CancelFunc
	wg     sync.WaitGroup // the calls

	mu       sync.Mutex
	calls    map[pair]*heldCall // those that wait, and for a while those that were answered
	waiting  int
	overflow uint64
	closed   bool
}

func (h *holder) begin(s *Server, queue *os.File) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.begun.Load() {
		return false
	}
	h.server, h.queue = s, queue
	h.calls = make(map[pair]*heldCall)
	h.done = make(chan struct{})
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.begun.Store(true)
	return true
}

// end waits for the calls, which still need the queue.
func (h *holder) end() {
	h.wg.Wait()
	h.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.calls {
		h.forget(c)
	}
	close(h.done)
}

func (h *holder) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// stop ends the reading.
func (h *holder) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.begun.Load() {
		_ = h.queue.SetReadDeadline(time.Unix(1, 0))
	}
}

// close stops and cancels the calls.
func (h *holder) close() {
	h.stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cancel != nil {
		h.cancel()
	}
	for _, c := range h.calls {
		c.leave()
	}
}

func (h *holder) shutdown(ctx context.Context) error {
	h.stop()
	if !h.begun.Load() {
		return nil
	}
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		h.close()
		<-h.done
		return ctx.Err()
	}
}

// received takes what one read of the queue has given.
func (h *holder) received(queue io.Writer, b []byte) {
	for {
		kind, body, rest, ok := nextMessage(b)
		if !ok {
			return
		}
		b = rest
		if kind != msgPacket {
			continue // an error of a verdict that came too late
		}
		q, ok := parseQueued(body)
		if !ok {
			continue
		}
		v := accept()
		if p, ok := parseSYN(q.packet); ok {
			if v, ok = h.syn(queue, q, p); !ok {
				continue // it waits
			}
		}
		give(queue, q.queue, q.id, v)
	}
}

// give gives a verdict. It fails only for a packet or a queue that is gone.
func give(queue io.Writer, num uint16, id uint32, v verdict) {
	var b [64]byte
	_, _ = queue.Write(appendVerdict(b[:0], num, id, v))
}

// syn returns the verdict about a SYN, unless it is to wait.
func (h *holder) syn(queue io.Writer, q queued, p synPacket) (v verdict, decided bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.calls[p.pair]; c != nil {
		if c.seq == p.seq {
			return c.again(), true
		}
		h.forget(c) // its client has begun anew
	}
	limit := h.server.MaxHeld
	if limit == 0 {
		limit = defaultMaxHeld
	}
	if h.closed || h.waiting >= limit {
		h.overflow++
		return accept(), true
	}
	h.start(queue, q, p)
	return v, false
}

// start makes a call of a SYN. h.mu is held.
func (h *holder) start(queue io.Writer, q queued, p synPacket) {
	now := time.Now()
	c := &heldCall{
		hold: h, queue: queue, num: q.queue, id: q.id, seq: p.seq, pair: p.pair,
		first: now, last: now, verdict: drop(),
		conns: make(chan net.Conn, 1), gone: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(h.ctx)
	c.cancel = cancel
	c.timer = time.AfterFunc(patience, c.overdue)
	h.calls[p.pair] = c
	h.waiting++
	h.wg.Go(func() {
		defer c.finish()
		h.serve(ctx, c)
	})
}

// serve has a held call answered.
func (h *holder) serve(ctx context.Context, c *heldCall) {
	s := h.server
	defer func() {
		if v := recover(); v != nil && s.Log != nil {
			s.Log.Error("panic while serving", "client", c.client.String(), "panic", v, "stack", string(debug.Stack()))
		}
	}()
	dest, inbound, err := s.located(argyle.AddrFrom(c.dest))
	c.request = s.request(dest, c.client, inbound)
	if err != nil {
		s.refused(&c.request, err)
		c.Reject(err)
		return
	}
	s.Handler.ServeCall(ctx, c)
}

// forget takes a call out of the table. What waits for the client then waits
// in vain. h.mu is held.
func (h *holder) forget(c *heldCall) {
	c.timer.Stop()
	if !c.answered || c.expects {
		c.leave()
	}
	if h.calls[c.pair] == c {
		delete(h.calls, c.pair)
	}
}

// take gives a connection to the call that has made it, if there is one.
func (h *holder) take(conn net.Conn) bool {
	if !h.begun.Load() {
		return false
	}
	key := pair{client: plainOf(conn.RemoteAddr()), dest: plainOf(conn.LocalAddr())}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.calls[key]
	if c == nil || !c.expects {
		return false
	}
	c.expects = false
	c.conns <- conn
	return true
}
