// Package serve is the life of a server: an accept loop that survives a lack
// of descriptors, a deadline and a bound for clients that have not yet said
// what they want, shutdown, a connection with bytes put back, and a listener
// that is fed with connections.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
)

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("server closed")

// A Server accepts connections and gives each to Handle in a goroutine of its own.
//
// A connection is in its handshake until [Established] is called with its
// context. A handshake that outlives Timeout, or is the oldest of too many, is
// cut.
type Server struct {
	// Handle serves one connection. It owns conn and must see to its end.
	Handle func(ctx context.Context, conn net.Conn)

	// Timeout bounds a handshake. 0 means 10 seconds, negative no bound.
	Timeout time.Duration

	// MaxHandshakes bounds the connections in their handshake; the oldest
	// makes room for a new one. 0 means 4096.
	MaxHandshakes int

	// MaxPerClient bounds those from one address (IPv4) or /64 (IPv6).
	// 0 means half of MaxHandshakes.
	MaxPerClient int

	// Log takes what an operator should know; nil discards it.
	Log *slog.Logger

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	pending   pending
	handlers  sync.WaitGroup
	base      context.Context // of the handlers; ends with Close
	cancel    context.CancelFunc
	accepting context.Context // ends with Shutdown, too
	stopped   context.CancelFunc
	closed    bool
}

// DefaultTimeout is the time that a client has for its handshake.
const DefaultTimeout = 10 * time.Second

// Serve accepts connections from ln until Shutdown or Close, after which it
// returns [ErrServerClosed], or until accepting fails for good. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	if !s.begin(ln) {
		return ErrServerClosed
	}
	defer s.end(ln)
	retry := backoff{log: s.Log}
	for {
		err := s.accept(ln, &retry)
		switch {
		case err == nil:
		case s.isClosed():
			return ErrServerClosed
		case !passing(err):
			return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
		default:
			if !retry.wait(s.accepting, err) {
				return ErrServerClosed
			}
		}
	}
}

// accept has the next connection served, or, on event loops, all until there
// is an error.
func (s *Server) accept(ln net.Listener, retry *backoff) error {
	inner := ln
	if w, ok := ln.(interface{ NetListener() net.Listener }); ok {
		inner = w.NetListener()
	}
	if l, ok := inner.(interface{ AcceptTo(func(net.Conn)) error }); ok {
		return l.AcceptTo(func(conn net.Conn) {
			retry.reset()
			s.start(ln, conn)
		})
	}
	conn, err := ln.Accept()
	if err == nil {
		retry.reset()
		s.start(ln, conn)
	}
	return err
}

func (s *Server) begin(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.listeners == nil {
		s.listeners = make(map[net.Listener]struct{})
		base, cancel := context.WithCancel(context.Background())
		s.base, s.cancel = event.NewRoot(base), cancel
		s.accepting, s.stopped = context.WithCancel(base)
		s.pending.init(s.MaxHandshakes, s.MaxPerClient)
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) end(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// start serves conn, unless the server was closed meanwhile.
func (s *Server) start(ln net.Listener, conn net.Conn) {
	h := &handshake{server: s, conn: conn, inbound: inboundName(ln)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.handlers.Add(1)
	victim := s.pending.add(h)
	s.mu.Unlock()
	if victim != nil {
		victim.cut()
	}
	event.Go(conn, func(t *event.Task) {
		defer s.handlers.Done()
		defer h.leave()
		defer s.survive(conn)
		if timeout := s.timeout(); timeout > 0 {
			h.limit(time.Now().Add(timeout))
		}
		h.task, h.Context = t, s.base
		if t != nil {
			h.Context = event.WithTask(s.base, t)
		}
		s.Handle(h, conn)
	})
}

// survive keeps a panic in one connection's handler from ending all others.
func (s *Server) survive(conn net.Conn) {
	v := recover()
	if v == nil {
		return
	}
	conn.Close()
	if s.Log != nil {
		s.Log.Error("panic while serving", "client", conn.RemoteAddr().String(), "panic", v, "stack", string(debug.Stack()))
	}
}

func (s *Server) timeout() time.Duration {
	if s.Timeout == 0 {
		return DefaultTimeout
	}
	return s.Timeout
}

// Shutdown stops listening and waits for the handlers. When ctx ends first,
// it cuts them as Close does and returns the error of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	done := make(chan struct{})
	go func() {
		s.handlers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.Close()
		<-done
		return ctx.Err()
	}
}

// Close stops listening, cuts every handshake, and cancels the handlers' contexts.
func (s *Server) Close() error {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	for h := range s.pending.all() {
		h.conn.Close()
	}
	return nil
}

func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.stopped != nil {
		s.stopped()
	}
	for ln := range s.listeners {
		ln.Close()
	}
	// Who has not said yet what he wants is no session to wait for.
	for h := range s.pending.all() {
		h.limit(time.Now().Add(lastCall))
	}
}

// lastCall is the time that a handshake has after Shutdown.
const lastCall = 500 * time.Millisecond

// inboundName is what rules and logs call a listener: its own name if it has
// one, else its address.
func inboundName(ln net.Listener) string {
	if n, ok := ln.(interface{ Name() string }); ok {
		return n.Name()
	}
	return ln.Addr().String()
}
