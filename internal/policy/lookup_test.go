package policy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// book is a resolver that counts. A name with an empty entry has no address.
type book struct {
	names map[string]string
	asked []string
}

func (b *book) LookupNetIP(_ context.Context, network, host string) (ips []netip.Addr, err error) {
	b.asked = append(b.asked, host)
	text, ok := b.names[host]
	if !ok || network != "ip" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	for field := range strings.FieldsSeq(text) {
		ips = append(ips, netip.MustParseAddr(field))
	}
	return ips, nil
}

// Names are looked up where a rule about networks comes before the one that decides, and nowhere else.
func TestLookUps(t *testing.T) {
	allow := func(dests ...string) Rule { return Rule{Dests: dests} }
	deny := func(dests ...string) Rule { return Rule{Dests: dests, Deny: true} }
	via := func(way string, dests ...string) Rule { return Rule{Dests: dests, Via: way} }
	tests := []struct {
		what    string
		rules   []Rule
		ask     string
		lookUps int
		want    string // way and destination, or the reason
	}{
		{"no rules", nil, "a.test:80", 0, "direct"},
		{"a name denies", []Rule{deny(".evil.test"), deny("10.0.0.0/8"), allow()}, "x.evil.test:80", 0, "rule 1 denies"},
		{"a glob denies", []Rule{deny("x*"), deny("10.0.0.0/8"), allow()}, "x.evil.test:80", 0, "rule 1 denies"},
		{"a set denies", []Rule{deny("set:names"), deny("10.0.0.0/8"), allow()}, "in.set.test:80", 0, "rule 1 denies"},
		{"a name allows", []Rule{allow("a.test"), deny("10.0.0.0/8")}, "a.test:80", 0, "direct"},
		{"a name sends", []Rule{via("gw", ".test"), deny("10.0.0.0/8")}, "a.test:80", 0, "gw"},
		{"nothing about networks", []Rule{deny("b.test"), via("gw")}, "a.test:80", 0, "gw"},
		{"a network after all", []Rule{via("gw"), deny("10.0.0.0/8")}, "a.test:80", 0, "gw"},
		{"the name of a rule with networks", []Rule{via("gw", "a.test", "10.0.0.0/8"), allow()}, "a.test:80", 0, "gw"},
		{"an address", []Rule{deny("10.0.0.0/8"), via("gw")}, "192.0.2.1:80", 0, "gw"},
		{"a network for another user", []Rule{{Deny: true, Dests: []string{"10.0.0.0/8"}, Users: []string{"ann"}}, via("gw")}, "a.test:80", 0, "gw"},
		{"a network for another port", []Rule{{Deny: true, Dests: []string{"10.0.0.0/8"}, Ports: []Ports{{22, 22}}}, via("gw")}, "a.test:80", 0, "gw"},
		{"a network for replies", []Rule{{Deny: true, Dests: []string{"10.0.0.0/8"}, Commands: []Command{UDPReply}}, via("gw")}, "udp a.test:80", 0, "gw"},

		{"a network first", []Rule{deny("10.0.0.0/8"), via("gw")}, "a.test:80", 1, "gw to 192.0.2.1:80"},
		{"a network in a set first", []Rule{deny("set:nets"), via("gw")}, "a.test:80", 1, "gw to 192.0.2.1:80"},
		{"a network denies", []Rule{deny("10.0.0.0/8"), via("gw")}, "private.test:80", 1, "rule 1 denies"},
		{"a network denies before a name", []Rule{deny("10.0.0.0/8"), deny(".test")}, "a.test:80", 1, "rule 2 denies"},
		{"a network sends", []Rule{via("gw", "192.0.2.0/24"), allow()}, "a.test:80", 1, "gw to 192.0.2.1:80"},
		{"a network sends others", []Rule{via("gw", "203.0.113.0/24"), allow()}, "a.test:80", 1, "direct"},
		{"a way that looks up itself", []Rule{via("gw", "203.0.113.0/24"), via("near")}, "a.test:80", 1, "near"},
		{"no rule matches", []Rule{allow("203.0.113.0/24")}, "a.test:80", 1, "no rule matches"},
		{"the first address is allowed", []Rule{deny("10.0.0.0/8"), via("gw")}, "mixed.test:80", 1, "gw to 192.0.2.7:80"},
		{"the second way counts not", []Rule{via("gw", "2001:db8::/32"), via("near")}, "both.test:80", 1, "gw to [2001:db8::1]:80"},
		{"the first way counts", []Rule{via("gw", "192.0.2.0/24"), via("near")}, "both.test:80", 1, "near"},
		{"all are denied", []Rule{deny("192.0.2.0/24"), {Name: "six", Deny: true, Dests: []string{"::/0"}}, allow()}, "both.test:80", 1, `rule "six" denies`},
		{"mapped", []Rule{deny("10.0.0.0/8"), via("gw")}, "mapped.test:80", 1, "rule 1 denies"},
		{"mapped, allowed", []Rule{deny("10.0.0.0/8"), via("gw")}, "mapped2.test:80", 1, "gw to 192.0.2.6:80"},
		{"private, by a network", []Rule{deny("203.0.113.0/24"), via("gw")}, "client=192.0.2.1 private.test:80", 1, "10.1.2.3 is private"},
		{"private, by a name", []Rule{via("gw", ".test")}, "client=192.0.2.1 private.test:80", 0, "gw"},
		{"our own", []Rule{deny("203.0.113.0/24"), via("gw")}, "own.test:1080", 1, "127.0.0.1:1080 is this proxy itself"},
		{"localhost", []Rule{deny("203.0.113.0/24"), via("gw")}, "client=192.0.2.1 localhost:80", 1, "127.0.0.1 is loopback"},
		{"UTF-8", []Rule{deny("10.0.0.0/8"), via("gw")}, "Bücher.test:80", 1, "gw to 192.0.2.3:80"},
		{"a final dot", []Rule{deny("10.0.0.0/8"), via("gw")}, "dot.test.:80", 1, "gw to 192.0.2.4:80"},
		{"BIND", []Rule{deny("10.0.0.0/8"), via("gw")}, "bind a.test:80", 1, "gw to 192.0.2.1:80"},
		{"BIND by a name", []Rule{deny("x.test"), via("gw")}, "bind a.test:80", 0, "gw"},
		{"a datagram", []Rule{deny("10.0.0.0/8"), via("gw")}, "udp a.test:80", 1, "gw to 192.0.2.1:80"},
		{"unknown", []Rule{deny("10.0.0.0/8"), via("gw")}, "none.test:80", 1, "lookup none.test: no such host"},
		{"unknown, by a name", []Rule{via("gw", "none.test"), deny("10.0.0.0/8")}, "none.test:80", 0, "gw"},
		{"no address", []Rule{deny("10.0.0.0/8"), via("gw")}, "empty.test:80", 1, "lookup empty.test: no addresses"},
		{"no A-labels", []Rule{deny("10.0.0.0/8"), via("gw")}, "a\u200d\u0300b.test:80", 0, "lookup a"},
	}
	for _, tt := range tests {
		names := &book{names: map[string]string{
			"a.test": "192.0.2.1", "x.evil.test": "10.0.0.1", "in.set.test": "10.0.0.1", "private.test": "10.1.2.3 10.1.2.4",
			"mixed.test": "10.0.0.1 192.0.2.7 192.0.2.8", "both.test": "2001:db8::1 192.0.2.2", "mapped.test": "::ffff:10.0.0.1", "mapped2.test": "::ffff:192.0.2.6",
			"own.test": "127.0.0.1", "localhost": "127.0.0.1", "xn--bcher-kva.test": "192.0.2.3", "dot.test.": "192.0.2.4", "empty.test": "",
		}}
		p := made(t, Policy{
			Rules: tt.rules, Resolver: names, Own: ownAddr("127.0.0.1:1080"),
			Ways: map[string]Way{"gw": {Dialer: &namedWay{name: "gw"}}, "near": {Dialer: &namedWay{name: "near"}, Resolves: true}},
			Sets: map[string]*Set{"names": {Entries: []string{".set.test"}}, "nets": {Entries: []string{"b.test", "203.0.113.0/24"}}},
		})
		route, err := p.Route(t.Context(), ask(t, tt.ask))
		got := text(err)
		if err == nil {
			got = route.Dialer.(interface{ String() string }).String()
			if !route.Dest.IsZero() {
				got += " to " + route.Dest.String()
			}
		}
		if err == nil && got != tt.want || err != nil && !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
		var dns *net.DNSError
		if strings.HasPrefix(tt.want, "lookup") && !errors.As(err, &dns) {
			t.Errorf("%s: %T is no DNSError", tt.what, err)
		}
		if len(names.asked) != tt.lookUps {
			t.Errorf("%s: asked for %v, want %d look-ups", tt.what, names.asked, tt.lookUps)
		}
	}
}

