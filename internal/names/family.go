package names

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// A Preference says which family of addresses comes first, or alone.
type Preference int

// The preferences.
const (
	AsGiven   Preference = iota // by the system; those of own servers alternate, IPv6 first
	IPv4First                   // all of IPv4, then those of IPv6
	IPv6First                   // all of IPv6, then those of IPv4
	IPv4Only                    // IPv6 addresses are not even asked for
	IPv6Only                    // IPv4 addresses are not even asked for
)

var preferences = []string{"", "ipv4", "ipv6", "ipv4-only", "ipv6-only"}

// ParsePreference reads what String writes.
func ParsePreference(text string) (Preference, error) {
	for i, name := range preferences {
		if text == name {
			return Preference(i), nil
		}
	}
	return 0, fmt.Errorf("family preference %q: expected ipv4, ipv6, ipv4-only or ipv6-only", text)
}

// String returns "ipv4", "ipv6", "ipv4-only", "ipv6-only", or "" for AsGiven.
func (p Preference) String() string {
	if p < 0 || int(p) >= len(preferences) {
		return fmt.Sprintf("Preference(%d)", int(p))
	}
	return preferences[p]
}

func (p Preference) families() families {
	switch p {
	case IPv4Only:
		return ipv4
	case IPv6Only:
		return ipv6
	}
	return ipv4 | ipv6
}

// arrange orders addresses; ordered ones stay as they are if nothing is preferred.
func (p Preference) arrange(addrs []netip.Addr, ordered bool) []netip.Addr {
	v4, v6 := ipv4.of(addrs), ipv6.of(addrs)
	switch {
	case p == IPv4First:
		return append(v4, v6...)
	case p == IPv6First:
		return append(v6, v4...)
	case ordered:
		return addrs
	}
	return alternate(v6, v4)
}

func alternate(a, b []netip.Addr) []netip.Addr {
	mixed := make([]netip.Addr, 0, len(a)+len(b))
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			mixed = append(mixed, a[i])
		}
		if i < len(b) {
			mixed = append(mixed, b[i])
		}
	}
	return mixed
}

// families is a set of address families.
type families uint8

const (
	ipv4 families = 1 << iota
	ipv6
)

func familiesOf(network string) (families, error) {
	switch network {
	case "ip":
		return ipv4 | ipv6, nil
	case "ip4":
		return ipv4, nil
	case "ip6":
		return ipv6, nil
	}
	return 0, net.UnknownNetworkError(network)
}

// network is the inverse of familiesOf.
func (f families) network() string {
	switch f {
	case ipv4:
		return "ip4"
	case ipv6:
		return "ip6"
	}
	return "ip"
}

// each returns the families as sets of one.
func (f families) each() []families {
	var list []families
	for _, one := range []families{ipv6, ipv4} {
		if f&one != 0 {
			list = append(list, one)
		}
	}
	return list
}

// of returns, in a new slice, the addresses of these families. What stands for
// an IPv4 address is one, or "ip6" would reach IPv4 by another spelling.
func (f families) of(addrs []netip.Addr) []netip.Addr {
	var list []netip.Addr
	for _, ip := range addrs {
		family := ipv6
		if ip.Unmap().Is4() {
			family = ipv4
		}
		if f&family != 0 {
			list = append(list, ip)
		}
	}
	return list
}

// question returns the type of record that one family is asked for with.
func (f families) question() uint16 {
	if f == ipv4 {
		return dns.TypeA
	}
	return dns.TypeAAAA
}
