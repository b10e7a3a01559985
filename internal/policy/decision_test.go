package policy

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

func ownAddr(text string) func(netip.AddrPort) bool {
	return func(addr netip.AddrPort) bool { return addr == netip.MustParseAddrPort(text) }
}

// Every kind of decision, with its text.
func TestReasons(t *testing.T) {
	rules := Policy{
		Clients: prefixes("198.51.100.0/24", "127.0.0.0/8"),
		Own:     ownAddr("127.0.0.1:1080"),
		Ways:    map[string]Way{"gw": {Dialer: new(otherWay)}},
		Rules: []Rule{
			{Name: "mail", At: "argyle.yaml:12", Deny: true, Ports: []Ports{{25, 25}}},
			{Deny: true, Ports: []Ports{{26, 26}}},
			{At: "argyle.yaml:14", Dests: []string{"a.test"}},
			{Name: "office", At: "argyle.yaml:20", Dests: []string{".corp.test"}, Via: "gw"},
			{Name: "net", At: "argyle.yaml:21", Dests: []string{"203.0.113.0/24"}, Via: "gw"},
			{Name: "web", At: "argyle.yaml:9", Ports: []Ports{{80, 1080}}, Commands: []Command{Connect, Bind}},
		},
	}
	none := Policy{Own: ownAddr("127.0.0.1:1080")}
	tests := []struct {
		policy Policy
		ask    string
		ip     string // of the name
		want   Decision
	}{
		{none, "a.test:80", "", Decision{true, NoRules, -1, "", "there are no rules"}},
		{none, "client=192.0.2.1 10.0.0.1:80", "", Decision{false, PrivateAddress, -1, "", "10.0.0.1 is private"}},
		{none, "client=192.0.2.1 LocalHost.:80", "", Decision{false, PrivateAddress, -1, "", "LocalHost. is loopback"}},
		{none, "client=192.0.2.1 bind 0.0.0.0:0", "", Decision{false, AnyPeer, -1, "", "BIND without an address of the peer"}},
		{none, "127.0.0.1:1080", "", Decision{false, Itself, -1, "", "127.0.0.1:1080 is this proxy itself"}},

		{rules, "client=192.0.2.9 a.test:80", "", Decision{false, Stranger, -1, "", "client 192.0.2.9 is in none of the allowed networks"}},
		{rules, "a.test:25", "", Decision{false, RuleDenies, 0, "", `rule "mail" (argyle.yaml:12) denies`}},
		{rules, "a.test:26", "", Decision{false, RuleDenies, 1, "", "rule 2 denies"}},
		{rules, "a.test:80", "", Decision{true, RuleAllows, 2, "", "rule at argyle.yaml:14 allows"}},
		{rules, "wiki.corp.test:80", "", Decision{true, RuleSends, 3, "gw", `rule "office" (argyle.yaml:20) sends it via gw`}},
		{rules, "b.test:80", "", Decision{false, Undecided, 4, "", `rule "net" (argyle.yaml:21) depends on the address of the name`}},
		{rules, "b.test:80", "203.0.113.1", Decision{true, RuleSends, 4, "gw", `rule "net" (argyle.yaml:21) sends it via gw`}},
		{rules, "b.test:80", "192.0.2.1", Decision{true, RuleAllows, 5, "", `rule "web" (argyle.yaml:9) allows`}},
		{rules, "udp 192.0.2.1:80", "", Decision{false, NoMatch, -1, "", "no rule matches"}},
		{rules, "client=198.51.100.1 10.0.0.1:80", "",
			Decision{false, PrivateAddress, 5, "", `10.0.0.1 is private, which rule "web" (argyle.yaml:9) does not name`}},
		{rules, "client=198.51.100.1 b.test:80", "64:ff9b::a9fe:a9fe",
			Decision{false, PrivateAddress, 5, "", `64:ff9b::a9fe:a9fe is link-local inside IPv6, which rule "web" (argyle.yaml:9) does not name`}},
		{rules, "client=198.51.100.1 bind 0.0.0.0:80", "",
			Decision{false, AnyPeer, 5, "", `BIND without an address of the peer, which rule "web" (argyle.yaml:9) does not name`}},
		{rules, "127.0.0.1:1080", "", Decision{false, Itself, 5, "", "127.0.0.1:1080 is this proxy itself"}},
	}
	var kinds []Kind
	for _, tt := range tests {
		var ip netip.Addr
		if tt.ip != "" {
			ip = netip.MustParseAddr(tt.ip)
		}
		kinds = append(kinds, tt.want.Kind)
		if got := made(t, tt.policy).Decide(ask(t, tt.ask), ip); got != tt.want {
			t.Errorf("%s %s:\n got %+v\nwant %+v", tt.ask, tt.ip, got, tt.want)
		}
	}
	p := made(t, rules)
	got := p.decideBy("", ask(t, "b.test:80"), netip.MustParseAddrPort("203.0.113.1:80"))
	want := Decision{false, AnotherWay, 4, "", `203.0.113.1 goes another way: rule "net" (argyle.yaml:21) sends it via gw`}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	kinds = append(kinds, got.Kind)
	for _, k := range []Kind{NoRules, RuleAllows, RuleSends, RuleDenies, NoMatch, Stranger, PrivateAddress, AnyPeer, Itself, AnotherWay, Undecided} {
		if !slices.Contains(kinds, k) {
			t.Errorf("no %s", k)
		}
	}
}

