package argyle

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Addr says where a client wants to go. Exactly one of Name and IP is set; the
// zero Addr is nowhere.
//
// An Addr is comparable, and it is a [net.Addr] so that it can stand for the
// far end of a datagram.
type Addr struct {
	Name string     // a host name, as the client sent it
	IP   netip.Addr // an address; never IPv4-mapped, never with a zone unless link-local
	Port uint16
}

// AddrFrom returns the Addr of an address and port. An IPv4-mapped address
// becomes the IPv4 address that it stands for, and a zone that says nothing
// goes.
func AddrFrom(ap netip.AddrPort) Addr {
	ip := ap.Addr().Unmap()
	if ip.Zone() != "" && !ip.IsLinkLocalUnicast() && !ip.IsLinkLocalMulticast() {
		ip = ip.WithZone("")
	}
	return Addr{IP: ip, Port: ap.Port()}
}

// AddrOf returns the Addr of a [net.Addr], and the zero Addr for one that has
// no host and port, such as a unix socket's.
func AddrOf(a net.Addr) Addr {
	switch a := a.(type) {
	case Addr:
		return a
	case *net.TCPAddr:
		return AddrFrom(a.AddrPort())
	case *net.UDPAddr:
		return AddrFrom(a.AddrPort())
	case nil, *net.UnixAddr: // whose path may look like anything
		return Addr{}
	}
	addr, err := ParseAddr(a.String())
	if err != nil {
		return Addr{}
	}
	return addr
}

// ParseAddr reads "host:port", where host is a name, an IPv4 address or an IPv6
// address in brackets, and port is a number.
func ParseAddr(s string) (Addr, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Addr{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Addr{}, &net.AddrError{Err: "port is not a number from 0 to 65535", Addr: s}
	}
	return ParseHost(host, uint16(n))
}

// ParseHost makes an Addr of a host as a client or a person writes it. An
// IPv4 or IPv6 literal, in brackets or not, is an address: RFC 3089 clients and
// browsers send literals as names. Everything else must look like a name. The
// old spellings of IPv4 addresses (127.1, 0x7f.1, 2130706433) are refused, since
// some resolvers read them as addresses that no rule has seen.
//
// The error is a [*net.DNSError] that says "not found", as a resolver would.
func ParseHost(host string, port uint16) (Addr, error) {
	literal := host
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		literal = host[1 : len(host)-1]
	}
	if ip, err := netip.ParseAddr(literal); err == nil {
		if err := checkZone(ip); err != nil {
			return Addr{}, notFound(host, err.Error())
		}
		return Addr{IP: ip.Unmap(), Port: port}, nil
	}
	if err := checkName(host); err != nil {
		return Addr{}, notFound(host, err.Error())
	}
	return Addr{Name: host, Port: port}, nil
}

func notFound(name, reason string) error {
	return &net.DNSError{Err: reason, Name: strconv.Quote(name), IsNotFound: true}
}

// checkZone refuses a zone where it has no meaning, and one that can be no
// interface's name: [netip.ParseAddr] takes any bytes.
func checkZone(ip netip.Addr) error {
	switch {
	case ip.Zone() == "":
		return nil
	case ip.Is4In6() || !ip.IsLinkLocalUnicast():
		return errors.New("zone on an address that is not link-local")
	}
	return checkText(ip.Zone())
}

// maxName is what the one-byte length of RFC 1928, section 5, allows.
const maxName = 255

// checkName refuses what cannot be a host name. It is looser than a resolver
// (underscores, UTF-8 and long labels pass), since an upstream proxy may know better.
func checkName(name string) error {
	if name == "" || name == "." {
		return errors.New("empty host name")
	}
	if err := checkText(name); err != nil {
		return err
	}
	if endsInNumber(name) {
		return errors.New("neither an IPv4 address nor a host name")
	}
	return nil
}

// checkText refuses what is too long, and bytes with a meaning elsewhere.
func checkText(s string) error {
	if len(s) > maxName {
		return fmt.Errorf("host name longer than %d bytes", maxName)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`%/\:@[]"<>#;,&`, c) >= 0 {
			return fmt.Errorf("byte %#02x in a host name", c)
		}
	}
	return nil
}

// endsInNumber reports whether the last label of name is a number in decimal,
// octal or hexadecimal: no top-level domain is, but inet_aton reads such names
// as IPv4 addresses.
func endsInNumber(name string) bool {
	name = strings.TrimSuffix(name, ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	digits := "0123456789"
	if len(last) >= 2 && last[0] == '0' && (last[1] == 'x' || last[1] == 'X') {
		last, digits = last[2:], "0123456789abcdefABCDEF"
	}
	return strings.Trim(last, digits) == ""
}

// IsZero reports whether a is nowhere: it has neither a name nor an address.
func (a Addr) IsZero() bool { return a.Name == "" && !a.IP.IsValid() }

// AddrPort returns the address and port; its address is not valid if a is a name.
func (a Addr) AddrPort() netip.AddrPort { return netip.AddrPortFrom(a.IP, a.Port) }

// Host returns the name, or the address as text without brackets.
func (a Addr) Host() string {
	if a.IP.IsValid() {
		return a.IP.String()
	}
	return a.Name
}

// String returns "host:port" with brackets where IPv6 needs them, as
// [net.JoinHostPort] does.
func (a Addr) String() string {
	if a.IP.IsValid() {
		return a.AddrPort().String()
	}
	return net.JoinHostPort(a.Name, strconv.Itoa(int(a.Port)))
}

// Network returns "udp", since an Addr stands for the far end of datagrams
// where it serves as a [net.Addr].
func (a Addr) Network() string { return "udp" }
