package names

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func TestCacheTTL(t *testing.T) {
	tests := map[string]struct {
		records []string
		kept    time.Duration
		missing bool
	}{
		"addresses":           {records: []string{"www.example. 60 IN A 192.0.2.80"}, kept: time.Minute},
		"two addresses":       {records: []string{"www.example. 60 IN A 192.0.2.80", "www.example. 20 IN A 192.0.2.80"}, kept: 20 * time.Second},
		"two families":        {records: []string{"www.example. 60 IN A 192.0.2.80", "www.example. 7 IN AAAA 2001:db8::1"}, kept: 7 * time.Second},
		"alias":               {records: []string{"www.example. 3 IN CNAME a.", "a. 60 IN A 192.0.2.80"}, kept: 3 * time.Second},
		"none":                {records: []string{"www.example. 0 IN A 192.0.2.80"}, kept: time.Second},
		"a year":              {records: []string{"www.example. 31536000 IN A 192.0.2.80"}, kept: time.Hour},
		"no IPv6":             {records: []string{"www.example. 60 IN A 192.0.2.80", "example. 9 IN SOA ns. host. 1 2 3 4 90"}, kept: 9 * time.Second},
		"NXDOMAIN":            {records: []string{"example. 60 IN SOA ns. host. 1 2 3 4 30"}, kept: 30 * time.Second, missing: true},
		"NXDOMAIN, SOA's TTL": {records: []string{"example. 10 IN SOA ns. host. 1 2 3 4 30"}, kept: 10 * time.Second, missing: true},
		"NXDOMAIN, a day":     {records: []string{"example. 86400 IN SOA ns. host. 1 2 3 4 86400"}, kept: 5 * time.Minute, missing: true},
		"NXDOMAIN, no SOA":    {kept: time.Second, missing: true},
		"NODATA":              {records: []string{"www.example. 5 IN TXT x", "example. 60 IN SOA ns. host. 1 2 3 4 40"}, kept: 40 * time.Second, missing: true},
		"NODATA, no SOA":      {records: []string{"www.example. 5 IN TXT x"}, kept: time.Second, missing: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := newZone(t, test.records...)
				r, _ := over(t, "udp", z)
				ask := func(questions int) {
					t.Helper()
					if _, err := r.LookupNetIP(t.Context(), "ip", "WWW.Example"); (err != nil) != test.missing {
						t.Errorf("error %v", err)
					}
					if n := z.count("www.example. A"); n != questions {
						t.Errorf("%d questions, want %d", n, questions)
					}
				}
				ask(1)
				time.Sleep(test.kept - time.Nanosecond)
				ask(1)
				time.Sleep(time.Nanosecond)
				ask(2)
			})
		})
	}
}

func TestMaxTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "www.example. 600 IN A 192.0.2.80", "example. 600 IN SOA ns. host. 1 2 3 4 600")
		r, _ := over(t, "udp", z)
		r.MaxTTL = 5 * time.Second
		for range 2 {
			want(t, r, "www.example", "192.0.2.80")
			wantNotFound(t, r, "gone.example")
			time.Sleep(5 * time.Second)
		}
		if a, b := z.count("www.example. A"), z.count("gone.example. A"); a != 2 || b != 2 {
			t.Errorf("%d and %d questions, want 2", a, b)
		}
	})
}

// A name whose addresses change, to rebind it, shows the new ones in time and
// no sooner.
func TestChangedAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "www.example. 5 IN A 192.0.2.80")
		r, _ := over(t, "udp", z)
		want(t, r, "www.example", "192.0.2.80")
		z.set(t, "www.example. 5 IN A 127.0.0.1")
		time.Sleep(4 * time.Second)
		want(t, r, "www.example", "192.0.2.80")
		time.Sleep(time.Second)
		want(t, r, "www.example", "127.0.0.1")
	})
}

func TestCallersOwnWhatTheyGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := over(t, "udp", newZone(t, "www.example. 60 IN A 192.0.2.80", "www.example. 60 IN A 192.0.2.81"))
		for range 2 {
			got, err := r.LookupNetIP(t.Context(), "ip", "www.example")
			if err != nil || len(got) != 2 || got[0] != netip.MustParseAddr("192.0.2.80") {
				t.Fatalf("got %v, %v", got, err)
			}
			slices.Reverse(got)
			_ = append(got[:1], netip.Addr{})
		}
	})
}

func TestCacheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := wild(t)
		r, _ := over(t, "udp", z)
		r.Prefer, r.CacheSize = IPv4Only, 3
		for _, i := range []int{1, 2, 3, 1, 4} { // 2 has not been wanted for longest
			want(t, r, nth(i), "192.0.2.80")
		}
		if n := len(r.cache.entries); n != 3 || r.cache.recent.Len() != 3 {
			t.Errorf("%d entries, %d in the list, want 3", n, r.cache.recent.Len())
		}
		before := z.total()
		for _, i := range []int{1, 3, 4} {
			want(t, r, nth(i), "192.0.2.80")
		}
		if z.total() != before {
			t.Error("what was used lately was asked for again")
		}
		want(t, r, nth(2), "192.0.2.80")
		if n := z.count("n2.example. A"); n != 2 {
			t.Errorf("%d questions, want 2", n)
		}
	})
}

func TestNoCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		r, _ := over(t, "udp", z)
		r.CacheSize = -1
		want(t, r, "www.example", "192.0.2.80")
		want(t, r, "www.example", "192.0.2.80")
		if n := z.count("www.example. A"); n != 2 || len(r.cache.entries) != 0 {
			t.Errorf("%d questions, %d entries", n, len(r.cache.entries))
		}
	})
}

func TestCacheReplaces(t *testing.T) {
	c := newCache(2)
	now := time.Now()
	k := key{name: "a", want: ipv4}
	c.put(k, answer{ttl: time.Second}, now)
	c.put(k, answer{ttl: time.Minute, addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, now)
	if got, ok := c.get(k, now.Add(30*time.Second)); !ok || len(got.addrs) != 1 || c.recent.Len() != 1 {
		t.Errorf("got %v, %v, %d in the list", got, ok, c.recent.Len())
	}
	if _, ok := c.get(k, now.Add(time.Minute)); ok || c.recent.Len() != 0 || len(c.entries) != 0 {
		t.Error("what is over is still kept")
	}
	if _, ok := c.get(key{name: "a", want: ipv6}, now); ok {
		t.Error("another family's answer was taken")
	}
}

func BenchmarkCached(b *testing.B) {
	r, _ := over(b, "udp", newZone(b, "www.example. 3000 IN A 192.0.2.80", "www.example. 3000 IN AAAA 2001:db8::1"))
	want(b, r, "www.example", "2001:db8::1", "192.0.2.80")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.LookupNetIP(b.Context(), "ip", "www.example"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCachedParallel(b *testing.B) {
	r, _ := over(b, "udp", newZone(b, "www.example. 3000 IN A 192.0.2.80"))
	want(b, r, "www.example", "192.0.2.80")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.LookupNetIP(b.Context(), "ip", "www.example"); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkFullCache looks up names that are not kept, over a cache that is full.
func BenchmarkFullCache(b *testing.B) {
	c := newCache(cacheSize)
	now := time.Now()
	var keys []key
	for i := range 2 * cacheSize {
		keys = append(keys, key{name: dns.Fqdn(nth(i)), want: ipv4})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := keys[i%len(keys)]
		if _, ok := c.get(k, now); !ok {
			c.put(k, answer{ttl: time.Hour}, now)
		}
	}
}
