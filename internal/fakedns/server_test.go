package fakedns

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var local = netip.MustParseAddrPort("127.0.0.1:5353")

// ask sends a question and returns the reply, which must be one to it.
func ask(t testing.TB, s *Server, name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	for _, f := range change {
		f(q)
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return read(t, q, s.Answer(t.Context(), local, b, false))
}

func read(t testing.TB, q *dns.Msg, b []byte) *dns.Msg {
	t.Helper()
	reply := new(dns.Msg)
	if err := reply.Unpack(b); err != nil {
		t.Fatalf("reply %x: %v", b, err)
	}
	reply.Compress = true
	if reply.Id != q.Id || !reply.Response || reply.AuthenticatedData || reply.RecursionDesired != q.RecursionDesired {
		t.Errorf("header %+v", reply.MsgHdr)
	}
	if len(reply.Question) > 0 && reply.Question[0] != q.Question[0] {
		t.Errorf("question %v, asked %v", reply.Question[0], q.Question[0])
	}
	return reply
}

// brief is a reply's code and the data of its answers.
func brief(reply *dns.Msg) string {
	words := []string{dns.RcodeToString[reply.Rcode]}
	for _, rr := range reply.Answer {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		words = append(words, dns.TypeToString[rr.Header().Rrtype]+" "+data)
	}
	return strings.Join(words, "; ")
}

func server(t testing.TB) *Server {
	return &Server{Pool: open(t, Options{Key: []byte("k"), IPv6: netip.MustParsePrefix("fd00:aa::/64")})}
}

func TestAnswer(t *testing.T) {
	s := server(t)
	s.Hosts = map[string][]netip.Addr{
		"Printer.": {netip.MustParseAddr("192.168.1.9"), netip.MustParseAddr("::ffff:192.168.1.10")},
		"nas.lan":  {netip.MustParseAddr("fd00:bb::1")},
	}
	s.NAT64 = netip.MustParsePrefix("64:ff9b:1::/96")
	s.Literals = "V6.lan."
	s.Exchange = func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		rr, err := dns.NewRR(q.Question[0].Name + " 60 IN TXT real")
		reply := new(dns.Msg).SetReply(q)
		reply.Answer = []dns.RR{rr}
		return reply, err
	}
	pooled := addrs(t, s.Pool, ann, "www.example")
	literal := addrs(t, s.Pool, ann, "2001:db8::5")
	ptr := func(addr netip.Addr) string { name, _ := dns.ReverseAddr(addr.String()); return name }
	tests := []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"www.example.", dns.TypeA, "NOERROR; A " + pooled[0].String()},
		{"www.example.", dns.TypeAAAA, "NOERROR; AAAA " + pooled[1].String()},
		{"wWw.EXample.", dns.TypeA, "NOERROR; A " + pooled[0].String()},
		{"www.example.", dns.TypeHTTPS, "NOERROR"},
		{"_443._https.www.example.", dns.TypeSVCB, "NOERROR"},
		{"www.example.", dns.TypeANY, `NOERROR; HINFO "RFC8482" ""`},
		{"www.example.", dns.TypeTXT, `NOERROR; TXT "real"`},
		{"www.example.", dns.TypeMX, `NOERROR; TXT "real"`},
		{"www.example.", dns.TypeAXFR, "REFUSED"},
		{"www.example.", dns.TypeIXFR, "REFUSED"},
		{"www.example.", dns.TypeMAILB, "NOTIMP"},
		{"www.example.", dns.TypeTKEY, "NOTIMP"},
		{"www.example.", dns.TypeOPT, "NOTIMP"},
		{"www.example.", 0, "NOTIMP"},
		{"www.example.", 65280, `NOERROR; TXT "real"`},
		{"_srv.under_score.example.", dns.TypeA, "NOERROR; A " + addrs(t, s.Pool, ann, "_srv.under_score.example")[0].String()},

		{".", dns.TypeA, "NOERROR"},
		{".", dns.TypeNS, `NOERROR; TXT "real"`},
		{"com.", dns.TypeNS, `NOERROR; TXT "real"`},
		{"single.", dns.TypeA, "NXDOMAIN"},
		{"single.", dns.TypeAAAA, "NXDOMAIN"},
		{"single.", dns.TypeHTTPS, "NXDOMAIN"},
		{"192.0.2.1.", dns.TypeA, "NXDOMAIN"},
		{"127.1.", dns.TypeA, "NXDOMAIN"},
		{"a.0x7f.", dns.TypeA, "NXDOMAIN"},
		{`a\ b.example.`, dns.TypeA, "NXDOMAIN"},
		{`a\.b.example.`, dns.TypeA, "NXDOMAIN"},
		{`a\000b.example.`, dns.TypeA, "NXDOMAIN"},
		{`\228.example.`, dns.TypeA, "NXDOMAIN"},
		{"*.example.", dns.TypeA, "NXDOMAIN"},
		{`a\ b.example.`, dns.TypeTXT, `NOERROR; TXT "real"`},

		{"localhost.", dns.TypeA, "NOERROR; A 127.0.0.1"},
		{"LocalHost.", dns.TypeAAAA, "NOERROR; AAAA ::1"},
		{"a.localhost.", dns.TypeA, "NOERROR; A 127.0.0.1"},
		{"localhost.", dns.TypeTXT, "NOERROR"},
		{"notlocalhost.example.", dns.TypeTXT, `NOERROR; TXT "real"`},
		{"a.invalid.", dns.TypeA, "NXDOMAIN"},
		{"a.invalid.", dns.TypeTXT, "NXDOMAIN"},
		{"printer.local.", dns.TypeA, "NXDOMAIN"},
		{"_ipp._tcp.local.", dns.TypePTR, "NXDOMAIN"},
		{"abc.onion.", dns.TypeA, "NOERROR; A " + addrs(t, s.Pool, ann, "abc.onion")[0].String()},
		{"abc.onion.", dns.TypeTXT, "NOERROR"},
		{"use-application-dns.net.", dns.TypeA, "NXDOMAIN"},
		{"_dns.resolver.arpa.", dns.TypeSVCB, "NOERROR"},
		{"ipv4only.arpa.", dns.TypeA, "NOERROR; A 192.0.0.170; A 192.0.0.171"},
		{"ipv4only.arpa.", dns.TypeAAAA, "NOERROR; AAAA 64:ff9b:1::c000:aa; AAAA 64:ff9b:1::c000:ab"},

		{"printer.", dns.TypeA, "NOERROR; A 192.168.1.9; A 192.168.1.10"},
		{"PRINTER.", dns.TypeAAAA, "NOERROR"},
		{"nas.lan.", dns.TypeAAAA, "NOERROR; AAAA fd00:bb::1"},
		{"nas.lan.", dns.TypeHTTPS, "NOERROR"},

		{"2001-db8--5.v6.lan.", dns.TypeA, "NOERROR; A " + literal[0].String()},
		{"2001-DB8-0--5.v6.lan.", dns.TypeAAAA, "NOERROR; AAAA " + literal[1].String()},
		{"2001-db8--5.v6.lan.", dns.TypeTXT, "NOERROR"},
		{"192-0-2-5.v6.lan.", dns.TypeA, "NOERROR; A " + addrs(t, s.Pool, ann, "192.0.2.5")[0].String()},
		{"0--1.v6.lan.", dns.TypeA, "NOERROR; A " + addrs(t, s.Pool, ann, "::1")[0].String()},
		{"fe80--1%lo.v6.lan.", dns.TypeA, "NXDOMAIN"},
		{"www.v6.lan.", dns.TypeA, "NXDOMAIN"},
		{"v6.lan.", dns.TypeA, "NXDOMAIN"},

		{ptr(pooled[0]), dns.TypePTR, "NOERROR; PTR www.example."},
		{strings.ToUpper(ptr(pooled[1])), dns.TypePTR, "NOERROR; PTR www.example."},
		{ptr(literal[0]), dns.TypePTR, "NOERROR; PTR 2001-db8--5.v6.lan."},
		{ptr(addrs(t, s.Pool, ann, "::1")[0]), dns.TypePTR, "NOERROR; PTR 0--1.v6.lan."},
		{ptr(pooled[0]), dns.TypeTXT, "NXDOMAIN"},
		{"a." + ptr(pooled[0]), dns.TypePTR, "NXDOMAIN"},
		{ptr(pooled[0].Next()), dns.TypePTR, "NXDOMAIN"},
		{"18.198.in-addr.arpa.", dns.TypeNS, "NOERROR"},
		{"198.in-addr.arpa.", dns.TypeNS, `NOERROR; TXT "real"`},
		{"9.1.168.192.in-addr.arpa.", dns.TypePTR, "NOERROR; PTR printer."},
		{"1.0.0.127.in-addr.arpa.", dns.TypePTR, "NOERROR; PTR localhost."},
		{ptr(netip.IPv6Loopback()), dns.TypePTR, "NOERROR; PTR localhost."},
		{"2.0.0.127.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"10.in-addr.arpa.", dns.TypeSOA, "NXDOMAIN"},
		{"16.172.in-addr.arpa.", dns.TypeSOA, "NXDOMAIN"},
		{"172.in-addr.arpa.", dns.TypeSOA, `NOERROR; TXT "real"`},
		{"d.f.ip6.arpa.", dns.TypeSOA, "NXDOMAIN"},
		{"f.ip6.arpa.", dns.TypeSOA, `NOERROR; TXT "real"`},
		{"8.8.8.8.in-addr.arpa.", dns.TypePTR, `NOERROR; TXT "real"`},
		{"8.8.8.8.in-addr.arpa.", dns.TypeA, "NXDOMAIN"},
		{"in-addr.arpa.", dns.TypeNS, `NOERROR; TXT "real"`},
		{"x.in-addr.arpa.", dns.TypePTR, `NOERROR; TXT "real"`},
		{"xin-addr.arpa.", dns.TypeA, "NOERROR; A " + addrs(t, s.Pool, ann, "xin-addr.arpa")[0].String()},
	}
	for _, test := range tests {
		t.Run(test.name+dns.Type(test.qtype).String(), func(t *testing.T) {
			reply := ask(t, s, test.name, test.qtype)
			if got := brief(reply); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			for _, rr := range reply.Answer {
				if rr.Header().Name != test.name {
					t.Errorf("answer %v is not spelled as the question", rr)
				}
			}
			if !reply.RecursionAvailable || reply.Authoritative {
				t.Errorf("header %+v", reply.MsgHdr)
			}
		})
	}
}

