//go:build linux

package seccomp

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Lengths of struct sockaddr_in, of struct sockaddr_in6 (and without its scope,
// as RFC 2133 had it) and of the longest one, struct sockaddr_storage.
const (
	lenInet4    = 16
	lenInet6    = 28
	lenInet6Old = 24
	lenLongest  = 128
)

// family returns the family of a struct sockaddr.
func family(b []byte) int {
	if len(b) < 2 {
		return -1
	}
	return int(binary.NativeEndian.Uint16(b))
}

// parseInet reads a struct sockaddr_in or sockaddr_in6. IPv4-mapped addresses
// stay as they are.
func parseInet(b []byte) (netip.AddrPort, bool) {
	switch family(b) {
	case unix.AF_INET:
		if len(b) < lenInet4 {
			break
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), true
	case unix.AF_INET6:
		if len(b) < lenInet6Old {
			break
		}
		addr := netip.AddrFrom16([16]byte(b[8:24]))
		if len(b) >= lenInet6 && !addr.Is4In6() {
			if scope := binary.NativeEndian.Uint32(b[24:]); scope != 0 {
				addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
			}
		}
		return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[2:])), true
	}
	return netip.AddrPort{}, false
}

// appendInet is the inverse of parseInet, for a socket of the given domain: an
// AF_INET6 socket has IPv4 addresses mapped.
func appendInet(b []byte, domain int, a netip.AddrPort) []byte {
	if domain == unix.AF_INET {
		ip := a.Addr().Unmap().As4()
		b = binary.NativeEndian.AppendUint16(b, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, a.Port())
		return append(append(b, ip[:]...), make([]byte, 8)...)
	}
	ip := a.Addr().As16()
	b = binary.NativeEndian.AppendUint16(b, unix.AF_INET6)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	b = append(b, 0, 0, 0, 0) // flow label
	b = append(b, ip[:]...)
	return binary.NativeEndian.AppendUint32(b, scope(a.Addr()))
}

func scope(ip netip.Addr) uint32 {
	n, _ := strconv.ParseUint(ip.Zone(), 10, 32)
	return uint32(n)
}

// unixPath returns the name in a struct sockaddr_un, an abstract one with a
// leading @, "" if it has none.
func unixPath(b []byte) string {
	if family(b) != unix.AF_UNIX {
		return ""
	}
	b = b[2:]
	if len(b) > 0 && b[0] == 0 {
		if len(b) == 1 {
			return ""
		}
		return "@" + string(b[1:])
	}
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// sockaddr returns a in the form that x/sys/unix wants for a socket of domain.
func sockaddr(domain int, a netip.AddrPort) unix.Sockaddr {
	if domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().Unmap().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: scope(a.Addr())}
}

// addrPort is the inverse of sockaddr, but for mapped addresses, which it unmaps.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// unmap returns a with its address unmapped.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// loopback returns the loopback address of a's family.
func loopback(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
