package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const wwwRecord = "www.example. 60 IN A 192.0.2.80"

// Names of their own, so that the cache answers none.
func nth(i int) string { return fmt.Sprintf("n%d.example", i) }

// wild answers for every name.
func wild(t testing.TB) *zone {
	z := newZone(t)
	z.instead = func(query *dns.Msg) *dns.Msg {
		reply := new(dns.Msg).SetReply(query)
		reply.RecursionAvailable = true
		if query.Question[0].Qtype == dns.TypeA {
			reply.Answer = []dns.RR{record(t, query.Question[0].Name+" 60 IN A 192.0.2.80")}
		}
		return reply
	}
	return z
}

func TestPassedOver(t *testing.T) {
	for name, instead := range map[string]func(*dns.Msg) *dns.Msg{
		"SERVFAIL": rcode(dns.RcodeServerFailure),
		"REFUSED":  rcode(dns.RcodeRefused),
		"silent":   silent,
		"lame":     rcode(dns.RcodeSuccess),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad := newZone(t)
				bad.instead = instead
				r, _ := over(t, "udp", bad, newZone(t, wwwRecord))
				began := time.Now()
				want(t, r, "www.example", "192.0.2.80")
				took, most := time.Since(began), time.Duration(0)
				if name == "silent" {
					most = tryTimeout
				}
				if took != most {
					t.Errorf("took %v, want %v", took, most)
				}
			})
		})
	}
}

// What does not exist is an answer like others.
func TestNotPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := newZone(t, wwwRecord)
		r, _ := over(t, "udp", newZone(t), second)
		wantNotFound(t, r, "www.example")
		if second.total() != 0 {
			t.Error("the second server was asked")
		}
	})
}

// A dead server costs time once. Then it comes last, until one look-up after
// ten seconds finds that it lives.
func TestDeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, second := wild(t), wild(t)
		lives := dead.instead
		dead.instead = silent
		r, _ := over(t, "udp", dead, second)
		r.Prefer = IPv4Only
		took := func(name string, most time.Duration) {
			t.Helper()
			began := time.Now()
			want(t, r, name, "192.0.2.80")
			if got := time.Since(began); got != most {
				t.Errorf("%s took %v, want %v", name, got, most)
			}
		}
		took(nth(1), tryTimeout)
		took(nth(2), 0)
		if n := dead.count("n2.example. A"); n != 0 {
			t.Error("the dead server was asked although another lives")
		}
		time.Sleep(deadTime)
		probe := make(chan struct{})
		go func() {
			defer close(probe)
			took(nth(3), tryTimeout)
		}()
		synctest.Wait()
		took(nth(4), 0) // one finds out, the others do not wait
		<-probe
		took(nth(5), 0)

		time.Sleep(deadTime)
		dead.mu.Lock()
		dead.instead = lives
		dead.mu.Unlock()
		took(nth(6), 0)
		took(nth(7), 0)
		if n := dead.count("n6.example. A") + dead.count("n7.example. A"); n != 2 {
			t.Errorf("the server that lives again got %d questions, want 2", n)
		}
	})
}

func TestDeadServerIsTheLastHope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := wild(t)
		lives := first.instead
		first.instead = silent
		r, _ := over(t, "udp", first, nil)
		if err := wantError(t, r, nth(1)); !err.IsTimeout || err.Server != "192.0.2.1:53" {
			t.Errorf("got %#v", err)
		}
		first.mu.Lock()
		first.instead = lives
		first.mu.Unlock()
		want(t, r, nth(2), "192.0.2.80") // both are dead, so both are tried
	})
}

// Bad answers to some names are the names' fault, to many the server's.
func TestBadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := newZone(t)
		bad.instead = rcode(dns.RcodeServerFailure)
		r, _ := over(t, "udp", bad, wild(t))
		r.Prefer = IPv4Only
		for i := range deadAfter + 5 {
			want(t, r, nth(i), "192.0.2.80")
		}
		if n := bad.total(); n != deadAfter {
			t.Errorf("%d questions to a server that only fails, want %d", n, deadAfter)
		}
	})
}

func TestAllFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newZone(t), newZone(t)
		first.instead, second.instead = rcode(dns.RcodeServerFailure), rcode(dns.RcodeRefused)
		r, _ := over(t, "udp", first, second)
		err := wantError(t, r, "www.example")
		var code rcodeError
		if !err.IsTemporary || err.IsNotFound || err.Server != "192.0.2.1:53" || !errors.As(err, &code) || code != dns.RcodeServerFailure {
			t.Errorf("got %#v", err)
		}
		// It is kept for a moment, lest a crowd asks again and again.
		wantError(t, r, "www.example")
		if n := first.count("www.example. A"); n != 1 {
			t.Errorf("%d questions, want 1", n)
		}
		time.Sleep(failureTTL)
		wantError(t, r, "www.example")
		if n := first.count("www.example. A"); n != 2 {
			t.Errorf("%d questions, want 2", n)
		}
	})
}

func TestRefusedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, network := range []string{"udp", "tcp"} {
			r, w := over(t, network, nil, newZone(t, wwwRecord))
			want(t, r, "www.example", "192.0.2.80")
			if w.count(network+" 192.0.2.1:53") == 0 {
				t.Errorf("%s: the first server was not tried", network)
			}
		}
	})
}

func TestUnknownNetwork(t *testing.T) {
	r := Resolver{Servers: []Server{{Network: "quic", Address: "192.0.2.1:53"}}}
	if err := wantError(t, &r, "www.example"); !errors.Is(err, net.UnknownNetworkError("quic")) {
		t.Errorf("got %#v", err)
	}
}

func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, second := newZone(t, wwwRecord), newZone(t)
		slow.instead = slow.after(1900 * time.Millisecond)
		r, w := over(t, "udp", slow, second)
		r.Prefer = IPv4Only
		want(t, r, "www.example", "192.0.2.80")
		if second.total() != 0 {
			t.Error("the second server was asked")
		}
		if n := slow.total(); n != 3 {
			t.Errorf("the question was sent %d times, want 3: datagrams get lost", n)
		}
		if n := w.count("udp 192.0.2.1:53"); n != 1 {
			t.Errorf("from %d ports, want 1", n)
		}
		time.Sleep(tryTimeout) // for answers that come late
	})
}

func TestLostDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = func(query *dns.Msg) *dns.Msg {
			if z.count("www.example. A") == 1 {
				return nil
			}
			return z.answer(query)
		}
		r, _ := over(t, "udp", z)
		r.Prefer = IPv4Only
		began := time.Now()
		want(t, r, "www.example", "192.0.2.80")
		if took := time.Since(began); took != resendAfter {
			t.Errorf("took %v, want %v", took, resendAfter)
		}
	})
}

// Forged answers do not end the wait for the true one.
func TestForgedAnswers(t *testing.T) {
	forgeries := map[string]func(*dns.Msg){
		"ID":             func(m *dns.Msg) { m.Id++ },
		"name":           func(m *dns.Msg) { m.Question[0].Name = "wwv.example." },
		"type":           func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT },
		"class":          func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"no question":    func(m *dns.Msg) { m.Question = nil },
		"two questions":  func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"no answer":      func(m *dns.Msg) { m.Response = false },
		"another opcode": func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
	}
	for name, forge := range forgeries {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(name+" over "+network, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					z := newZone(t, wwwRecord)
					ours, theirs := net.Pipe()
					r := &Resolver{
						Prefer:  IPv4Only,
						Servers: []Server{{Network: network, Address: "192.0.2.1:53"}},
						Dial:    func(context.Context, string, string) (net.Conn, error) { return ours, nil },
					}
					defer r.Close()
					go forgeFirst(t, theirs, network, z, forge)
					want(t, r, "www.example", "192.0.2.80")
				})
			})
		}
	}
}

// forgeFirst sends a forged answer, something that is no message, and the answer.
func forgeFirst(t *testing.T, conn net.Conn, network string, z *zone, forge func(*dns.Msg)) {
	wire := &dns.Conn{Conn: conn} // a pipe is a stream to it
	query := new(dns.Msg)
	if network == "udp" {
		buffer := make([]byte, 4096)
		n, _ := conn.Read(buffer)
		query.Unpack(buffer[:n])
	} else if q, err := wire.ReadMsg(); err == nil {
		query = q
	}
	forged := new(dns.Msg).SetReply(query)
	forged.Question = []dns.Question{query.Question[0]}
	forged.Answer = []dns.RR{record(t, "www.example. 60 IN A 192.0.2.66")}
	forge(forged)
	for _, m := range []*dns.Msg{forged, z.answer(query)} {
		packed, err := m.Pack()
		if err != nil {
			t.Error(err)
		}
		if network == "udp" {
			conn.Write([]byte("nonsense"))
			conn.Write(packed)
		} else {
			wire.Write(packed)
		}
	}
}

// A server that knows nothing of EDNS is asked without it.
func TestBeforeEDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = func(query *dns.Msg) *dns.Msg {
			if query.IsEdns0() == nil {
				return z.answer(query)
			}
			reply := rcode(dns.RcodeFormatError)(query)
			reply.Question = nil
			return reply
		}
		r, _ := over(t, "udp", z)
		want(t, r, "www.example", "192.0.2.80")
	})
}

func TestEDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, wwwRecord)
		z.instead = func(query *dns.Msg) *dns.Msg {
			if option := query.IsEdns0(); option == nil || option.UDPSize() != 1232 || option.Do() || !query.RecursionDesired {
				t.Errorf("the query is %v", query)
			}
			return z.answer(query)
		}
		r, _ := over(t, "udp", z)
		want(t, r, "www.example", "192.0.2.80")
	})
}
