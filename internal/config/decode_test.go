package config

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

func mustParse(t *testing.T, text string) *File {
	t.Helper()
	f, err := loader().Parse("argyle.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestShort compares long and short forms.
func TestShort(t *testing.T) {
	tests := []struct{ short, long string }{
		{"listen: a:1", "listen: [{address: a:1}]"},
		{"listen: [a:1, b:1]", "listen: [{address: a:1}, {address: b:1}]"},
		{"listen: {address: a:1}", "listen: [{address: a:1}]"},
		{"allow: 10.0.0.0/8", "allow: [10.0.0.0/8]"},
		{"proxy: direct", "proxy: [direct]"},
		{"users: x", "users: {file: x}"},
		{"users: {groups: {a: b}}", "users: {groups: {a: [b]}}"},
		{"upstreams: {a: a.b}", "upstreams: {a: {chain: [a.b]}}"},
		{"upstreams: {a: [a.b, c.d]}", "upstreams: {a: {chain: [a.b, c.d]}}"},
		{"upstreams: {a: {group: a.b, check: 5s}}", "upstreams: {a: {group: [a.b], check: {every: 5s}}}"},
		{"upstreams: {a: {direct: 10.0.0.1}}", "upstreams: {a: {direct: {address: [10.0.0.1/32]}}}"},
		{"sets: {a: x}", "sets: {a: {entries: [x]}}"},
		{"names: {servers: x, split: {a: b}, hosts: {a: '::1'}}", "names: {servers: [x], split: {a: [b]}, hosts: {a: ['::1']}}"},
		{"rules: {action: deny, port: 25}", "rules: [{action: deny, port: [25]}]"},
		{"rules: {action: allow, source: 10.0.0.1}", "rules: [{action: allow, source: {address: [10.0.0.1]}}]"},
	}
	for _, tt := range tests {
		short, long := mustParse(t, tt.short), mustParse(t, tt.long)
		short.source, long.source = nil, nil
		if !reflect.DeepEqual(short, long) {
			t.Errorf("%s is %+v,\nwant %+v", tt.short, short, long)
		}
	}
}

// TestAbsent tells what is not there from what is empty.
func TestAbsent(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "null\n", "{}"} {
		f := mustParse(t, text)
		f.source = nil
		if !reflect.DeepEqual(f, new(File)) {
			t.Errorf("%q is %+v", text, f)
		}
	}
	if f := mustParse(t, "rules: []\n"); f.Rules == nil || len(f.Rules) != 0 {
		t.Errorf("rules: [] is %#v", f.Rules)
	}
	if f := mustParse(t, "upstreams: {a: {direct: {}}}\n"); f.Upstreams["a"].Direct == nil {
		t.Error("direct: {} is absent")
	}
}

func TestEverything(t *testing.T) {
	f := mustParse(t, `
listen: {address: "unix:/run/a", name: local, auth: [uid, none], proxy-protocol: 192.0.2.9, mode: 0660}
tls: {cert: c, key: k, client-ca: ca}
open: true
allow-private: true
names: {prefer: ipv4-only, cache: {size: -1, max-ttl: 10m}}
upstreams: {pool: {direct: {address: 192.0.2.0/24, pick: user, interface: eth0, mark: 0x1f}}}
rules:
  - {name: n, client: 10.0.0.0/8, listener: local, user: "*", auth: uid, command: [connect, udp-reply], to: .a.example,
     port: [80, 8000-8999], days: sat-sun, time: 22:00-06:00, via: pool, send-proxy: 2, private: true, log: warn,
     limits: {sessions: 5, rate: 5/s, up: 1MB/s, down: 8Mbit/s, session-up: 1KiB/s, session-down: 1B/s, quota: 1GB/month},
     timeouts: {dial: 1s, bind: 2s, idle: off, udp-idle: 3s, session: 7d}}
state: s
reload: {sessions: end-refused}
drain: 5s
tests: {from: "::1", user: ann, auth: certificate, listener: local, udp: "a:53", at: 2026-11-23 09:30, resolves: 10.0.0.1, expect: via pool}
`)
	drain := Duration(5 * time.Second)
	want := &File{
		Listen: []Listener{{
			Address: "unix:/run/a", Name: "local", Auth: []Auth{AuthUID, AuthNone}, Mode: 0o660,
			ProxyProtocol: []Network{Network(netip.MustParsePrefix("192.0.2.9/32"))},
		}},
		TLS:          &TLS{Cert: "c", Key: "k", ClientCA: "ca"},
		Open:         true,
		AllowPrivate: true,
		Names:        Names{Prefer: PreferIPv4Only, Cache: Cache{Size: -1, MaxTTL: Duration(10 * time.Minute)}},
		Upstreams: map[string]Upstream{"pool": {Direct: &Source{
			Address: []Network{Network(netip.MustParsePrefix("192.0.2.0/24"))}, Pick: SourceUser, Interface: "eth0", Mark: 31,
		}}},
		Rules: []Rule{{
			Name: "n", Client: []string{"10.0.0.0/8"}, Listener: []string{"local"}, User: []string{"*"}, Auth: []Auth{AuthUID},
			Command: []Command{CommandConnect, CommandUDPReply}, To: []string{".a.example"},
			Port: []Ports{{80, 80}, {8000, 8999}}, Days: []Days{1<<6 | 1<<0}, Time: []Span{{22 * 60, 6 * 60}}, Via: "pool",
			SendProxy: 2, Private: true, Log: LogWarn,
			Limits: &Limit{
				Sessions: 5, Rate: Rate{5, time.Second}, Up: 1e6, Down: 1e6, SessionUp: 1024, SessionDown: 1, Quota: Quota{1e9, "month"},
			},
			Timeouts: Timeouts{
				Dial: Duration(time.Second), Bind: Duration(2 * time.Second), Idle: Off, UDPIdle: Duration(3 * time.Second),
				Session: Duration(7 * 24 * time.Hour),
			},
		}},
		State:  "s",
		Reload: Reload{Sessions: EndRefused},
		Drain:  &drain,
		Tests: []Test{{
			From: netip.IPv6Loopback(), User: "ann", Auth: AuthCertificate, Listener: "local", UDP: "a:53",
			At:       Moment(time.Date(2026, 11, 23, 9, 30, 0, 0, time.Local)),
			Resolves: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})}, Expect: "via pool",
		}},
	}
	f.source = nil
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got\n%+v\nwant\n%+v", f, want)
	}
}

