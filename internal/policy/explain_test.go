package policy

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

func TestExplain(t *testing.T) {
	names := &book{names: map[string]string{"a.test": "203.0.113.9 192.0.2.1 198.51.100.1", "bad.test": "203.0.113.9", "near.test": "192.0.2.1", "own.test": "203.0.113.9 10.0.0.1"}}
	p := made(t, Policy{
		Resolver: names,
		Ways:     map[string]Way{"gw": {Dialer: &namedWay{name: "socks5h://gw:1080"}}, "near": {Dialer: &namedWay{name: "near"}, Resolves: true}},
		Limits:   func(*argyle.Request) []proxy.Limit { return []proxy.Limit{&share{"user ann"}, otherLimit{}} },
		Rules: []Rule{
			{Name: "mail", At: "f.yaml:3", Deny: true, Ports: []Ports{{25, 25}}},
			{Dests: []string{"own.test"}, Via: "near"},
			{Name: "names", At: "f.yaml:4", Dests: []string{".corp.test"}, Via: "gw", Timeouts: proxy.Timeouts{Idle: 5 * time.Minute, MaxTime: -1}, Quiet: true},
			{At: "f.yaml:5", Deny: true, Dests: []string{"203.0.113.0/24"}},
			{Name: "rest", Ports: []Ports{{80, 80}}, Via: "gw", Limits: []proxy.Limit{&share{"rule rest"}}, Level: slog.LevelDebug},
			{Ports: []Ports{{81, 81}}, Via: "near"},
			{},
		},
	})
	tests := []struct{ ask, want string }{
		{"user=ann in=lan client=192.0.2.7 a.test:25", `request   connect a.test:25 from 192.0.2.7, user ann (password), listener lan
decision  refused: rule "mail" (f.yaml:3) denies
`},
		{"client=unix wiki.corp.test:443", `request   connect wiki.corp.test:443 from a unix socket
decision  allowed: rule "names" (f.yaml:4) sends it via gw
way       gw (socks5h://gw:1080), which looks the name up
limit     user ann
limit     policy.otherLimit
timeout   idle 5m0s
timeout   session off
log       off
`},
		{"a.test:80", `request   connect a.test:80 from 127.0.0.1
look-up   rule at f.yaml:5 depends on the address of the name
address   203.0.113.9 refused: rule at f.yaml:5 denies
address   192.0.2.1 allowed: rule "rest" sends it via gw
address   198.51.100.1 allowed: rule "rest" sends it via gw
decision  allowed: rule "rest" sends it via gw
way       gw (socks5h://gw:1080) to 192.0.2.1:80
limit     user ann
limit     policy.otherLimit
limit     rule rest
log       DEBUG
`},
		{"bad.test:80", `request   connect bad.test:80 from 127.0.0.1
look-up   rule at f.yaml:5 depends on the address of the name
address   203.0.113.9 refused: rule at f.yaml:5 denies
decision  refused: rule at f.yaml:5 denies
`},
		{"near.test:81", `request   connect near.test:81 from 127.0.0.1
look-up   rule at f.yaml:5 depends on the address of the name
address   192.0.2.1 allowed: rule 6 sends it via near
decision  allowed: rule 6 sends it via near
way       near, which looks the name up and has each address checked
limit     user ann
limit     policy.otherLimit
`},
		{"client=192.0.2.7 own.test:81", `request   connect own.test:81 from 192.0.2.7
decision  allowed: rule 2 sends it via near
way       near, which looks the name up and has each address checked
address   203.0.113.9 allowed: rule 2 sends it via near
address   10.0.0.1 refused: 10.0.0.1 is private, which rule 2 does not name
limit     user ann
limit     policy.otherLimit
`},
		{"udp", `request   udp from 127.0.0.1
decision  allowed: rule 2 sends it via near
way       near
limit     user ann
limit     policy.otherLimit
`},
		{"none.test:80", `request   connect none.test:80 from 127.0.0.1
look-up   rule at f.yaml:5 depends on the address of the name
`},
	}
	for _, tt := range tests {
		req := ask(t, tt.ask)
		e, err := p.Explain(t.Context(), req)
		if got := e.String(); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.ask, got, tt.want)
		}
		route, routeErr := p.Route(t.Context(), req)
		var dns *net.DNSError
		switch {
		case err != nil && (!errors.As(err, &dns) || routeErr == nil):
			t.Errorf("%s: %v, but the route %v", tt.ask, err, routeErr)
		case err == nil && e.Decision.Allowed != (routeErr == nil):
			t.Errorf("%s: %v, but the route %v", tt.ask, e.Decision, routeErr)
		case err == nil && e.Decision.Allowed && (route.Dialer != e.Route.Dialer || route.Dest != e.Route.Dest || route.Reason != e.Decision.Reason):
			t.Errorf("%s: explained %+v, but it is %+v", tt.ask, e.Route, route)
		}
	}
	e, err := p.Explain(t.Context(), ask(t, "a.test:25"))
	if err != nil || e.Decision.Rule != 0 || e.Rule != `rule "mail" (f.yaml:3)` || e.At != "f.yaml:3" {
		t.Errorf("%+v, %v", e, err)
	}
	e, err = p.Explain(t.Context(), ask(t, "a.test:80"))
	if err != nil || e.Rule != `rule "rest"` || e.At != "" || e.Resolves || !e.LookedUp || e.ByName.Kind != Undecided || len(e.Answers) != 3 || e.Answers[0].IP != netip.MustParseAddr("203.0.113.9") {
		t.Errorf("%+v, %v", e, err)
	}
}

// otherLimit has no name.
type otherLimit struct{}

func (otherLimit) Begin(*argyle.Request) (proxy.Share, error) { return proxy.Share{}, nil }
