package source

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
)

func prefixes(texts string) (all []netip.Prefix) {
	for text := range strings.FieldsSeq(texts) {
		if !strings.Contains(text, "/") {
			ip := netip.MustParseAddr(text)
			all = append(all, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

var (
	four = netip.MustParseAddr("198.51.100.1")
	six  = netip.MustParseAddr("2001:db8:ffff::1")
)

func local(t testing.TB, s *Source, req *argyle.Request, remote netip.Addr) netip.Addr {
	t.Helper()
	ctx := t.Context()
	if req != nil {
		ctx = argyle.WithRequest(ctx, req)
	}
	ip, err := s.Local(ctx, remote)
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

// Every address is one of the pool, of the right family, and none with a
// meaning of its own.
func TestInside(t *testing.T) {
	for _, c := range []struct{ pool, never string }{
		{"192.0.2.8", ""},
		{"192.0.2.8/31", ""},
		{"192.0.2.8/30", "192.0.2.8 192.0.2.11"},
		{"192.0.2.0/24", "192.0.2.0 192.0.2.255"},
		{"10.0.0.0/8", "10.0.0.0 10.255.255.255"},
		{"2001:db8::8", ""},
		{"2001:db8::/127", "2001:db8::"},
		{"2001:db8::/126", "2001:db8::"},
		{"2001:db8::/64", "2001:db8::"},
		{"2001:db8::/48", "2001:db8::"},
		{"192.0.2.8 192.0.2.16/28 2001:db8::/64 2001:db8:1::9", "2001:db8::"},
	} {
		pool := prefixes(c.pool)
		for _, pick := range []Pick{"", Random, Turn, User, Dest} {
			s := &Source{Addrs: pool, Pick: pick}
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			for i := range 500 {
				for _, remote := range []netip.Addr{four, six} {
					req := &argyle.Request{User: fmt.Sprint(i), Dest: argyle.Addr{Name: fmt.Sprint("n", i, ".example"), Port: 1}}
					ip, err := s.Local(argyle.WithRequest(t.Context(), req), remote)
					if !slices.ContainsFunc(pool, func(p netip.Prefix) bool { return p.Addr().Is4() == remote.Is4() }) {
						if !errors.Is(err, syscall.ENETUNREACH) {
							t.Errorf("%s to %v: %v, %v", c.pool, remote, ip, err)
						}
						continue
					}
					if err != nil || ip.Is4() != remote.Is4() || !slices.ContainsFunc(pool, func(p netip.Prefix) bool { return p.Contains(ip) }) ||
						slices.Contains(strings.Fields(c.never), ip.String()) {
						t.Fatalf("%s %s: %v, %v", c.pool, pick, ip, err)
					}
				}
			}
		}
	}
	if ip := local(t, new(Source), nil, four); ip.IsValid() {
		t.Errorf("without a pool: %v", ip)
	}
}

func TestTurn(t *testing.T) {
	s := &Source{Addrs: prefixes("192.0.2.8 2001:db8::1 192.0.2.9 192.0.2.16/28"), Pick: Turn}
	var got []string
	for range 7 {
		got = append(got, local(t, s, nil, four).String())
	}
	if want := strings.Fields("192.0.2.8 192.0.2.9 192.0.2.18 192.0.2.8 192.0.2.9 192.0.2.19 192.0.2.8"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A thousand users spread over the pool, each stays where he is, and an address
// that goes moves only its own.
func TestSticky(t *testing.T) {
	addrs := prefixes("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 192.0.2.8 192.0.2.9 192.0.2.10")
	s, less := &Source{Addrs: addrs, Pick: User}, &Source{Addrs: addrs[1:], Pick: User}
	count := make(map[netip.Addr]int)
	for i := range 1000 {
		req := &argyle.Request{User: fmt.Sprint("user", i)}
		ip := local(t, s, req, four)
		count[ip]++
		if again := local(t, s, req, four); again != ip {
			t.Fatalf("%s has %v and then %v", req.User, ip, again)
		}
		if then := local(t, less, req, four); then != ip && ip != addrs[0].Addr() {
			t.Errorf("%s moves from %v to %v", req.User, ip, then)
		}
	}
	for _, p := range addrs {
		if n := count[p.Addr()]; n < 60 || n > 140 {
			t.Errorf("%v has %d of 1000", p.Addr(), n)
		}
	}
	whole := &Source{Addrs: prefixes("2001:db8::/64"), Pick: User}
	seen := make(map[netip.Addr]bool)
	for i := range 1000 {
		seen[local(t, whole, &argyle.Request{User: fmt.Sprint(i)}, six)] = true
	}
	if len(seen) != 1000 {
		t.Errorf("1000 users have %d addresses of a /64", len(seen))
	}
}

// Who has no name is known by his address, and by his /64.
func TestStickyKeys(t *testing.T) {
	from := func(text string) *argyle.Request {
		return &argyle.Request{Client: netip.MustParseAddrPort(text), Dest: argyle.Addr{Name: "a.example", Port: 1}}
	}
	s := &Source{Addrs: prefixes("2001:db8::/64"), Pick: User}
	if local(t, s, from("[2001:db8:7::1]:1"), six) != local(t, s, from("[2001:db8:7::2]:2"), six) {
		t.Error("the same /64 is two clients")
	}
	if local(t, s, from("192.0.2.1:1"), six) == local(t, s, from("192.0.2.2:1"), six) {
		t.Error("two clients are one")
	}
	if local(t, s, from("192.0.2.1:1"), six) == local(t, s, &argyle.Request{User: "192.0.2.1"}, six) {
		t.Error("a user is taken for a client")
	}
	s.Pick = Dest
	if local(t, s, from("192.0.2.1:1"), six) != local(t, s, from("192.0.2.2:1"), six) {
		t.Error("the same destination has two addresses")
	}
	first, again := local(t, s, nil, six), local(t, s, nil, six)
	if first != again {
		t.Errorf("without a request the destination is the address: %v and %v", first, again)
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []*Source{
		{Pick: "some"},
		{Addrs: []netip.Prefix{{}}},
		{Addrs: prefixes("0.0.0.0/0")},
		{Addrs: prefixes("224.0.0.1")},
	} {
		if s.Check() == nil {
			t.Errorf("%v %v passes", s.Addrs, s.Pick)
		}
	}
}

func BenchmarkLocal(b *testing.B) {
	for _, pick := range []Pick{Random, Turn, User} {
		b.Run(string(pick), func(b *testing.B) {
			s := &Source{Addrs: prefixes("192.0.2.0/24 2001:db8::/64"), Pick: pick}
			ctx := argyle.WithRequest(context.Background(), &argyle.Request{User: "ann"})
			for b.Loop() {
				if _, err := s.Local(ctx, six); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