func TestRefusal(t *testing.T) {
	p := made(t, Policy{
		Rules: []Rule{
			{Name: "loud", Deny: true, Ports: []Ports{{25, 25}}, Level: slog.LevelWarn},
			{Name: "still", Deny: true, Ports: []Ports{{26, 26}}, Quiet: true},
			{Ports: []Ports{{80, 80}}, Quiet: true, Level: slog.LevelWarn},
		},
	})
	tests := []struct {
		ask   string
		text  string
		quiet bool
		level slog.Level
	}{
		{"a.test:25", `not allowed by the rules: rule "loud" denies`, false, slog.LevelWarn},
		{"a.test:26", `not allowed by the rules: rule "still" denies`, true, 0},
		{"a.test:27", "not allowed by the rules: no rule matches", false, 0},
		{"client=192.0.2.1 10.0.0.1:80", "not allowed by the rules: 10.0.0.1 is private, which rule 3 does not name", false, 0},
	}
	for _, tt := range tests {
		_, err := p.Route(t.Context(), ask(t, tt.ask))
		if !errors.Is(err, argyle.ErrNotAllowed) || err.Error() != tt.text {
			t.Errorf("%s: %v, want %s", tt.ask, err, tt.text)
		}
		var refusal interface {
			Quiet() bool
			Level() slog.Level
		}
		if !errors.As(err, &refusal) || refusal.Quiet() != tt.quiet || refusal.Level() != tt.level {
			t.Errorf("%s: quiet %v, level %v", tt.ask, refusal.Quiet(), refusal.Level())
		}
	}
}

