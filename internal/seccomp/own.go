//go:build linux

package seccomp

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownConn is a handshake on a socket of the program. It shares the open file
// with the program, so that O_NONBLOCK, which is of the file, must stay as it
// is: reads and writes have MSG_DONTWAIT, and wait on an epoll of ours that has
// the socket in it.
type ownConn struct {
	file          *os.File
	socket        syscall.RawConn
	epoll         *os.File
	ready         syscall.RawConn
	local, remote net.Addr
}

var _ net.Conn = (*ownConn)(nil)

// newOwnConn makes one of a duplicate of fd.
func newOwnConn(fd int) (_ *ownConn, err error) {
	c := new(ownConn)
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	c.file = os.NewFile(uintptr(dup), "socket of the program")
	if c.socket, err = c.file.SyscallConn(); err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(epoll, true) // so that the poller takes it
	c.epoll = os.NewFile(uintptr(epoll), "epoll")
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP, Fd: int32(dup)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, dup, &event); err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	if c.ready, err = c.epoll.SyscallConn(); err != nil {
		return nil, err
	}
	if sa, err := unix.Getsockname(dup); err == nil {
		c.local = net.TCPAddrFromAddrPort(addrPort(sa))
	}
	if sa, err := unix.Getpeername(dup); err == nil {
		c.remote = net.TCPAddrFromAddrPort(addrPort(sa))
	}
	return c, nil
}

// try calls f whenever the socket may have become ready, until it has done
// something or the deadline has passed.
func (c *ownConn) try(op string, f func(fd int) (int, error)) (n int, err error) {
	waited := c.ready.Read(func(uintptr) bool {
		closed := c.socket.Control(func(fd uintptr) {
			for {
				if n, err = f(int(fd)); err != unix.EINTR {
					return
				}
			}
		})
		if closed != nil {
			err = net.ErrClosed
		}
		return err != unix.EAGAIN
	})
	if waited != nil {
		n, err = 0, waited
	}
	if err != nil {
		return max(n, 0), &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
	}
	return n, nil
}

// Read reads what is there.
func (c *ownConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := c.try("read", func(fd int) (int, error) {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		return n, err
	})
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

// Write writes all of b.
func (c *ownConn) Write(b []byte) (sent int, err error) {
	for sent < len(b) {
		n, err := c.try("write", func(fd int) (int, error) {
			return unix.SendmsgN(fd, b[sent:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// Close ends our part of the socket.
func (c *ownConn) Close() error {
	if c.epoll != nil {
		c.epoll.Close()
	}
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}

func (c *ownConn) LocalAddr() net.Addr  { return c.local }
func (c *ownConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadline of reads and writes, which is one.
func (c *ownConn) SetDeadline(t time.Time) error { return c.epoll.SetReadDeadline(t) }

// SetReadDeadline is SetDeadline.
func (c *ownConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

// SetWriteDeadline is SetDeadline.
func (c *ownConn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }
