package fakedns

import "net/netip"

// Embeds reports whether a prefix can have IPv4 addresses inside: the lengths are
// those of RFC 6052, section 2.2, which wants bits 64 to 71 to be zero.
func Embeds(p netip.Prefix) bool {
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Masked().Addr().As16()[8] != 0 {
		return false
	}
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
		return true
	}
	return false
}

// Embed puts an IPv4 address into a prefix (RFC 6052, section 2.2). It reports
// false if the prefix cannot have one, or addr is none.
func Embed(p netip.Prefix, addr netip.Addr) (netip.Addr, bool) {
	if !Embeds(p) || !addr.Is4() {
		return netip.Addr{}, false
	}
	six, four := p.Masked().Addr().As16(), addr.As4()
	for i, at := range octets(p.Bits()) {
		six[at] = four[i]
	}
	return netip.AddrFrom16(six), true
}

// Extract returns the IPv4 address inside an address of a prefix; false if the
// address is not of the prefix, or the prefix can have none. What comes after the
// IPv4 address counts for nothing, as RFC 6052 has it.
func Extract(p netip.Prefix, addr netip.Addr) (netip.Addr, bool) {
	if !Embeds(p) || !p.Contains(addr.WithZone("")) {
		return netip.Addr{}, false
	}
	six := addr.As16()
	var four [4]byte
	for i, at := range octets(p.Bits()) {
		four[i] = six[at]
	}
	return netip.AddrFrom4(four), true
}

// octets are the places of the four octets behind a prefix of that length: the
// ninth of an address is left out.
func octets(bits int) (at [4]int) {
	next := bits / 8
	for i := range at {
		if next == 8 {
			next++
		}
		at[i] = next
		next++
	}
	return at
}
