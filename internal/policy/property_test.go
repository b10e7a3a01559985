package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

// A small world, so that rules and requests meet often.
var world = struct {
	names, patterns, users, inbounds []string
	addrs                            []netip.Addr
	clients                          []netip.Addr
	clientNets                       []netip.Prefix
	ports                            []uint16
	spans                            []Span
	times                            []time.Time
	auth                             []argyle.Auth
}{
	names: []string{
		"a.test", "A.test.", "b.a.test", "x.b.a.test", "ads1.cdn.test", "test", "example.org", "localhost", "x.localhost",
		"bücher.test", "xn--bcher-kva.test", "BÜCHER.test", "ｂücher。test", "_srv.a.test", "10.test",
	},
	patterns: []string{
		"a.test", ".a.test", "b.a.test", ".b.a.test", "*.a.test", ".test", "*.test", "ads*", "*ads?.cdn.*", "*a*", "?.test", "x*t", "*.*.a.test",
		"bücher.test", "XN--BCHER-KVA.test", ".bücher.test.", "localhost", ".localhost", "example.org", "*",
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "8.8.0.0/16", "8.8.8.8", "127.0.0.0/8", "fd00::/8", "2000::/3",
		"64:ff9b::/96", "64:ff9b::10.1.2.3", "169.254.169.254", "set:one", "set:two", "set:three", "set:empty",
	},
	users:    []string{"ann", "bob", "eve", "*", "ann@A", "*@A", "*@B"},
	inbounds: []string{"main", "lan", ""},
	addrs: addrs("8.8.8.8 8.8.4.4 9.9.9.9 10.1.2.3 10.1.9.9 10.9.9.9 127.0.0.1 0.0.0.0 169.254.169.254 fd00::1 2001:4860::1 ::1 :: " +
		"64:ff9b::10.1.2.3 64:ff9b::8.8.8.8 2002:808:808::1 2001:0:808:808::f7f7:f7f7 2a00::5efe:8.8.8.8 ::ffff:0:8.8.8.8"),
	clients:    append(addrs("127.0.0.1 ::1 192.0.2.1 192.0.2.9 10.1.2.3 2001:db8::1 ::ffff:192.0.2.1"), netip.Addr{}),
	clientNets: prefixes("192.0.2.0/24", "192.0.2.0/29", "10.0.0.0/8", "127.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"),
	ports:      []uint16{0, 22, 25, 53, 80, 443, 65535},
	spans:      []Span{{0, 60}, {0, day}, {540, 1020}, {1320, 360}, {1380, 0}, {720, 721}},
	times: []time.Time{
		time.Date(2026, 11, 23, 0, 30, 0, 0, time.UTC), time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC), // Monday, Sunday
		time.Date(2026, 11, 28, 12, 0, 59, 0, time.UTC), time.Date(2026, 11, 25, 5, 59, 0, 0, time.UTC),
	},
	auth: []argyle.Auth{argyle.AuthNone, argyle.AuthPassword, argyle.AuthUID, argyle.AuthGSSAPI},
}

