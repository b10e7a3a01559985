package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

// ask makes a request of words: a command, a destination, and "client=", "user=", "auth=", "in=".
func ask(t testing.TB, text string) *argyle.Request {
	t.Helper()
	req := &argyle.Request{Command: argyle.Connect, Client: netip.MustParseAddrPort("127.0.0.1:4000")}
	for word := range strings.FieldsSeq(text) {
		key, value, found := strings.Cut(word, "=")
		var err error
		switch {
		case word == "connect", word == "bind", word == "udp":
			req.Command = map[string]argyle.Command{"connect": argyle.Connect, "bind": argyle.Bind, "udp": argyle.Associate}[word]
		case !found:
			req.Dest, err = argyle.ParseAddr(word)
		case key == "user":
			req.User, req.Auth = value, argyle.AuthPassword
		case key == "auth":
			req.Auth = argyle.Auth(value)
		case key == "in":
			req.Inbound = value
		case value == "unix":
			req.Client = netip.AddrPort{}
		default:
			req.Client = netip.AddrPortFrom(netip.MustParseAddr(value), 4000)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return req
}

// Each condition by itself: requests that a rule with it matches, and some that it does not.
func TestConditions(t *testing.T) {
	const dest = " 192.0.2.1:80"
	base := Policy{
		Groups: map[string][]string{"staff": {"ann", "bob"}, "empty": nil},
		Sets: map[string]*Set{
			"office": {Entries: []string{"10.0.0.0/8", "2001:db8::/32", "office.test"}},
			"all":    {Entries: []string{"*"}},
			"mixed":  {Entries: []string{".mixed.test", "*-x.test", "203.0.113.0/24", "exact.test"}},
			"empty":  {},
		},
	}
	tests := []struct {
		what string
		rule Rule
		yes  []string
		no   []string
	}{
		{"none", Rule{},
			[]string{"connect" + dest, "bind" + dest, "udp" + dest, "udp", "connect a.test:1", "client=unix connect" + dest}, nil},
		{"clients", Rule{Clients: prefixes("10.0.0.0/8", "::ffff:192.168.0.0/112", "fe80::/10")},
			[]string{"client=10.1.2.3" + dest, "client=::ffff:10.1.2.3" + dest, "client=192.168.7.7" + dest, "client=fe80::1%eth0" + dest},
			[]string{"client=11.0.0.1" + dest, "client=unix" + dest, "client=::1" + dest, "client=192.169.0.1" + dest}},
		{"client sets", Rule{ClientSets: []string{"office"}},
			[]string{"client=10.1.2.3" + dest, "client=2001:db8::1" + dest},
			[]string{"client=11.0.0.1" + dest, "client=unix" + dest}},
		{"clients or client sets", Rule{ClientSets: []string{"office", "empty"}, Clients: prefixes("11.0.0.1/32")},
			[]string{"client=10.1.2.3" + dest, "client=11.0.0.1" + dest},
			[]string{"client=11.0.0.2" + dest}},
		{"any client with an address", Rule{ClientSets: []string{"all"}},
			[]string{"client=10.1.2.3" + dest, "client=2001:db8::1" + dest}, []string{"client=unix" + dest}},
		{"nobody's network", Rule{ClientSets: []string{"empty"}}, nil, []string{"client=10.1.2.3" + dest}},
		{"inbounds", Rule{Inbounds: []string{"lan", "main"}},
			[]string{"in=lan" + dest, "in=main" + dest}, []string{"in=wan" + dest, "in=LAN" + dest, dest}},
		{"no listener's name", Rule{Inbounds: []string{""}}, []string{dest}, []string{"in=lan" + dest}},
		{"users", Rule{Users: []string{"ann", "eve"}},
			[]string{"user=ann" + dest, "user=eve" + dest}, []string{"user=bob" + dest, "user=Ann" + dest, "user=annn" + dest, dest}},
		{"any user", Rule{Users: []string{"*"}},
			[]string{"user=ann" + dest, "user=*" + dest}, []string{dest, "auth=password" + dest}},
		{"groups", Rule{Groups: []string{"staff", "empty"}},
			[]string{"user=ann" + dest, "user=bob" + dest}, []string{"user=eve" + dest, "user=staff" + dest, dest}},
		{"an empty group", Rule{Groups: []string{"empty"}}, nil, []string{"user=ann" + dest, dest}},
		{"users of a group", Rule{Users: []string{"ann", "eve"}, Groups: []string{"staff"}},
			[]string{"user=ann" + dest}, []string{"user=bob" + dest, "user=eve" + dest}},
		{"auth", Rule{Auth: []argyle.Auth{argyle.AuthGSSAPI, argyle.AuthUID}},
			[]string{"auth=gssapi" + dest, "auth=uid" + dest}, []string{"auth=password" + dest, dest}},
		{"no auth", Rule{Auth: []argyle.Auth{argyle.AuthNone}}, []string{dest}, []string{"user=ann" + dest}},
		{"commands", Rule{Commands: []Command{Bind, UDP}},
			[]string{"bind" + dest, "udp" + dest, "udp"}, []string{"connect" + dest}},
		{"replies", Rule{Commands: []Command{BindReply, UDPReply}}, nil, []string{"bind" + dest, "udp" + dest, "connect" + dest, "udp"}},
		{"ports", Rule{Ports: []Ports{{25, 25}, {1000, 2000}, {65535, 65535}}},
			[]string{"192.0.2.1:25", "a.test:1000", "192.0.2.1:1500", "[2001:db8::1]:2000", "192.0.2.1:65535", "udp"},
			[]string{"192.0.2.1:24", "192.0.2.1:26", "192.0.2.1:999", "192.0.2.1:2001", "192.0.2.1:65534", "a.test:1"}},
		{"all ports", Rule{Ports: []Ports{{0, 65535}}}, []string{"192.0.2.1:1", "192.0.2.1:65535", "bind 192.0.2.1:0"}, nil},
		{"a name", Rule{Dests: []string{"a.test"}},
			[]string{"a.test:80", "A.Test:80", "a.test.:80", "udp"}, []string{"b.a.test:80", "xa.test:80", "test:80", "192.0.2.1:80"}},
		{"a name with a dot", Rule{Dests: []string{"A.test."}}, []string{"a.test:80", "a.TEST.:80"}, []string{"b.a.test:80"}},
		{"a domain", Rule{Dests: []string{".a.test"}},
			[]string{"a.test:80", "b.a.test:80", "C.B.A.test.:80"}, []string{"xa.test:80", "test:80", "a.test.b:80"}},
		{"below a domain", Rule{Dests: []string{"*.a.test"}}, []string{"b.a.test:80", "c.b.a.test:80"}, []string{"a.test:80", "xa.test:80"}},
		{"domains in domains", Rule{Dests: []string{"c.b.a.test", ".b.a.test", "*.test"}},
			[]string{"c.b.a.test:80", "x.b.a.test:80", "b.a.test:80", "y.test:80"}, []string{"test:80", "x.tes:80"}},
		{"globs", Rule{Dests: []string{"ads*", "*.cdn-?.test", "x*y*z.test", "?.q"}},
			[]string{"ads:80", "ads.any.where:80", "ADSx:80", "a.cdn-1.test:80", "b.a.cdn-x.test.:80", "xyz.test:80", "x.yy.z.test:80", "x.q:80"},
			[]string{"bads:80", "cdn-1.test:80", "a.cdn-12.test:80", "xz.test:80", "xx.q:80", ".q:80"}},
		{"wildcards only", Rule{Dests: []string{"??", "????*"}},
			[]string{"ab:80", "abcd:80", "a.bcd.e:80"}, []string{"a:80", "abc:80", "192.0.2.1:80"}},
		{"short globs", Rule{Dests: []string{"*q*", "a?b", "*xy", "abc?"}},
			[]string{"q:80", "aqa:80", "a.b:80", "xy:80", "zxy:80", "abcd:80"}, []string{"p:80", "ab:80", "xyz:80", "abc:80"}},
		{"IDNA", Rule{Dests: []string{"bücher.test", ".straße.test", "*.xn--mnchen-3ya.test"}},
			[]string{"bücher.test:80", "BÜCHER.test:80", "xn--bcher-kva.test:80", "XN--BCHER-KVA.TEST.:80", "bu\u0308cher.test:80",
				"bücher。test:80", "a.straße.test:80", "a.xn--strae-oqa.test:80", "a.münchen.test:80", "_x.straße.test:80"},
			[]string{"bucher.test:80", "strasse.test:80", "münchen.test:80"}},
		{"networks", Rule{Dests: []string{"192.0.2.0/24", "198.51.100.7", "2001:db8::/32", "::ffff:203.0.113.0/120"}},
			[]string{"192.0.2.255:80", "[::ffff:192.0.2.1]:80", "198.51.100.7:80", "[2001:db8:1::1]:80", "203.0.113.9:80"},
			[]string{"192.0.3.0:80", "198.51.100.8:80", "[2001:db9::1]:80", "[64:ff9b::192.0.2.1]:80", "203.0.114.1:80"}},
		{"everything", Rule{Dests: []string{"a.test", "*"}}, []string{"a.test:80", "b.test:80", "192.0.2.1:80", "[2001:db8::1]:80"}, nil},
		{"sets", Rule{Dests: []string{"set:mixed", "set:empty"}},
			[]string{"mixed.test:80", "a.mixed.test:80", "a-x.test:80", "203.0.113.5:80", "exact.test:80"},
			[]string{"203.0.114.5:80", "192.0.2.1:80"}},
		{"a set of everything", Rule{Dests: []string{"set:all"}}, []string{"a.test:80", "192.0.2.1:80"}, nil},
		{"an empty set", Rule{Dests: []string{"set:empty"}}, nil, []string{"a.test:80", "192.0.2.1:80"}},
		{"all together", Rule{Users: []string{"ann"}, Inbounds: []string{"lan"}, Ports: []Ports{{80, 80}}, Dests: []string{".a.test"}},
			[]string{"user=ann in=lan a.test:80"},
			[]string{"user=bob in=lan a.test:80", "user=ann in=wan a.test:80", "user=ann in=lan a.test:81", "user=ann in=lan b.test:80"}},
	}
	for _, tt := range tests {
		from := base
		// Among other rules, whose number decides how sets of rules are stored.
		for _, others := range []int{0, 1, 300} {
			from.Rules = slices.Repeat([]Rule{{Users: []string{"nobody"}, Ports: []Ports{{7, 7}}}}, others)
			from.Rules = append(from.Rules, tt.rule)
			p := made(t, from)
			for _, text := range tt.yes {
				if d := p.Decide(ask(t, text), netip.Addr{}); !d.Allowed || d.Kind != RuleAllows || d.Rule != others {
					t.Errorf("%s: %s: %+v", tt.what, text, d)
				}
			}
			for _, text := range tt.no {
				if d := p.Decide(ask(t, text), netip.Addr{}); d.Allowed || d.Kind != NoMatch && d.Kind != Undecided {
					t.Errorf("%s: %s: %+v", tt.what, text, d)
				}
			}
		}
	}
}

// A network is not known to match a name.
func TestNetworkLeavesNameUndecided(t *testing.T) {
	p := made(t, Policy{Rules: []Rule{{Dests: []string{"a.test", "192.0.2.0/24"}}}})
	for text, want := range map[string]Kind{"a.test:80": RuleAllows, "b.test:80": Undecided, "192.0.2.1:80": RuleAllows, "192.0.3.1:80": NoMatch} {
		if d := p.Decide(ask(t, text), netip.Addr{}); d.Kind != want {
			t.Errorf("%s: %+v, want %s", text, d, want)
		}
	}
	for ip, want := range map[string]Kind{"192.0.2.1": RuleAllows, "::ffff:192.0.2.1": RuleAllows, "192.0.3.1": NoMatch} {
		if d := p.Decide(ask(t, "b.test:80"), netip.MustParseAddr(ip)); d.Kind != want {
			t.Errorf("b.test at %s: %+v, want %s", ip, d, want)
		}
	}
}

// A rule that denies an IPv4 network denies it inside IPv6; one that allows it does not allow that.
func TestEmbeddedAddresses(t *testing.T) {
	deny := made(t, Policy{Rules: []Rule{{Deny: true, Dests: []string{"8.8.8.0/24"}}, {}}})
	allow := made(t, Policy{Rules: []Rule{{Dests: []string{"8.8.8.0/24"}}}})
	for text, inside := range map[string]bool{
		"8.8.8.8": true, "::ffff:8.8.8.8": true, "9.9.9.9": false, "2001:db8::8.8.8.8": false,
		"64:ff9b::8.8.8.8": true, "2002:808:808::1": true, "::ffff:0:8.8.8.8": true, "::8.8.8.8": true,
		"2001:0:808:808::f6f6:f6f6": true, "2001:0:909:909::f7f7:f7f7": true, "2a00::5efe:8.8.8.8": true,
		"64:ff9b::9.9.9.9": false, "2002:909:909::1": false, "::1": false,
	} {
		ip := netip.MustParseAddr(text)
		req := &argyle.Request{Command: argyle.Connect, Dest: argyle.Addr{IP: ip, Port: 80}}
		if d := deny.Decide(req, netip.Addr{}); d.Allowed == inside {
			t.Errorf("deny: %s: %+v", text, d)
		}
		if d := allow.Decide(req, netip.Addr{}); d.Allowed != ip.Unmap().Is4() && inside || d.Allowed && !inside {
			t.Errorf("allow: %s: %+v", text, d)
		}
	}
}

func TestTimes(t *testing.T) {
	at := func(text string) time.Time { // Monday is the 23rd
		moment, err := time.ParseInLocation("Jan 2 15:04:05 2006", "Nov "+text+" 2026", time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	weekdays := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	tests := []struct {
		rule    Rule
		yes, no []string
	}{
		{Rule{Days: weekdays}, []string{"23 00:00:00", "27 23:59:59"}, []string{"22 23:59:59", "28 00:00:00"}},
		{Rule{Times: []Span{{8 * 60, 18 * 60}}}, []string{"22 08:00:00", "23 17:59:59"}, []string{"23 07:59:59", "23 18:00:00"}},
		{Rule{Times: []Span{{0, 1}, {720, 721}, {day - 1, day}}},
			[]string{"23 00:00:59", "23 12:00:00", "23 23:59:00"}, []string{"23 00:01:00", "23 12:01:00", "23 23:58:59"}},
		{Rule{Times: []Span{{22 * 60, 6 * 60}}}, []string{"23 22:00:00", "24 00:00:00", "24 05:59:59"}, []string{"23 21:59:59", "24 06:00:00"}},
		{Rule{Days: []time.Weekday{time.Friday}, Times: []Span{{22 * 60, 6 * 60}}}, // the night from Friday to Saturday
			[]string{"27 22:00:00", "28 05:59:00"}, []string{"27 05:00:00", "28 22:00:00", "26 23:00:00", "29 01:00:00"}},
		{Rule{Days: []time.Weekday{time.Saturday}, Times: []Span{{22 * 60, 6 * 60}}}, // over the end of the week
			[]string{"28 23:00:00", "29 05:59:00"}, []string{"28 05:00:00", "29 22:00:00"}},
		{Rule{Times: []Span{{22 * 60, 0}}}, []string{"23 23:59:59"}, []string{"24 00:00:00"}},
		{Rule{Days: []time.Weekday{time.Sunday}, Times: []Span{{0, day}}}, []string{"22 00:00:00", "22 23:59:59"}, []string{"23 00:00:00"}},
	}
	for _, tt := range tests {
		var now time.Time
		p := made(t, Policy{Rules: []Rule{tt.rule}, Now: func() time.Time { return now }})
		req := ask(t, "192.0.2.1:80")
		for want, texts := range map[bool][]string{true: tt.yes, false: tt.no} {
			for _, text := range texts {
				now = at(text)
				if d := p.Decide(req, netip.Addr{}); d.Allowed != want {
					t.Errorf("%v %v at %s: %v, want %v", tt.rule.Days, tt.rule.Times, text, d.Allowed, want)
				}
				if d := p.At(now).Decide(req, netip.Addr{}); d.Allowed != want {
					t.Errorf("%v %v for %s: %v, want %v", tt.rule.Days, tt.rule.Times, text, d.Allowed, want)
				}
			}
		}
	}
	if p := made(t, Policy{}); p.At(time.Time{}) != p {
		t.Error("the zero time is not now")
	}
}

// New tells all mistakes, and where.
func TestMistakes(t *testing.T) {
	_, err := New(Policy{
		Clients: []netip.Prefix{{}},
		Ways:    map[string]Way{"hollow": {}},
		Sets:    map[string]*Set{"nil": nil, "bad": {Entries: []string{"a b", "set:x", "ok.test", "10.0.0.0/33"}, File: t.TempDir() + "/none"}},
		Rules: []Rule{
			{Name: "good", Via: ""},
			{Name: "names", At: "f.yaml:9", ClientSets: []string{"no"}, Groups: []string{"no"}, Via: "no", Commands: []Command{"fly"}, Dests: []string{"set:no", "set:nil"}},
			{At: "f.yaml:12", Ports: []Ports{{2, 1}}, Clients: []netip.Prefix{{}}, Days: []time.Weekday{7}, Times: []Span{{5, 5}, {-1, 3}, {0, 1441}}},
			{Name: "no", Deny: true, Via: "hollow"},
			{Dests: []string{"", ".", "127.1", "10.*", "exa mple", "192.0.2.0/x", "fe80::1%eth0", ".a*.test", "bü*.test", "１.２.３.４", strings.Repeat("*a", 17)}},
		},
	})
	if err == nil {
		t.Fatal("no mistakes")
	}
	for _, want := range []string{
		"an allowed network is not valid", `way out "hollow" has no dialer`,
		`set "bad": "a b": byte 0x20 in a host name`, `"set:x": a set in a set`, `"10.0.0.0/33" is not a network`, "none: no such file",
		`rule "names" (f.yaml:9): there is no set "no"`, `rule "names" (f.yaml:9): there is no group "no"`, `there is no way out "no"`,
		`there is no command "fly"`, `there is no set "nil"`,
		"rule at f.yaml:12: ports 2-1 are the wrong way round", "rule at f.yaml:12: a client network is not valid",
		"there is no weekday 7", "a time ends where it begins", "a time is not within a day",
		`rule "no": a rule that denies has no way out`,
		`rule 5: "": empty host name`, `rule 5: ".": empty host name`, `"127.1": neither an IPv4 address nor a host name`,
		`"10.*": globs are for names`, `"exa mple": byte 0x20`, `"192.0.2.0/x" is not a network`, `"fe80::1%eth0": a zone`,
		`".a*.test": a domain with a wildcard`, `"bü*.test": a wildcard in a label that is not ASCII`, `"１.２.３.４": an address in disguise`,
		"more than 16 stars",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s", want)
		}
	}
	if strings.Contains(err.Error(), "good") {
		t.Error("told: the good rule")
	}
	byRule := make(map[int]int)
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var at *RuleError
		if errors.As(e, &at) {
			byRule[at.Rule]++
		}
	}
	if byRule[1] != 6 || byRule[2] != 6 || byRule[3] != 1 || byRule[4] != 11 {
		t.Errorf("mistakes by rule: %v\n%v", byRule, err)
	}
}