func TestAnswerWithout(t *testing.T) {
	s := server(t)
	for _, test := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"www.example.", dns.TypeMX, "SERVFAIL"},
		{"8.8.8.8.in-addr.arpa.", dns.TypePTR, "SERVFAIL"},
		{"ipv4only.arpa.", dns.TypeAAAA, "NOERROR"},
		{"2001-db8--5.v6.", dns.TypeA, "NOERROR; A " + addrs(t, s.Pool, ann, "2001-db8--5.v6")[0].String()},
	} {
		if got := brief(ask(t, s, test.name, test.qtype)); got != test.want {
			t.Errorf("%s %v: %s, want %s", test.name, dns.Type(test.qtype), got, test.want)
		}
	}
	// An address that stands for a literal has a name only if there is a domain for it.
	addr := addrs(t, s.Pool, ann, "2001:db8::5")[0]
	name, _ := dns.ReverseAddr(addr.String())
	if got := brief(ask(t, s, name, dns.TypePTR)); got != "NXDOMAIN" {
		t.Errorf("PTR of a literal: %s", got)
	}
}

func TestAnswerFamilies(t *testing.T) {
	for families, want := range map[Families][2]int{Both: {1, 1}, IPv4: {1, 0}, IPv6: {0, 1}} {
		s := server(t)
		s.Families, s.TTL = families, 3*time.Second
		for i, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			reply := ask(t, s, "www.example.", qtype)
			if len(reply.Answer) != want[i] || reply.Rcode != dns.RcodeSuccess {
				t.Errorf("families %v, %v: %v", families, dns.Type(qtype), reply.Answer)
			}
			for _, rr := range reply.Answer {
				if rr.Header().Ttl != 3 {
					t.Errorf("TTL %d", rr.Header().Ttl)
				}
			}
		}
	}
}

