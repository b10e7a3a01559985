package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/relay"
)

// A Session is one call, from its request to its last byte.
type Session struct {
	proxy *Proxy
	id    uint64
	call  argyle.Call
	start time.Time

	mu     sync.Mutex
	route  string             // the way out
	cancel context.CancelFunc // of the step under way, if it has one
	pair   *relay.Pair        // of TCP, once it relays
	closed bool               // by Close
	ended  bool
	err    error
	dur    time.Duration

	up, down atomic.Int64  // of UDP
	dropped  atomic.Uint64 // datagrams
}

// ID returns a number that no other session of this Proxy has.
func (s *Session) ID() uint64 { return s.id }

// Request returns what the client asked for.
func (s *Session) Request() *argyle.Request { return s.call.Request() }

// Start returns when the request was made.
func (s *Session) Start() time.Time { return s.start }

// Bytes says how many bytes of payload have reached the destination and the
// client so far.
func (s *Session) Bytes() (up, down int64) {
	s.mu.Lock()
	pair := s.pair
	s.mu.Unlock()
	if pair != nil {
		return pair.Bytes()
	}
	return s.up.Load(), s.down.Load()
}

// Dropped says how many datagrams went neither way.
func (s *Session) Dropped() uint64 { return s.dropped.Load() }

// Route names the way out, "" before it is known.
func (s *Session) Route() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.route
}

// Ended reports whether the session is over, and why if it did not end in order.
func (s *Session) Ended() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended, s.err
}

// Close cuts the session, whatever it is doing. It does not wait for its end.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.cancel != nil {
		s.cancel()
	}
	if s.pair != nil {
		s.pair.Close()
	}
	return nil
}

// bound returns a context for one step, which Close cancels. A negative
// timeout means none, and 0 the default.
func (s *Session) bound(ctx context.Context, timeout, byDefault time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := limit(ctx, timeout, byDefault)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = cancel
	if s.closed {
		cancel()
	}
	return ctx, cancel
}

func limit(ctx context.Context, timeout, byDefault time.Duration) (context.Context, context.CancelFunc) {
	switch {
	case timeout < 0:
		return context.WithCancel(ctx)
	case timeout == 0:
		timeout = byDefault
	}
	return context.WithTimeout(ctx, timeout)
}

// setRoute notes the way out by its name.
func (s *Session) setRoute(d argyle.Dialer) {
	name := ""
	if named, ok := d.(fmt.Stringer); ok {
		name = named.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.route = name
}

// reject answers the client with err, which it returns.
func (s *Session) reject(err error) error {
	s.call.Reject(err)
	return err
}

// relay joins the two connections and returns. The session ends with them.
func (s *Session) relay(client, upstream net.Conn) {
	idle := s.proxy.Idle
	switch {
	case idle == 0:
		idle = time.Hour
	case idle < 0:
		idle = 0
	}
	pair := &relay.Pair{Client: client, Upstream: upstream, Idle: idle, Done: s.end}
	s.mu.Lock()
	s.pair = pair
	closed := s.closed
	s.mu.Unlock()
	pair.Start()
	if closed {
		pair.Close()
	}
}

// end is called once, when nothing of the session is left.
func (s *Session) end(err error) {
	s.mu.Lock()
	s.ended, s.err = true, err
	s.dur = time.Since(s.start)
	s.mu.Unlock()
	if s.proxy.OnSession != nil {
		s.proxy.OnSession(s)
	}
	s.log()
	s.proxy.remove(s)
}

// log writes the session's line.
func (s *Session) log() {
	log := s.proxy.Log
	if log == nil || !log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	req := s.Request()
	up, down := s.Bytes()
	attrs := []slog.Attr{
		slog.Uint64("session", s.id),
		slog.String("inbound", req.Inbound),
		slog.String("client", clientName(req)),
		slog.String("user", req.User),
		slog.String("cmd", req.Command.String()),
		slog.String("dest", destName(req)),
		slog.String("route", s.route),
		slog.Int64("up", up),
		slog.Int64("down", down),
		slog.Duration("dur", s.dur.Round(time.Microsecond)),
	}
	if n := s.dropped.Load(); n > 0 {
		attrs = append(attrs, slog.Uint64("dropped", n))
	}
	if s.err != nil {
		attrs = append(attrs, slog.String("err", s.err.Error()))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "session", attrs...)
}

func clientName(req *argyle.Request) string {
	if !req.Client.IsValid() {
		return "unix"
	}
	return req.Client.String()
}

func destName(req *argyle.Request) string {
	if req.Dest.IsZero() {
		return ""
	}
	return req.Dest.String()
}
