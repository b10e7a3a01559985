package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/relay"
)

// A Session is one call, from its request to its last byte.
type Session struct {
	proxy *Proxy
	id    uint64
	call  argyle.Call
	start time.Time

	mu      sync.Mutex
	route   Route           // the first one, its Timeouts complete
	way     string          // the way out by its name
	shares  map[Limit]Share // in what it counts against
	timer   *time.Timer     // of MaxTime; nil without
	step    *event.Step     // the one under way, if any
	pair    *relay.Pair     // of TCP, once it relays
	closed  bool            // by Close
	refused bool            // the client is being told
	reason  error           // given to CloseFor, before a refusal
	ended   bool
	err     error
	dur     time.Duration

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
	return s.way
}

// Dialer is the way out, nil before it is known.
func (s *Session) Dialer() argyle.Dialer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.route.Dialer
}

// Reason says why the session was allowed, in the words of the policy.
func (s *Session) Reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.route.Reason
}

// Peer is the far end of the way out of a TCP session that relays: with
// [argyle.Direct] the destination, else the nearest proxy. nil if there is none.
func (s *Session) Peer() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pair == nil {
		return nil
	}
	return s.pair.Upstream.RemoteAddr()
}

// Ended reports whether the session is over, and why if it did not end in order.
func (s *Session) Ended() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended, s.err
}

// Close cuts the session, whatever it is doing. It does not wait for its end.
func (s *Session) Close() error {
	s.CloseFor(relay.ErrCut)
	return nil
}

// CloseFor is Close with a reason, which [Session.Ended] tells and the log.
func (s *Session) CloseFor(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !s.refused {
		s.reason = reason
	}
	s.closed = true
	if s.step != nil {
		s.step.Cancel()
	}
	if s.pair != nil {
		s.pair.Close(s.reason)
	}
}

// ErrMaxTime ends a session that has lasted for its MaxTime.
var ErrMaxTime = errors.New("session lasted as long as it may")

// bound returns a context for one step, which began at a time and which Close
// cancels. A negative timeout means none, and 0 the default.
func (s *Session) bound(ctx context.Context, began time.Time, timeout, byDefault time.Duration) *event.Step {
	step := limit(ctx, began, timeout, byDefault)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step = step
	if s.closed {
		step.Cancel()
	}
	return step
}

func limit(ctx context.Context, began time.Time, timeout, byDefault time.Duration) *event.Step {
	if timeout == 0 {
		timeout = byDefault
	}
	if timeout < 0 {
		return event.NewStep(ctx, time.Time{})
	}
	return event.NewStep(ctx, began.Add(timeout))
}

// take makes route the session's own, and counts the session in.
func (s *Session) take(route Route) error {
	route.Timeouts = route.Timeouts.Over(s.proxy.Timeouts)
	s.mu.Lock()
	s.route = route
	if d := route.Timeouts.MaxTime; d > 0 && s.timer == nil {
		s.timer = time.AfterFunc(d, func() { s.CloseFor(ErrMaxTime) })
	}
	s.mu.Unlock()
	s.setWay(route.Dialer)
	return s.join(route.Limits)
}

// join counts the session in where it is not yet.
func (s *Session) join(limits []Limit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range limits {
		if _, joined := s.shares[l]; joined {
			continue
		}
		share, err := l.Begin(s.Request())
		if err != nil {
			return err
		}
		if s.shares == nil {
			s.shares = make(map[Limit]Share)
		}
		s.shares[l] = share
	}
	return nil
}

// gates returns what holds back the bytes that count against limits, which the
// session has joined.
func (s *Session) gates(limits []Limit) (up, down gates) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range limits {
		share := s.shares[l]
		if share.Up != nil {
			up = append(up, share.Up)
		}
		if share.Down != nil {
			down = append(down, share.Down)
		}
	}
	return up, down
}

// leave counts the session out.
func (s *Session) leave() {
	s.mu.Lock()
	shares := s.shares
	s.shares = nil
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	for _, share := range shares {
		if share.End != nil {
			share.End()
		}
	}
}

// setWay notes the way out by its name.
func (s *Session) setWay(d argyle.Dialer) {
	name := ""
	if named, ok := d.(fmt.Stringer); ok {
		name = named.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.way = name
}

// via notes which of several ways out a connection has taken, if it knows.
func (s *Session) via(conn net.Conn) {
	taken, ok := conn.(interface{ Via() string })
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.way = taken.Via()
}

// reject answers the client with err, which it returns.
func (s *Session) reject(err error) error {
	s.mu.Lock()
	s.refused = true
	s.mu.Unlock()
	s.call.Reject(err) // which may take its time
	return err
}

// relay joins the two connections and returns. The session ends with them.
func (s *Session) relay(client, upstream net.Conn) {
	pair := &relay.Pair{Client: client, Upstream: upstream, Idle: s.route.Timeouts.idle(), Done: s.end}
	if up, down := s.gates(s.route.Limits); len(up)+len(down) > 0 {
		pair.UpGate, pair.DownGate = up, down
	}
	s.mu.Lock()
	s.step = nil // with all that the steps before needed
	s.pair = pair
	pair.Start() // before Close finds it
	if s.closed {
		pair.Close(s.reason)
	}
	s.mu.Unlock()
}

// idle is Idle as the relay takes it: 0 means no bound.
func (t *Timeouts) idle() time.Duration {
	switch {
	case t.Idle == 0:
		return tcpIdle
	case t.Idle < 0:
		return 0
	}
	return t.Idle
}

// end is called once, when nothing of the session is left.
func (s *Session) end(err error) {
	s.leave()
	s.mu.Lock()
	if err != nil && s.reason != nil {
		err = s.reason
	}
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
	level := s.level()
	if log == nil || !log.Enabled(context.Background(), level) || s.quiet() {
		return
	}
	req := s.Request()
	up, down := s.Bytes()
	// Not by the Logger, which looks up for each line where in the source it comes from.
	line := slog.NewRecord(time.Now(), level, "session", 0)
	attrs := []slog.Attr{
		slog.Uint64("session", s.id),
		slog.String("inbound", req.Inbound),
		slog.String("client", clientName(req)),
		slog.String("user", req.User),
		slog.String("cmd", req.Command.String()),
		slog.String("dest", destName(req)),
		slog.String("route", s.way),
		slog.Int64("up", up),
		slog.Int64("down", down),
		slog.Duration("dur", s.dur.Round(time.Microsecond)),
	}
	if s.route.Reason != "" {
		attrs = append(attrs, slog.String("why", s.route.Reason))
	}
	if n := s.dropped.Load(); n > 0 {
		attrs = append(attrs, slog.Uint64("dropped", n))
	}
	if s.err != nil {
		attrs = append(attrs, slog.String("err", s.err.Error()))
	}
	line.AddAttrs(attrs...)
	_ = log.Handler().Handle(context.Background(), line)
}

// level is that of the session's line: what the rule that allowed or refused it
// wants.
func (s *Session) level() slog.Level {
	if s.err == nil {
		return s.route.Level
	}
	var refusal interface{ Level() slog.Level }
	if errors.As(s.err, &refusal) {
		return refusal.Level()
	}
	return s.route.Level
}

// quiet reports whether a rule wants no line for the session.
func (s *Session) quiet() bool {
	if s.err == nil {
		return s.route.Quiet
	}
	var refusal interface{ Quiet() bool }
	return errors.As(s.err, &refusal) && refusal.Quiet()
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
