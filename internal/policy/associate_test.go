package policy

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// An ASSOCIATE is accepted by the first rule that could allow a datagram, and refused by a rule that denies all of them.
func TestAssociate(t *testing.T) {
	night := func() time.Time { return time.Date(2026, 11, 23, 3, 0, 0, 0, time.Local) }
	only := func(c ...Command) Rule { return Rule{Commands: c} }
	deny := func(r Rule) Rule { r.Deny = true; return r }
	tests := []struct {
		what  string
		rules []Rule
		want  Kind
		rule  int
	}{
		{"no rules", nil, NoRules, -1},
		{"empty rules", []Rule{}, NoMatch, -1},
		{"allowed", []Rule{{}}, RuleAllows, 0},
		{"denied", []Rule{deny(Rule{}), {}}, RuleDenies, 0},
		{"some destinations denied", []Rule{deny(Rule{Dests: []string{"10.0.0.0/8"}}), {}}, RuleAllows, 1},
		{"some names denied", []Rule{deny(Rule{Dests: []string{".test"}}), {}}, RuleAllows, 1},
		{"some ports denied", []Rule{deny(Rule{Ports: []Ports{{53, 53}}}), {}}, RuleAllows, 1},
		{"some denied, none allowed", []Rule{deny(Rule{Ports: []Ports{{53, 53}}})}, NoMatch, -1},
		{"everything denied in a word", []Rule{deny(Rule{Dests: []string{"*"}}), {}}, RuleDenies, 0},
		{"everything denied on a port", []Rule{deny(Rule{Dests: []string{"*"}, Ports: []Ports{{53, 53}}}), {}}, RuleAllows, 1},
		{"some destinations allowed", []Rule{{Dests: []string{"10.0.0.0/8"}}, deny(Rule{})}, RuleAllows, 0},
		{"some ports allowed", []Rule{{Ports: []Ports{{53, 53}}}, deny(Rule{})}, RuleAllows, 0},
		{"only by another way", []Rule{{Ports: []Ports{{53, 53}}, Via: "gw"}, {}}, RuleSends, 0},
		{"denied for this user", []Rule{deny(Rule{Users: []string{"ann"}}), {}}, RuleDenies, 0},
		{"denied for another user", []Rule{deny(Rule{Users: []string{"bob"}}), {}}, RuleAllows, 1},
		{"allowed for another user", []Rule{{Users: []string{"bob"}}}, NoMatch, -1},
		{"denied now", []Rule{deny(Rule{Times: []Span{{0, 360}}}), {}}, RuleDenies, 0},
		{"denied by day", []Rule{deny(Rule{Times: []Span{{360, 720}}}), {}}, RuleAllows, 1},
		{"no UDP", []Rule{only(Connect, Bind)}, NoMatch, -1},
		{"connect denied", []Rule{deny(only(Connect)), {}}, RuleAllows, 1},
		{"UDP denied", []Rule{deny(only(UDP)), {}}, RuleDenies, 0},
		{"replies denied", []Rule{deny(only(UDPReply)), {}}, RuleAllows, 1},
		{"only replies allowed", []Rule{only(UDPReply)}, NoMatch, -1},
	}
	for _, tt := range tests {
		p := made(t, Policy{Rules: tt.rules, Now: night, Ways: map[string]Way{"gw": {Dialer: &namedWay{name: "gw"}}}})
		req := ask(t, "user=ann udp")
		if d := p.Decide(req, netip.Addr{}); d.Kind != tt.want || d.Rule != tt.rule {
			t.Errorf("%s: %+v, want %s by %d", tt.what, d, tt.want, tt.rule)
		}
		route, err := p.Route(t.Context(), req)
		switch {
		case tt.want == RuleSends && route.Dialer != p.Ways["gw"].Dialer, (tt.want == RuleAllows || tt.want == NoRules) && route.Dialer != p.Ways[""].Dialer:
			t.Errorf("%s: goes %v, %v", tt.what, route.Dialer, err)
		case (tt.want == RuleDenies || tt.want == NoMatch) && !errors.Is(err, argyle.ErrNotAllowed):
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}

// The terms of a rule about some datagrams are not those of the association.
func TestAssociateTerms(t *testing.T) {
	limits := []proxy.Limit{&share{"rule"}}
	times := proxy.Timeouts{MaxTime: 9}
	p := made(t, Policy{Rules: []Rule{{Ports: []Ports{{53, 53}}, Limits: limits, Timeouts: times, Quiet: true, Level: slog.LevelWarn}}})
	whole, err := p.Route(t.Context(), ask(t, "udp"))
	if err != nil || whole.Limits != nil || whole.Timeouts != (proxy.Timeouts{}) || whole.Quiet || whole.Level != 0 {
		t.Errorf("%+v, %v", whole, err)
	}
	one, err := p.Route(t.Context(), ask(t, "udp 192.0.2.1:53"))
	if err != nil || len(one.Limits) != 1 || one.Timeouts != times || !one.Quiet || one.Level != slog.LevelWarn {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := p.Route(t.Context(), ask(t, "udp 192.0.2.1:54")); !errors.Is(err, argyle.ErrNotAllowed) {
		t.Errorf("another port: %v", err)
	}
}

// Rules about replies are asked about the peer.
func TestReplies(t *testing.T) {
	p := made(t, Policy{
		Own:      ownAddr("192.0.2.80:1080"),
		Resolver: &book{names: map[string]string{"a.test": "198.51.100.1"}},
		Rules: []Rule{
			{Commands: []Command{UDPReply}, Dests: []string{"192.0.2.1"}, Ports: []Ports{{53, 53}}},
			{Commands: []Command{UDPReply, BindReply}, Deny: true, Dests: []string{"192.0.2.0/24", "10.0.0.0/8"}, Ports: []Ports{{1, 1000}}, Users: []string{"ann"}},
			{Commands: []Command{UDPReply}, Deny: true, Dests: []string{"a.test"}, Users: []string{"ann"}},
			{Commands: []Command{BindReply}, Deny: true, Times: []Span{{0, 1}}, Users: []string{"eve"}},
			{Deny: true, Dests: []string{"8.8.8.8"}},
			{},
		},
	})
	reply := func(text string) func(argyle.Addr) error {
		t.Helper()
		route, err := p.At(time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local)).Route(t.Context(), ask(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return route.Reply
	}
	for _, text := range []string{"connect a.test:80", "user=ann connect 192.0.2.1:80", "bind a.test:80", "user=bob bind 0.0.0.0:0", "user=eve bind 0.0.0.0:0"} {
		if reply(text) != nil {
			t.Errorf("%s: somebody asks", text)
		}
	}
	tests := []struct {
		ask, peer string
		refused   string
	}{
		{"user=ann udp", "192.0.2.1:53", ""},
		{"user=ann udp", "192.0.2.2:53", "rule 2 denies"},
		{"user=ann udp", "[::ffff:192.0.2.2]:53", "rule 2 denies"},
		{"user=ann udp", "[64:ff9b::192.0.2.2]:53", "rule 2 denies"},
		{"user=ann udp", "192.0.2.2:5353", ""},
		{"user=ann udp a.test:80", "192.0.2.2:53", "rule 2 denies"},
		{"user=ann udp", "8.8.8.8:53", ""}, // that rule is about what is asked for
		{"user=ann udp", "192.0.2.80:1080", ""},
		{"client=192.0.2.1 user=ann udp", "127.0.0.1:53", ""},
		{"user=ann udp", "a.test:5353", "rule 3 denies"}, // an upstream gave a name
		{"user=ann udp", "b.test:5353", ""},
		{"user=ann udp", "b.test:53", "rule 1 depends on the address of the name"},
		{"user=bob udp", "192.0.2.2:53", ""},
		{"user=ann bind 0.0.0.0:0", "192.0.2.1:1000", "rule 2 denies"},
		{"user=ann bind 0.0.0.0:0", "192.0.3.1:1000", ""},
	}
	for _, tt := range tests {
		peer, err := argyle.ParseAddr(tt.peer)
		if err != nil {
			t.Fatal(err)
		}
		err = reply(tt.ask)(peer)
		want := ""
		if tt.refused != "" {
			want = "not allowed by the rules: " + tt.refused
		}
		if got := text(err); got != want {
			t.Errorf("%s: %s answers: %q, want %q", tt.ask, tt.peer, got, want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
