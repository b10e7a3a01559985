package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
)

// A Hop is a part of a [Path]: it makes the way out through itself of the way to
// it.
type Hop struct {
	// Name is what logs and errors call it.
	Name string

	// Reach returns the way out through the hop, which is reached through
	// forward. It is called for every combination of hops before this one.
	Reach func(forward argyle.Dialer) (argyle.Dialer, error)
}

// FirstHop returns a hop of a ready way out, such as a [Group]. It can only be
// the first.
func FirstHop(d argyle.Dialer) Hop {
	return Hop{Name: nameOf(d), Reach: func(forward argyle.Dialer) (argyle.Dialer, error) {
		if _, behind := forward.(*link); behind {
			return nil, fmt.Errorf("%s cannot be reached through another proxy", nameOf(d))
		}
		return d, nil
	}}
}

// A Mode is how a [Path] uses its hops, in the words of proxychains.
type Mode string

// The modes of a path.
const (
	Strict     Mode = "strict"  // all of them, in order
	Dynamic    Mode = "dynamic" // all that live, in order; at least one must
	RandomHops Mode = "random"  // so many as Length says, drawn for every connection from those that live
)

// ParseMode returns the Mode of a name; "" is [Strict].
func ParseMode(name string) (Mode, error) {
	switch mode := Mode(name); mode {
	case "":
		return Strict, nil
	case Strict, Dynamic, RandomHops:
		return mode, nil
	}
	return "", fmt.Errorf("unknown mode %q, want strict, dynamic or random", name)
}

// A Path is a way out through several proxies. A hop that fails is left out of
// the request, unless Mode is [Strict], and for a while of others. BIND and UDP
// go as far as the last hop, and those before it, can.
//
// A hop is at fault if it cannot be reached from the one before, or breaks off.
// Where the last one is silent it may be the destination: a path without it is
// tried, and tells.
type Path struct {
	// Hops are the proxies, the nearest first.
	Hops []Hop

	// Mode is how to use them; "" is [Strict].
	Mode Mode

	// Length is how many hops [RandomHops] draws; 0 means all, in any order.
	// There are never fewer: rather, those that seemed dead are tried.
	Length int

	// Base is the way to the first hop; nil is [argyle.Direct].
	Base argyle.Dialer

	// Timeout is for a try where the context has no end. 0 means 10 seconds.
	Timeout time.Duration

	// Log is told of hops that go down or up; nil discards.
	Log *slog.Logger

	mu     sync.Mutex
	stacks map[string]argyle.Dialer // by the hops in them
	states []*health                // of the hops
}

var _ argyle.Dialer = (*Path)(nil)

// String returns the mode and the hops.
func (p *Path) String() string {
	names := make([]string, len(p.Hops))
	for i, h := range p.Hops {
		names[i] = h.Name
	}
	mode := p.Mode
	if mode == "" {
		mode = Strict
	}
	return string(mode) + "(" + strings.Join(names, ", ") + ")"
}

// DialContext connects to address through hops.
func (p *Path) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.try(ctx, func(ctx context.Context, d argyle.Dialer) (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen waits for a connection from peer at the last hop.
func (p *Path) Listen(ctx context.Context, network, peer string) (ln net.Listener, err error) {
	err = p.try(ctx, func(ctx context.Context, d argyle.Dialer) (err error) {
		ln, err = d.Listen(ctx, network, peer)
		return err
	})
	return ln, err
}

// ListenPacket opens a socket for datagrams at the last hop.
func (p *Path) ListenPacket(ctx context.Context, network, address string) (conn net.PacketConn, err error) {
	err = p.try(ctx, func(ctx context.Context, d argyle.Dialer) (err error) {
		conn, err = d.ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}

// probe greets the last hop, through the others.
func (p *Path) probe(ctx context.Context) error { return p.try(ctx, probe) }

// Close closes what the hops keep open; see [Close].
func (p *Path) Close() error {
	p.mu.Lock()
	stacks := p.stacks
	p.stacks = nil
	p.mu.Unlock()
	var errs []error
	for _, d := range stacks {
		errs = append(errs, Close(d))
	}
	return errors.Join(errs...)
}

// health returns that of a hop.
func (p *Path) health(hop int) *health {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.states) < len(p.Hops) {
		p.states = append(p.states, new(health))
	}
	return p.states[hop]
}

// Status returns what is known of the hops, in their order: not how many sessions
// and how quick they are.
func (p *Path) Status() []MemberStatus {
	all := make([]MemberStatus, len(p.Hops))
	for i, hop := range p.Hops {
		all[i].Name = hop.Name
		p.health(i).report(&all[i])
	}
	return all
}

// isStrict reports whether no hop may be left out.
func (p *Path) isStrict() bool { return p.Mode != Dynamic && p.Mode != RandomHops }

// length is how many hops a connection needs.
func (p *Path) length() int {
	switch {
	case p.Mode == Dynamic:
		return 1
	case p.Mode == RandomHops && p.Length > 0:
		return min(p.Length, len(p.Hops))
	}
	return len(p.Hops)
}

// maxStacks bounds what is kept of the ways through the hops.
const maxStacks = 1024

// stack returns the way out through hops. It stays the same, for the sake of the
// connections to SSH servers that it shares.
func (p *Path) stack(hops []int) (argyle.Dialer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stacks == nil || len(p.stacks) >= maxStacks {
		p.stacks = make(map[string]argyle.Dialer) // an old SSH connection ends by itself
	}
	way := p.Base
	if way == nil {
		way = &argyle.Direct{}
	}
	key := ""
	for i, hop := range hops {
		if i > 0 {
			way = &link{Dialer: way, by: hops[i-1], to: hop}
		}
		key += fmt.Sprint(hop, " ")
		known, ok := p.stacks[key]
		if !ok {
			var err error
			if known, err = p.Hops[hop].Reach(way); err != nil {
				return nil, &hopError{by: -1, to: hop, says: unable, err: err}
			}
			p.stacks[key] = known
		}
		way = known
	}
	return way, nil
}

// link is the way from one hop to the next. Its errors say between whom they
// happened.
type link struct {
	argyle.Dialer
	by, to int // hops
}

// String returns what the way calls itself.
func (l *link) String() string { return nameOf(l.Dialer) }

// DialContext connects to the next hop.
func (l *link) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := l.Dialer.DialContext(ctx, network, address)
	return conn, l.error(err)
}

// ListenPacket opens a socket for the datagrams to the next hop.
func (l *link) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	conn, err := l.Dialer.ListenPacket(ctx, network, address)
	if judge(err) == unable {
		return nil, err
	}
	return conn, l.error(err)
}

func (l *link) error(err error) error {
	var nearer *hopError
	if err == nil || errors.As(err, &nearer) {
		return err
	}
	return &hopError{by: l.by, to: l.to, says: judge(err), err: err}
}

// hopError is an error between two hops of a path.
type hopError struct {
	by, to int
	says   verdict // on by
	err    error
}

func (e *hopError) Error() string { return e.err.Error() }
func (e *hopError) Unwrap() error { return e.err }
