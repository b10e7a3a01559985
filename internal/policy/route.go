package policy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/proxy"
)

// Route finds the first rule that matches a request, and returns the way out,
// or a [*Refusal].
//
// A name is matched as it was asked for. A rule whose names do not match but
// which has networks, too, may match an address of the name or not: it is
// undecided. If the first rule that could match is undecided, the name is
// looked up here, and every address is decided about, with the name, from the
// first rule on. The first address that is allowed decides the way. A way that
// leaves names to somebody else gets this address instead of the name, so that
// what was decided about is what is dialled; one that looks names up itself
// keeps the name, and refuses by [Policy.Check] the addresses that are denied or
// go another way. If the rule is not undecided, there is no look-up here, and
// none at all of a name that is denied. So rules about names before rules about
// networks leave the look-up to the upstream.
//
// A UDP ASSOCIATE comes without a destination. It is accepted if a rule could
// allow some datagram: rules that deny some destinations only are passed over.
// Each destination is then asked about, and joins the limits of its rule.
func (p *Policy) Route(ctx context.Context, req *argyle.Request) (proxy.Route, error) {
	t, err := p.decideAll(ctx, req, p.lookUp)
	if err == nil {
		err = p.refusal(t.final)
	}
	if err != nil {
		return proxy.Route{}, err
	}
	return p.route(req, &t), nil
}

// thought is how a request was decided about.
type thought struct {
	byName   Decision // before any look-up
	lookedUp bool
	answers  []Answer   // of the look-up
	final    Decision   // of the request
	ip       netip.Addr // what it was decided for; not valid: as asked
}

// An Answer is an address of a name, with what was decided about it.
type Answer struct {
	IP netip.Addr
	Decision
}

// decideAll decides about a request. Only where the rules depend on the address
// of a name, lookUp is called.
func (p *Policy) decideAll(ctx context.Context, req *argyle.Request, lookUp lookUpFunc) (t thought, err error) {
	if req.Dest.Name != "" {
		if err := checkDisguise(req.Dest.Name); err != nil {
			return t, err
		}
	}
	t.byName = p.Decide(req, netip.Addr{})
	t.final = t.byName
	if t.final.Kind != Undecided {
		return t, nil
	}
	t.lookedUp = true
	event.Detach(ctx)
	ctx, cancel := p.limit(ctx, req)
	defer cancel()
	ips, err := lookUp(ctx, req.Dest.Name)
	if err != nil {
		return t, err
	}
	for i, ip := range ips {
		a := Answer{ip, p.Decide(req, ip)}
		t.answers = append(t.answers, a)
		if i == 0 || a.Allowed && !t.final.Allowed {
			t.final, t.ip = a.Decision, ip
		}
	}
	return t, nil
}

// limit bounds a look-up by the time that the way to the destination may take:
// that of the most patient of the rules that may allow it. If one of them has no
// time of its own, the bound is the caller's.
func (p *Policy) limit(ctx context.Context, req *argyle.Request) (context.Context, context.CancelFunc) {
	longest, shared := time.Duration(0), false
	q := p.question(req, netip.Addr{})
	p.engine.index.Load().candidates(&q, func(i int) {
		if rule := p.engine.rules[i]; !rule.Deny {
			longest = max(longest, rule.Timeouts.DialTimeout)
			shared = shared || rule.Timeouts.DialTimeout <= 0
		}
	})
	if longest == 0 || shared {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, longest)
}

// lookUpFunc returns the addresses of a name, at least one without an error.
type lookUpFunc func(ctx context.Context, name string) ([]netip.Addr, error)

func (p *Policy) lookUp(ctx context.Context, name string) ([]netip.Addr, error) {
	ascii, err := asciiName(name)
	if err != nil {
		return nil, err
	}
	resolver := p.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	ips, err := resolver.LookupNetIP(ctx, "ip", ascii)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		ips[i] = ip.Unmap()
	}
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool { return !ip.IsValid() })
	if len(ips) == 0 {
		return nil, &net.DNSError{Err: "no addresses", Name: name, IsNotFound: true}
	}
	return ips, nil
}

// route is the route of a request that is allowed.
func (p *Policy) route(req *argyle.Request, t *thought) proxy.Route {
	d := t.final
	way := p.Ways[d.Via]
	r := proxy.Route{Dialer: way.Dialer, Reply: p.reply(req)}
	if t.ip.IsValid() && !way.Resolves {
		r.Dest = argyle.Addr{IP: t.ip, Port: req.Dest.Port}
	}
	if p.Limits != nil {
		r.Limits = p.Limits(req)
	}
	if d.Rule < 0 {
		return r
	}
	r.Reason = d.Reason
	rule := p.engine.rules[d.Rule]
	if q := p.question(req, netip.Addr{}); q.nowhere() {
		if len(rule.dests)+len(rule.Ports) > 0 {
			return r // the rule is about some of the datagrams
		}
	} else if len(rule.Limits) > 0 {
		r.Limits = slices.Concat(r.Limits, rule.Limits)
	}
	r.Timeouts, r.Level, r.Quiet = rule.Timeouts, rule.Level, rule.Quiet
	return r
}

// reply returns what is asked about those who answer a request, nil if no rule
// is about that.
func (p *Policy) reply(req *argyle.Request) func(argyle.Addr) error {
	var command Command
	switch req.Command {
	case argyle.Bind:
		command = BindReply
	case argyle.Associate:
		command = UDPReply
	default:
		return nil
	}
	q := p.question(req, netip.Addr{})
	q.command = command
	if p.Rules == nil || !p.engine.index.Load().concerns(&q) {
		return nil
	}
	return func(peer argyle.Addr) error {
		q := q
		q.name, q.port, q.addr = peer.Name, peer.Port, netip.AddrPort{}
		if peer.IP.IsValid() {
			q.addr = netip.AddrPortFrom(plainAddr(peer.IP), peer.Port)
		}
		return p.refusal(p.decideReply(&q))
	}
}

// decideReply decides about the peer; who is in no rule may answer.
func (p *Policy) decideReply(q *question) Decision {
	a := p.engine.index.Load().ask(q)
	if a.rule < 0 {
		return Decision{Allowed: true, Kind: NoMatch, Rule: -1, Reason: "no rule matches"}
	}
	rule := p.engine.rules[a.rule]
	switch {
	case a.undecided: // an upstream gave a name, which is not looked up
		return Decision{Kind: Undecided, Rule: a.rule, Reason: rule.depends}
	case rule.Deny:
		return Decision{Kind: RuleDenies, Rule: a.rule, Reason: rule.reason}
	}
	return Decision{Allowed: true, Kind: RuleAllows, Rule: a.rule, Reason: rule.reason}
}
