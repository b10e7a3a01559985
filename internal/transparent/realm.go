package transparent

import "net/netip"

// A Realm is destinations that stand for others by a rule, such as IPv6 addresses
// with IPv4 addresses inside (RFC 6052).
type Realm struct {
	// Inbound is what rules and logs call the way in of what goes there: the
	// same destination may be another one in each realm.
	Inbound string

	// Dest returns what a destination stands for; false if it is not of the
	// realm.
	Dest func(netip.Addr) (netip.Addr, bool)

	// Source is the way back: by which address clients know a sender. False
	// means by none, and they do not hear it.
	Source func(netip.Addr) (netip.Addr, bool)
}

// realmOf returns the realm of a destination and what that stands for; nil for
// none.
func realmOf(realms []Realm, dest netip.Addr) (*Realm, netip.Addr) {
	for i := range realms {
		if ip, ok := realms[i].Dest(dest); ok {
			return &realms[i], ip
		}
	}
	return nil, netip.Addr{}
}