func TestAnswerAllow(t *testing.T) {
	s := server(t)
	q, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	try := func(client string) int {
		t.Helper()
		reply := new(dns.Msg)
		addr, _ := netip.ParseAddrPort(client)
		if err := reply.Unpack(s.Answer(t.Context(), addr, q, false)); err != nil {
			t.Fatal(err)
		}
		return reply.Rcode
	}
	for client, want := range map[string]int{
		"127.0.0.9:1": dns.RcodeSuccess, "[::1]:1": dns.RcodeSuccess, "[::ffff:127.0.0.1]:1": dns.RcodeSuccess,
		"192.0.2.1:1": dns.RcodeRefused, "": dns.RcodeRefused,
	} {
		if got := try(client); got != want {
			t.Errorf("%s: %s", client, dns.RcodeToString[got])
		}
	}
	s.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fe80::/10")}
	for client, want := range map[string]int{
		"127.0.0.1:1": dns.RcodeRefused, "192.0.2.1:1": dns.RcodeSuccess, "[::ffff:192.0.2.1]:1": dns.RcodeSuccess,
		"[fe80::1%eth0]:1": dns.RcodeSuccess, "192.0.3.1:1": dns.RcodeRefused,
	} {
		if got := try(client); got != want {
			t.Errorf("%s: %s", client, dns.RcodeToString[got])
		}
	}
	if n := len(s.Pool.Entries()); n != 1 {
		t.Errorf("%d names after one question", n)
	}
}

