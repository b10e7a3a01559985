package fakedns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// A resolver is one that Exchange asks.
type resolver struct {
	records []dns.RR
	missing bool // NXDOMAIN if it has no record
	change  func(*dns.Msg)
	wait    chan struct{} // answer when it is closed
	asked   atomic.Int32
	now     atomic.Int32
	most    atomic.Int32
}

func records(t testing.TB, lines ...string) []dns.RR {
	t.Helper()
	var rrs []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

func (r *resolver) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	r.asked.Add(1)
	now := r.now.Add(1)
	defer r.now.Add(-1)
	for most := r.most.Load(); now > most && !r.most.CompareAndSwap(most, now); most = r.most.Load() {
	}
	if r.wait != nil {
		select {
		case <-r.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	reply := new(dns.Msg).SetReply(q)
	for _, rr := range r.records {
		switch h := rr.Header(); {
		case h.Rrtype == dns.TypeSOA:
			reply.Ns = append(reply.Ns, rr)
		case strings.EqualFold(h.Name, q.Question[0].Name) && (h.Rrtype == q.Question[0].Qtype || h.Rrtype == dns.TypeRRSIG):
			reply.Answer = append(reply.Answer, rr)
		}
	}
	if len(reply.Answer) == 0 && r.missing {
		reply.Rcode = dns.RcodeNameError
	}
	if r.change != nil {
		r.change(reply)
	}
	return reply, nil
}

// TestPassClean: what is passed on has no address but ours.
func TestPassClean(t *testing.T) {
	r := &resolver{}
	r.records = records(t,
		"example.test. 60 IN MX 10 mail.example.test.",
		"example.test. 60 IN HTTPS 1 . alpn=h3,h2 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1 ech=AAAA port=8443",
		"example.test. 60 IN HTTPS 2 other.test. alpn=h3,h3-29 no-default-alpn ipv4hint=192.0.2.2",
		"example.test. 60 IN HTTPS 3 . alpn=h3 mandatory=alpn,port port=1",
		"example.test. 60 IN HTTPS 4 . mandatory=ipv4hint ipv4hint=192.0.2.3",
		"example.test. 60 IN RRSIG HTTPS 8 2 60 20300101000000 20200101000000 1 example.test. AAAA",
		"example.test. 60 IN RRSIG MX 8 2 60 20300101000000 20200101000000 1 example.test. AAAA",
	)
	glue := records(t, "mail.example.test. 60 IN A 192.0.2.25", "mail.example.test. 60 IN AAAA 2001:db8::25", "example.test. 60 IN A 192.0.2.80")
	authority := records(t, "example.test. 60 IN NS ns.example.test.")
	r.change = func(reply *dns.Msg) {
		reply.Answer = append(reply.Answer, glue...)
		reply.Answer = append(reply.Answer, nil, &dns.TXT{Hdr: dns.RR_Header{Name: "example.test.", Rrtype: dns.TypeTXT, Class: dns.ClassCHAOS}})
		reply.Ns = append(reply.Ns, authority...)
		reply.Ns = append(reply.Ns, glue...)
		reply.Extra = append(reply.Extra, glue...)
		reply.AuthenticatedData = true
	}
	for _, test := range []struct {
		qtype uint16
		udp   bool
		want  []string
	}{
		{dns.TypeMX, false, []string{"10 mail.example.test.", "MX 8 2"}},
		{dns.TypeHTTPS, false, []string{`1 . alpn="h2" port="8443" ech="AAAA"`, `3 . mandatory="port" port="1"`, "4 .", "MX 8 2"}},
		{dns.TypeHTTPS, true, []string{`1 . alpn="h3,h2" port="8443" ech="AAAA"`, `2 other.test. alpn="h3,h3-29" no-default-alpn=""`,
			`3 . mandatory="alpn,port" alpn="h3" port="1"`, "4 .", "MX 8 2"}},
	} {
		s := server(t)
		s.Exchange, s.HTTPS, s.UDP = r.exchange, true, test.udp
		reply := ask(t, s, "Example.test.", test.qtype, func(q *dns.Msg) { q.SetEdns0(4096, true) })
		if len(reply.Answer) != len(test.want) {
			t.Errorf("%v: %v", dns.Type(test.qtype), reply.Answer)
			continue
		}
		for i, rr := range reply.Answer {
			if got := rr.String(); !strings.Contains(got, test.want[i]) || strings.Contains(got, "hint") ||
				strings.Contains(got, "h3") != strings.Contains(test.want[i], "h3") || rr.Header().Name != "Example.test." {
				t.Errorf("%v: %s, want %s", dns.Type(test.qtype), got, test.want[i])
			}
		}
		if len(reply.Ns) != 1 || len(reply.Extra) != 1 {
			t.Errorf("%v: authority %v, additional %v", dns.Type(test.qtype), reply.Ns, reply.Extra)
		}
	}
	if s := r.records[1].String(); !strings.Contains(s, "192.0.2.1") {
		t.Errorf("the resolver's own record was changed: %s", s)
	}
}

// TestPassBad: a reply that is not one is a failure.
func TestPassBad(t *testing.T) {
	for name, change := range map[string]func(*dns.Msg){
		"query":          func(m *dns.Msg) { m.Response = false },
		"no question":    func(m *dns.Msg) { m.Question = nil },
		"other name":     func(m *dns.Msg) { m.Question = []dns.Question{{Name: "evil.test.", Qtype: dns.TypeMX, Qclass: 1}} },
		"other type":     func(m *dns.Msg) { m.Question = []dns.Question{{Name: "example.test.", Qtype: dns.TypeTXT, Qclass: 1}} },
		"truncated":      func(m *dns.Msg) { m.Truncated = true },
		"server failure": func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure },
		"refused":        func(m *dns.Msg) { m.Rcode = dns.RcodeRefused },
		"strange":        func(m *dns.Msg) { m.Rcode = 4095 },
		"bad record": func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.MX{Hdr: dns.RR_Header{Name: "not\\", Rrtype: dns.TypeMX, Class: 1}}}
		},
	} {
		s := server(t)
		s.Exchange = (&resolver{change: change}).exchange
		if got := brief(ask(t, s, "example.test.", dns.TypeMX)); got != "SERVFAIL" {
			t.Errorf("%s: %s", name, got)
		}
	}
	s := server(t)
	s.Exchange = func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, nil }
	if got := brief(ask(t, s, "example.test.", dns.TypeMX)); got != "SERVFAIL" {
		t.Errorf("nil: %s", got)
	}
}

func TestPassKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &resolver{missing: true}
		r.records = records(t, "a.test. 30 IN MX 1 m.test.", "long.test. 86400 IN MX 1 m.test.", "test. 60 IN SOA ns. host. 1 2 3 4 20")
		s := server(t)
		s.Exchange = r.exchange
		asked := func(name string, want int32, ttl uint32) {
			t.Helper()
			before := r.asked.Load()
			reply := ask(t, s, name, dns.TypeMX)
			if got := r.asked.Load() - before; got != want {
				t.Errorf("%s: asked %d times, want %d", name, got, want)
			}
			for _, rr := range reply.Answer {
				if rr.Header().Ttl != ttl {
					t.Errorf("%s: TTL %d, want %d", name, rr.Header().Ttl, ttl)
				}
			}
		}
		asked("a.test.", 1, 30)
		time.Sleep(10 * time.Second)
		asked("A.test.", 0, 20)
		asked("missing.test.", 1, 0)
		time.Sleep(19 * time.Second)
		asked("a.test.", 0, 1)
		asked("missing.test.", 0, 0)
		time.Sleep(time.Second)
		asked("a.test.", 1, 30)
		asked("missing.test.", 1, 0)
		asked("long.test.", 1, maxTTL)
		time.Sleep(5 * time.Minute)
		asked("long.test.", 1, maxTTL)

		for i := range 3 * maxKept {
			ask(t, s, fmt.Sprintf("h%d.test.", i), dns.TypeMX)
		}
		if n := len(s.passed.flights); n > maxKept {
			t.Errorf("%d answers are kept", n)
		}
		r.change = func(reply *dns.Msg) { reply.Rcode = dns.RcodeServerFailure }
		asked("fails.test.", 1, 0)
		asked("fails.test.", 0, 0)
		time.Sleep(2 * time.Second)
		asked("fails.test.", 1, 0)
	})
}

