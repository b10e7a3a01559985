package proxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
)

// A Policy decides where calls may go, and by which way out.
type Policy interface {
	// Route returns the way out for a request; an error refuses it, as
	// [argyle.ErrNotAllowed] does. It is asked once per destination: for
	// UDP ASSOCIATE first without a destination, and then for every one
	// that the client sends to.
	Route(ctx context.Context, req *argyle.Request) (argyle.Dialer, error)
}

// PolicyFunc is a function as a [Policy].
type PolicyFunc func(ctx context.Context, req *argyle.Request) (argyle.Dialer, error)

// Route calls f.
func (f PolicyFunc) Route(ctx context.Context, req *argyle.Request) (argyle.Dialer, error) {
	return f(ctx, req)
}

// A Proxy is an [argyle.Handler] that carries calls to where they want to go.
// Its fields are not to be changed once it serves. The zero Proxy lets
// everything through, directly.
type Proxy struct {
	// Policy decides; nil allows everything, directly.
	Policy Policy

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

const dialTimeout = 10 * time.Second // where DialTimeout is 0

// ErrProxyClosed refuses calls after Shutdown or Close.
var ErrProxyClosed = errors.New("proxy is shutting down")

var _ argyle.Handler = (*Proxy)(nil)

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
	if p.OnSession != nil {
		p.OnSession(s)
	}
	var err error
	switch req := call.Request(); req.Command {
	case argyle.Connect:
		err = p.connect(ctx, s)
	case argyle.Bind:
		err = p.bind(ctx, s)
	case argyle.Associate:
		err = p.associate(ctx, s)
		if err == nil {
			s.end(nil)
		}
	default:
		err = s.reject(errors.ErrUnsupported)
	}
	if err != nil {
		s.end(err)
	}
}

// connect is CONNECT: dial, answer, relay.
func (p *Proxy) connect(ctx context.Context, s *Session) error {
	upstream, err := reach(ctx, s, argyle.Dialer.DialContext)
	if err != nil {
		return s.reject(err)
	}
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
	ctx, cancel := s.bound(ctx, p.BindTimeout, 2*time.Minute)
	defer cancel()
	client, peer, err := s.call.AcceptBind(ctx, ln)
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	s.relay(client, peer)
	return nil
}

// reach finds the way out for a session and takes it, within the time of a dial.
func reach[T any](ctx context.Context, s *Session, take func(argyle.Dialer, context.Context, string, string) (T, error)) (T, error) {
	ctx, cancel := s.bound(ctx, s.proxy.DialTimeout, dialTimeout)
	defer cancel()
	req := s.Request()
	dialer, err := s.proxy.route(ctx, s, req)
	if err != nil {
		var nothing T
		return nothing, err
	}
	return take(dialer, ctx, "tcp", req.Dest.String())
}

// route asks the policy.
func (p *Proxy) route(ctx context.Context, s *Session, req *argyle.Request) (argyle.Dialer, error) {
	if p.Policy == nil {
		s.setRoute(direct)
		return direct, nil
	}
	dialer, err := p.Policy.Route(ctx, req)
	if err == nil {
		s.setRoute(dialer)
	}
	return dialer, err
}

var direct argyle.Dialer = &argyle.Direct{}

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
