package event

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dial connects to an address from a socket that the loop of ctx watches;
// from local if that is valid. control prepares the socket as
// net.Dialer.Control does; it may be nil. It reports false if ctx has no loop.
func Dial(ctx context.Context, local netip.Addr, to netip.AddrPort, control controlFunc) (conn net.Conn, ok bool, err error) {
	t := taskOf(ctx)
	if t == nil {
		return nil, false, nil
	}
	c, err := dial(ctx, t, local, to, control)
	if err != nil {
		err = &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
		return nil, true, err
	}
	return c, true, nil
}

func dial(ctx context.Context, t *Task, local netip.Addr, to netip.AddrPort, control controlFunc) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, asTimeout(err)
	}
	fd, err := connect(local, to, control)
	if err != nil {
		return nil, err
	}
	c, err := newConn(t.loop, fd, t)
	if err != nil {
		return nil, err
	}
	c.remote = to
	if err := c.connected(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// controlFunc is net.Dialer's.
type controlFunc = func(network, address string, c syscall.RawConn) error

// connect begins to connect a new socket.
func connect(local netip.Addr, to netip.AddrPort, control controlFunc) (fd int, err error) {
	family, network := unix.AF_INET6, "tcp6"
	if to.Addr().Unmap().Is4() {
		family, network = unix.AF_INET, "tcp4"
	}
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	fd = int(n)
	if err := begin(fd, network, local, to, control); err != nil {
		closeQuickly(fd)
		return -1, err
	}
	return fd, nil
}

func begin(fd int, network string, local netip.Addr, to netip.AddrPort, control controlFunc) error {
	prepare(fd)
	if control != nil {
		if err := control(network, to.String(), bareSocket(fd)); err != nil {
			return err
		}
	}
	if local.IsValid() {
		if errno := withSockaddr(unix.SYS_BIND, fd, netip.AddrPortFrom(local, 0)); errno != 0 {
			return os.NewSyscallError("bind", errno)
		}
	}
	switch errno := withSockaddr(unix.SYS_CONNECT, fd, to); errno {
	case 0, unix.EINPROGRESS, unix.EINTR:
		return nil
	default:
		return os.NewSyscallError("connect", errno)
	}
}

// connected waits until the socket is.
func (c *Conn) connected(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetWriteDeadline(deadline)
	}
	stop := onCancel(ctx, c.task, func() { _ = c.SetWriteDeadline(time.Unix(1, 0)) })
	err := c.await(&c.writes, mayWrite)
	if !stop() && err == nil {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			return asTimeout(cause)
		}
		return err
	}
	_ = c.SetWriteDeadline(time.Time{})
	fd, ok := c.Acquire()
	if !ok {
		return net.ErrClosed
	}
	defer c.Release()
	if c.Failed() {
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = syscall.Errno(errno)
		}
		if err != nil {
			return os.NewSyscallError("connect", err)
		}
	}
	local := localAddr(fd)
	c.local.Store(&local)
	if local == netip.AddrPortFrom(c.remote.Addr().Unmap(), c.remote.Port()) {
		// A port of ours that nobody listens on was chosen for this side.
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return nil
}

// asTimeout makes of a context's error what package net makes of it.
func asTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// withSockaddr makes a system call that takes a socket and an address.
func withSockaddr(trap uintptr, fd int, a netip.AddrPort) unix.Errno {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: ntohs(a.Port()), Addr: ip.As4()}
		_, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
		return errno
	}
	sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: ntohs(a.Port()), Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		if ifi, err := net.InterfaceByName(zone); err == nil {
			sa.Scope_id = uint32(ifi.Index)
		}
	}
	_, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet6)
	return errno
}

// bareSocket is a socket that nobody else has yet, as [syscall.RawConn].
type bareSocket int

func (fd bareSocket) Control(f func(fd uintptr)) error {
	f(uintptr(fd))
	return nil
}

func (bareSocket) Read(func(fd uintptr) bool) error  { return syscall.EINVAL }
func (bareSocket) Write(func(fd uintptr) bool) error { return syscall.EINVAL }