// namedWay is a way out of another kind with a name.
type namedWay struct {
	otherWay
	name string
}

func (w *namedWay) String() string { return w.name }

// An address that was decided about by its name is checked with it.
func TestCheck(t *testing.T) {
	p := made(t, Policy{
		Own:      ownAddr("192.0.2.80:1080"),
		Resolver: &book{},
		Ways:     map[string]Way{"gw": {Dialer: &namedWay{name: "gw"}}, "near": {Dialer: &namedWay{name: "near"}, Resolves: true}},
		Rules: []Rule{
			{Dests: []string{"printer.test"}, Private: true},
			{Dests: []string{"near.test"}, Via: "near"},
			{Deny: true, Dests: []string{"203.0.113.0/24"}},
			{Dests: []string{"198.51.100.0/24"}, Via: "gw"},
			{Commands: []Command{Bind}, Ports: []Ports{{20, 21}}},
			{Commands: []Command{UDP}, Deny: true, Ports: []Ports{{123, 123}}},
			{Commands: []Command{Connect, UDP}},
		},
	})
	tests := []struct {
		ask, way, addr string
		want           string // "": allowed
	}{
		{"a.test:80", "", "192.0.2.1:80", ""},
		{"a.test:80", "", "[::ffff:192.0.2.1]:80", ""},
		{"a.test:80", "", "203.0.113.1:80", "rule 3 denies"},
		{"a.test:80", "", "198.51.100.1:80", "goes another way"},
		{"a.test:80", "gw", "198.51.100.1:80", ""},
		{"a.test:80", "gw", "192.0.2.1:80", "goes another way"},
		{"a.test:1080", "", "192.0.2.80:1080", "this proxy itself"},
		{"client=192.0.2.9 a.test:80", "", "10.0.0.1:80", "10.0.0.1 is private"},
		{"client=192.0.2.9 printer.test:80", "", "10.0.0.1:80", ""},
		{"client=192.0.2.9 printer.test:80", "", "203.0.113.1:80", ""},
		{"near.test:80", "near", "192.0.2.1:80", ""},
		{"near.test:80", "", "192.0.2.1:80", "goes another way"},
		{"client=192.0.2.9 near.test:80", "near", "127.0.0.1:80", "127.0.0.1 is loopback"},
		{"udp a.test:53", "", "192.0.2.1:53", ""},
		{"udp", "", "192.0.2.1:53", ""}, // an association as a whole
		{"udp", "", "203.0.113.1:53", "rule 3 denies"},
		{"udp", "", "192.0.2.1:123", "rule 6 denies"},
		{"udp a.test:123", "", "192.0.2.1:123", "rule 6 denies"},
		{"client=192.0.2.9 udp", "", "10.0.0.1:53", "10.0.0.1 is private"},
		// The peer of a BIND comes from some port; what counts is the one that was asked for.
		{"bind a.test:20", "", "192.0.2.1:34567", ""},
		{"bind 0.0.0.0:20", "", "192.0.2.1:34567", ""},
		{"bind 0.0.0.0:20", "", "192.0.2.80:1080", "this proxy itself"},
		{"bind 0.0.0.0:20", "", "203.0.113.1:34567", "rule 3 denies"},
		{"client=192.0.2.9 bind 192.0.2.1:20", "", "10.0.0.1:34567", "10.0.0.1 is private"},
		{"bind a.test:22", "", "192.0.2.1:22", "no rule matches"},
	}
	for _, tt := range tests {
		ctx := argyle.WithRequest(t.Context(), ask(t, tt.ask))
		err := p.Check(tt.way)(ctx, "tcp", netip.MustParseAddrPort(tt.addr))
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, argyle.ErrNotAllowed)) {
			t.Errorf("%s by %q at %s: %v, want %q", tt.ask, tt.way, tt.addr, err, tt.want)
		}
		// Without a request there is nothing to decide but that.
		err = p.Check(tt.way)(t.Context(), "tcp", netip.MustParseAddrPort(tt.addr))
		if (err != nil) != strings.HasPrefix(tt.addr, "192.0.2.80") {
			t.Errorf("health check of %s: %v", tt.addr, err)
		}
	}
}

