//go:build linux

package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A socket belongs to the namespace it was made in, whoever uses it: the child
// makes them, and all else is done here.

// ListenUDP opens a socket in the namespace that is bound to addr, which may be
// any address if there is no tun device.
func (w *World) ListenUDP(addr netip.AddrPort) (*net.UDPConn, error) {
	file, err := w.bound(unix.SOCK_DGRAM, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %v in the namespace: %w", addr, err)
	}
	defer file.Close()
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("listen on %v in the namespace: %w", addr, err)
	}
	return conn.(*net.UDPConn), nil
}

// Listen opens a listener for TCP in the namespace.
func (w *World) Listen(addr netip.AddrPort) (net.Listener, error) {
	file, err := w.bound(unix.SOCK_STREAM, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %v in the namespace: %w", addr, err)
	}
	defer file.Close()
	var ln net.Listener
	err = os.NewSyscallError("listen", control(file, func(fd int) error { return unix.Listen(fd, unix.SOMAXCONN) }))
	if err == nil {
		ln, err = net.FileListener(file)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %v in the namespace: %w", addr, err)
	}
	return ln, nil
}

// Dial connects to an address as a program in the namespace does: to one that
// listens there. network is tcp or udp, with or without 4 or 6.
func (w *World) Dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	conn, err := w.dial(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return conn, nil
}

func (w *World) dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	kind := unix.SOCK_STREAM
	switch strings.TrimRight(network, "46") {
	case "tcp":
	case "udp":
		kind = unix.SOCK_DGRAM
	default:
		return nil, net.UnknownNetworkError(network)
	}
	file, err := w.socket(kind, addr.Addr())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := connect(ctx, file, sockaddr(addr)); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// bound returns a socket that is bound to addr.
func (w *World) bound(kind int, addr netip.AddrPort) (*os.File, error) {
	file, err := w.socket(kind, addr.Addr())
	if err != nil {
		return nil, err
	}
	err = control(file, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
		if addr.Addr().Unmap().Is6() {
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
				return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
			}
			// With IPv6 a route does not make an address ours.
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
				return os.NewSyscallError("setsockopt IPV6_FREEBIND", err)
			}
		}
		return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(addr)))
	})
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// socket has the child make a socket of an address's family.
func (w *World) socket(kind int, ip netip.Addr) (*os.File, error) {
	family := unix.AF_INET
	if ip.Unmap().Is6() {
		family = unix.AF_INET6
	}
	answer, files, err := w.request(&message{Family: family, Type: kind})
	if err == nil {
		err = answer.err()
	}
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("%d files came instead of a socket", len(files))
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files[0], nil
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	ip := addr.Addr().Unmap()
	if ip.Is6() {
		return &unix.SockaddrInet6{Addr: ip.As16(), Port: int(addr.Port())}
	}
	return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(addr.Port())}
}

// control calls f with the file's descriptor.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	ctrlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	if ctrlErr != nil {
		return ctrlErr
	}
	return err
}

// connect connects a socket that does not block.
func connect(ctx context.Context, file *os.File, to unix.Sockaddr) error {
	err := control(file, func(fd int) error { return unix.Connect(fd, to) })
	if err != unix.EINPROGRESS {
		return os.NewSyscallError("connect", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(past) })
	defer stop()
	var result error
	err = raw.Write(func(fd uintptr) bool {
		var errno int
		errno, result = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if result == nil && errno != 0 {
			result = os.NewSyscallError("connect", unix.Errno(errno))
		}
		if result != nil {
			return true
		}
		_, err := unix.Getpeername(int(fd))
		return err == nil // else it is still in progress
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	return result
}