// TestAnswerBytes: messages that are not questions as they should be.
func TestAnswerBytes(t *testing.T) {
	s := server(t)
	const question = "03777777076578616d706c6500" + "00010001"
	tests := []struct{ name, query, want string }{
		{"nothing", "", ""},
		{"half a header", "123401000001", ""},
		{"a reply", "1234 8180 0001 0000 0000 0000" + question, ""},
		{"STATUS", "1234 1000 0001 0000 0000 0000" + question, "1234 9084 0000 0000 0000 0000"},
		{"NOTIFY", "1234 2000 0001 0000 0000 0000" + question, "1234 a084 0000 0000 0000 0000"},
		{"UPDATE", "1234 2800 0001 0000 0000 0000" + question, "1234 a884 0000 0000 0000 0000"},
		{"no question", "1234 0100 0000 0000 0000 0000", "1234 8181 0000 0000 0000 0000"},
		{"two questions", "1234 0100 0002 0000 0000 0000" + question + question, "1234 8181 0000 0000 0000 0000"},
		{"half a question", "1234 0100 0001 0000 0000 0000 0377", "1234 8181 0000 0000 0000 0000"},
		{"question missing", "1234 0100 0001 0000 0000 0000", "1234 8181 0000 0000 0000 0000"},
		{"an answer in it", "1234 0100 0001 0001 0000 0000" + question + "c00c000100010000000a0004c0000201", "1234 8181 0000 0000 0000 0000"},
		{"a name that is its own end", "1234 0100 0001 0000 0000 0000 c00c 0001 0001", "1234 8181 0000 0000 0000 0000"},
		{"CHAOS", "1234 0100 0001 0000 0000 0000" + "03777777076578616d706c6500" + "00100003",
			"1234 8185 0001 0000 0000 0000" + "03777777076578616d706c6500" + "00100003"},
	}
	for _, test := range tests {
		query, err := hex.DecodeString(strings.ReplaceAll(test.query, " ", ""))
		if err != nil {
			t.Fatal(test.name, err)
		}
		want := strings.ReplaceAll(test.want, " ", "")
		if got := hex.EncodeToString(s.Answer(t.Context(), local, query, false)); got != want {
			t.Errorf("%s: %s, want %s", test.name, got, want)
		}
	}
}