// Trial goes through Route and Check without a look-up.
func TestTrial(t *testing.T) {
	names := &book{}
	p := made(t, Policy{
		Resolver: names,
		Ways:     map[string]Way{"gw": {Dialer: &namedWay{name: "gw"}}},
		Rules: []Rule{
			{Users: []string{"ann"}, Dests: []string{".corp.test"}, Private: true},
			{Deny: true, Dests: []string{"10.0.0.0/8"}},
			{Dests: []string{"192.0.2.0/24"}, Via: "gw"},
			{Times: []Span{{8 * 60, 18 * 60}}},
		},
	})
	noon, night := time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local), time.Date(2026, 11, 23, 3, 0, 0, 0, time.Local)
	tests := []struct {
		ask, resolves string
		at            time.Time
		want          Kind
		rule          int
	}{
		{"user=ann client=192.0.2.7 git.corp.test:22", "10.1.2.3", noon, RuleAllows, 0},
		{"client=192.0.2.7 rebind.test:80", "10.0.0.1", noon, RuleDenies, 1},
		{"client=192.0.2.7 a.test:80", "127.0.0.1", noon, PrivateAddress, 3},
		{"client=192.0.2.7 a.test:80", "127.0.0.1 8.8.8.8", noon, RuleAllows, 3},
		{"a.test:80", "192.0.2.5", noon, RuleSends, 2},
		{"a.test:80", "8.8.8.8", noon, RuleAllows, 3},
		{"a.test:80", "8.8.8.8", night, NoMatch, -1},
		{"a.test:80", "", noon, Undecided, 1},
		{"user=ann x.corp.test:80", "", noon, RuleAllows, 0},
		{"udp 192.0.2.53:53", "", night, RuleSends, 2},
	}
	for _, tt := range tests {
		var ips []netip.Addr
		if tt.resolves != "" {
			ips = addrs(tt.resolves)
		}
		req := ask(t, tt.ask)
		if d := p.Trial(req, ips, tt.at); d.Kind != tt.want || d.Rule != tt.rule || d.Reason == "" {
			t.Errorf("%s at %s: %+v, want %s by %d", tt.ask, tt.resolves, d, tt.want, tt.rule)
		}
	}
	// A name that is allowed as such goes on to Check.
	p = made(t, Policy{Rules: []Rule{{}}})
	if d := p.Trial(ask(t, "client=192.0.2.7 a.test:80"), addrs("10.0.0.1"), time.Time{}); d.Kind != PrivateAddress {
		t.Errorf("%+v", d)
	}
	disguised := &argyle.Request{Command: argyle.Connect, Dest: argyle.Addr{Name: "１２７.１", Port: 80}}
	if d := p.Trial(disguised, nil, time.Time{}); d.Allowed {
		t.Errorf("%+v", d)
	}
	if len(names.asked) > 0 {
		t.Errorf("looked up %v", names.asked)
	}
}

