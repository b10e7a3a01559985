//go:build linux

package seccomp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// defaultDials is what 0 stands for in Config.Dials.
const defaultDials = 1024

// supervisor answers the system calls of the program.
type supervisor struct {
	ctx      context.Context
	listener *listener
	connect  func(context.Context, *Conn)
	local    func(netip.AddrPort) bool
	refuse   []string
	log      *slog.Logger
	dials    chan struct{} // has an element for each Connect that runs
	udp      *associations

	netns  string // of ours, as /proc/self/ns/net names it
	cookie uint64 // the same, as SO_NETNS_COOKIE says
	holds  bool   // whether connects can be held here

	numbers sync.Mutex // held while a socket for datagrams gets its number
	calls   sync.WaitGroup
}

func newSupervisor(ctx context.Context, config *Config, l *listener) *supervisor {
	s := &supervisor{
		ctx: ctx, listener: l,
		connect: config.Connect, local: config.Local, refuse: config.Refuse, log: config.Log,
	}
	if s.local == nil {
		s.local = isLocal
	}
	if s.refuse == nil {
		s.refuse = Resolvers()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	dials := config.Dials
	if dials <= 0 {
		dials = defaultDials
	}
	s.dials = make(chan struct{}, dials)
	s.udp = newAssociations(ctx, config)
	s.netns, _ = os.Readlink("/proc/self/ns/net")
	s.cookie = ownCookie()
	if err := tryHold(); err != nil {
		s.log.Debug("connects of non-blocking sockets wait for the proxy", "err", err)
	} else {
		s.holds = true
	}
	return s
}

// run serves until no task is left or the listener is closed.
func (s *supervisor) run() {
	for {
		n, err := s.listener.receive()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				s.log.Debug("receive a notification", "err", err)
			}
			return
		}
		if n == nil {
			continue
		}
		s.calls.Go(func() { s.serve(&call{notification: n, listener: s.listener}) })
	}
}

// wait waits for everything that was begun.
func (s *supervisor) wait() {
	s.calls.Wait()
	s.udp.wait()
}

// serve answers one call. What it does not answer gets EPERM.
func (s *supervisor) serve(c *call) {
	defer c.fail(unix.EPERM)
	var err error
	switch c.nr {
	case unix.SYS_CONNECT:
		err = s.serveConnect(c)
	case unix.SYS_SOCKET:
		err = s.serveSocket(c)
	case unix.SYS_SENDTO:
		err = s.serveSendto(c)
	case unix.SYS_RECVFROM:
		err = s.serveRecvfrom(c)
	case unix.SYS_SENDMSG, unix.SYS_SENDMMSG:
		err = s.serveMessages(c, s.serveSendmsg)
	case unix.SYS_RECVMSG, unix.SYS_RECVMMSG:
		err = s.serveMessages(c, s.serveRecvmsg)
	}
	if err == nil {
		return
	}
	errno := unix.EPERM
	if !errors.As(err, &errno) || errno == unix.EPERM {
		s.log.Info("system call refused: the program cannot be looked into", "pid", c.pid, "err", err)
	}
	c.fail(errno)
}

// address reads the sockaddr of a call.
func (c *call) address(pointer, length uint64) ([]byte, error) {
	n := int32(length)
	if n < 0 || n > lenLongest {
		return nil, unix.EINVAL
	}
	b := make([]byte, n)
	if err := c.read(b, pointer); err != nil {
		return nil, err
	}
	if !c.valid() {
		return nil, unix.ESRCH
	}
	return b, nil
}

// serveConnect decides about a connect by the socket rather than by the
// address, which another thread may change: sockets of IP are connected by us
// or not at all.
func (s *supervisor) serveConnect(c *call) error {
	b, err := c.address(c.args[1], c.args[2])
	if err != nil {
		return err
	}
	fd, err := c.descriptor(int(int32(c.args[0])))
	if err != nil {
		return err
	}
	k := &socket{fd: fd}
	keep := false
	defer func() {
		if !keep {
			k.close()
		}
	}()
	if err := k.look(); err != nil || !k.inet() {
		return s.connectOther(c, b)
	}
	if !s.ours(k) {
		c.proceed() // a namespace that the program made has no way out but through us
		return nil
	}
	if family(b) == unix.AF_UNSPEC {
		s.udp.forget(k)
		return k.connectRaw(b)
	}
	dest, ok := parseInet(b)
	switch {
	case !ok && family(b) != unix.AF_INET && family(b) != unix.AF_INET6:
		return unix.EAFNOSUPPORT
	case !ok:
		return unix.EINVAL
	case dest.Addr().Is6() && k.domain == unix.AF_INET, dest.Addr().Is4() && k.domain == unix.AF_INET6 && k.stream():
		return unix.EAFNOSUPPORT
	}
	if !k.stream() {
		return s.connectPacket(c, k, unmap(dest))
	}
	keep = true
	return s.connectStream(c, k, unmap(dest))
}

