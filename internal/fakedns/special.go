package fakedns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// special answers for names that no resolver is to be asked about, and those
// of Hosts. It reports false for all others.
func (s *Server) special(q question) (answer, bool) {
	forAddress := q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA
	forService := q.Qtype == dns.TypeHTTPS || q.Qtype == dns.TypeSVCB
	if addrs, ok := s.hosts[q.name]; ok && (forAddress || forService) {
		return q.addresses(hostsTTL, addrs...), true
	}
	if _, ok := s.literal(q.name); ok && !forAddress {
		return success(), true
	}
	switch {
	case within(q.name, "localhost"): // RFC 6761, section 6.3
		return q.addresses(hostsTTL, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()), true
	case within(q.name, "invalid"): // section 6.4
		return nxdomain(), true
	case within(q.name, "local"): // RFC 6762: asked on the link, not of us
		return nxdomain(), true
	case within(q.name, "onion") && !forAddress: // RFC 7686: not for the DNS, but the proxy may know it
		return success(), true
	case within(q.name, "resolver.arpa"): // RFC 9462: no encrypted resolver stands in for us
		return success(), true
	case within(q.name, "use-application-dns.net"): // its absence keeps Firefox from DNS over HTTPS
		return nxdomain(), true
	case q.name == "ipv4only.arpa":
		return s.ipv4only(q), true
	case q.name == "" && forAddress:
		return success(), true
	case !strings.Contains(q.name, ".") && (forAddress || forService):
		return nxdomain(), true // somebody's own host, or none
	}
	return answer{}, false
}

// ipv4only answers for ipv4only.arpa, from which hosts learn the prefix of
// NAT64 (RFC 7050, section 3; RFC 8880).
func (s *Server) ipv4only(q question) answer {
	one, two := netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.AddrFrom4([4]byte{192, 0, 0, 171})
	if q.Qtype == dns.TypeAAAA {
		return q.addresses(hostsTTL, s.inNAT64(one), s.inNAT64(two))
	}
	return q.addresses(hostsTTL, one, two)
}

// inNAT64 is the zero Addr if there is no prefix.
func (s *Server) inNAT64(addr netip.Addr) netip.Addr {
	six, _ := Embed(s.NAT64, addr)
	return six
}

// readHosts puts Hosts and Literals into canonical form.
func (s *Server) readHosts() {
	s.hosts, s.names = map[string][]netip.Addr{}, map[netip.Addr]string{}
	s.literals = strings.ToLower(strings.Trim(s.Literals, "."))
	for name, addrs := range s.Hosts {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		for _, addr := range addrs {
			addr = plain(addr)
			s.hosts[name] = append(s.hosts[name], addr)
			if old, ok := s.names[addr]; !ok || name < old {
				s.names[addr] = name
			}
		}
	}
}
