package transparent

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
)

// soOriginalDst is SO_ORIGINAL_DST of IPv4 and IP6T_SO_ORIGINAL_DST of IPv6.
const soOriginalDst = 80

// OriginalDst is a [Server.Dest] for REDIRECT: it asks the system's connection
// tracking where the client had connected to.
func OriginalDst(conn net.Conn) (argyle.Addr, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return argyle.Addr{}, fmt.Errorf("original destination of a %T", conn)
	}
	local := plainOf(conn.LocalAddr())
	raw, err := tcp.SyscallConn()
	if err != nil {
		return argyle.Addr{}, err
	}
	var dest netip.AddrPort
	if ctrlErr := raw.Control(func(fd uintptr) { dest, err = originalDst(int(fd), local.Addr().Is4()) }); ctrlErr != nil {
		err = ctrlErr
	}
	if err != nil {
		return argyle.Addr{}, fmt.Errorf("original destination: %w", err)
	}
	if dest == local {
		return argyle.Addr{}, errLoop
	}
	return argyle.AddrFrom(dest), nil
}

func originalDst(fd int, v4 bool) (netip.AddrPort, error) {
	level := unix.SOL_IPV6
	if v4 {
		level = unix.SOL_IP
	}
	var sa [unix.SizeofSockaddrInet6]byte
	size := uint32(len(sa))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soOriginalDst,
		uintptr(unsafe.Pointer(&sa[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError("getsockopt", errno)
	}
	dest, ok := parseSockaddr(sa[:min(int(size), len(sa))])
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("socket address of %d bytes", size)
	}
	return dest, nil
}

// parseSockaddr reads a struct sockaddr_in or sockaddr_in6. A zone is left out:
// what it says of a packet's way in has no meaning for the way out.
func parseSockaddr(b []byte) (netip.AddrPort, bool) {
	if len(b) < 2 {
		return netip.AddrPort{}, false
	}
	family := binary.NativeEndian.Uint16(b)
	switch {
	case family == unix.AF_INET && len(b) >= 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), true
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[2:])), true
	}
	return netip.AddrPort{}, false
}
