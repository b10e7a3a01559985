//go:build linux

package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// The addresses of a namespace. They must be none that a program may want to
// reach elsewhere: the IPv4 one is of RFC 7335, the IPv6 one of RFC 4193.
func ownAddresses() (ip4, ip6 *net.IPNet) {
	return &net.IPNet{IP: net.IPv4(192, 0, 0, 2).To4(), Mask: net.CIDRMask(32, 32)},
		&net.IPNet{IP: net.ParseIP("fd61:7267:796c:6500::1"), Mask: net.CIDRMask(128, 128)}
}

// loopback is the number of the loopback device in any namespace.
const loopback = 1

// prepareNetwork gives the namespace addresses and routes: to itself for every
// destination, or to a tun device, which it returns.
func prepareNetwork(withTUN bool) (device *os.File, ipv6 bool, err error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, false, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	if err := setUp(handle, loopback); err != nil {
		return nil, false, fmt.Errorf("set up the loopback device: %w", denied(err))
	}
	link := loopback
	if withTUN {
		if device, link, err = openTUN(handle); err != nil {
			return nil, false, err
		}
	}
	// Ports below 1024 are nobody else's here. A container may have sysctls
	// that cannot be written; then there are none, and that is all.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	ip4, ip6 := ownAddresses()
	if err := route(handle, link, ip4, withTUN); err != nil {
		return device, false, fmt.Errorf("prepare IPv4: %w", err)
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("0"), 0)
	err = route(handle, link, ip6, withTUN)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EACCES) {
		return device, false, nil // the system has none, or it is switched off
	}
	if err != nil {
		return device, false, fmt.Errorf("prepare IPv6: %w", err)
	}
	return device, true, nil
}

func setUp(handle *netlink.Handle, index int) error {
	return handle.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
}

// route gives a device an address, and makes it the way to everywhere. Without a
// tun device, every address is then one of the namespace's own (AnyIP); Src keeps
// the kernel from sending from the destination's.
func route(handle *netlink.Handle, index int, own *net.IPNet, withTUN bool) error {
	bits := 8 * len(own.IP)
	addr := &netlink.Addr{IPNet: own, LinkIndex: index, Flags: unix.IFA_F_NODAD}
	if bits == 32 {
		addr.Flags = 0
	}
	if err := handle.AddrAdd(nil, addr); err != nil {
		return fmt.Errorf("add the address %v: %w", own, err)
	}
	all := &net.IPNet{IP: make(net.IP, len(own.IP)), Mask: net.CIDRMask(0, bits)}
	way := &netlink.Route{LinkIndex: index, Dst: all, Src: own.IP, Scope: netlink.SCOPE_LINK}
	if !withTUN {
		way.Type, way.Table, way.Scope = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
	}
	if err := handle.RouteAdd(way); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	return nil
}
