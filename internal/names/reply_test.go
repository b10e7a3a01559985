package names

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func TestRead(t *testing.T) {
	const soa = "example. 30 IN SOA ns. host. 1 2 3 4 20"
	tests := map[string]struct {
		rcode  int
		answer []string
		ns     []string
		extra  []string
		ra     bool
		family families

		addrs   string
		missing bool
		ttl     time.Duration
		alias   string
		err     error
	}{
		"addresses": {
			answer: []string{"www.example. 60 IN A 192.0.2.1", "WWW.example. 50 IN A 192.0.2.2"},
			addrs:  "192.0.2.1 192.0.2.2", ttl: 50 * time.Second,
		},
		"IPv6": {
			family: ipv6, answer: []string{"www.example. 60 IN AAAA 2001:db8::1", "www.example. 60 IN A 192.0.2.2"},
			addrs: "2001:db8::1", ttl: time.Minute,
		},
		"chain in disorder": {
			answer: []string{"c.example. 60 IN A 192.0.2.1", "b.example. 9 IN CNAME C.example.", "www.example. 70 IN CNAME b.example."},
			addrs:  "192.0.2.1", ttl: 9 * time.Second,
		},
		"others' addresses": {
			answer: []string{"other.example. 5 IN A 192.0.2.66", "www.example. 60 IN A 192.0.2.1"},
			ns:     []string{"www.example. 60 IN A 192.0.2.67"},
			extra:  []string{"www.example. 60 IN A 192.0.2.68"},
			addrs:  "192.0.2.1", ttl: time.Minute,
		},
		"addresses beside the chain": {
			answer: []string{"www.example. 60 IN CNAME b.example.", "www.example. 60 IN A 192.0.2.66", "b.example. 60 IN A 192.0.2.1"},
			addrs:  "192.0.2.1", ttl: time.Minute,
		},
		"glue alone": {
			ra: true, extra: []string{"www.example. 60 IN A 192.0.2.66"}, ttl: unknownTTL,
		},
		"another class": {
			ra: true, answer: []string{"www.example. 60 CH A 192.0.2.66"}, ttl: unknownTTL,
		},
		"time to live beyond 31 bits": {
			answer: []string{"www.example. 4294967295 IN A 192.0.2.1"}, addrs: "192.0.2.1", ttl: 0,
		},
		"no data": {
			ra: true, ns: []string{soa}, ttl: 20 * time.Second,
		},
		"no such name": {
			rcode: dns.RcodeNameError, ns: []string{"example. 10 IN SOA ns. host. 1 2 3 4 20"}, missing: true, ttl: 10 * time.Second,
		},
		"no such name, for an unknown time": {
			rcode: dns.RcodeNameError, missing: true, ttl: unknownTTL,
		},
		"alias that does not exist": {
			rcode: dns.RcodeNameError, answer: []string{"www.example. 5 IN CNAME gone.example."}, ns: []string{soa}, missing: true, ttl: 5 * time.Second,
		},
		"alias without addresses": {
			answer: []string{"www.example. 60 IN CNAME b.example."}, ns: []string{soa}, ttl: 20 * time.Second,
		},
		"alias left to us": {
			answer: []string{"www.example. 60 IN CNAME b.example.net."}, alias: "b.example.net.", ttl: time.Minute,
		},
		"referral":        {ns: []string{"example. 60 IN NS ns.example."}, err: errLame},
		"circle":          {answer: []string{"www.example. 60 IN CNAME b.", "b. 60 IN CNAME www.example."}, err: errAliases},
		"server failure":  {rcode: dns.RcodeServerFailure, err: rcodeError(dns.RcodeServerFailure)},
		"refused":         {rcode: dns.RcodeRefused, err: rcodeError(dns.RcodeRefused)},
		"not implemented": {rcode: dns.RcodeNotImplemented, err: rcodeError(dns.RcodeNotImplemented)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.family == 0 {
				test.family = ipv4
			}
			query := new(dns.Msg).SetQuestion("www.example.", test.family.question())
			msg := new(dns.Msg).SetRcode(query, test.rcode)
			msg.RecursionAvailable = test.ra
			for _, text := range test.answer {
				msg.Answer = append(msg.Answer, record(t, text))
			}
			for _, text := range test.ns {
				msg.Ns = append(msg.Ns, record(t, text))
			}
			for _, text := range test.extra {
				msg.Extra = append(msg.Extra, record(t, text))
			}
			got := read(msg, "www.example", test.family)
			if test.err != nil {
				if !errors.Is(got.err, test.err) || !misbehaves(got.err) {
					t.Errorf("got %v, want %v", got.err, test.err)
				}
				return
			}
			addrs := ""
			for _, ip := range got.addrs {
				addrs += " " + ip.String()
			}
			if addrs != "" {
				addrs = addrs[1:]
			}
			if got.err != nil || addrs != test.addrs || got.exists == test.missing || got.ttl != test.ttl || got.alias != test.alias {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestReadTakesNotEverything(t *testing.T) {
	msg := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("www.example.", dns.TypeA))
	for range 1000 {
		msg.Answer = append(msg.Answer, record(t, "www.example. 60 IN A 192.0.2.1"))
	}
	if got := read(msg, "www.example", ipv4); len(got.addrs) != maxAddrs {
		t.Errorf("%d addresses, want %d", len(got.addrs), maxAddrs)
	}
}

// One family is enough, whatever becomes of the other.
func TestOneFamily(t *testing.T) {
	fail := rcode(dns.RcodeServerFailure)
	missing := rcode(dns.RcodeNameError)
	tests := map[string]struct {
		v6   func(*dns.Msg) *dns.Msg
		took time.Duration
	}{
		"fails":     {fail, 0},
		"is denied": {missing, 0},
		"is silent": {silent, familyGrace},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := newZone(t, "www.example. 60 IN A 192.0.2.1", "www.example. 60 IN AAAA 2001:db8::1")
				z.instead = func(query *dns.Msg) *dns.Msg {
					if query.Question[0].Qtype == dns.TypeAAAA {
						return test.v6(query)
					}
					return z.answer(query)
				}
				r, _ := over(t, "udp", z)
				began := time.Now()
				want(t, r, "www.example", "192.0.2.1")
				if took := time.Since(began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if name == "is denied" {
					return
				}
				z.mu.Lock()
				z.instead = nil
				z.mu.Unlock()
				time.Sleep(partialTTL) // not longer
				want(t, r, "www.example", "2001:db8::1", "192.0.2.1")
			})
		})
	}
}

