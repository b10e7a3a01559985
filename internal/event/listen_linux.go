package event

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Listener accepts connections of TCP for the loops, with [Listener.AcceptTo].
//
// One loop accepts, and keeps what it accepts until it is crowded: few system
// calls and no wake-ups of others are what makes a loop cheap.
type Listener struct {
	socket
	loop   *Loop
	multi  bool // Multipath TCP, whose connections do not inherit all
	addr   net.Addr
	errs   chan error // of accepting, for AcceptTo
	closed chan struct{}

	once    sync.Once // of the first AcceptTo
	watched bool
	accept  func(net.Conn)
	paused  atomic.Bool
}

// Listen returns a [Listener] in place of a *net.TCPListener, which it closes,
// and ln itself if that is something else, or no descriptor is left.
//
// Package net would go on to be woken for every connection.
func Listen(ln net.Listener) net.Listener {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return ln
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return ln
	}
	l := &Listener{loop: allLoops()[0], addr: ln.Addr(), errs: make(chan error, 1), closed: make(chan struct{})}
	cerr := raw.Control(func(fd uintptr) {
		l.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if cerr != nil || err != nil {
		return ln
	}
	if l.loop.Wake() != nil {
		unix.Close(l.fd)
		return ln
	}
	ln.Close()
	// What connections need is inherited from the listener.
	prepare(l.fd)
	protocol, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	l.multi = err == nil && protocol == unix.IPPROTO_MPTCP
	return l
}

// Addr returns the address that it listens on.
func (ln *Listener) Addr() net.Addr { return ln.addr }

// Accept is not for a Listener, whose connections go to loops.
func (ln *Listener) Accept() (net.Conn, error) {
	return nil, ln.opError("accept", errors.ErrUnsupported)
}

func (ln *Listener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: ln.addr, Err: err}
}

// AcceptTo gives connections to f, each in the goroutine of its loop, where
// [Go] makes a task of it. It returns the error of an accept, which may pass:
// then it is called again.
func (ln *Listener) AcceptTo(f func(net.Conn)) (err error) {
	ln.once.Do(func() { err = ln.open(f) })
	if err != nil {
		return err
	}
	if ln.paused.Swap(false) {
		ln.loop.Post(func() { ln.ready(ln.loop, 0) })
	}
	select {
	case err := <-ln.errs:
		return err
	case <-ln.closed:
		return ln.opError("accept", net.ErrClosed)
	}
}

// open has the loop watch the listener.
func (ln *Listener) open(f func(net.Conn)) error {
	fd, ok := ln.acquire()
	if !ok {
		return ln.opError("accept", net.ErrClosed)
	}
	defer ln.release()
	ln.accept = f
	// Once for each time that connections have come, as that is told while a
	// pause lasts, too.
	if _, err := ln.loop.add(fd, ln, unix.EPOLLIN|unix.EPOLLET); err != nil {
		return ln.opError("accept", err)
	}
	ln.watched = true
	return nil
}

// Close stops listening.
func (ln *Listener) Close() error {
	err := ln.close(func(fd int) {
		close(ln.closed)
		if ln.watched {
			// Another process may hold the socket too, as systemd does:
			// then closing it would not end the watch.
			ln.loop.unwatch(fd)
		}
		ln.loop.Sleep()
	})
	if err != nil {
		return ln.opError("close", err)
	}
	return nil
}

// SyscallConn gives the descriptor to functions; Control only.
func (ln *Listener) SyscallConn() (syscall.RawConn, error) { return rawListener{ln}, nil }

type rawListener struct{ ln *Listener }

func (r rawListener) Control(f func(fd uintptr)) error {
	fd, ok := r.ln.acquire()
	if !ok {
		return r.ln.opError("raw-control", net.ErrClosed)
	}
	defer r.ln.release()
	f(uintptr(fd))
	return nil
}

func (rawListener) Read(func(fd uintptr) bool) error  { return syscall.EINVAL }
func (rawListener) Write(func(fd uintptr) bool) error { return syscall.EINVAL }

// ready accepts what waits.
func (ln *Listener) ready(*Loop, uint32) {
	for range batch {
		if ln.paused.Load() {
			return
		}
		fd, ok := ln.acquire()
		if !ok {
			return
		}
		conn, from, err := accept(fd)
		ln.release() // before others are called, who may wait for a Close
		switch err {
		case nil:
			ln.start(conn, from)
		case unix.EAGAIN:
			return
		case unix.ECONNABORTED, unix.EINTR:
		default:
			ln.pause(os.NewSyscallError("accept4", err))
		}
	}
	ln.loop.Post(func() { ln.ready(ln.loop, 0) })
}

// start gives a connection to a loop.
func (ln *Listener) start(fd int, from netip.AddrPort) {
	if ln.multi {
		inlineUrgent(fd)
	}
	to := ln.loop.lighter()
	c, err := newConn(to, fd, nil)
	if err != nil {
		ln.pause(err)
		return
	}
	c.remote = from
	if to == ln.loop {
		ln.accept(c)
		return
	}
	to.Post(func() { ln.accept(c) })
}

// pause stops accepting until AcceptTo is called again.
func (ln *Listener) pause(err error) {
	ln.paused.Store(true)
	ln.errs <- ln.opError("accept", err) // it has room: AcceptTo empties it before a pause ends
}

// Go runs f as a task of conn's loop if it has one, and is called in its
// goroutine, as by [Listener.AcceptTo]; else in a goroutine of its own, with nil.
func Go(conn net.Conn, f func(*Task)) {
	c, ok := conn.(*Conn)
	if !ok {
		go f(nil)
		return
	}
	c.Loop().spawn(func(t *Task) {
		c.task = t
		f(t)
	})
}

// accept is accept4 without allocation.
func accept(listener int) (fd int, from netip.AddrPort, err error) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, from, errno
	}
	return int(n), addrPort(&sa), nil
}

// localAddr is getsockname without allocation.
func localAddr(fd int) (a netip.AddrPort) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return a
	}
	return addrPort(&sa)
}

// addrPort reads a kernel's address.
func addrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), ntohs(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		ip := netip.AddrFrom16(in.Addr)
		if in.Scope_id != 0 && !ip.Is4In6() {
			ip = ip.WithZone(zone(in.Scope_id))
		}
		return netip.AddrPortFrom(ip.Unmap(), ntohs(in.Port))
	}
	return netip.AddrPort{}
}

func zone(index uint32) string {
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return ifi.Name
	}
	return ""
}

// ntohs turns the order of bytes of the network into ours, and back.
func ntohs(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// prepare sets what a connection of ours needs from its beginning.
func prepare(fd int) {
	switchOn(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	inlineUrgent(fd)
}

// inlineUrgent has urgent data (telnet's and FTP's interrupts) stay in the stream,
// where it would be lost otherwise.
func inlineUrgent(fd int) { switchOn(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE) }

func switchOn(fd, level, option int) {
	on := int32(1)
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&on)), unsafe.Sizeof(on), 0)
}
