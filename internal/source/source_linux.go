package source

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// supported says what the system cannot do: here all.
func (s *Source) supported() error { return nil }

// Control prepares a socket. It has the form of net.Dialer.Control.
func (s *Source) Control(network, _ string, conn syscall.RawConn) error {
	var err error
	if cerr := conn.Control(func(fd uintptr) { err = s.prepare(network, int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func (s *Source) prepare(network string, fd int) error {
	if s.Interface != "" {
		if err := unix.BindToDevice(fd, s.Interface); err != nil {
			return fmt.Errorf("interface %s: %w", s.Interface, os.NewSyscallError("setsockopt", err))
		}
	}
	if s.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(s.Mark)); err != nil {
			return fmt.Errorf("mark %d: %w", s.Mark, os.NewSyscallError("setsockopt", err))
		}
	}
	if len(s.Addrs) == 0 {
		return nil
	}
	// An address that no interface has. The option of IPv4 serves sockets of
	// both families.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err != nil {
		return os.NewSyscallError("setsockopt IP_FREEBIND", err)
	}
	if strings.HasPrefix(network, "tcp") {
		// The port is chosen at connect, where it need be free for one
		// destination only. A listener does not mind.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	return nil
}
