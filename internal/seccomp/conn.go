//go:build linux

package seccomp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn is a connect of the program that waits for its answer: one of Accept,
// Keep and Reject. It is used by one goroutine.
type Conn struct {
	call   *call
	socket *socket
	dest   netip.AddrPort
	held   *held // nil if the program itself waits
	done   bool
	signal atomic.Bool // the program has one to handle
}

// errGone is returned when there is nobody to be answered any more.
var errGone = fmt.Errorf("the program waits no longer: %w", net.ErrClosed)

// Dest returns where the program connects to.
func (c *Conn) Dest() netip.AddrPort { return c.dest }

// PID returns the number of the thread that called connect.
func (c *Conn) PID() int { return int(c.call.pid) }

// Own reports whether [Conn.Through] can be used: it needs a socket that blocks.
// Others have been told that their connection is in progress.
func (c *Conn) Own() bool { return c.held == nil && !c.socket.nonblocking() }

// Accept tells the program that it is connected, and returns the other end of
// its connection. The program's getpeername gives an address of loopback.
func (c *Conn) Accept() (*net.TCPConn, error) {
	if c.done || c.held == nil && c.call.answered.Load() {
		return nil, errGone
	}
	if c.held != nil {
		conn, err := c.held.open()
		if err != nil {
			c.Reject(err)
			return nil, fmt.Errorf("open a connection to the program: %w", err)
		}
		c.done = true
		return conn, nil
	}
	conn, err := join(c.socket, loopback(c.dest.Addr()))
	if err != nil {
		c.Reject(err)
		return nil, fmt.Errorf("connect the program's socket to ours: %w", err)
	}
	if !c.Keep() {
		conn.Close()
		c.socket.disconnect()
		return nil, errGone
	}
	return conn, nil
}

// Keep tells the program that it is connected by what [Conn.Through] did. It
// reports false if the program waits no longer.
func (c *Conn) Keep() bool {
	c.done = true
	return c.call.fail(0)
}

// Reject tells the program why it is not connected. See [Errno]. What is in
// progress can only be refused, or run out of time.
func (c *Conn) Reject(reason error) {
	if c.done {
		return
	}
	c.done = true
	errno := Errno(reason)
	switch {
	case c.held == nil:
		if state := c.socket.state(); state != tcpClose { // Through was here
			c.socket.disconnect()
		}
		if c.signal.Load() {
			// If connect is not made again, the program looks with
			// poll and SO_ERROR how it went.
			c.socket.fault()
			errno = errRestart
		}
		c.call.fail(errno)
	case c.held.far < 0: // it failed to open
		c.socket.disconnect()
	case errno == unix.ETIMEDOUT:
		c.held.expire()
	default:
		c.held.refuse()
	}
}

// end gives back what the Conn has.
func (c *Conn) end() { c.socket.close() }

// hold answers that the connection is in progress.
func (c *Conn) hold() error {
	h, err := hold(c.socket, loopback(c.dest.Addr()))
	if err != nil {
		return err
	}
	c.held = h
	c.call.fail(unix.EINPROGRESS)
	return nil
}

// patience is how long a caller waits before we look whether it still does.
const patience = 100 * time.Millisecond

// watch cancels when the caller is killed or has a signal to handle, which ends
// its call. It ends when stop is called.
func (c *Conn) watch(cancel context.CancelCauseFunc) (stop func()) {
	if c.held != nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if c.call.interrupted(quit, &c.signal) {
			cancel(errGone)
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// interrupted waits until the caller is killed or has a signal to handle, which
// it notes, and reports true then, or until there is an answer or quit is closed.
func (c *call) interrupted(quit <-chan struct{}, signal *atomic.Bool) bool {
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return false
		case <-tick.C:
		}
		switch {
		case c.answered.Load():
			return false
		case !c.valid():
			return !c.answered.Load()
		case c.signalled():
			signal.Store(true)
			return true
		}
	}
}

// join connects a socket of the program to ourselves and returns our end.
func join(k *socket, lo netip.Addr) (*net.TCPConn, error) {
	ln, at, err := farSocket(netip.AddrPortFrom(lo, 0))
	if err != nil {
		return nil, err
	}
	defer unix.Close(ln)
	if err := unix.Listen(ln, 16); err != nil {
		return nil, err
	}
	if err := k.connect(at); err != unix.Errno(0) && err != unix.EINPROGRESS {
		return nil, err
	}
	fd, err := acceptFrom(ln, func() (netip.AddrPort, error) {
		local, err := k.localAddr()
		return seenFrom(lo, local), err
	})
	if err != nil {
		k.disconnect()
		return nil, err
	}
	return tcpConn(fd)
}

// acceptFrom accepts the connection of one peer. Anybody on this host may
// connect, but not from that peer's port.
func acceptFrom(ln int, peer func() (netip.AddrPort, error)) (int, error) {
	want, err := peer()
	if err != nil {
		return -1, err
	}
	for {
		fd, from, err := unix.Accept4(ln, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case err == nil && addrPort(from) == want:
			return fd, nil
		case err == nil:
			unix.Close(fd)
		case err == unix.EAGAIN:
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(ln), Events: unix.POLLIN}}, 1000)
			if n == 0 && err == nil {
				return -1, unix.ETIMEDOUT
			}
		case err != unix.EINTR && err != unix.ECONNABORTED:
			return -1, err
		}
	}
}

// Through connects the program's own socket to a proxy, and returns it for the
// handshake: nothing has to be relayed when [Conn.Keep] has told the program. The
// connection that it returns is only for the handshake, by one goroutine.
// Closing it does not close the program's. It returns [errors.ErrUnsupported]
// if this socket cannot be connected to that proxy.
func (c *Conn) Through(ctx context.Context, proxy netip.AddrPort) (net.Conn, error) {
	if !c.Own() || !c.reaches(proxy.Addr()) {
		return nil, errors.ErrUnsupported
	}
	if err := c.socket.connectUntil(ctx, proxy); !errors.Is(err, unix.Errno(0)) {
		return nil, fmt.Errorf("connect to %v: %w", proxy, err)
	}
	return newOwnConn(c.socket.fd)
}

// reaches reports whether a socket of this family, bound as it is, can be
// connected to ip.
func (c *Conn) reaches(ip netip.Addr) bool {
	ip = ip.Unmap()
	if c.socket.domain == unix.AF_INET && !ip.Is4() {
		return false
	}
	local, err := c.socket.localAddr()
	if err != nil {
		return false
	}
	if c.socket.domain == unix.AF_INET6 && ip.Is4() {
		only, err := unix.GetsockoptInt(c.socket.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil || only != 0 {
			return false
		}
	}
	if local.Addr().IsUnspecified() {
		return true
	}
	return local.Addr().Is4() == ip.Is4() && (!local.Addr().IsLoopback() || ip.IsLoopback())
}