// connectOther lets a connect of another family pass, but not to the resolvers
// of the system.
func (s *supervisor) connectOther(c *call, b []byte) error {
	if path := unixPath(b); path != "" && s.refused(path, int(c.pid)) {
		s.log.Debug("refuse a unix socket", "path", path, "pid", c.pid)
		return unix.ECONNREFUSED
	}
	c.proceed()
	return nil
}

// refused reports whether a unix socket is one of those that the program may
// not connect to.
func (s *supervisor) refused(path string, pid int) bool {
	names := []string{path}
	if path[0] == '@' && !slices.ContainsFunc(desktop(), func(pattern string) bool {
		ok, err := filepath.Match(pattern, path)
		return ok && err == nil
	}) {
		return true // whoever listens there may be on the network
	}
	if path[0] != '@' {
		full := path
		if !filepath.IsAbs(path) {
			dir, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd")
			full = filepath.Join(dir, path)
		}
		names = []string{filepath.Clean(full)}
		if target, err := filepath.EvalSymlinks(full); err == nil {
			names = append(names, target)
		}
	}
	return slices.ContainsFunc(s.refuse, func(pattern string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			ok, err := filepath.Match(pattern, name)
			return ok && err == nil
		})
	})
}

// connectStream answers the connect of a stream socket, which it closes.
func (s *supervisor) connectStream(c *call, k *socket, dest netip.AddrPort) error {
	if state := k.state(); state != tcpClose || s.local(dest) {
		defer k.close()
		if state == tcpClose {
			return s.connectLocal(c, k, dest)
		}
		// In progress, or done, or listening: the kernel says which, and
		// does not look where to. The own address would do no harm.
		return k.connect(netip.AddrPortFrom(loopback(dest.Addr()), 9))
	}
	if err := k.prepare(); err != nil {
		k.close()
		return err
	}
	conn := &Conn{call: c, socket: k, dest: dest}
	defer conn.end()
	if err := s.holdIfAsync(conn); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	defer conn.watch(cancel)()
	select {
	case s.dials <- struct{}{}:
		defer func() { <-s.dials }()
		s.connect(ctx, conn)
	case <-ctx.Done():
	}
	conn.Reject(context.Cause(ctx))
	return nil
}

// connectLocal answers the connect to this host itself, for as long as the program
// waits for it.
func (s *supervisor) connectLocal(c *call, k *socket, dest netip.AddrPort) error {
	// A device that the program has bound it to could take it off this host.
	if err := k.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	conn := &Conn{call: c, socket: k, dest: dest}
	defer conn.watch(cancel)()
	err := k.connectUntil(ctx, dest)
	if conn.signal.Load() {
		conn.Reject(err)
		return nil
	}
	return err
}

// holdIfAsync lets the program go on if its socket is a non-blocking one.
func (s *supervisor) holdIfAsync(conn *Conn) error {
	if !s.holds || !conn.socket.nonblocking() {
		return nil
	}
	err := conn.hold()
	if errors.Is(err, errNotHeld) {
		s.log.Debug("let the program wait", "dest", conn.dest, "err", err)
		return nil
	}
	return err
}

// serveSocket makes a socket for datagrams that the kernel keeps on the loopback
// device. Only somebody with privileges may take it from there (socket(7),
// SO_BINDTODEVICE).
func (s *supervisor) serveSocket(c *call) error {
	netns, err := os.Readlink("/proc/" + strconv.Itoa(int(c.pid)) + "/ns/net")
	if err != nil {
		return unix.EPERM
	}
	if !c.valid() {
		return unix.ESRCH
	}
	if netns != s.netns {
		c.proceed()
		return nil
	}
	kind := int(int32(c.args[1]))
	fd, err := unix.Socket(int(int32(c.args[0])), kind|unix.SOCK_CLOEXEC, int(int32(c.args[2])))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := confine(fd); err != nil {
		return err
	}
	s.numbers.Lock()
	defer s.numbers.Unlock()
	c.give(fd, packetFD(int(c.pid)), uint32(kind&unix.SOCK_CLOEXEC))
	return nil
}

// confine binds a socket to the loopback device.
func confine(fd int) error { return unix.BindToDevice(fd, "lo") }

// ours reports whether a socket is in our network namespace.
func (s *supervisor) ours(k *socket) bool {
	cookie, err := unix.GetsockoptUint64(k.fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err != nil || cookie == s.cookie
}

// ownCookie returns what sockets in our network namespace have as their cookie.
func ownCookie() uint64 {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	cookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie
}
