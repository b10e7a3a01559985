package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/miekg/dns"
)

var _ argyle.Resolver = (*Resolver)(nil)

func TestSystem(t *testing.T) {
	var r Resolver
	defer r.Close()
	got, err := r.LookupNetIP(t.Context(), "ip4", "localhost")
	if err != nil {
		t.Skipf("this system does not know localhost: %v", err)
	}
	if !slices.Contains(got, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("got %v", got)
	}
}

// The system's servers are asked by the way that Dial is.
func TestSystemThroughDial(t *testing.T) {
	z := newZone(t, "www.example. 60 IN A 192.0.2.80")
	w := &wires{}
	r := &Resolver{Prefer: IPv4Only, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		w.zones = map[string]*zone{address: z}
		w.mu.Unlock()
		return w.dial(ctx, "tcp", address) // Go's resolver knows the wire's form by the connection's type
	}}
	want(t, r, "www.example.", "192.0.2.80")
	wantNotFound(t, r, "other.example.")
}

func TestLiteral(t *testing.T) {
	var r Resolver
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1%lo"} {
		want(t, &r, host, host)
	}
	wantNetwork(t, &r, "ip4", "192.0.2.1", "192.0.2.1")
	for network, host := range map[string]string{"ip4": "2001:db8::1", "ip6": "::ffff:192.0.2.1"} {
		got, err := r.LookupNetIP(t.Context(), network, host)
		var described *net.DNSError
		if !errors.As(err, &described) || !described.IsNotFound {
			t.Errorf("%s, %s: got %v, %v", network, host, got, err)
		}
	}
}

func TestBadArguments(t *testing.T) {
	z := newZone(t)
	r, _ := over(t, "udp", z)
	if _, err := r.LookupNetIP(t.Context(), "tcp", "www.example"); err == nil {
		t.Error("network tcp has no error")
	}
	for _, host := range []string{"", ".", "a..b", `a\.b.example`, "a b", "ä.example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 200)} {
		wantNotFound(t, r, host)
	}
	if n := z.total(); n != 0 {
		t.Errorf("%d questions for names that cannot be", n)
	}
}

func TestHosts(t *testing.T) {
	z := newZone(t, "db.example. 60 IN A 192.0.2.80", "www.example. 60 IN A 192.0.2.81")
	r, _ := over(t, "udp", z)
	r.Hosts = map[string][]netip.Addr{
		"DB.example.": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		"v6.example":  {netip.MustParseAddr("fd00::2")},
		"none":        nil,
	}
	want(t, r, "db.EXAMPLE", "10.0.0.1", "fd00::1")
	want(t, r, "db.example.", "10.0.0.1", "fd00::1")
	wantNetwork(t, r, "ip6", "db.example", "fd00::1")
	wantNotFound(t, r, "none")
	if _, err := r.LookupNetIP(t.Context(), "ip4", "v6.example"); err == nil {
		t.Error("a family that the entry lacks was looked up")
	}
	if n := z.total(); n != 0 {
		t.Errorf("%d questions for names in Hosts", n)
	}
	want(t, r, "www.example", "192.0.2.81")
}

func TestHostsPreferred(t *testing.T) {
	r := Resolver{Prefer: IPv6First, Hosts: map[string][]netip.Addr{
		"db": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.2")},
	}}
	want(t, &r, "db", "fd00::1", "10.0.0.1", "10.0.0.2")
}

func TestPrefer(t *testing.T) {
	records := []string{
		"www.example. 60 IN A 192.0.2.1", "www.example. 60 IN A 192.0.2.2",
		"www.example. 60 IN AAAA 2001:db8::1", "www.example. 60 IN AAAA 2001:db8::2", "www.example. 60 IN AAAA 2001:db8::3",
		"mapped.example. 60 IN AAAA ::ffff:192.0.2.9",
	}
	tests := map[Preference]string{
		AsGiven:   "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 2001:db8::3",
		IPv4First: "192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2 2001:db8::3",
		IPv6First: "2001:db8::1 2001:db8::2 2001:db8::3 192.0.2.1 192.0.2.2",
		IPv4Only:  "192.0.2.1 192.0.2.2",
		IPv6Only:  "2001:db8::1 2001:db8::2 2001:db8::3",
	}
	for prefer, addrs := range tests {
		t.Run(prefer.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := newZone(t, records...)
				r, _ := over(t, "udp", z)
				r.Prefer = prefer
				want(t, r, "www.example", strings.Fields(addrs)...)
				if prefer == IPv4Only && z.count("www.example. AAAA") != 0 || prefer == IPv6Only && z.count("www.example. A") != 0 {
					t.Errorf("asked for the other family: %v", z.asked)
				}
				switch prefer {
				case IPv4Only, IPv6Only: // the one does not ask, the other wants no IPv4 in disguise
					wantNotFound(t, r, "mapped.example")
				default:
					want(t, r, "mapped.example", "::ffff:192.0.2.9")
				}
			})
		})
	}
}

func TestNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "www.example. 60 IN A 192.0.2.1", "www.example. 60 IN AAAA 2001:db8::1")
		r, _ := over(t, "udp", z)
		wantNetwork(t, r, "ip4", "www.example", "192.0.2.1")
		wantNetwork(t, r, "ip6", "www.example", "2001:db8::1")
		if n := z.total(); n != 2 {
			t.Errorf("%d questions, want one for each family", n)
		}
	})
	r := Resolver{Prefer: IPv6Only, Servers: []Server{{Network: "udp", Address: "192.0.2.1:53"}}}
	if _, err := r.LookupNetIP(t.Context(), "ip4", "www.example"); err == nil {
		t.Error("ip4 found something although only IPv6 is preferred")
	}
}

func TestParsePreference(t *testing.T) {
	for p := AsGiven; p <= IPv6Only; p++ {
		if got, err := ParsePreference(p.String()); got != p || err != nil {
			t.Errorf("%v: got %v, %v", p, got, err)
		}
	}
	if _, err := ParsePreference("ipv5"); err == nil || !strings.Contains(err.Error(), "ipv4-only") {
		t.Errorf("ipv5: got %v", err)
	}
}

func TestZones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newZone(t, "www.example. 60 IN A 192.0.2.1", "notcorp.example. 60 IN A 192.0.2.1")
		corp := newZone(t, "corp.example. 60 IN A 192.0.2.2", "a.corp.example. 60 IN A 192.0.2.2")
		lab := newZone(t, "lab.corp.example. 60 IN A 192.0.2.3", "a.lab.corp.example. 60 IN A 192.0.2.3")
		r, _ := over(t, "udp", all, corp, lab)
		servers := r.Servers
		r.Servers = servers[:1]
		r.Zones = []Zone{
			{Suffix: "corp.EXAMPLE.", Servers: servers[1:2]},
			{Suffix: ".lab.corp.example", Servers: servers[2:]},
		}
		want(t, r, "www.example", "192.0.2.1")
		want(t, r, "notcorp.example", "192.0.2.1")
		want(t, r, "corp.example", "192.0.2.2")
		want(t, r, "a.Corp.Example.", "192.0.2.2")
		want(t, r, "lab.corp.example.", "192.0.2.3")
		want(t, r, "a.lab.corp.example", "192.0.2.3")
		wantNotFound(t, r, "b.corp.example")
		if n := all.count("b.corp.example. A"); n != 0 {
			t.Error("what the zone's servers do not know was asked for elsewhere")
		}
	})
}

func TestZoneOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := over(t, "udp", newZone(t), newZone(t, "www.example. 60 IN A 192.0.2.2"))
		r.Zones = []Zone{{Suffix: ".", Servers: r.Servers[1:]}}
		want(t, r, "www.example", "192.0.2.2")
	})
}

func TestAliasIntoAnotherZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newZone(t, "www.example. 60 IN CNAME app.corp.example.")
		corp := newZone(t, "app.corp.example. 5 IN CNAME host.corp.example.", "host.corp.example. 60 IN A 192.0.2.2")
		r, _ := over(t, "udp", all, corp)
		r.Zones = []Zone{{Suffix: "corp.example", Servers: r.Servers[1:]}}
		r.Servers = r.Servers[:1]
		want(t, r, "www.example", "192.0.2.2")
		time.Sleep(5 * time.Second) // the shortest in the chain
		want(t, r, "www.example", "192.0.2.2")
		if n := all.count("www.example. A"); n != 2 {
			t.Errorf("%d questions, want 2", n)
		}
	})
}

func TestAliasCircles(t *testing.T) {
	for name, records := range map[string][]string{
		"in one answer": {"a.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example."},
		"to itself":     {"a.example. 60 IN CNAME a.example."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := over(t, "udp", newZone(t, records...))
				if err := wantError(t, r, "a.example"); err.IsNotFound || !err.IsTemporary || !errors.Is(err, errAliases) {
					t.Errorf("got %#v", err)
				}
			})
		})
	}
	t.Run("over questions", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			z := newZone(t)
			z.instead = func(query *dns.Msg) *dns.Msg {
				name := query.Question[0].Name
				reply := new(dns.Msg).SetReply(query)
				reply.Answer = []dns.RR{record(t, name+" 60 IN CNAME x"+name)}
				return reply
			}
			r, _ := over(t, "udp", z)
			if err := wantError(t, r, "a.example"); !errors.Is(err, errAliases) {
				t.Errorf("got %#v", err)
			}
			if n := z.count("a.example. A"); n != 1 {
				t.Errorf("%d questions, want 1", n)
			}
		})
	})
}
