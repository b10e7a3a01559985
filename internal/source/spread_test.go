package source

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/argyle-socks/argyle"
)

// evenly fails unless counts could be those of equal chances. The statistic has
// a mean of one less than there are counts and about twice that as its variance:
// six deviations are never seen.
func evenly(t *testing.T, what string, counts []int) {
	t.Helper()
	total := 0
	for _, n := range counts {
		total += n
	}
	expected, chi2 := float64(total)/float64(len(counts)), 0.0
	for _, n := range counts {
		d := float64(n) - expected
		chi2 += d * d / expected
	}
	free := float64(len(counts) - 1)
	if d := chi2 - free; d*d > 36*2*free {
		t.Errorf("%s: %v, chi² = %.0f with %.0f degrees of freedom", what, counts, chi2, free)
	}
}

func user(i int) *argyle.Request {
	return &argyle.Request{User: fmt.Sprint("user", i), Dest: argyle.Addr{Name: fmt.Sprint("host", i, ".example"), Port: 443}}
}

// Every address of a pool is chosen as often as any other.
func TestSpread(t *testing.T) {
	singles := prefixes("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 192.0.2.8")
	for _, pick := range []Pick{Random, Turn, User, Dest} {
		s := &Source{Addrs: singles, Pick: pick}
		counts := make([]int, len(singles))
		for i := range 1000 {
			counts[local(t, s, user(i), four).As4()[3]-1]++
		}
		evenly(t, string(pick), counts)
	}
}

// In a /64 each bit of the host part is set for half of the users, and so are
// the bits above it in a /48. Turn counts instead.
func TestSpreadInside(t *testing.T) {
	for _, c := range []struct {
		pool string
		bits int
	}{{"2001:db8::/64", 64}, {"2001:db8::/48", 80}, {"2001:db8::/112", 16}} {
		for _, pick := range []Pick{Random, User, Dest} {
			s := &Source{Addrs: prefixes(c.pool), Pick: pick}
			set := make([]int, c.bits)
			for i := range 1000 {
				b := local(t, s, user(i), six).As16()
				for bit := range set {
					set[bit] += int(b[15-bit/8] >> (bit % 8) & 1)
				}
			}
			for bit, n := range set {
				if n < 400 || n > 600 { // 500 ± 6 deviations
					t.Errorf("%s %s: bit %d is set in %d of 1000", c.pool, pick, bit, n)
				}
			}
		}
	}
}

// Many goroutines take their turns, and every prefix has its share to the last.
func TestTurnTogether(t *testing.T) {
	s := &Source{Addrs: prefixes("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4"), Pick: Turn}
	var mu sync.Mutex
	count := make(map[netip.Addr]int)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				ip, err := s.Local(t.Context(), four)
				mu.Lock()
				count[ip]++
				mu.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, p := range s.Addrs {
		if count[p.Addr()] != 1000 {
			t.Errorf("%v has had %d turns of 4000", p.Addr(), count[p.Addr()])
		}
	}
}

// A prefix that comes takes its share and leaves the rest where they are.
func TestStickyPrefixes(t *testing.T) {
	before := &Source{Addrs: prefixes("2001:db8:1::/64 2001:db8:2::/64 2001:db8:3::/64"), Pick: User}
	after := &Source{Addrs: append(prefixes("2001:db8:4::/64"), before.Addrs...), Pick: User}
	moved := 0
	for i := range 1000 {
		was, is := local(t, before, user(i), six), local(t, after, user(i), six)
		if was == is {
			continue
		}
		moved++
		if !after.Addrs[0].Contains(is) {
			t.Errorf("user %d moves from %v to %v, which was there before", i, was, is)
		}
	}
	if moved < 170 || moved > 330 { // 250 ± 6 deviations
		t.Errorf("a fourth prefix takes %d of 1000", moved)
	}
}

// A pool of many single addresses is looked through whole.
func BenchmarkLocalPool(b *testing.B) {
	for _, size := range []int{16, 256} {
		var pool []netip.Prefix
		ip := netip.MustParseAddr("192.0.2.0")
		for range size {
			pool, ip = append(pool, netip.PrefixFrom(ip, 32)), ip.Next()
		}
		for _, pick := range []Pick{Random, Turn, User} {
			b.Run(fmt.Sprintf("%s/%d", pick, size), func(b *testing.B) {
				s := &Source{Addrs: pool, Pick: pick}
				ctx := argyle.WithRequest(b.Context(), user(1))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.Local(ctx, four); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
