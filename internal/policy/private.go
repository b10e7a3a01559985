package policy

import (
	"encoding/binary"
	"net/netip"
)

// Private says what is special about an address that a client from elsewhere
// has no business with: loopback, private, link-local, multicast, cloud
// metadata and the like. For an address of the public Internet it returns "".
//
// An IPv6 address that carries an IPv4 address, by whatever scheme, is what
// the IPv4 address is.
func Private(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		return "no address"
	}
	if what := lookup(ip); what != "" {
		return what
	}
	if ip.Is6() {
		var buf [maxEmbedded]netip.Addr
		for _, v4 := range embedded(buf[:0], ip) {
			if what := lookup(v4); what != "" {
				return what + " inside IPv6"
			}
		}
	}
	return ""
}

func lookup(ip netip.Addr) string {
	for _, s := range special {
		if s.prefix.Contains(ip) {
			return s.what
		}
	}
	return ""
}

// special are the prefixes of the IANA special-purpose registries that are not
// globally reachable, and the metadata services that clouds keep at public
// addresses. Documentation passes, as does what 2001::/23 has not assigned.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared address space"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "this host"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local-use translation"},
	{netip.MustParsePrefix("100::/64"), "discard-only"},
	{netip.MustParsePrefix("100:0:0:1::/64"), "dummy prefix"},
	{netip.MustParsePrefix("2001:2::/48"), "benchmarking"},
	{netip.MustParsePrefix("2001:10::/28"), "deprecated"},
	{netip.MustParsePrefix("5f00::/16"), "segment routing"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, 2.5.5.1
	siit       = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// maxEmbedded is how many addresses one address may carry.
const maxEmbedded = 3

// embedded appends the IPv4 addresses that an IPv6 address may lead to.
func embedded(all []netip.Addr, ip netip.Addr) []netip.Addr {
	b := ip.As16()
	switch {
	case ip.IsUnspecified(), ip.IsLoopback(): // compatible with nothing
	case compatible.Contains(ip), siit.Contains(ip), nat64.Contains(ip):
		all = append(all, netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(ip):
		all = append(all, netip.AddrFrom4([4]byte(b[2:])))
	case teredo.Contains(ip):
		// The server, and the client with its bits inverted.
		all = append(all, netip.AddrFrom4([4]byte(b[4:])),
			netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	// ISATAP (RFC 5214) is told by the interface identifier alone, behind any
	// prefix, 6to4 included.
	if id := binary.BigEndian.Uint32(b[8:]); id == 0x00005efe || id == 0x02005efe {
		all = append(all, netip.AddrFrom4([4]byte(b[12:])))
	}
	return all
}

// whollyPrivate reports whether every address in a network is private by what
// the network is, not by what its addresses carry; a single address may be by
// either.
func whollyPrivate(n netip.Prefix) bool {
	for _, s := range special {
		if s.prefix.Bits() <= n.Bits() && s.prefix.Contains(n.Addr()) {
			return true
		}
	}
	return n.IsSingleIP() && Private(n.Addr()) != ""
}
