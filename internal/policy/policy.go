// Package policy decides who may go where, and by which way out.
//
//	p, err := policy.New(policy.Policy{
//		Own: own.Contains,
//		Rules: []policy.Rule{
//			{Name: "mail", Deny: true, Ports: []policy.Ports{{First: 25, Last: 25}}},
//			{Dests: []string{".corp.example"}, Via: "office"},
//			{},
//		},
//		Ways: map[string]policy.Way{"office": {Dialer: gateway}},
//	})
//
// The first rule that matches a request decides. Beside the rules, nobody
// reaches the proxy itself, and clients from other hosts no private address
// that a rule does not name.
package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// A Policy is who may go where. [New] makes it; its fields are not to be
// changed after. It is a proxy.Policy.
type Policy struct {
	// Clients are the networks that may use the proxy; empty means all.
	// Clients on unix sockets always may.
	Clients []netip.Prefix

	// AllowPrivate lets clients from other hosts reach the addresses that
	// Special tells of. Clients on loopback and on unix sockets always may.
	AllowPrivate bool

	// Special says what is special about an address, in place of [Private];
	// nil stands for that.
	Special func(netip.Addr) string

	// Own, if not nil, reports whether an address is one of our listeners;
	// nobody reaches those, since a proxy that calls itself never ends.
	Own func(netip.AddrPort) bool

	// Rules decide in their order; what none of them allows is denied. nil
	// (not merely empty) allows everything, by the default way.
	Rules []Rule

	Sets   map[string]*Set     // that rules name
	Groups map[string][]string // who is in them, by one of Members

	// Ways are the ways out by their names in Rule.Via; "" is the default.
	// Without a Dialer for it, the default way is direct.
	Ways map[string]Way

	// Resolver looks up the names for which a rule wants to know the
	// address; nil stands for [net.DefaultResolver].
	Resolver argyle.Resolver

	// Limits, if not nil, returns what a request counts against whatever
	// the rule: its user's and its client's.
	Limits func(*argyle.Request) []proxy.Limit

	// Now is the time for rules with hours; nil stands for [time.Now].
	Now func() time.Time

	engine  *engine
	clients *bart.Lite // nil: all
}

var _ proxy.Policy = (*Policy)(nil)

// A Way is a way out.
type Way struct {
	Dialer argyle.Dialer

	// Resolves says that names are looked up here, and that the Dialer
	// asks [Policy.Check] of this way about every address; else a name is
	// looked up elsewhere. An [*argyle.Direct] without a Check gets one.
	Resolves bool
}

// New makes a Policy of what is in from. The error joins all mistakes; those in
// a rule are a [*RuleError].
func New(from Policy) (*Policy, error) {
	p := &from
	p.Rules = slices.Clone(p.Rules)
	p.engine = &engine{groups: p.Groups, sources: make(map[string]*source)}
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Special == nil {
		p.Special = Private
	}
	errs := append(p.readClients(), p.readWays()...)
	errs = append(errs, p.readSets()...)
	errs = append(errs, p.readRules()...)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.engine.index.Store(p.engine.compile())
	return p, nil
}

func (p *Policy) readClients() (errs []error) {
	if len(p.Clients) == 0 {
		return nil
	}
	p.clients = new(bart.Lite)
	for _, n := range p.Clients {
		if !n.IsValid() {
			errs = append(errs, errors.New("an allowed network is not valid"))
			continue
		}
		p.clients.Insert(plainPrefix(n))
	}
	return errs
}

// readWays completes the ways: what is direct asks Check.
func (p *Policy) readWays() (errs []error) {
	ways := maps.Clone(p.Ways)
	if ways == nil {
		ways = make(map[string]Way)
	}
	if ways[""].Dialer == nil {
		ways[""] = Way{Dialer: &argyle.Direct{Resolver: p.Resolver}}
	}
	for name, way := range ways {
		if way.Dialer == nil {
			errs = append(errs, fmt.Errorf("way out %q has no dialer", name))
			continue
		}
		if direct, ok := way.Dialer.(*argyle.Direct); ok {
			way.Resolves = true
			if direct.Check == nil {
				checked := *direct
				checked.Check = p.Check(name)
				way.Dialer = &checked
			}
			ways[name] = way
		}
	}
	p.Ways = ways
	return errs
}

func (p *Policy) readSets() (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(p.Sets)) {
		if p.Sets[name] == nil {
			continue // as if it were not there
		}
		set, err := p.Sets[name].read()
		if err != nil {
			errs = append(errs, fmt.Errorf("set %q: %w", name, err))
		}
		p.engine.sources[name] = &source{set: set, current: set.first, seen: set.first.glance}
	}
	return errs
}

func (p *Policy) readRules() (errs []error) {
	for i := range p.Rules {
		r := &p.Rules[i]
		label := r.label(i)
		made := &compiledRule{Rule: r, label: label, reason: r.reason(label), depends: label + " depends on the address of the name"}
		wrong := r.check(p)
		for _, text := range r.Dests {
			dest, err := p.parseDest(text)
			if err != nil {
				wrong = append(wrong, err)
			}
			made.dests = append(made.dests, dest)
		}
		for _, err := range wrong {
			errs = append(errs, &RuleError{i, err, label})
		}
		p.engine.rules = append(p.engine.rules, made)
	}
	return errs
}

// parseDest reads one of a rule's destinations.
func (p *Policy) parseDest(text string) (pattern, error) {
	dest, err := parsePattern(text)
	if err == nil && dest.kind == setPattern && p.Sets[dest.text] == nil {
		return pattern{}, fmt.Errorf("there is no set %q", dest.text)
	}
	return dest, err
}

// At returns a Policy that decides as p does at another time; the zero time is
// now. It is the same in all else.
func (p *Policy) At(t time.Time) *Policy {
	if t.IsZero() {
		return p
	}
	other := *p
	other.Now = func() time.Time { return t }
	return &other
}