// TestPassBounds: however many ask, few calls of Exchange are under way, and
// one client leaves room for another.
func TestPassBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &resolver{wait: make(chan struct{}), records: records(t, "x.test. 60 IN MX 1 m.test.")}
		s := server(t)
		s.Exchange, s.Allow = r.exchange, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		var wg sync.WaitGroup
		codes := map[string]map[int]int{}
		var mu sync.Mutex
		put := func(client string, n int, name func(int) string) {
			codes[client] = map[int]int{}
			for i := range n {
				wg.Go(func() {
					q, err := new(dns.Msg).SetQuestion(name(i), dns.TypeMX).Pack()
					if err != nil {
						t.Error(err)
						return
					}
					reply := new(dns.Msg)
					if err := reply.Unpack(s.Answer(t.Context(), netip.MustParseAddrPort(client), q, false)); err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					codes[client][reply.Rcode]++
				})
			}
		}
		put("192.0.2.1:1", 500, func(i int) string { return fmt.Sprintf("h%d.test.", i) })
		synctest.Wait()
		put("192.0.2.2:1", 100, func(int) string { return "x.test." })
		synctest.Wait()
		if n := codes["192.0.2.1:1"][dns.RcodeServerFailure]; n != 500-maxWaitingEach {
			t.Errorf("%d questions of one client were refused at once", n)
		}
		time.Sleep(time.Second)
		close(r.wait)
		wg.Wait()
		if n := codes["192.0.2.2:1"][dns.RcodeSuccess]; n != 100 {
			t.Errorf("another client: %v", codes["192.0.2.2:1"])
		}
		if most := r.most.Load(); most != maxAsking {
			t.Errorf("%d calls at a time, want %d", most, maxAsking)
		}
		if asked := r.asked.Load(); asked != maxWaitingEach+1 {
			t.Errorf("asked %d times", asked)
		}
		if s.passed.waiting.n != 0 || len(s.passed.waiting.by) != 0 || len(s.passed.asking) != 0 {
			t.Errorf("places are still taken: %+v, %d", s.passed.waiting.by, len(s.passed.asking))
		}
	})
}

// TestPassTime: a resolver that says nothing is waited for five seconds, and
// a client that gives up does not take the others along.
func TestPassTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &resolver{wait: make(chan struct{}), records: records(t, "x.test. 60 IN MX 1 m.test.")}
		s := server(t)
		s.Exchange = r.exchange
		began := time.Now()
		if got := brief(ask(t, s, "x.test.", dns.TypeMX)); got != "SERVFAIL" || time.Since(began) != exchangeTimeout {
			t.Errorf("%s after %v", got, time.Since(began))
		}
		time.Sleep(2 * time.Second)

		ctx, cancel := context.WithCancel(t.Context())
		q, err := new(dns.Msg).SetQuestion("x.test.", dns.TypeMX).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { s.Answer(ctx, local, q, false) })
		synctest.Wait()
		wg.Go(func() {
			if got := brief(ask(t, s, "x.test.", dns.TypeMX)); got != "NOERROR; MX 1 m.test." {
				t.Errorf("the second: %s", got)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(r.wait)
		wg.Wait()

		// Close ends what is being asked.
		r.wait = make(chan struct{})
		wg.Go(func() { ask(t, s, "y.test.", dns.TypeMX) })
		synctest.Wait()
		began = time.Now()
		s.Close()
		wg.Wait()
		if time.Since(began) > 0 {
			t.Errorf("Close took %v", time.Since(began))
		}
	})
}

func TestVerify(t *testing.T) {
	r := &resolver{missing: true}
	r.records = records(t,
		"both.test. 60 IN A 192.0.2.1", "both.test. 60 IN AAAA 2001:db8::1",
		"four.test. 60 IN A 192.0.2.1",
		"six.test. 60 IN AAAA 2001:db8::1",
		"test. 60 IN SOA ns. host. 1 2 3 4 20",
	)
	r.change = func(reply *dns.Msg) {
		switch name := reply.Question[0].Name; {
		case name == "broken.test.":
			reply.Rcode = dns.RcodeServerFailure
		case name == "mailonly.test.", len(reply.Answer) == 0 && slices.Contains([]string{"six.test.", "four.test."}, name):
			reply.Rcode = dns.RcodeSuccess
		}
	}
	s := server(t)
	s.Exchange, s.Verify = r.exchange, true
	fake := func(name string) string { return "NOERROR; A " + addrs(t, s.Pool, ann, name)[0].String() }
	for name, want := range map[string]string{
		"both.test.": fake("both.test"), "four.test.": fake("four.test"), "six.test.": fake("six.test"),
		"none.test.": "NXDOMAIN", "mailonly.test.": "NOERROR", "broken.test.": "SERVFAIL",
		"hidden.onion.": fake("hidden.onion"), "localhost.": "NOERROR; A 127.0.0.1",
	} {
		if got := brief(ask(t, s, name, dns.TypeA)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for range 2 {
		before := r.asked.Load()
		if reply := ask(t, s, "none.test.", dns.TypeAAAA); reply.Rcode != dns.RcodeNameError || len(reply.Ns) != 1 {
			t.Errorf("AAAA of a name that is not there: %v", reply)
		}
		if r.asked.Load() != before {
			t.Error("the second question was asked again")
		}
	}
	if _, ok := s.Pool.byName["none.test"]; ok {
		t.Error("a name that does not exist has an address")
	}
	s.Exchange = nil
	if got := brief(ask(t, s, "four.test.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("without a resolver: %s", got)
	}
	s.Exchange = func(context.Context, *dns.Msg) (*dns.Msg, error) { return nil, errors.New("proxy is down") }
	if got := brief(ask(t, s, "later.test.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("with a proxy that is down: %s", got)
	}
}
