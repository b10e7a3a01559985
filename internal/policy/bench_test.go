package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

// A shape is a policy of 10,000 rules with 100,000 names and networks, and
// requests that are put to it in turn.
type shape struct {
	name     string
	policy   func() Policy
	requests func() []*argyle.Request
}

const (
	manyRules   = 10_000
	manyEntries = 100_000
)

func v4(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 1})
}

// entry is the i-th of the names and networks.
func entry(i int) string {
	switch i % 4 {
	case 0:
		return fmt.Sprintf(".d%d.zone%d.test", i, i%97)
	case 1:
		return fmt.Sprintf("host%d.d%d.zone%d.test", i, i/10, i%97)
	case 2:
		return fmt.Sprintf("%v/24", netip.PrefixFrom(v4(i), 24).Masked().Addr())
	}
	return v4(i).String()
}

func benchRequest(user string, dest argyle.Addr) *argyle.Request {
	return &argyle.Request{Command: argyle.Connect, Dest: dest, User: user, Auth: argyle.AuthPassword,
		Inbound: "main", Client: netip.MustParseAddrPort("192.0.2.7:4000")}
}

// spread are requests to destinations from all over the entries, and to some
// that are in none.
func spread() (all []*argyle.Request) {
	for i := range 1000 {
		n := i * 97 % manyEntries
		dest := argyle.Addr{Name: fmt.Sprintf("www.d%d.zone%d.test", n, n%97), Port: 443}
		switch n % 4 {
		case 1:
			dest.Name = entry(n)
		case 2, 3:
			dest = argyle.Addr{IP: v4(n), Port: 443}
		}
		if i%10 == 0 {
			dest = argyle.Addr{Name: fmt.Sprintf("nowhere%d.example.org", i), Port: 443}
		}
		all = append(all, benchRequest("ann", dest))
	}
	return all
}

func rules(n int, one func(i int) Rule) []Rule {
	all := make([]Rule, n)
	for i := range all {
		all[i] = one(i)
	}
	return all
}

var shapes = []shape{
	{"destinations", func() Policy { // ten entries a rule
		return Policy{Rules: rules(manyRules, func(i int) Rule {
			r := Rule{Deny: i%2 == 0}
			for k := range manyEntries / manyRules {
				r.Dests = append(r.Dests, entry(i*10+k))
			}
			return r
		})}
	}, spread},
	{"sets", func() Policy { // a hundred sets that ten thousand rules name in twos, for different users
		p := Policy{Sets: make(map[string]*Set), Groups: make(map[string][]string)}
		for s := range 100 {
			set := new(Set)
			for k := range manyEntries / 100 {
				set.Entries = append(set.Entries, entry(k*100+s))
			}
			p.Sets[fmt.Sprint(s)] = set
		}
		p.Rules = rules(manyRules, func(i int) Rule {
			return Rule{Users: []string{fmt.Sprintf("user%d", i)}, Deny: i%2 == 0,
				Dests: []string{fmt.Sprintf("set:%d", i%100), fmt.Sprintf("set:%d", i*7%100)}}
		})
		p.Rules[manyRules-1] = Rule{}
		return p
	}, spread},
	{"users", func() Policy { // rules that differ only by their user, each of one set
		p := Policy{Sets: map[string]*Set{"all": {}}}
		for i := range manyEntries {
			p.Sets["all"].Entries = append(p.Sets["all"].Entries, entry(i))
		}
		p.Rules = rules(manyRules, func(i int) Rule {
			return Rule{Users: []string{fmt.Sprintf("user%d", i)}, Dests: []string{"set:all"}}
		})
		return p
	}, func() []*argyle.Request {
		all := spread()
		for i, req := range all {
			req.User = fmt.Sprintf("user%d", i*7)
		}
		return all
	}},
	{"ports", func() Policy { // ranges that overlap, on ten entries each
		return Policy{Rules: rules(manyRules, func(i int) Rule {
			r := Rule{Ports: []Ports{{uint16(i), uint16(i + i%5000)}, {uint16(60000 - i), uint16(60000 - i/2)}}}
			for k := range manyEntries / manyRules {
				r.Dests = append(r.Dests, entry(i*10+k))
			}
			return r
		})}
	}, func() []*argyle.Request {
		all := spread()
		for i, req := range all {
			req.Dest.Port = uint16(i * 61)
		}
		return all
	}},
	{"suffixes", func() Policy { // domains in domains, twelve deep, each named by many rules
		deep := "a.b.c.d.e.f.g.h.i.j.k.test"
		var ends []string
		for i := range deep {
			if i == 0 || deep[i-1] == '.' {
				ends = append(ends, "."+deep[i:])
			}
		}
		return Policy{Rules: rules(manyRules, func(i int) Rule {
			r := Rule{Users: []string{fmt.Sprintf("user%d", i)}, Dests: []string{ends[i%len(ends)]}}
			for k := range manyEntries/manyRules - 1 {
				r.Dests = append(r.Dests, fmt.Sprintf(".x%d.%s", i*10+k, deep))
			}
			return r
		})}
	}, func() []*argyle.Request {
		var all []*argyle.Request
		for i := range 1000 {
			dest := argyle.Addr{Name: fmt.Sprintf("www.x%d.a.b.c.d.e.f.g.h.i.j.k.test", i*97), Port: 443}
			all = append(all, benchRequest(fmt.Sprintf("user%d", i*9), dest))
		}
		return all
	}},
	{"globs", func() Policy {
		return Policy{Rules: rules(manyRules, func(i int) Rule {
			r := Rule{Dests: []string{fmt.Sprintf("*ad%d-*.cdn?.test", i), fmt.Sprintf("track%d.*", i)}}
			for k := range manyEntries/manyRules - 2 {
				r.Dests = append(r.Dests, entry(i*10+k))
			}
			return r
		})}
	}, func() []*argyle.Request {
		all := spread()
		for i, req := range all {
			if i%2 == 0 {
				req.Dest = argyle.Addr{Name: fmt.Sprintf("xad%d-7.cdn3.test", i*10), Port: 443}
			}
		}
		return all
	}},
	{"nothing", func() Policy { // every condition is set, and none of the rules matches
		p := Policy{Sets: map[string]*Set{"all": {}}, Groups: map[string][]string{"staff": {"ann"}}}
		for i := range manyEntries {
			p.Sets["all"].Entries = append(p.Sets["all"].Entries, entry(i))
		}
		p.Rules = rules(manyRules, func(i int) Rule {
			r := Rule{
				Dests: []string{"set:all", "0.0.0.0/0", ".test"}, Ports: []Ports{{1, 65535}},
				Users: []string{"*", fmt.Sprintf("user%d", i)}, Groups: []string{"staff"}, Inbounds: []string{"main"},
				Clients: prefixes("192.0.2.0/24", "0.0.0.0/0"), Auth: []argyle.Auth{argyle.AuthPassword},
				Times: []Span{{0, day}}, Days: []time.Weekday{time.Monday, time.Tuesday},
			}
			switch i % 4 { // what fails
			case 0:
				r.Ports = []Ports{{1, 442}}
			case 1:
				r.Inbounds = []string{"lan"}
			case 2:
				r.Clients = prefixes("198.51.100.0/24")
			case 3:
				r.Users = []string{fmt.Sprintf("user%d", i)}
			}
			return r
		})
		p.Now = func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
		return p
	}, spread},
}

