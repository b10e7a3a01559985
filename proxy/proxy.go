package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
)

// A Policy decides where calls may go, and by which way out.
type Policy interface {
	// Route decides about a request; an error refuses it, as
	// [argyle.ErrNotAllowed] does. It is asked once per destination: for
	// UDP ASSOCIATE first without a destination, and then for every one
	// that the client sends to.
	Route(ctx context.Context, req *argyle.Request) (Route, error)
}

// A Route is a decision in favour of a request.
type Route struct {
	// Dialer is the way out. It is called with a context that carries the
	// request (see [argyle.RequestOf]). It is required.
	Dialer argyle.Dialer

	// Dest is where the way out shall go. Zero is where the client wants to
	// go; a Policy that has looked up a name gives its address.
	Dest argyle.Addr

	// Reason is why, for the log.
	Reason string

	// Reply, if not nil, is asked about the peer of a BIND and about the
	// sources of datagrams; an error sends the peer away, or drops them.
	Reply func(peer argyle.Addr) error

	// Limits are what the session counts against. A session joins each of
	// them once, however many of its routes have it.
	Limits []Limit

	// Timeouts stand in place of the Proxy's where they are not 0.
	Timeouts Timeouts

	// Level is that of the session's line in the log; 0 is Info.
	Level slog.Level

	// Quiet keeps a session that ends in order out of the log.
	Quiet bool
}

// Timeouts are the bounds on how long things may take.
type Timeouts struct {
	// DialTimeout bounds the way to the destination, name look-up included.
	// 0 means 10 seconds, negative no bound but the system's.
	DialTimeout time.Duration

	// BindTimeout is how long a BIND waits for its peer. 0 means 2 minutes,
	// negative no bound.
	BindTimeout time.Duration

	// Idle is how long a TCP session may move no byte. 0 means one hour,
	// negative no bound.
	Idle time.Duration

	// UDPIdle is how long the mapping of an association lives without a
	// datagram; the association itself lives as long as its TCP connection.
	// 0 means 60 seconds.
	UDPIdle time.Duration

	// MaxTime is how long a session may last, whatever it does. 0 and
	// negative mean no bound.
	MaxTime time.Duration
}

// Over returns t with what it leaves at 0 taken from under.
func (t Timeouts) Over(under Timeouts) Timeouts {
	return Timeouts{
		DialTimeout: cmp.Or(t.DialTimeout, under.DialTimeout),
		BindTimeout: cmp.Or(t.BindTimeout, under.BindTimeout),
		Idle:        cmp.Or(t.Idle, under.Idle),
		UDPIdle:     cmp.Or(t.UDPIdle, under.UDPIdle),
		MaxTime:     cmp.Or(t.MaxTime, under.MaxTime),
	}
}

// PolicyFunc is a function as a [Policy] that only chooses the way out.
type PolicyFunc func(ctx context.Context, req *argyle.Request) (argyle.Dialer, error)

// Route calls f.
func (f PolicyFunc) Route(ctx context.Context, req *argyle.Request) (Route, error) {
	dialer, err := f(ctx, req)
	return Route{Dialer: dialer}, err
}

// A Proxy is an [argyle.Handler] that carries calls to where they want to go.
// Its fields are not to be changed once it serves. The zero Proxy lets
// everything through, directly.
type Proxy struct {
	// Policy decides; nil allows everything, directly.
	Policy Policy

	// Timeouts hold where the Policy says nothing else.
	Timeouts

	// OnSession, if not nil, is called when a session begins and when it
	// has ended, which [Session.Ended] tells apart.
	OnSession func(*Session)

	// Log gets a line for every session at its end; nil discards it.
	Log *slog.Logger

	lastID atomic.Uint64

	mu       sync.Mutex
	sessions map[*Session]struct{}
	closed   bool
	empty    chan struct{} // closed when the last session of a closed proxy ends
}

// Where Timeouts say nothing.
const (
	dialTimeout = 10 * time.Second
	bindTimeout = 2 * time.Minute
	tcpIdle     = time.Hour
	udpIdle     = 60 * time.Second
)

// DefaultTimeouts are what Timeouts of 0 mean.
var DefaultTimeouts = Timeouts{DialTimeout: dialTimeout, BindTimeout: bindTimeout, Idle: tcpIdle, UDPIdle: udpIdle, MaxTime: -1}

// ErrProxyClosed refuses calls after Shutdown or Close.
var ErrProxyClosed = errors.New("proxy is shutting down")

var _ argyle.Handler = (*Proxy)(nil)

// DetachesItself says that ServeCall may run in an event loop.
func (p *Proxy) DetachesItself() {}

// ServeCall carries one call. It returns once the call is answered: a session
// of TCP then goes on by itself.
func (p *Proxy) ServeCall(ctx context.Context, call argyle.Call) {
	s := &Session{
		proxy: p,
		id:    p.lastID.Add(1),
		call:  call,
		start: time.Now(),
	}
	if !p.add(s) {
		call.Reject(ErrProxyClosed)
		return
	}
	// The server survives a panic in what is called from here, and the session
	// would be counted for ever.
	panicked := true
	defer func() {
		if panicked {
			s.end(errPanicked)
		}
	}()
	if p.OnSession != nil {
		p.OnSession(s)
	}
	var err error
	switch req := call.Request(); req.Command {
	case argyle.Connect:
		err = p.connect(ctx, s)
	case argyle.Bind:
		event.Detach(ctx)
		err = p.bind(ctx, s)
	case argyle.Associate:
		event.Detach(ctx)
		err = p.associate(ctx, s)
		if err == nil {
			s.end(nil)
		}
	default:
		err = s.reject(errors.ErrUnsupported)
	}
	panicked = false
	if err != nil {
		s.end(err)
	}
}

