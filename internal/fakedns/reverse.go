package fakedns

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// ReverseZone returns the network that a name of a reverse zone is about, in lower
// case and without its final dot. If the name is below that of an address, it is
// the address.
func ReverseZone(name string) (zone netip.Prefix, ok bool) {
	if rest, found := strings.CutSuffix(name, "in-addr.arpa"); found && within(name, "in-addr.arpa") {
		return reversePrefix(rest, 10, 8, 4)
	}
	if rest, found := strings.CutSuffix(name, "ip6.arpa"); found && within(name, "ip6.arpa") {
		return reversePrefix(rest, 16, 4, 32)
	}
	return netip.Prefix{}, false
}

// reversePrefix reads up to count labels, the last of which are the highest
// bits of the address.
func reversePrefix(labels string, base, width, count int) (netip.Prefix, bool) {
	var addr [16]byte
	n := 0
	for rest := strings.TrimSuffix(labels, "."); rest != "" && n < count; n++ {
		dot := strings.LastIndexByte(rest, '.')
		label := rest[dot+1:]
		rest = rest[:max(dot, 0)]
		value, err := strconv.ParseUint(label, base, width)
		if err != nil || len(label) > 1 && (base == 16 || label[0] == '0') {
			break // RFC 2317 and others name things there
		}
		addr[n*width/8] |= byte(value) << (8 - width - n*width%8)
	}
	whole := netip.AddrFrom16(addr)
	if width == 8 {
		whole = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.PrefixFrom(whole, n*width), true
}

// reverse answers for a name of a reverse zone.
func (s *Server) reverse(ctx context.Context, q question, zone netip.Prefix) answer {
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB:
		return nxdomain()
	}
	addr := zone.Addr()
	if own, err := dns.ReverseAddr(addr.String()); err == nil && own == q.name+"." && q.Qtype == dns.TypePTR {
		if name, ok := s.nameOf(addr); ok {
			return success(&dns.PTR{Hdr: q.header(dns.TypePTR, s.ttl()), Ptr: dns.Fqdn(name)})
		}
	}
	switch {
	case s.Pool.Contains(addr) && !zone.IsSingleIP():
		return success() // there are names below
	case s.Pool.Contains(addr), isPrivate(zone):
		return nxdomain()
	}
	return s.pass(ctx, q)
}

// nameOf returns the name of an address that we know.
func (s *Server) nameOf(addr netip.Addr) (string, bool) {
	if name, ok := s.names[addr]; ok {
		return name, true
	}
	if addr == netip.IPv6Loopback() || addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		return "localhost", true
	}
	name, ok := s.Pool.Name(addr)
	if literal, err := netip.ParseAddr(name); ok && err == nil {
		return s.spell(literal)
	}
	return name, ok
}

// isPrivate reports whether a network is one that the public DNS knows nothing
// of (RFC 6303). Those that hold such a network are not.
func isPrivate(p netip.Prefix) bool {
	for _, private := range []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 8),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10), // RFC 7793
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16}), 12),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{}), 127),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc}), 7),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10),
	} {
		if p.Bits() >= private.Bits() && private.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
