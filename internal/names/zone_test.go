package names

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone answers questions for a test.
type zone struct {
	mu      sync.Mutex
	records map[string][]dns.RR // by owner in lower case
	soa     dns.RR              // nil: negative answers have none
	asked   []string            // "www.example. A"
	// instead, if not nil, answers; a nil message is silence.
	instead func(query *dns.Msg) *dns.Msg
	conns   []net.Conn // of real servers
}

// hangUp closes the connections of real servers.
func (z *zone) hangUp() {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, conn := range z.conns {
		conn.Close()
	}
	z.conns = nil
}

// newZone makes a zone of records such as "www.example. 60 IN A 192.0.2.1".
func newZone(t testing.TB, records ...string) *zone {
	t.Helper()
	z := &zone{records: map[string][]dns.RR{}}
	for _, text := range records {
		rr := record(t, text)
		if rr.Header().Rrtype == dns.TypeSOA {
			z.soa = rr
			continue
		}
		owner := strings.ToLower(rr.Header().Name)
		z.records[owner] = append(z.records[owner], rr)
	}
	return z
}

func record(t testing.TB, text string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(text)
	if err != nil || rr == nil {
		t.Fatalf("record %q: %v", text, err)
	}
	return rr
}

// set replaces all records of their owner.
func (z *zone) set(t testing.TB, records ...string) {
	t.Helper()
	other := newZone(t, records...)
	z.mu.Lock()
	defer z.mu.Unlock()
	for owner, rrs := range other.records {
		z.records[owner] = rrs
	}
}

// count returns how many questions were like "www.example. A".
func (z *zone) count(question string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for _, asked := range z.asked {
		if asked == question {
			n++
		}
	}
	return n
}

func (z *zone) total() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return len(z.asked)
}

func (z *zone) handle(query *dns.Msg) *dns.Msg {
	question := query.Question[0]
	z.mu.Lock()
	z.asked = append(z.asked, question.Name+" "+dns.TypeToString[question.Qtype])
	instead := z.instead
	z.mu.Unlock()
	if instead != nil {
		return instead(query)
	}
	return z.answer(query)
}

// answer follows aliases as far as the zone goes.
func (z *zone) answer(query *dns.Msg) *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	question := query.Question[0]
	reply := new(dns.Msg).SetReply(query)
	reply.RecursionAvailable = true
	owner, known := strings.ToLower(question.Name), false
	for range 10 {
		alias := ""
		rrs, ok := z.records[owner]
		known = ok || alias != ""
		for _, rr := range rrs {
			switch rr.Header().Rrtype {
			case question.Qtype:
				reply.Answer = append(reply.Answer, rr)
			case dns.TypeCNAME:
				reply.Answer = append(reply.Answer, rr)
				alias = strings.ToLower(rr.(*dns.CNAME).Target)
			}
		}
		if alias == "" || z.records[alias] == nil {
			break
		}
		owner = alias
	}
	if !known {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 && z.soa != nil {
		reply.Ns = []dns.RR{z.soa}
	}
	return reply
}

// rcode is an instead.
func rcode(code int) func(*dns.Msg) *dns.Msg {
	return func(query *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(query, code) }
}

// silent is an instead.
func silent(*dns.Msg) *dns.Msg { return nil }

// after is an instead.
func (z *zone) after(delay time.Duration) func(*dns.Msg) *dns.Msg {
	return func(query *dns.Msg) *dns.Msg {
		time.Sleep(delay)
		return z.answer(query)
	}
}

// wires is a network in memory, so that a test can have the time it wants.
type wires struct {
	mu    sync.Mutex
	zones map[string]*zone // by address; others refuse connections
	dials []string         // "udp 192.0.2.1:53"
}

var errRefused = errors.New("connection refused")

func (w *wires) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials = append(w.dials, network+" "+address)
	z := w.zones[address]
	if z == nil {
		return nil, errRefused
	}
	ours, theirs := net.Pipe()
	if network == "udp" {
		go serveDatagrams(theirs, z)
	} else {
		go serveStream(theirs, z)
	}
	return ours, nil
}

func (w *wires) count(dial string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, d := range w.dials {
		if d == dial {
			n++
		}
	}
	return n
}

func serveDatagrams(conn net.Conn, z *zone) {
	defer conn.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		query := new(dns.Msg)
		if query.Unpack(buffer[:n]) != nil {
			continue
		}
		go func() {
			if reply := z.handle(query); reply != nil {
				packed, _ := reply.Pack()
				conn.Write(packed)
			}
		}()
	}
}

func serveStream(conn net.Conn, z *zone) {
	defer conn.Close()
	var writing sync.Mutex
	for {
		query, err := readMessage(conn)
		if err != nil {
			return
		}
		go func() {
			if reply := z.handle(query); reply != nil {
				packed, _ := reply.Pack()
				writing.Lock()
				defer writing.Unlock()
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
			}
		}()
	}
}

// over returns a resolver whose servers are those zones, the first at
// 192.0.2.1, over a network in memory.
func over(t testing.TB, network string, zones ...*zone) (*Resolver, *wires) {
	t.Helper()
	w := &wires{zones: map[string]*zone{}}
	r := &Resolver{Dial: w.dial}
	for i, z := range zones {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 53).String()
		if z != nil {
			w.zones[address] = z
		}
		r.Servers = append(r.Servers, Server{Network: network, Address: address})
	}
	t.Cleanup(func() { r.Close() })
	return r, w
}

// want looks up "ip" and compares the addresses, in their order.
func want(t testing.TB, r *Resolver, host string, addrs ...string) {
	t.Helper()
	wantNetwork(t, r, "ip", host, addrs...)
}

func wantNetwork(t testing.TB, r *Resolver, network, host string, addrs ...string) {
	t.Helper()
	got, err := r.LookupNetIP(t.Context(), network, host)
	if err != nil {
		t.Errorf("%s: %v", host, err)
		return
	}
	var texts []string
	for _, ip := range got {
		texts = append(texts, ip.String())
	}
	if !slices.Equal(texts, addrs) {
		t.Errorf("%s: got %v, want %v", host, texts, addrs)
	}
}

// wantError looks up "ip" and returns the error.
func wantError(t testing.TB, r *Resolver, host string) *net.DNSError {
	t.Helper()
	got, err := r.LookupNetIP(t.Context(), "ip", host)
	var described *net.DNSError
	if !errors.As(err, &described) {
		t.Fatalf("%s: got %v, %v; want a DNSError", host, got, err)
	}
	if described.Name != host {
		t.Errorf("%s: the error is about %q", host, described.Name)
	}
	return described
}

func wantNotFound(t testing.TB, r *Resolver, host string) {
	t.Helper()
	if err := wantError(t, r, host); !err.IsNotFound || err.IsTimeout || err.IsTemporary {
		t.Errorf("%s: got %#v, want not found", host, err)
	}
}
