//go:build linux

package seccomp

import (
	"context"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// States of TCP, as the kernel numbers them.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
	tcpClose       = 7
)

// socket is our duplicate of a socket of the program.
type socket struct {
	fd     int
	domain int
	kind   int
}

func (k *socket) close() {
	if k.fd >= 0 {
		unix.Close(k.fd)
		k.fd = -1
	}
}

// look finds out what it is.
func (k *socket) look() (err error) {
	if k.domain, err = unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return err
	}
	k.kind, err = unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err
}

func (k *socket) inet() bool   { return k.domain == unix.AF_INET || k.domain == unix.AF_INET6 }
func (k *socket) stream() bool { return k.kind == unix.SOCK_STREAM }

// nonblocking reports whether the program has set O_NONBLOCK, which is of the
// open file and thus of our descriptor too.
func (k *socket) nonblocking() bool {
	flags, err := unix.FcntlInt(uintptr(k.fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK != 0
}

// state returns the state of TCP. What is not TCP has none: it stands for a
// socket that nothing can be done with.
func (k *socket) state() uint8 { return tcpState(k.fd) }

func tcpState(fd int) uint8 {
	var info [8]byte
	n := uint32(len(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0
	}
	return info[0]
}

// prepare undoes what would keep a fresh stream socket from connecting here.
func (k *socket) prepare() error {
	detach(k.fd)
	if fault, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && fault != 0 {
		k.disconnect() // of a connect that a signal has ended
	}
	// With it connect would do nothing until there is something to send.
	_ = unix.SetsockoptInt(k.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 0)
	device, err := unix.GetsockoptString(k.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	if err == nil && device != "" && device != "lo" {
		return unix.ENETUNREACH // it cannot reach the loopback device, and we may not unbind it
	}
	return nil
}

// connect connects it to a. It blocks as the program's own call would.
func (k *socket) connect(a netip.AddrPort) error {
	return k.connectRaw(appendInet(nil, k.domain, a))
}

// connectUntil is connect, until ctx ends: the error is its cause then.
func (k *socket) connectUntil(ctx context.Context, a netip.AddrPort) error {
	// The program's socket blocks us. Shutting it down ends that.
	done, cut := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		for { // it may not have begun
			_ = unix.Shutdown(k.fd, unix.SHUT_RDWR)
			select {
			case <-done:
				return
			case <-time.After(patience):
			}
		}
	})
	err := k.connect(a)
	close(done)
	if !stop() {
		<-cut
		k.disconnect()
		return context.Cause(ctx)
	}
	return err
}

// fault leaves an error in the socket that poll and SO_ERROR show.
func (k *socket) fault() {
	flags, err := unix.FcntlInt(uintptr(k.fd), unix.F_GETFL, 0)
	if err != nil {
		return
	}
	lo := loopback(netip.IPv6Unspecified())
	if k.domain == unix.AF_INET {
		lo = loopback(netip.IPv4Unspecified())
	}
	nobody, at, err := farSocket(netip.AddrPortFrom(lo, 0)) // it does not listen
	if err != nil {
		return
	}
	defer unix.Close(nobody)
	_, _ = unix.FcntlInt(uintptr(k.fd), unix.F_SETFL, flags|unix.O_NONBLOCK)
	_ = k.connect(at)
	_, _ = unix.FcntlInt(uintptr(k.fd), unix.F_SETFL, flags)
}

// connectRaw is connect with a struct sockaddr as the program gave it.
func (k *socket) connectRaw(b []byte) error {
	var p unsafe.Pointer
	if len(b) > 0 {
		p = unsafe.Pointer(&b[0])
	}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(k.fd), uintptr(p), uintptr(len(b)))
	return errno // 0 is an answer, too
}

// disconnect makes it a fresh one again.
func (k *socket) disconnect() {
	_ = k.connectRaw(make([]byte, lenInet4)) // AF_UNSPEC
	_, _ = unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR)
}

// localAddr returns where it is bound; the port is 0 if it is not.
func (k *socket) localAddr() (netip.AddrPort, error) {
	sa, err := unix.Getsockname(k.fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrPort(sa), nil
}

// seenFrom returns the address by which a socket that is bound to local is
// reached from the loopback address lo.
func seenFrom(lo netip.Addr, local netip.AddrPort) netip.AddrPort {
	if local.Addr().IsUnspecified() {
		return netip.AddrPortFrom(lo, local.Port())
	}
	return local
}

// inode identifies the socket.
func (k *socket) inode() (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(k.fd, &st)
	return st.Ino, err
}
