package fakedns

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

const (
	// reserved is how many addresses at the beginning of a prefix never stand
	// for a name: the network's own, and a few for devices.
	reserved = 16
	minSize  = 64      // addresses of a prefix, at least
	maxSize  = 1 << 24 // addresses of a prefix that are used, at most
)

// A space numbers the addresses of two prefixes alike: a slot is one address
// of either family.
type space struct {
	v4, v6 netip.Prefix
	slots  uint32
}

// newSpace leaves out the reserved addresses, and the last, which is IPv4's
// broadcast.
func newSpace(v4, v6 netip.Prefix) (space, error) {
	size := min(prefixSize(v4), prefixSize(v6), maxSize)
	switch {
	case !v4.Addr().Is4() || v4 != v4.Masked():
		return space{}, fmt.Errorf("%v is not an IPv4 prefix", v4)
	case !v6.Addr().Is6() || v6.Addr().Is4In6() || v6 != v6.Masked():
		return space{}, fmt.Errorf("%v is not an IPv6 prefix", v6)
	case size < minSize:
		return space{}, fmt.Errorf("%v and %v: %d addresses are too few, want %d", v4, v6, size, minSize)
	}
	return space{v4: v4, v6: v6, slots: uint32(size - reserved - 1)}, nil
}

// prefixSize is 2^63 for whatever is larger.
func prefixSize(p netip.Prefix) uint64 {
	if !p.IsValid() {
		return 0
	}
	return 1 << min(p.Addr().BitLen()-p.Bits(), 63)
}

// addrs returns the two addresses of a slot.
func (s space) addrs(slot uint32) (v4, v6 netip.Addr) {
	four := s.v4.Addr().As4()
	binary.BigEndian.PutUint32(four[:], binary.BigEndian.Uint32(four[:])+reserved+slot)
	six := s.v6.Addr().As16()
	binary.BigEndian.PutUint64(six[8:], binary.BigEndian.Uint64(six[8:])+reserved+uint64(slot))
	return netip.AddrFrom4(four), netip.AddrFrom16(six)
}

// slot returns the slot of an address, if it has one.
func (s space) slot(addr netip.Addr) (uint32, bool) {
	addr = plain(addr)
	var offset uint64
	switch {
	case s.v4.Contains(addr):
		four, base := addr.As4(), s.v4.Addr().As4()
		offset = uint64(binary.BigEndian.Uint32(four[:]) - binary.BigEndian.Uint32(base[:]))
	case s.v6.Contains(addr):
		six, base := addr.As16(), s.v6.Addr().As16()
		low, borrow := bits.Sub64(binary.BigEndian.Uint64(six[8:]), binary.BigEndian.Uint64(base[8:]), 0)
		if borrow != 0 || [8]byte(six[:8]) != [8]byte(base[:8]) {
			return 0, false
		}
		offset = low
	default:
		return 0, false
	}
	if offset < reserved || offset-reserved >= uint64(s.slots) {
		return 0, false
	}
	return uint32(offset - reserved), true
}

// first returns the slot where a name belongs. Only who has the key can choose
// names that collide.
func (s space) first(key []byte, name string) uint32 {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(name))
	return uint32(binary.BigEndian.Uint64(mac.Sum(nil)) % uint64(s.slots))
}

// localPrefix returns the unique local /64 that key chooses (RFC 4193,
// section 3.1).
func localPrefix(key []byte) netip.Prefix {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("\x00prefix")) // no name begins like this
	addr := [16]byte{0xfd}
	copy(addr[1:6], mac.Sum(nil))
	return netip.PrefixFrom(netip.AddrFrom16(addr), 64)
}

// plain is addr without what does not tell it from others: a zone, or the
// disguise of an IPv4 address.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// clientPrefix is what counts as one client: an IPv6 host has a /64 to itself.
func clientPrefix(addr netip.Addr) netip.Prefix {
	addr = plain(addr)
	if !addr.IsValid() {
		return netip.Prefix{}
	}
	p, _ := addr.Prefix(min(addr.BitLen(), 64))
	return p
}
