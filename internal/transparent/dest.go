package transparent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/argyle-socks/argyle"
)

// errLoop refuses a connection that was made to the listener itself: it has no
// other destination, and dialling it would come back here.
var errLoop = errors.New("connection to the transparent listener itself")

// errNoName refuses an address that stands for a name, but not for a known one.
var errNoName = errors.New("an address that stands for no name")

// LocalAddr is a [Server.Dest] for TPROXY: the address that the client has
// connected to is the destination.
func LocalAddr(conn net.Conn) (argyle.Addr, error) {
	dest := argyle.AddrOf(conn.LocalAddr())
	if !dest.IP.IsValid() {
		return argyle.Addr{}, fmt.Errorf("connection to %v has no IP address", conn.LocalAddr())
	}
	return dest, nil
}

// Fixed returns a [Server.Dest] for a port that stands for one destination.
func Fixed(dest argyle.Addr) func(net.Conn) (argyle.Addr, error) {
	return func(net.Conn) (argyle.Addr, error) { return dest, nil }
}

// named returns what dest stands for, if its address is one of those that stand
// for a name, which may be that of an address (RFC 3089, section 3).
func named(name func(netip.Addr) (string, bool), dest argyle.Addr) (argyle.Addr, error) {
	if name == nil || !dest.IP.IsValid() {
		return dest, nil
	}
	host, fake := name(dest.IP)
	switch {
	case !fake:
		return dest, nil
	case host == "":
		return dest, fmt.Errorf("%v: %w", dest, errNoName)
	}
	if last := host[len(host)-1]; '0' <= last && last <= '9' || strings.IndexByte(host, ':') >= 0 {
		return argyle.ParseHost(host, dest.Port) // it may be the name of an address
	}
	return argyle.Addr{Name: host, Port: dest.Port}, nil
}

// plain returns an address in the one form that packets and sockets have in
// common: unmapped, and without the zone that a packet does not carry.
func plain(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// plainOf returns the address of a connection's end in that form.
func plainOf(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return plain(tcp.AddrPort())
	}
	return netip.AddrPort{}
}