func BenchmarkDecide(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			p := made(b, s.policy())
			all := s.requests()
			for _, req := range all {
				p.Decide(req, netip.Addr{})
			}
			var times [1 << 12]time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				start := time.Now()
				p.Decide(all[i%len(all)], netip.Addr{})
				times[i%len(times)] = time.Since(start)
			}
			measured := times[:min(b.N, len(times))]
			slices.Sort(measured)
			b.ReportMetric(float64(measured[len(measured)/2]), "median-ns")
			b.ReportMetric(float64(measured[len(measured)*99/100]), "p99-ns")
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			from := s.policy()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var p *Policy
			for b.Loop() {
				p = made(b, from)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
			runtime.KeepAlive(p)
		})
	}
}

// A decision leaves no garbage.
func TestDecideAllocates(t *testing.T) {
	if raced {
		t.Skip("the race detector makes garbage of its own")
	}
	p := made(t, Policy{
		Own:     func(netip.AddrPort) bool { return false },
		Clients: prefixes("192.0.2.0/24", "127.0.0.0/8"),
		Sets:    map[string]*Set{"s": {Entries: []string{".set.test", "203.0.113.0/24"}}},
		Groups:  map[string][]string{"staff": {"ann"}},
		Rules: []Rule{
			{Deny: true, Dests: []string{".deny.test", "bad*word.test", "8.8.8.0/24"}},
			{Dests: []string{"set:s"}, Ports: []Ports{{1, 1000}}, Users: []string{"*"}, Groups: []string{"staff"}, Times: []Span{{0, day}}},
			{Dests: []string{"0.0.0.0/0", "::/0"}, Clients: prefixes("192.0.2.0/24")},
		},
	})
	for _, text := range []string{
		"client=192.0.2.1 x.deny.test:80", "client=192.0.2.1 BAD-WORD.test.:80", "client=192.0.2.1 user=ann a.set.test:80", "client=192.0.2.1 1.1.1.1:80",
		"client=192.0.2.1 [64:ff9b::8.8.8.8]:80", "client=192.0.2.1 [2606:4700::1]:80", "client=192.0.2.1 unknown.test:80", "client=127.0.0.1 1.1.1.1:80", "client=192.0.2.1 user=ann udp",
	} {
		req := ask(t, text)
		if n := testing.AllocsPerRun(100, func() { p.Decide(req, netip.Addr{}) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}