var errPanicked = errors.New("panic while serving the call")

// connect is CONNECT: dial, answer, relay.
func (p *Proxy) connect(ctx context.Context, s *Session) error {
	upstream, err := reach(ctx, s, argyle.Dialer.DialContext)
	if err != nil {
		return s.reject(err)
	}
	s.via(upstream)
	client, err := s.call.Accept(upstream.LocalAddr())
	if err != nil {
		upstream.Close()
		return fmt.Errorf("answer client: %w", err)
	}
	s.relay(client, upstream)
	return nil
}

// bind is BIND: listen, answer, wait for the peer, answer again, relay.
func (p *Proxy) bind(ctx context.Context, s *Session) error {
	ln, err := reach(ctx, s, argyle.Dialer.Listen)
	if err != nil {
		return s.reject(err)
	}
	if s.route.Reply != nil {
		ln = &replyListener{Listener: ln, allowed: s.route.Reply}
	}
	step := s.bound(ctx, time.Now(), s.route.Timeouts.BindTimeout, bindTimeout)
	defer step.Cancel()
	client, peer, err := s.call.AcceptBind(step, ln)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	s.relay(client, peer)
	return nil
}

// replyListener sends away the peers that the rules refuse.
type replyListener struct {
	net.Listener
	allowed func(argyle.Addr) error
}

func (l *replyListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.allowed(argyle.AddrOf(conn.RemoteAddr())) == nil {
			return conn, err
		}
		conn.Close()
	}
}

// reach finds the way out for a session and takes it, both together within the
// time of a dial: the policy may have to look the name up.
func reach[T any](ctx context.Context, s *Session, take func(argyle.Dialer, context.Context, string, string) (T, error)) (T, error) {
	var nothing T
	req := s.Request()
	ctx = argyle.WithRequest(ctx, req)
	began, timeout := s.start, s.proxy.DialTimeout
	step := s.bound(ctx, began, timeout, dialTimeout)
	defer func() { step.Cancel() }()
	route, err := s.decide(step, req)
	if err != nil {
		return nothing, err
	}
	if err := s.take(route); err != nil {
		return nothing, err
	}
	if t := s.route.Timeouts.DialTimeout; t != timeout {
		step.Cancel()
		step = s.bound(ctx, began, t, dialTimeout)
	}
	if err := step.Err(); err != nil {
		return nothing, fmt.Errorf("no time is left to connect: %w", err)
	}
	event.DetachUnless(step, route.Dialer)
	return take(route.Dialer, step, "tcp", route.dest(req).String())
}

// decide asks the policy.
func (s *Session) decide(ctx context.Context, req *argyle.Request) (Route, error) {
	if s.proxy.Policy == nil {
		return Route{Dialer: direct}, nil
	}
	event.DetachUnless(ctx, s.proxy.Policy)
	return s.proxy.Policy.Route(ctx, req)
}

var direct argyle.Dialer = &argyle.Direct{}

// dest is where the way out shall go.
func (r *Route) dest(req *argyle.Request) argyle.Addr {
	if r.Dest.IsZero() {
		return req.Dest
	}
	return r.Dest
}

// Sessions returns the sessions that are alive, in no order.
func (p *Proxy) Sessions() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		p.mu.Lock()
		all := make([]*Session, 0, len(p.sessions))
		for s := range p.sessions {
			all = append(all, s)
		}
		p.mu.Unlock()
		for _, s := range all {
			if !yield(s) {
				return
			}
		}
	}
}

func (p *Proxy) add(s *Session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if p.sessions == nil {
		p.sessions = make(map[*Session]struct{})
	}
	p.sessions[s] = struct{}{}
	return true
}

func (p *Proxy) remove(s *Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, s)
	if p.closed && len(p.sessions) == 0 {
		p.signal()
	}
}

// signal tells Shutdown that nothing is left. p.mu is held.
func (p *Proxy) signal() {
	select {
	case <-p.empty:
	default:
		close(p.empty)
	}
}

// Shutdown refuses new calls and waits for the sessions to end. When ctx ends
// first, it cuts them and returns the error of ctx.
func (p *Proxy) Shutdown(ctx context.Context) error {
	empty := p.refuse()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		p.Close()
		return ctx.Err()
	}
}

// Close refuses new calls, cuts all sessions, and waits until they have ended.
func (p *Proxy) Close() error {
	empty := p.refuse()
	for s := range p.Sessions() {
		s.Close()
	}
	<-empty
	return nil
}

// refuse closes the proxy for new sessions and returns what is closed after the last.
func (p *Proxy) refuse() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		p.empty = make(chan struct{})
		if len(p.sessions) == 0 {
			p.signal()
		}
	}
	return p.empty
}