// Without addresses, a family that failed may have had some.
func TestNoFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "www.example. 60 IN TXT x")
		z.instead = func(query *dns.Msg) *dns.Msg {
			if query.Question[0].Qtype == dns.TypeAAAA {
				return rcode(dns.RcodeServerFailure)(query)
			}
			return z.answer(query)
		}
		r, _ := over(t, "udp", z)
		if err := wantError(t, r, "www.example"); err.IsNotFound || !err.IsTemporary {
			t.Errorf("got %#v, want a failure", err)
		}
	})
}

// FuzzRead takes what comes over the wire for an answer.
func FuzzRead(f *testing.F) {
	for _, text := range []string{"www.example. 60 IN A 192.0.2.1", "www.example. 60 IN CNAME a.", "www.example. 60 IN AAAA ::ffff:192.0.2.1"} {
		msg := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("www.example.", dns.TypeA))
		msg.Answer = []dns.RR{record(f, text)}
		packed, err := msg.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		msg := new(dns.Msg)
		if msg.Unpack(packed) != nil {
			return
		}
		for _, family := range (ipv4 | ipv6).each() {
			got := read(msg, "www.example", family)
			for _, ip := range got.addrs {
				if !ip.IsValid() || ip.Is4() != (family == ipv4) {
					t.Errorf("family %s: %v", family.network(), ip)
				}
			}
			if len(got.addrs) > 0 && (got.alias != "" || got.err != nil || !got.exists || got.ttl < 0) {
				t.Errorf("got %+v", got)
			}
		}
	})
}
