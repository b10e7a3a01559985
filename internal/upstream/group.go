package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
)

// A Group is several ways out that stand in for each other. A request goes to
// the member that Pick says; where that fails by its own fault it goes to the
// next, within the same request, and the member is left alone for a while. What
// a member says of the destination (refused, no such host) is the answer; what
// another may know better (not allowed, not supported, network unreachable) is
// asked of the others, and held against nobody.
//
// Silence is judged by comparison: a member that gave no answer in its share of
// the time, or a failure without a reason, is at fault if another one then gets
// an answer. If none does, the destination is.
//
// A Group may be a member of another, but not of itself.
type Group struct {
	// Name is what the log and errors call it.
	Name string

	// Members are the ways out; the order is that of [Failover].
	Members []*Member

	// Pick is how to choose among those that work; "" is [Failover].
	Pick Pick

	// Check, if not nil, says how Run looks after the members. Without it,
	// what becomes of requests is all that is known of them.
	Check *Check

	// Timeout bounds the request to one member where the context has no
	// end. 0 means 10 seconds.
	Timeout time.Duration

	// Log is told of members that go down or up; nil discards.
	Log *slog.Logger

	turn atomic.Uint64 // of round-robin
}

var _ argyle.Dialer = (*Group)(nil)

// A Member is a way out in a [Group].
type Member struct {
	// Name is what the log and [Group.Status] call it; "" is what the
	// Dialer calls itself. Sticky choices go by it, so it should stay.
	Name string

	// Dialer is the way out. An [*argyle.Direct] never goes down: what fails
	// without a proxy is a destination.
	Dialer argyle.Dialer

	kept atomic.Pointer[record]
}

// record is what is known of a member.
type record struct {
	health   health
	sessions atomic.Int64 // requests under way, and what came of them
	latency  latency
}

func (m *Member) record() *record {
	for {
		if r := m.kept.Load(); r != nil {
			return r
		}
		m.kept.CompareAndSwap(nil, new(record))
	}
}

func (m *Member) name() string {
	if m.Name != "" {
		return m.Name
	}
	return nameOf(m.Dialer)
}

// isDirect reports whether failures are never the member's.
func (m *Member) isDirect() bool {
	_, direct := m.Dialer.(*argyle.Direct)
	return direct
}

// String returns the group's name.
func (g *Group) String() string { return g.Name }

// DialContext connects to address through a member. The connection has a method
// Via, which names the member, and wraps the member's as the relay knows how to
// take off.
func (g *Group) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := g.try(ctx, address, func(ctx context.Context, m *Member) error {
		began := time.Now()
		inner, err := m.Dialer.DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		m.record().latency.add(time.Since(began))
		conn = &groupConn{Conn: inner, lease: g.lease(m)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Listen waits for a connection from peer by a member that can.
func (g *Group) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	var ln net.Listener
	err := g.try(ctx, peer, func(ctx context.Context, m *Member) error {
		inner, err := m.Dialer.Listen(ctx, network, peer)
		if err != nil {
			return err
		}
		ln = &groupListener{Listener: inner, lease: g.lease(m)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ln, nil
}

// ListenPacket opens a socket for datagrams by a member that can. All that goes
// through it goes through that member.
func (g *Group) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := g.try(ctx, address, func(ctx context.Context, m *Member) error {
		inner, err := m.Dialer.ListenPacket(ctx, network, address)
		if err != nil {
			return err
		}
		conn = &groupPacket{BatchConn: argyle.Batch(inner), lease: g.lease(m), opened: time.Now()}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Close closes what the members keep open; see [Close].
func (g *Group) Close() error {
	var errs []error
	for _, m := range g.Members {
		errs = append(errs, Close(m.Dialer))
	}
	return errors.Join(errs...)
}

// Inherit takes over what another group knows of the members that both have: by
// the same name, and with the same way out as far as its name tells. It is to be
// called before the group is used; the other one may be in use, and stay so.
func (g *Group) Inherit(old *Group) {
	for _, m := range g.Members {
		for _, o := range old.Members {
			if m.name() == o.name() && nameOf(m.Dialer) == nameOf(o.Dialer) {
				m.kept.Store(o.record())
			}
		}
	}
}

// A MemberStatus is what a group knows of a member.
type MemberStatus struct {
	Name     string
	Up       bool
	Since    time.Time     // when it went up or down; zero: it was never down
	Retry    time.Time     // when a request may try it, if it is down
	Err      error         // why it is down
	Sessions int           // with it, requests under way included
	Latency  time.Duration // until a connection stands, a moving average; 0: not known
}

// Status returns what is known of the members, in their order.
func (g *Group) Status() []MemberStatus {
	all := make([]MemberStatus, len(g.Members))
	for i, m := range g.Members {
		r := m.record()
		all[i] = MemberStatus{Name: m.name(), Sessions: int(r.sessions.Load()), Latency: r.latency.value()}
		r.health.report(&all[i])
	}
	return all
}

// report fills in a status.
func (h *health) report(s *MemberStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Up, s.Since, s.Err = h.failures == 0, h.since, h.err
	if !s.Up {
		s.Retry = h.retry
	}
}

// groupError is what a group's request failed with: the member's error that
// says most.
type groupError struct {
	group string
	tried int
	err   error
}

func (e *groupError) Error() string {
	text := "group " + e.group + ": "
	if e.tried > 1 {
		text += fmt.Sprintf("%d members tried: ", e.tried)
	}
	return text + e.err.Error()
}

func (e *groupError) Unwrap() error { return e.err }

var errNoMembers = errors.New("it has no members")

// succeeded notes that a member has given an answer.
func (g *Group) succeeded(m *Member) {
	if m.record().health.succeed() {
		g.log(slog.LevelInfo, "upstream is up", m, nil)
	}
}

// failed notes that a member has failed; deep says that it was reached.
func (g *Group) failed(a attempt, deep bool) {
	if a.member.isDirect() {
		return
	}
	if a.member.record().health.fail(a.began, a.trial, deep, a.err) {
		g.log(slog.LevelWarn, "upstream is down", a.member, a.err)
	}
}

func (g *Group) log(level slog.Level, message string, m *Member, err error) {
	if g.Log == nil {
		return
	}
	args := []any{"group", g.Name, "upstream", m.name()}
	if err != nil {
		args = append(args, "err", err)
	}
	g.Log.Log(context.Background(), level, message, args...)
}