func TestAnswerEDNS(t *testing.T) {
	s := server(t)
	long := strings.Repeat("x", 200)
	s.Exchange = func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		if opt := q.IsEdns0(); opt == nil || len(opt.Option) > 0 {
			t.Errorf("the question that is passed on: %v", q)
		}
		reply := new(dns.Msg).SetReply(q)
		for i := range 20 {
			txt := &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}}
			txt.Txt = []string{fmt.Sprint(i), long}
			reply.Answer = append(reply.Answer, txt)
		}
		return reply, nil
	}
	opt := func(size uint16, version uint8) func(*dns.Msg) {
		return func(q *dns.Msg) {
			q.SetEdns0(size, true)
			o := q.IsEdns0()
			o.SetVersion(version)
			o.Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"},
				&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}}}
		}
	}
	for size, most := range map[uint16]int{0: 512, 100: 512, 512: 512, 900: 900, 4096: 1232, 65535: 1232} {
		reply := ask(t, s, "www.example.", dns.TypeTXT, opt(size, 0))
		if n := reply.Len(); !reply.Truncated || n > most || n < most-300 {
			t.Errorf("client takes %d: reply of %d, truncated: %v", size, n, reply.Truncated)
		}
		if got := reply.IsEdns0(); got == nil || got.Version() != 0 || !got.Do() || len(got.Option) > 0 {
			t.Errorf("client takes %d: %v", size, got)
		}
	}
	if reply := ask(t, s, "www.example.", dns.TypeTXT); !reply.Truncated || reply.Len() > 512 || reply.IsEdns0() != nil {
		t.Errorf("without EDNS: %v", reply)
	}
	q := new(dns.Msg).SetQuestion("www.example.", dns.TypeTXT)
	b, _ := q.Pack()
	if reply := read(t, q, s.Answer(t.Context(), local, b, true)); reply.Truncated || len(reply.Answer) != 20 {
		t.Errorf("over TCP: %v", reply)
	}

	if reply := ask(t, s, "www.example.", dns.TypeA, opt(1232, 1)); reply.Rcode != dns.RcodeBadVers || len(reply.Answer) > 0 {
		t.Errorf("version 1: %v", reply)
	}
	twice := func(q *dns.Msg) { q.SetEdns0(1232, false); q.Extra = append(q.Extra, q.Extra[0]) }
	if reply := ask(t, s, "www.example.", dns.TypeA, twice); reply.Rcode != dns.RcodeFormatError {
		t.Errorf("two OPT: %v", reply)
	}
	s.Exchange = nil
	reply := ask(t, s, "www.example.", dns.TypeMX, func(q *dns.Msg) { q.SetEdns0(1232, false) })
	why := slices.IndexFunc(reply.IsEdns0().Option, func(o dns.EDNS0) bool { return o.Option() == dns.EDNS0EDE })
	if why < 0 || !strings.Contains(reply.IsEdns0().Option[why].String(), "no resolver") {
		t.Errorf("a failure that does not say why: %v", reply)
	}
}

func TestAnswerFull(t *testing.T) {
	s := server(t)
	s.Pool = open(t, Options{Names: 1})
	ask(t, s, "one.example.", dns.TypeA)
	if got := brief(ask(t, s, "two.example.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("no address is free: %s", got)
	}
}

func TestEmbed(t *testing.T) { // RFC 6052, section 2.4
	for prefix, want := range map[string]string{
		"2001:db8::/32":          "2001:db8:c000:221::",
		"2001:db8:100::/40":      "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":      "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56":  "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64":  "2001:db8:122:344:c0:2:2100:0",
		"2001:db8:122:344::/96":  "2001:db8:122:344::c000:221",
		"2001:db8:122:344::/72":  "invalid IP",
		"2001:db8:122:344::/104": "invalid IP",
		"2001:db8::/24":          "invalid IP",
		"2001:db8::/33":          "invalid IP",
		"192.0.2.0/32":           "invalid IP",
	} {
		p, four := netip.MustParsePrefix(prefix), netip.MustParseAddr("192.0.2.33")
		got, ok := Embed(p, four)
		if got.String() != want || ok != got.IsValid() || ok != Embeds(p) {
			t.Errorf("in %s it is %v, want %s", prefix, got, want)
		}
		if back, found := Extract(p, got); ok && back != four || found != ok {
			t.Errorf("inside %v of %s there is %v, %t", got, prefix, back, found)
		}
	}
	if got, ok := Embed(netip.Prefix{}, netip.MustParseAddr("192.0.2.33")); ok {
		t.Errorf("in no prefix it is %v", got)
	}
	for prefix, addr := range map[string]string{
		"64:ff9b::/96":          "64:ff9c::1",          // another prefix
		"2001:db8:0:0:100::/96": "2001:db8:0:0:100::1", // bits 64 to 71 are not zero
		"64:ff9b:1::/48":        "192.0.2.1",           // the other family
		"::ffff:192.0.2.0/120":  "::ffff:192.0.2.1",    // no prefix of IPv6
	} {
		if got, ok := Extract(netip.MustParsePrefix(prefix), netip.MustParseAddr(addr)); ok {
			t.Errorf("inside %s of %s there is %v", addr, prefix, got)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	s := server(b)
	q, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.Answer(b.Context(), local, q, false)
	}
}

func TestAnswerFamiliesOf(t *testing.T) {
	s := server(t)
	s.FamiliesOf = func(client netip.Addr) Families {
		if client.Is4() {
			return IPv4
		}
		return IPv6
	}
	for qtype, want := range map[uint16]int{dns.TypeA: 1, dns.TypeAAAA: 0} {
		if got := ask(t, s, "www.example.", qtype); len(got.Answer) != want {
			t.Errorf("%s: %v", dns.Type(qtype), got)
		}
	}
}
