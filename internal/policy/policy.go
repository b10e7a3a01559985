// Package policy decides who may go where.
package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/argyle-socks/argyle"
)

// A Policy is the rules that hold without a configuration: who may use the
// proxy, and that nobody uses it to reach what only its host should. It is a
// proxy.Policy. The zero Policy serves everybody.
type Policy struct {
	// Clients are the networks that may use the proxy; empty means all.
	Clients []netip.Prefix

	// AllowPrivate lets clients from other hosts reach the addresses that
	// [Private] tells of. Clients on loopback and on unix sockets always may.
	AllowPrivate bool

	// Own, if not nil, reports whether an address is one of our listeners;
	// nobody reaches those, since a proxy that calls itself never ends.
	Own func(netip.AddrPort) bool

	// Upstream is the way out; nil is direct. So is an [*argyle.Direct], of
	// which only the Resolver counts: its Check is ours.
	Upstream argyle.Dialer

	// UpstreamRemote is the same way for clients that must not reach
	// private addresses; it asks CheckPublic about what it resolves itself.
	// nil stands for Upstream.
	UpstreamRemote argyle.Dialer

	// The ways out without an upstream; their Check sees what a name means.
	local, remote argyle.Direct
}

// New returns a copy of from that is complete.
func New(from Policy) *Policy {
	p := &from
	if direct, ok := p.Upstream.(*argyle.Direct); ok {
		p.Upstream = nil
		p.local.Resolver, p.remote.Resolver = direct.Resolver, direct.Resolver
	}
	p.local.Check, p.remote.Check = p.CheckOwn, p.CheckPublic
	return p
}

// Route returns the way out for req, or an error that is [argyle.ErrNotAllowed].
func (p *Policy) Route(_ context.Context, req *argyle.Request) (argyle.Dialer, error) {
	client := req.Client.Addr().Unmap().WithZone("")
	if !p.serves(client) {
		return nil, refuse("client %v is in none of the allowed networks", client)
	}
	trusted := p.AllowPrivate || !client.IsValid() || client.IsLoopback()
	if err := p.checkDest(req, trusted); err != nil {
		return nil, err
	}
	switch {
	case p.Upstream != nil && (trusted || p.UpstreamRemote == nil):
		return p.Upstream, nil
	case p.Upstream != nil:
		return p.UpstreamRemote, nil
	case trusted:
		return &p.local, nil
	}
	return &p.remote, nil
}

func (p *Policy) serves(client netip.Addr) bool {
	return len(p.Clients) == 0 || !client.IsValid() ||
		slices.ContainsFunc(p.Clients, func(n netip.Prefix) bool { return n.Contains(client) })
}

// checkDest looks at a destination that is an address. A name is looked at
// when it is resolved.
func (p *Policy) checkDest(req *argyle.Request, trusted bool) error {
	ip := req.Dest.IP
	switch {
	case !ip.IsValid() && !trusted && isLocalhost(req.Dest.Name):
		return refuse("%s is loopback", req.Dest.Name)
	case !ip.IsValid():
		return nil
	case req.Command == argyle.Bind && ip.IsUnspecified():
		// Anybody may come, so that only those who may meet anybody may ask.
		if trusted {
			return nil
		}
		return refuse("BIND without an address of the peer")
	case trusted:
		return p.checkOwn(req.Dest.AddrPort())
	}
	return p.checkPublic(req.Dest.AddrPort())
}

// isLocalhost reports whether name is one that every resolver should take for
// loopback (RFC 6761, section 6.3), so that it need not be resolved to know.
func isLocalhost(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// CheckOwn refuses the proxy's own listeners. It has the form of
// [argyle.Direct.Check].
func (p *Policy) CheckOwn(_ context.Context, _ string, addr netip.AddrPort) error {
	return p.checkOwn(addr)
}

// CheckPublic refuses private addresses, too.
func (p *Policy) CheckPublic(_ context.Context, _ string, addr netip.AddrPort) error {
	return p.checkPublic(addr)
}

func (p *Policy) checkOwn(addr netip.AddrPort) error {
	if p.Own != nil && p.Own(addr) {
		return refuse("%v is this proxy itself", addr)
	}
	return nil
}

func (p *Policy) checkPublic(addr netip.AddrPort) error {
	if what := Private(addr.Addr()); what != "" {
		return refuse("%v is %s", addr.Addr(), what)
	}
	return p.checkOwn(addr)
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", argyle.ErrNotAllowed, fmt.Sprintf(format, args...))
}
