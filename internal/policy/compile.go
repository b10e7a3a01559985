package policy

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// engine is what New makes of a Policy.
type engine struct {
	rules  []*compiledRule
	groups map[string][]string
	index  atomic.Pointer[index]

	mu      sync.Mutex
	sources map[string]*source // by the names of sets
}

// compiledRule is a rule with what it is not to be parsed for again.
type compiledRule struct {
	*Rule
	label   string // what logs call it
	reason  string // when it has decided
	depends string // when it cannot decide
	dests   []pattern
}

// compiler makes an index.
type compiler struct {
	*engine
	x                             *index
	clients, dests                *dimensionBuilder
	clientNets, destNets          *netBuilder
	destNames                     *nameBuilder
	inbounds, users, groups, auth *keyedBuilder
	ports, minutes                *rangedBuilder
	clientSets, destSets          numbers
	groupNumbers                  numbers
	facts                         map[string]setFacts
}

// numbers gives names numbers.
type numbers map[string]int

func (n numbers) of(name string) int {
	number, ok := n[name]
	if !ok {
		number = len(n)
		n[name] = number
	}
	return number
}

// compile makes an index of the rules, and of the sets as they are now. mu is
// held.
func (e *engine) compile() *index {
	n := len(e.rules)
	c := &compiler{
		engine:  e,
		x:       &index{rules: n, wantIP: newBitset(n), denies: newBitset(n), overlook: newBitset(n)},
		clients: newDimensionBuilder(n), dests: newDimensionBuilder(n),
		inbounds: newKeyedBuilder(n), users: newKeyedBuilder(n), groups: newKeyedBuilder(n), auth: newKeyedBuilder(n),
		ports: newRangedBuilder(n, 16), minutes: newRangedBuilder(n, 14),
		clientSets: make(numbers), destSets: make(numbers), groupNumbers: make(numbers),
		facts: make(map[string]setFacts),
	}
	c.clientNets, c.destNets = newNetBuilder(c.clients), newNetBuilder(c.dests)
	c.destNames = newNameBuilder(c.dests)
	for i := range c.x.commands {
		c.x.commands[i] = newBitset(n)
	}
	for i, r := range e.rules {
		c.addRule(i, r)
	}
	c.addGroups()
	return c.finish()
}

func (c *compiler) finish() *index {
	x := c.x
	x.inbounds, x.users, x.groups, x.auth = c.inbounds.build(), c.users.build(), c.groups.build(), c.auth.build()
	x.ports, x.minutes = c.ports.build(), c.minutes.build()
	x.clientNets, x.clients = c.clientNets.build(), c.clients.dimension()
	x.destNames, x.destNets = c.destNames.build(), c.destNets.build()
	x.dests = c.dests.dimension()
	return x
}

func (c *compiler) addRule(i int, r *compiledRule) {
	for _, cmd := range r.commandList() {
		c.x.commands[cmd.number()].set(uint32(i))
	}
	picky := len(r.dests) > 0 && !c.everywhere(r.dests)
	if picky {
		c.dests.care(i)
	}
	if r.Deny {
		c.x.denies.set(uint32(i))
		if picky || len(r.Ports) > 0 {
			c.x.overlook.set(uint32(i))
		}
	}
	c.addClients(i, r)
	enter(c.inbounds, i, r.Inbounds)
	enter(c.users, i, r.Users)
	enter(c.auth, i, r.Auth)
	for _, p := range r.Ports {
		c.ports.care(i)
		c.ports.enter(uint(p.First), uint(p.Last), ownerRule(i))
	}
	if len(r.Days)+len(r.Times) > 0 {
		c.minutes.care(i)
		r.minutes(func(first, last int) { c.minutes.enter(uint(first), uint(last), ownerRule(i)) })
	}
	for _, name := range r.Groups {
		c.groups.care(i)
		c.groups.join(i, c.groupNumbers.of(name))
	}
	for _, p := range r.dests {
		c.addDest(i, p)
	}
}

// enter enters the values of a condition.
func enter[T ~string](b *keyedBuilder, rule int, values []T) {
	for _, v := range values {
		b.care(rule)
		b.enter(string(v), ownerRule(rule))
	}
}

func (c *compiler) addClients(i int, r *compiledRule) {
	if len(r.Clients)+len(r.ClientSets) > 0 {
		c.clients.care(i)
	}
	for _, n := range r.Clients {
		c.clientNets.enter(plainPrefix(n), ownerRule(i))
	}
	for _, name := range r.ClientSets {
		c.clients.join(i, c.clientSets.of(name))
	}
}

func (c *compiler) addDest(i int, p pattern) {
	switch p.kind {
	case everything:
	case netPattern:
		c.x.wantIP.set(uint32(i))
		c.destNets.enter(p.net, ownerRule(i))
	case setPattern:
		if c.about(p.text).networks {
			c.x.wantIP.set(uint32(i))
		}
		c.dests.join(i, c.destSets.of(p.text))
	default:
		c.destNames.enter(p, ownerRule(i))
	}
}

// addGroups enters what is in sets and groups. Each is entered once, however
// many rules name it.
func (c *compiler) addGroups() {
	for name, number := range c.groupNumbers {
		for _, user := range c.engine.groups[name] {
			c.groups.enter(user, ownerGroup(number))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.clientSets)) {
		for p := range c.sources[name].entries {
			switch p.kind {
			case netPattern:
				c.clientNets.enter(p.net, ownerGroup(c.clientSets[name]))
			case everything:
				for _, all := range []string{"0.0.0.0/0", "::/0"} {
					c.clientNets.enter(netip.MustParsePrefix(all), ownerGroup(c.clientSets[name]))
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.destSets)) {
		o := ownerGroup(c.destSets[name])
		for p := range c.sources[name].entries {
			switch p.kind {
			case everything:
			case netPattern:
				c.destNets.enter(p.net, o)
			default:
				c.destNames.enter(p, o)
			}
		}
	}
}

// everywhere reports whether patterns have every destination.
func (c *compiler) everywhere(all []pattern) bool {
	return slices.ContainsFunc(all, func(p pattern) bool {
		return p.kind == everything || p.kind == setPattern && c.about(p.text).everything
	})
}

// setFacts is what a rule wants to know of a set that it names.
type setFacts struct{ everything, networks bool }

func (c *compiler) about(set string) setFacts {
	facts, known := c.facts[set]
	if known {
		return facts
	}
	for p := range c.sources[set].entries {
		facts.everything = facts.everything || p.kind == everything
		facts.networks = facts.networks || p.kind == netPattern
	}
	c.facts[set] = facts
	return facts
}