// Recheck ends what would be refused now, and lets be what it cannot know.
func TestRecheck(t *testing.T) {
	p := made(t, Policy{
		Ways: map[string]Way{"gw": {Dialer: &namedWay{name: "gw"}}},
		Rules: []Rule{
			{Deny: true, Dests: []string{".evil.test"}},
			{Deny: true, Dests: []string{"203.0.113.0/24"}},
			{Commands: []Command{Connect, Bind}},
			{Commands: []Command{UDP}, Users: []string{"ann"}},
		},
	})
	tests := []struct {
		ask, peer string
		ends      bool
	}{
		{"x.evil.test:80", "192.0.2.1:80", true},
		{"x.evil.test:80", "", true},
		{"a.test:80", "192.0.2.1:80", false},
		{"a.test:80", "203.0.113.1:80", true},
		{"a.test:80", "203.0.113.1:1080", false}, // a proxy
		{"a.test:80", "", false},
		{"203.0.113.1:80", "", true},
		{"192.0.2.1:80", "203.0.113.1:80", false},
		{"client=192.0.2.1 a.test:80", "10.0.0.1:80", true},
		{"bind a.test:80", "203.0.113.1:80", false},
		{"udp", "", true},
		{"user=ann udp", "", false},
	}
	for _, tt := range tests {
		var peer net.Addr
		if tt.peer != "" {
			peer = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.peer))
		}
		if err := p.Recheck(ask(t, tt.ask), peer); (err != nil) != tt.ends {
			t.Errorf("%s to %s: %v, want an end: %v", tt.ask, tt.peer, err, tt.ends)
		}
	}
}

