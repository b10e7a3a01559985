package policy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/argyle-socks/argyle"
)

// A Kind is why a decision is as it is.
type Kind string

// The kinds of decisions, with what their reasons say.
const (
	NoRules        Kind = "no-rules"        // there are no rules; allowed
	RuleAllows     Kind = "rule-allows"     // rule "web" (argyle.yaml:14) allows
	RuleSends      Kind = "rule-sends"      // rule "office" (argyle.yaml:20) sends it via gw; allowed
	RuleDenies     Kind = "rule-denies"     // rule "mail" (argyle.yaml:12) denies
	NoMatch        Kind = "no-match"        // no rule matches; refused
	Stranger       Kind = "stranger"        // client 192.0.2.9 is in none of the allowed networks
	PrivateAddress Kind = "private-address" // 10.0.0.1 is private, which rule "web" (argyle.yaml:9) does not name
	AnyPeer        Kind = "any-peer"        // BIND without an address of the peer
	Itself         Kind = "itself"          // 127.0.0.1:1080 is this proxy itself
	AnotherWay     Kind = "another-way"     // 10.0.0.1 goes another way: rule "office" (argyle.yaml:20) sends it via gw
	Undecided      Kind = "undecided"       // rule "net" (argyle.yaml:9) depends on the address of the name
)

// A Decision is what the rules say of one request.
type Decision struct {
	Allowed bool
	Kind    Kind
	Rule    int    // index in Policy.Rules; -1 if there is none
	Via     string // the way out, if Allowed
	Reason  string // for people
}

// A Refusal is a Decision as an error. It is an [argyle.ErrNotAllowed].
type Refusal struct {
	Decision
	quiet bool
	level slog.Level
}

func (r *Refusal) Error() string { return argyle.ErrNotAllowed.Error() + ": " + r.Reason }

// Unwrap returns [argyle.ErrNotAllowed].
func (*Refusal) Unwrap() error { return argyle.ErrNotAllowed }

// Quiet reports whether a rule refused that wants no line in the log.
func (r *Refusal) Quiet() bool { return r.quiet }

// Level is that of the line in the log, 0 if no rule has one for it.
func (r *Refusal) Level() slog.Level { return r.level }

// refusal returns d as an error, nil if it allows.
func (p *Policy) refusal(d Decision) error {
	if d.Allowed {
		return nil
	}
	r := &Refusal{Decision: d}
	if d.Kind == RuleDenies {
		r.quiet, r.level = p.Rules[d.Rule].Quiet, p.Rules[d.Rule].Level
	}
	return r
}

// question makes one of a request: as it is, or about an address of its
// destination.
func (p *Policy) question(req *argyle.Request, ip netip.Addr) question {
	if !ip.IsValid() {
		ip = req.Dest.IP
	}
	q := question{
		command: commandOf(req.Command),
		req:     req,
		client:  plainAddr(req.Client.Addr()),
		name:    req.Dest.Name,
		port:    req.Dest.Port,
		now:     p.Now,
	}
	if ip.IsValid() {
		q.addr = netip.AddrPortFrom(plainAddr(ip), q.port)
	}
	return q
}

// Decide decides about a request once: by its name if it has one, and by ip,
// which is an address of the name, or not valid if none is known. Nothing is
// looked up; a decision that depends on the address is [Undecided].
func (p *Policy) Decide(req *argyle.Request, ip netip.Addr) Decision {
	q := p.question(req, ip)
	return p.decide(&q)
}

func (p *Policy) decide(q *question) Decision {
	if p.clients != nil && q.client.IsValid() && !p.clients.Contains(q.client) {
		return refused(Stranger, -1, "client %v is in none of the allowed networks", q.client)
	}
	if p.Rules == nil {
		return p.guard(q, nil, Decision{Allowed: true, Kind: NoRules, Rule: -1, Reason: "there are no rules"})
	}
	x := p.engine.index.Load()
	a := x.ask(q)
	if a.rule < 0 {
		return Decision{Kind: NoMatch, Rule: -1, Reason: "no rule matches"}
	}
	rule := p.engine.rules[a.rule]
	d := Decision{Allowed: !rule.Deny, Kind: RuleAllows, Rule: a.rule, Via: rule.Via, Reason: rule.reason}
	switch {
	case a.undecided:
		return Decision{Kind: Undecided, Rule: a.rule, Reason: rule.depends}
	case rule.Deny:
		d.Kind = RuleDenies
		return d
	case rule.Via != "":
		d.Kind = RuleSends
	}
	return p.guard(q, x, d)
}

func refused(kind Kind, rule int, format string, args ...any) Decision {
	return Decision{Kind: kind, Rule: rule, Reason: fmt.Sprintf(format, args...)}
}

// guard refuses what the rules allow and yet must not be: the proxy itself, and
// what clients from other hosts have no business with.
func (p *Policy) guard(q *question, x *index, d Decision) Decision {
	free := p.AllowPrivate || !q.client.IsValid() || q.client.IsLoopback() || d.Rule >= 0 && p.Rules[d.Rule].Private
	ip := q.addr.Addr()
	switch {
	case !ip.IsValid():
		if !free && isLocalhost(q.name) {
			return refused(PrivateAddress, d.Rule, "%s is loopback%s", q.name, p.unnamed(d.Rule))
		}
		return d
	case q.command == Bind && ip.IsUnspecified():
		// Anybody may come, so that only those who may meet anybody may ask.
		if !free {
			return refused(AnyPeer, d.Rule, "BIND without an address of the peer%s", p.unnamed(d.Rule))
		}
		return d
	case !free:
		if what := p.Special(ip); what != "" && (x == nil || !x.namesPrivate(d.Rule, ip)) {
			return refused(PrivateAddress, d.Rule, "%v is %s%s", ip, what, p.unnamed(d.Rule))
		}
	}
	return p.guardOwn(q.addr, d)
}

// unnamed says which rule could make an exception and does not.
func (p *Policy) unnamed(rule int) string {
	if rule < 0 {
		return ""
	}
	return ", which " + p.engine.rules[rule].label + " does not name"
}

func (p *Policy) guardOwn(addr netip.AddrPort, d Decision) Decision {
	if p.Own != nil && p.Own(addr) {
		return refused(Itself, d.Rule, "%v is this proxy itself", addr)
	}
	return d
}

// isLocalhost reports whether name is one that every resolver should take for
// loopback (RFC 6761, section 6.3), so that it need not be resolved to know.
func isLocalhost(name string) bool {
	if !isASCII(name) {
		name = string(appendName(nil, name))
	}
	const localhost = "localhost"
	name = strings.TrimSuffix(name, ".")
	before := len(name) - len(localhost)
	return before >= 0 && strings.EqualFold(name[before:], localhost) && (before == 0 || name[before-1] == '.')
}