// TestTexts: what looks like a number or a truth value is a text where one is
// wanted, as it was written.
func TestTexts(t *testing.T) {
	f, err := loader().Load("testdata/good/text.yaml")
	if err != nil {
		t.Fatal(err)
	}
	u := f.Upstreams["a"]
	if f.Users.File != "0660" || !reflect.DeepEqual(f.Users.Groups["1000"], []string{"42", "true", "no", "1.50", "off"}) {
		t.Errorf("users: %+v", f.Users)
	}
	if u.User != "0123" || u.Password != "hunter2\n" || string(u.Chain[0]) != "socks5h://gw.example" {
		t.Errorf("upstream: %q %q %q", u.User, string(u.Password), string(u.Chain[0]))
	}
	if f.TLS.Cert != "5" || f.TLS.Key != "it's" || f.Listen[0].Mode != 0o660 || f.Listen[0].Address != "unix:/run/a b" || !f.Open {
		t.Errorf("%+v", f)
	}
}

// TestColons: goccy's lexer takes these apart.
func TestColons(t *testing.T) {
	f, err := loader().Load("testdata/good/flow.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := f.Rules[0]
	if want := []string{"::1", "2001:db8::/32", "fe80::/64", "set:x", "set:x"}; !reflect.DeepEqual(r.Client, want) {
		t.Errorf("client: %q", r.Client)
	}
	if want := []Span{{480, 1080}, {1200, 1440}}; !reflect.DeepEqual(r.Time, want) {
		t.Errorf("time: %v", r.Time)
	}
	if want := []string{"uid:1000", "a:b:c"}; !reflect.DeepEqual(r.User, want) {
		t.Errorf("user: %q", r.User)
	}
	if got := f.At("rules[0].client[1]"); got != "testdata/good/flow.yaml:5:35" {
		t.Errorf("the second is at %s", got)
	}
}

func TestAliases(t *testing.T) {
	f, err := loader().Load("testdata/good/aliases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	second, third := f.Upstreams["second"], f.Upstreams["third"]
	if second.User != "ann" || second.Password != "hunter2" || third.Password != "hunter2" {
		t.Errorf("%q, %q", string(second.Password), string(third.Password))
	}
	if !reflect.DeepEqual(f.Rules[0].To, f.Rules[1].To) || len(f.Rules[1].To) != 2 {
		t.Errorf("%q, %q", f.Rules[0].To, f.Rules[1].To)
	}
}
