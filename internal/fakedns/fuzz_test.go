package fakedns

import (
	"bytes"
	"context"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswer: whatever comes as a query, the answer is one to it, and none is
// larger than the client takes.
func FuzzAnswer(f *testing.F) {
	for _, q := range []*dns.Msg{
		new(dns.Msg).SetQuestion("www.example.", dns.TypeA),
		new(dns.Msg).SetQuestion("1.0.18.198.in-addr.arpa.", dns.TypePTR),
		new(dns.Msg).SetQuestion("2001-db8--5.v6.lan.", dns.TypeAAAA),
		new(dns.Msg).SetQuestion("www.example.", dns.TypeMX).SetEdns0(4096, true),
		new(dns.Msg).SetAxfr("example."),
		new(dns.Msg).SetTsig("key.", dns.HmacSHA256, 300, 0),
	} {
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
	}
	s := server(f)
	s.Literals, s.HTTPS, s.NAT64 = "v6.lan", true, netip.MustParsePrefix("64:ff9b::/96")
	s.Exchange = func(_ context.Context, q *dns.Msg) (*dns.Msg, error) {
		reply := new(dns.Msg).SetReply(q)
		reply.Answer = []dns.RR{&dns.MX{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeMX, Class: 1}, Mx: "m."}}
		return reply, nil
	}
	f.Fuzz(func(t *testing.T, query []byte, tcp bool) {
		b := s.Answer(t.Context(), local, query, tcp)
		if b == nil {
			if len(query) >= headerSize && query[2]&0x80 == 0 {
				t.Error("a query has no answer")
			}
			return
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(b); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if !reply.Response || !bytes.Equal(b[:2], query[:2]) || !tcp && len(b) > udpSize {
			t.Errorf("%d bytes: %v", len(b), reply)
		}
	})
}

// FuzzCleanse: whatever a resolver says, no address passes.
func FuzzCleanse(f *testing.F) {
	reply := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("example.", dns.TypeHTTPS))
	reply.Answer = records(f, "example. 60 IN HTTPS 1 . alpn=h3,h2 ipv4hint=192.0.2.1 mandatory=ipv4hint,alpn", "example. 60 IN A 192.0.2.1")
	b, err := reply.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add(b, true)
	f.Fuzz(func(t *testing.T, b []byte, udp bool) {
		reply := new(dns.Msg)
		if reply.Unpack(b) != nil || len(reply.Question) == 0 {
			return
		}
		r, err := cleanse(reply, reply.Question[0], udp)
		if err != nil {
			return
		}
		for _, rr := range append(r.answer, r.ns...) {
			switch rr := rr.(type) {
			case *dns.A, *dns.AAAA, *dns.OPT:
				t.Errorf("passed: %v", rr)
			case *dns.HTTPS:
				checkService(t, &rr.SVCB, udp)
			case *dns.SVCB:
				checkService(t, rr, udp)
			}
		}
	})
}

func checkService(t *testing.T, rr *dns.SVCB, udp bool) {
	for _, v := range rr.Value {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint, *dns.SVCBIPv6Hint:
			t.Errorf("passed: %v", v)
		case *dns.SVCBAlpn:
			for _, id := range v.Alpn {
				if id == "h3" && !udp {
					t.Errorf("passed: %v", v)
				}
			}
		}
	}
}

// FuzzJournal: what is read is what is written again, and what a crash cuts
// off is the only thing that is left out.
func FuzzJournal(f *testing.F) {
	header := appendHeader(nil, []byte("k"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("fd00::/64"))
	add := record{op: opAdd, slot: 5, time: 1700000000, client: netip.MustParsePrefix("192.0.2.1/32"), name: "www.example"}
	pin := record{op: opPin, slot: 6, time: 1700000000, name: "2001:db8::5"}
	f.Add(add.append(bytes.Clone(header)))
	f.Add(pin.append(add.append(bytes.Clone(header))))
	f.Add(record{op: opDelete, slot: 5}.append(add.append(bytes.Clone(header))))
	f.Add(append(add.append(bytes.Clone(header)), "torn"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseJournal(b)
		if err != nil || len(b) == 0 {
			return
		}
		if again, err := parseJournal(b[:len(b)-s.torn]); err != nil || again.torn != 0 || len(again.slots) != len(s.slots) {
			t.Errorf("without its torn end: %+v, %v", again, err)
		}
	})
}

// FuzzRecord reads lines whose checksum is right.
func FuzzRecord(f *testing.F) {
	f.Add("a 5 1700000000 192.0.2.1/32 www.example")
	f.Add("p 6 1700000000 - 2001:db8::5")
	f.Add("d 5")
	f.Add(magic + " 6b 198.18.0.0/15 fd00::/64")
	f.Fuzz(func(t *testing.T, text string) {
		_ = new(state).header(text)
		r, err := parseRecord(text)
		if err != nil {
			return
		}
		line, ok := checkLine(bytes.TrimSuffix(r.append(nil), []byte{'\n'}))
		if again, err := parseRecord(line); !ok || err != nil || again != r {
			t.Errorf("%q is %+v, and then %+v, %v, %v", text, r, again, ok, err)
		}
	})
}

// FuzzReverse: of every address the reverse name is read as that address.
func FuzzReverse(f *testing.F) {
	f.Add("1.2.0.192.in-addr.arpa", []byte{192, 0, 2, 1})
	f.Add("f.f.ip6.arpa", bytes.Repeat([]byte{0x2f}, 16))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		if zone, ok := ReverseZone(name); ok && zone != zone.Masked() {
			t.Errorf("%q is about %v", name, zone)
		}
		addr, ok := netip.AddrFromSlice(b)
		if !ok || addr.Is4In6() {
			return
		}
		own, err := dns.ReverseAddr(addr.String())
		if err != nil {
			t.Fatal(err)
		}
		if zone, ok := ReverseZone(own[:len(own)-1]); !ok || zone != netip.PrefixFrom(addr, addr.BitLen()) {
			t.Errorf("%s is about %v", own, zone)
		}
	})
}
