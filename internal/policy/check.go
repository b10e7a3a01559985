package policy

import (
	"context"
	"net/netip"

	"github.com/argyle-socks/argyle"
)

// Check returns what a way out asks about each address that it looked up, or
// that it accepts a connection from: it has the form of [argyle.Direct.Check].
// The request in its context is decided about again, now with this address. It
// refuses what is denied, private or our own, and what would go another way.
//
// Without a request, as in a health check, it refuses only our own listeners.
// So does [Policy.CheckOwn], which is for the address of an upstream proxy: the
// request in the context says nothing of that.
func (p *Policy) Check(way string) func(ctx context.Context, network string, addr netip.AddrPort) error {
	return func(ctx context.Context, network string, addr netip.AddrPort) error {
		req := argyle.RequestOf(ctx)
		if req == nil {
			return p.CheckOwn(ctx, network, addr)
		}
		return p.refusal(p.decideBy(way, req, addr))
	}
}

// decideBy decides about an address of a request that a way out would use. The
// port of the rules is the one that was asked for: the peer of a BIND comes from
// another.
func (p *Policy) decideBy(way string, req *argyle.Request, addr netip.AddrPort) Decision {
	q := p.question(req, addr.Addr())
	q.addr = netip.AddrPortFrom(plainAddr(addr.Addr()), addr.Port())
	if req.Dest.IsZero() {
		q.port = addr.Port()
	}
	d := p.decide(&q)
	if d.Allowed && d.Via != way {
		return refused(AnotherWay, d.Rule, "%v goes another way: %s", q.addr.Addr(), d.Reason)
	}
	return d
}

// CheckOwn refuses the proxy's own listeners. It has the form of
// [argyle.Direct.Check].
func (p *Policy) CheckOwn(_ context.Context, _ string, addr netip.AddrPort) error {
	return p.refusal(p.guardOwn(addr, Decision{Allowed: true, Rule: -1}))
}
