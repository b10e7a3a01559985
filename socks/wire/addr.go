package wire

import (
	"encoding/binary"
	"net/netip"

	"github.com/argyle-socks/argyle"
)

// The values of ATYP in RFC 1928, section 5.
const (
	atypIPv4 = 1
	atypName = 3
	atypIPv6 = 4
)

// appendAddr appends the three bytes that come before an address, ATYP, address
// and port (RFC 1928, section 5). On an error b is as it was.
func appendAddr(b []byte, head [3]byte, a argyle.Addr) ([]byte, error) {
	ip := a.IP.Unmap()
	switch {
	case ip.IsValid():
	case a.Name == "":
		return b, invalid("no address")
	case len(a.Name) > 255:
		return b, invalid("name of %d bytes, 255 fit", len(a.Name))
	}
	b = append(b, head[:]...)
	switch {
	case ip.Is4():
		v := ip.As4()
		b = append(append(b, atypIPv4), v[:]...)
	case ip.Is6():
		v := ip.As16()
		b = append(append(b, atypIPv6), v[:]...)
	default:
		b = append(append(b, atypName, byte(len(a.Name))), a.Name...)
	}
	return binary.BigEndian.AppendUint16(b, a.Port), nil
}

// parseAddr reads ATYP, address and port. A name stays what it is, even if it
// is empty or spells an address.
func parseAddr(b []byte) (a argyle.Addr, n int, err error) {
	n = 1 + 1 + 2 // a name of no bytes is the shortest address
	switch {
	case len(b) == 0:
	case b[0] == atypIPv4:
		n = 1 + 4 + 2
	case b[0] == atypIPv6:
		n = 1 + 16 + 2
	case b[0] != atypName:
		return a, 0, AddrTypeError(b[0])
	case len(b) > 1:
		n = 1 + 1 + int(b[1]) + 2
	}
	if len(b) < n {
		return a, n, ErrShort
	}
	switch b[0] {
	case atypIPv4:
		a.IP = netip.AddrFrom4([4]byte(b[1:]))
	case atypIPv6:
		a.IP = netip.AddrFrom16([16]byte(b[1:])).Unmap()
	case atypName:
		a.Name = string(b[2 : n-2])
	}
	a.Port = binary.BigEndian.Uint16(b[n-2:])
	return a, n, nil
}