func addrs(texts string) (all []netip.Addr) {
	for text := range strings.FieldsSeq(texts) {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// random makes policies and requests.
type random struct{ *rand.Rand }

func newRandom(seed uint64) random { return random{rand.New(rand.NewPCG(seed, 1))} }

func pick[T any](r random, all []T) T { return all[r.IntN(len(all))] }

// some returns a few of all, or nil with a chance of 1 - p.
func some[T any](r random, p float64, all []T) (few []T) {
	if r.Float64() >= p {
		return nil
	}
	for range 1 + r.IntN(3) {
		few = append(few, pick(r, all))
	}
	return few
}

func (r random) policy(rules int) Policy {
	p := Policy{
		AllowPrivate: r.IntN(5) == 0,
		Own:          func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort("8.8.4.4:443") },
		Clients:      some(r, 0.1, world.clientNets),
		Groups:       map[string][]string{"staff": {"ann", "bob", "sid:S-1-5-1"}, "guests": {"eve", "ann", "*@A"}, "nobody": nil},
		Sets:         map[string]*Set{"empty": {}},
		Ways:         map[string]Way{"gw": {Dialer: new(otherWay)}, "near": {Dialer: new(otherWay), Resolves: true}},
	}
	for _, name := range []string{"one", "two", "three"} {
		entries := slices.DeleteFunc(some(r, 1, world.patterns), func(e string) bool { return e[0] == 's' })
		p.Sets[name] = &Set{Entries: append(entries, some(r, 0.3, []string{"192.0.2.0/29", "10.0.0.0/8"})...)}
	}
	now := pick(r, world.times)
	p.Now = func() time.Time { return now }
	if r.IntN(20) > 0 {
		p.Rules = make([]Rule, 0, rules)
		for range rules {
			p.Rules = append(p.Rules, r.rule())
		}
	}
	return p
}

func (r random) rule() Rule {
	rule := Rule{
		Clients:    some(r, 0.15, world.clientNets),
		ClientSets: some(r, 0.1, []string{"one", "two", "three", "empty"}),
		Inbounds:   some(r, 0.15, world.inbounds),
		Users:      some(r, 0.2, world.users),
		Groups:     some(r, 0.15, []string{"staff", "guests", "nobody"}),
		Auth:       some(r, 0.15, world.auth),
		Commands:   some(r, 0.25, commands),
		Dests:      some(r, 0.7, world.patterns),
		Deny:       r.IntN(2) == 0,
		Private:    r.IntN(4) == 0,
	}
	for range len(some(r, 0.2, world.ports)) {
		a, b := pick(r, world.ports), pick(r, world.ports)
		rule.Ports = append(rule.Ports, Ports{min(a, b), max(a, b)})
	}
	rule.Days = some(r, 0.1, []time.Weekday{0, 1, 2, 3, 4, 5, 6})
	rule.Times = some(r, 0.1, world.spans)
	if !rule.Deny {
		rule.Via = pick(r, []string{"", "", "gw", "near"})
	}
	return rule
}

func (r random) request() *argyle.Request {
	req := &argyle.Request{
		Command: pick(r, []argyle.Command{argyle.Connect, argyle.Connect, argyle.Bind, argyle.Associate}),
		User:    pick(r, []string{"", "ann", "bob", "eve", "zoe", "ann@A", "bob@A", "ann@B"}),
		Groups:  some(r, 0.2, []string{"sid:S-1-5-1", "sid:S-1-5-2"}),
		Auth:    pick(r, world.auth),
		Inbound: pick(r, world.inbounds),
	}
	if client := pick(r, world.clients); client.IsValid() {
		req.Client = netip.AddrPortFrom(client, 4000)
	}
	switch r.IntN(5) {
	case 0:
		if req.Command == argyle.Associate {
			return req
		}
		fallthrough
	case 1, 2:
		req.Dest = argyle.Addr{IP: pick(r, world.addrs), Port: pick(r, world.ports)}
	default:
		req.Dest = argyle.Addr{Name: pick(r, world.names), Port: pick(r, world.ports)}
	}
	return req
}

// answers is a resolver that says the same for every name.
type answers struct {
	ips   []netip.Addr
	asked []string
}

func (a *answers) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	a.asked = append(a.asked, host)
	if len(a.ips) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return slices.Clone(a.ips), nil
}

// compare puts a few random requests to a random policy.
func compare(t *testing.T, seed uint64, rules int) (matched int) {
	t.Helper()
	r := newRandom(seed)
	names := &answers{}
	from := r.policy(rules)
	from.Resolver = names
	p := made(t, from)
	n := naive{p}
	for range 20 {
		req := r.request()
		where := fmt.Sprintf("seed %d, %d rules: %s", seed, rules, describe(req))
		want := n.decide(commandOf(req.Command), req, req.Dest.Name, req.Dest.IP, req.Dest.Port)
		compareDecision(t, where, p, p.Decide(req, netip.Addr{}), want)
		if want.rule >= 0 {
			matched++
		}
		names.asked, names.ips = nil, some(r, 0.9, world.addrs)
		compareRoute(t, where, n, req, names, want)
		compareReply(t, where, n, req, argyle.Addr{IP: pick(r, world.addrs), Port: pick(r, world.ports)})
		if t.Failed() {
			if want.rule >= 0 {
				t.Logf("rule %d: %+v", want.rule, from.Rules[want.rule])
			}
			t.Logf("sets: %v %v %v", from.Sets["one"].Entries, from.Sets["two"].Entries, from.Sets["three"].Entries)
			t.FailNow()
		}
	}
	return matched
}

