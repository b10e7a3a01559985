package fakedns

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// resolve answers a question.
func (s *Server) resolve(ctx context.Context, q question) answer {
	if q.Qtype == dns.TypeANY {
		// RFC 8482, section 4.2: this is all that there is.
		return success(&dns.HINFO{Hdr: q.header(dns.TypeHINFO, hostsTTL), Cpu: "RFC8482"})
	}
	if a, ok := s.special(q); ok {
		return a
	}
	if zone, ok := ReverseZone(q.name); ok {
		return s.reverse(ctx, q, zone)
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		return s.address(ctx, q)
	case dns.TypeHTTPS, dns.TypeSVCB:
		if !s.HTTPS {
			return success()
		}
	}
	return s.pass(ctx, q)
}

// address answers from the pool.
func (s *Server) address(ctx context.Context, q question) answer {
	name := q.name
	if literal, ok := s.literal(name); ok {
		if !literal.IsValid() {
			return nxdomain()
		}
		name = literal.String()
	} else {
		if !isHostName(name) || !strings.Contains(name, ".") {
			return nxdomain()
		}
		if s.Verify && !within(name, "onion") {
			if a, ok := s.verify(ctx, q); !ok {
				return a
			}
		}
	}
	families := s.Families
	if s.FamiliesOf != nil {
		families = s.FamiliesOf(q.client)
	}
	if q.Qtype == dns.TypeA && families == IPv6 || q.Qtype == dns.TypeAAAA && families == IPv4 {
		return success()
	}
	v4, v6, err := s.Pool.Addrs(q.client, name)
	if err != nil {
		s.warn("a name has got no address", q, err)
		return failure(err)
	}
	return q.addresses(s.ttl(), v4, v6)
}

// warn tells the operator, but not for each of a flood.
func (s *Server) warn(text string, q question, err error) {
	if s.warnings.pass(time.Now()) {
		s.Log.Warn(text, "client", q.client, "name", q.name, "err", err)
	}
}

// verify reports whether a name exists and has an address of either family.
// Else it returns what to answer.
func (s *Server) verify(ctx context.Context, q question) (answer, bool) {
	if s.Exchange == nil {
		return failure(errNoExchange), false
	}
	q.dnssec, q.unchecked = false, false
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		q.Qtype = qtype
		got, err := s.ask(ctx, q)
		switch {
		case err != nil:
			return failure(err), false
		case got.rcode != dns.RcodeSuccess:
			return answer{rcode: got.rcode, ns: got.ns}, false
		case got.address:
			return answer{}, true
		}
	}
	return success(), false
}

func (s *Server) ttl() uint32 {
	if s.TTL <= 0 {
		return defaultTTL
	}
	return uint32(min(max(s.TTL/time.Second, 1), maxTTL))
}

// header is that of a record that answers the question, whose spelling it
// keeps: some clients compare it to tell forgeries.
func (q question) header(rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// addresses answers with those of the family that is asked for.
func (q question) addresses(ttl uint32, addrs ...netip.Addr) answer {
	var a answer
	for _, addr := range addrs {
		switch {
		case q.Qtype == dns.TypeA && addr.Is4():
			a.answer = append(a.answer, &dns.A{Hdr: q.header(dns.TypeA, ttl), A: addr.AsSlice()})
		case q.Qtype == dns.TypeAAAA && addr.Is6():
			a.answer = append(a.answer, &dns.AAAA{Hdr: q.header(dns.TypeAAAA, ttl), AAAA: addr.AsSlice()})
		}
	}
	return a
}

// literal returns the address that a name below Literals spells, the zero Addr
// if it spells none. ok means that the name is there.
func (s *Server) literal(name string) (addr netip.Addr, ok bool) {
	if s.literals == "" || !within(name, s.literals) {
		return addr, false
	}
	label := strings.TrimSuffix(strings.TrimSuffix(name, s.literals), ".")
	if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":")); err == nil && addr.Is6() && addr.Zone() == "" {
		return addr.Unmap(), true
	}
	if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil && addr.Is4() {
		return addr, true
	}
	return netip.Addr{}, true
}

// spell is the way back from literal.
func (s *Server) spell(addr netip.Addr) (string, bool) {
	if s.literals == "" {
		return "", false
	}
	label := strings.NewReplacer(":", "-", ".", "-").Replace(addr.String())
	if strings.HasPrefix(label, "-") {
		label = "0" + label // ::1, whose label would begin with a hyphen
	}
	if strings.HasSuffix(label, "-") {
		label += "0"
	}
	return label + "." + s.literals, true
}

// within reports whether name is domain or below it.
func within(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}

var errNoExchange = errors.New("there is no resolver to ask")