// Who may reach what is private, and by which rules.
func TestPrivateRules(t *testing.T) {
	p := made(t, Policy{
		Sets: map[string]*Set{"lan": {Entries: []string{"10.0.0.0/8", "fd00::/8", "0.0.0.0/0"}}},
		Rules: []Rule{
			{Ports: []Ports{{1, 1}}, Dests: []string{"10.0.0.0/8", "127.0.0.1", "fd00::/8", "64:ff9b::a00:1", "169.254.0.0/16"}},
			{Ports: []Ports{{2, 2}}, Dests: []string{"0.0.0.0/0", "::/0", "8.0.0.0/6", "*.test", "localhost"}},
			{Ports: []Ports{{3, 3}}, Private: true},
			{Ports: []Ports{{4, 4}}, Dests: []string{"set:lan"}},
			{Ports: []Ports{{5, 5}}, Dests: []string{"10.1.0.0/16", "0.0.0.0/0"}},
			{Ports: []Ports{{6, 6}}},
		},
	})
	tests := []struct {
		ask string
		yes bool
	}{
		{"10.1.2.3:1", true}, {"127.0.0.1:1", true}, {"127.0.0.2:1", false}, {"[fd00::1]:1", true}, {"[64:ff9b::a00:1]:1", true},
		{"[64:ff9b::a00:2]:1", false}, {"169.254.169.254:1", true}, {"[::ffff:10.0.0.1]:1", true}, {"8.8.8.8:1", false},
		{"10.1.2.3:2", false}, {"8.8.8.8:2", true}, {"[fd00::1]:2", false}, {"localhost:2", false}, {"x.localhost:2", false}, {"a.test:2", true},
		{"[64:ff9b::a00:1]:2", false}, {"169.254.169.254:2", false},
		{"10.1.2.3:3", true}, {"localhost:3", true}, {"[64:ff9b::a00:2]:3", true}, {"bind 0.0.0.0:3", true}, {"bind [::]:3", true},
		{"10.1.2.3:4", true}, {"[fd12::1]:4", true}, {"192.168.0.1:4", false}, {"8.8.8.8:4", true}, {"bind 0.0.0.0:4", false},
		{"10.1.2.3:5", true}, {"10.2.2.3:5", false},
		{"10.1.2.3:6", false}, {"8.8.8.8:6", true}, {"localhost:6", false}, {"LOCALHOST.:6", false}, {"ｌｏｃａｌｈｏｓｔ:6", false},
		{"notlocalhost:6", true}, {"localhost.test:6", true}, {"ſocalhost:6", true},
	}
	for _, tt := range tests {
		for _, client := range []string{"192.0.2.1", "10.1.2.3", "2001:db8::1"} {
			if d := p.Decide(ask(t, "client="+client+" "+tt.ask), netip.Addr{}); d.Allowed != tt.yes {
				t.Errorf("from %s: %s: %+v", client, tt.ask, d)
			}
		}
		if trusted := p.Decide(ask(t, "client=unix "+tt.ask), netip.Addr{}); !trusted.Allowed && trusted.Kind != NoMatch && trusted.Kind != Undecided {
			t.Errorf("trusted: %s: %+v", tt.ask, trusted)
		}
	}
	// The rule names the address, not what carries it.
	if d := p.Decide(ask(t, "client=192.0.2.1 a.test:1"), netip.MustParseAddr("10.1.2.3")); !d.Allowed {
		t.Errorf("a.test at 10.1.2.3: %+v", d)
	}
}

func TestWhollyPrivate(t *testing.T) {
	for text, want := range map[string]bool{
		"10.0.0.0/8": true, "10.0.0.0/7": false, "10.1.2.3/32": true, "0.0.0.0/0": false, "127.0.0.0/8": true, "172.16.0.0/12": true,
		"172.16.0.0/11": false, "192.168.0.0/15": false, "::/0": false, "::1/128": true, "fd00::/8": true, "fc00::/6": false, "fe80::/64": true,
		"64:ff9b::/96": false, "64:ff9b::a00:1/128": true, "64:ff9b:1::/64": true, "168.63.129.16/32": true, "168.63.129.0/24": false, "8.8.8.8/32": false,
	} {
		if got := whollyPrivate(netip.MustParsePrefix(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// share is a limit that does nothing.
type share struct{ name string }

func (*share) Begin(*argyle.Request) (proxy.Share, error) { return proxy.Share{}, nil }
func (s *share) String() string                           { return s.name }

// The terms of a route are the rule's; its limits come after those of the user.
func TestTerms(t *testing.T) {
	user, rule := &share{"user"}, &share{"rule"}
	times := proxy.Timeouts{Idle: 5, MaxTime: 7}
	p := made(t, Policy{
		Limits: func(req *argyle.Request) []proxy.Limit {
			if req.User == "ann" {
				return []proxy.Limit{user}
			}
			return nil
		},
		Rules: []Rule{{Name: "all", Limits: []proxy.Limit{rule}, Timeouts: times, Quiet: true, Level: slog.LevelDebug}},
	})
	for text, want := range map[string][]proxy.Limit{
		"user=ann a.test:1": {user, rule}, "a.test:1": {rule}, "user=ann udp": {user}, "udp": nil, "udp 192.0.2.1:1": {rule},
	} {
		r, err := p.Route(t.Context(), ask(t, text))
		if err != nil || !slices.Equal(r.Limits, want) || r.Timeouts != times || !r.Quiet || r.Level != slog.LevelDebug || r.Reason != `rule "all" allows` {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
	r, err := made(t, Policy{Limits: func(*argyle.Request) []proxy.Limit { return []proxy.Limit{user} }}).Route(t.Context(), ask(t, "a.test:1"))
	if err != nil || r.Reason != "" || !slices.Equal(r.Limits, []proxy.Limit{user}) {
		t.Errorf("without rules: %+v, %v", r, err)
	}
}