func compareDecision(t *testing.T, where string, p *Policy, d Decision, want outcome) {
	t.Helper()
	if got := (outcome{d.Kind, d.Rule}); got != want {
		t.Errorf("%s: %v (%s), want %v", where, got, d.Reason, want)
	}
	allowed := want.kind == NoRules || want.kind == RuleAllows || want.kind == RuleSends
	if d.Allowed != allowed || d.Reason == "" || allowed && want.rule >= 0 && d.Via != p.Rules[want.rule].Via {
		t.Errorf("%s: %+v, want allowed: %v", where, d, allowed)
	}
}

// compareRoute goes on where the naive decision is first.
func compareRoute(t *testing.T, where string, n naive, req *argyle.Request, names *answers, first outcome) {
	t.Helper()
	route, err := n.Route(t.Context(), req)
	if first.kind != Undecided {
		if len(names.asked) > 0 {
			t.Errorf("%s: looked up %v", where, names.asked)
		}
		wantRoute(t, where, n, req, route.Dialer, route.Dest, err, first, netip.Addr{})
		return
	}
	if len(names.asked) != 1 {
		t.Errorf("%s: looked up %v", where, names.asked)
	}
	if len(names.ips) == 0 {
		var dns *net.DNSError
		if !errors.As(err, &dns) {
			t.Errorf("%s: %v, want the resolver's error", where, err)
		}
		return
	}
	var want outcome
	var ip netip.Addr
	for i, candidate := range names.ips {
		plain := candidate.Unmap()
		o := n.decide(commandOf(req.Command), req, req.Dest.Name, plain, req.Dest.Port)
		compareDecision(t, where+" at "+candidate.String(), n.Policy, n.Decide(req, candidate), o)
		ok := o.kind == RuleAllows || o.kind == RuleSends
		if i == 0 || ok && !ip.IsValid() {
			want = o
		}
		if ok && !ip.IsValid() {
			ip = plain
		}
	}
	wantRoute(t, where, n, req, route.Dialer, route.Dest, err, want, ip)
}

func wantRoute(t *testing.T, where string, n naive, req *argyle.Request, dialer argyle.Dialer, dest argyle.Addr, err error, want outcome, ip netip.Addr) {
	t.Helper()
	switch want.kind {
	case NoRules, RuleAllows, RuleSends:
	default:
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Kind != want.kind || refusal.Rule != want.rule {
			t.Errorf("%s: %v, want %v", where, err, want)
		}
		return
	}
	via := ""
	if want.rule >= 0 {
		via = n.Rules[want.rule].Via
	}
	way := n.Ways[via]
	wantDest := argyle.Addr{}
	if ip.IsValid() && !way.Resolves {
		wantDest = argyle.Addr{IP: ip, Port: req.Dest.Port}
	}
	if err != nil || dialer != way.Dialer || dest != wantDest {
		t.Errorf("%s: goes %v to %v (%v), want way %q and %v", where, dialer, dest, err, via, wantDest)
	}
}

func compareReply(t *testing.T, where string, n naive, req *argyle.Request, peer argyle.Addr) {
	t.Helper()
	command := map[argyle.Command]Command{argyle.Bind: BindReply, argyle.Associate: UDPReply}[req.Command]
	ask := n.reply(req)
	if command == "" {
		if ask != nil {
			t.Errorf("%s: has replies", where)
		}
		return
	}
	// Of the naive decision only what the rules say counts.
	bare := *n.Policy
	bare.Clients, bare.AllowPrivate, bare.Own = nil, true, func(netip.AddrPort) bool { return false }
	want := naive{&bare}.decide(command, req, "", peer.IP, peer.Port)
	refuses := want.kind == RuleDenies
	if ask == nil {
		if want.rule >= 0 {
			t.Errorf("%s: nobody asks about %v, want %v", where, peer, want)
		}
		return
	}
	if err := ask(peer); (err != nil) != refuses {
		t.Errorf("%s: %v answers: %v, want %v", where, peer, err, want)
	}
}

func TestDecideAsNaively(t *testing.T) {
	matched, policies := 0, 1500
	if raced {
		policies /= 4 // it takes its time
	}
	for seed := range policies {
		matched += compare(t, uint64(seed), []int{1, 3, 8, 20, 65, 150, 400}[seed%7])
	}
	if matched < policies*10 {
		t.Errorf("%d of %d requests met a rule", matched, policies*20)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(uint64(1), uint16(1))
	f.Add(uint64(2), uint16(64))
	f.Add(uint64(3), uint16(300))
	f.Fuzz(func(t *testing.T, seed uint64, rules uint16) { compare(t, seed, int(rules%512)) })
}