// patience is a resolver that has no answer within the time that it has, and
// notes how long that was; 0 is for ever.
type patience struct{ had time.Duration }

func (p *patience) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	p.had = 0
	if deadline, ok := ctx.Deadline(); ok {
		p.had = time.Until(deadline)
	}
	return nil, context.DeadlineExceeded
}

// A look-up for the rules takes no longer than the way to the destination may, by
// the rules that may allow it.
func TestLookUpTime(t *testing.T) {
	dial := func(d time.Duration, dests ...string) Rule {
		return Rule{Dests: dests, Timeouts: proxy.Timeouts{DialTimeout: d}}
	}
	inner := Rule{Dests: []string{"10.0.0.0/8"}, Deny: true}
	ofEve := dial(9*time.Second, "10.0.0.0/8")
	ofEve.Users = []string{"eve"}
	const second = time.Second
	for _, tt := range []struct {
		what  string
		rules []Rule
		want  time.Duration
	}{
		{"no time", []Rule{inner, {}}, 0},
		{"of the last", []Rule{inner, dial(second)}, second},
		{"of what comes later", []Rule{inner, dial(second), dial(5 * second)}, second},
		{"of all that may be", []Rule{inner, dial(second, "192.0.2.0/24"), dial(5*second, "198.51.100.0/24"), dial(2 * second)}, 5 * second},
		{"not of another name", []Rule{inner, dial(5*second, "b.test"), dial(second)}, second},
		{"not of another user", []Rule{inner, ofEve, dial(second)}, second},
		{"one has none of its own", []Rule{inner, dial(second, "192.0.2.0/24"), {}}, 0},
		{"one has no bound", []Rule{inner, dial(-1, "192.0.2.0/24"), dial(second)}, 0},
		{"no rule for the rest", []Rule{inner, dial(second, "192.0.2.0/24")}, second},
		{"all deny", []Rule{inner}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			names := new(patience)
			p := made(t, Policy{Rules: tt.rules, Resolver: names})
			if _, err := p.Route(t.Context(), ask(t, "a.test:80")); !errors.Is(err, context.DeadlineExceeded) || names.had != tt.want {
				t.Errorf("%s: a look-up may take %v, want %v; %v", tt.what, names.had, tt.want, err)
			}
		})
	}
}
