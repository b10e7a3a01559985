package event

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

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
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := begin(fd, network, local, to, control); err != nil {
		unix.Close(fd)
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
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0))); err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	switch err := unix.Connect(fd, sockaddr(to)); err {
	case nil, unix.EINPROGRESS, unix.EINTR:
		return nil
	default:
		return os.NewSyscallError("connect", err)
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
	return c.use("connect", func(fd int) error {
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
	})
}

// asTimeout makes of a context's error what package net makes of it.
func asTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(a.Port())}
	}
	sa := &unix.SockaddrInet6{Addr: ip.As16(), Port: int(a.Port())}
	if zone := ip.Zone(); zone != "" {
		if ifi, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(ifi.Index)
		}
	}
	return sa
}

// bareSocket is a socket that nobody else has yet, as [syscall.RawConn].
type bareSocket int

func (fd bareSocket) Control(f func(fd uintptr)) error {
	f(uintptr(fd))
	return nil
}

func (bareSocket) Read(func(fd uintptr) bool) error  { return syscall.EINVAL }
func (bareSocket) Write(func(fd uintptr) bool) error { return syscall.EINVAL }
