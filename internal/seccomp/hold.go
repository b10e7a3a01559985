//go:build linux

package seccomp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// held is a connection of the program to ourselves whose handshake stands
// still: the program's socket is in SYN-SENT, and nothing tells the program
// more than that, until the connection is opened or refused.
//
// The far end is a socket that had sent a SYN of its own before (RFC 9293,
// section 3.5, figure 8: simultaneous synchronization). It has the program's
// SYN and is in SYN-RECEIVED; a filter on the program's socket drops its
// SYN-ACK. When it is closed it sends a reset that the program's socket takes
// for an answer to its SYN: connection refused. To open the connection another
// socket sends its SYN from the same port, which the program's socket, still in
// SYN-SENT, answers.
type held struct {
	program *socket
	far     int            // in SYN-RECEIVED
	farAddr netip.AddrPort // of far
	addr    netip.AddrPort // of the program's socket, as far sees it
}

// errNotHeld says that the program's socket is as it was.
var errNotHeld = errors.New("SYNs did not cross")

// Filters of segments: what they look at is the byte of flags of TCP.
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

func segments(test ...unix.SockFilter) []unix.SockFilter {
	f := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13}}
	return append(f, test...)
}

// onlyReset drops everything but resets.
func onlyReset() []unix.SockFilter { return segments(has(flagRST, 1, 0), ret(0), ret(1<<18)) }

// noReset drops resets.
func noReset() []unix.SockFilter { return segments(has(flagRST, 0, 1), ret(0), ret(1<<18)) }

// onlySyn drops everything but a SYN that acknowledges nothing.
func onlySyn() []unix.SockFilter {
	return segments(has(flagRST|flagACK, 1, 0), has(flagSYN, 1, 0), ret(0), ret(1<<18))
}

func attach(fd int, f []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
}

func detach(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) }

// hold connects a non-blocking socket of the program to ourselves, and holds
// the handshake. lo is the loopback address of the destination's family.
func hold(k *socket, lo netip.Addr) (*held, error) {
	local, err := boundAddr(k, lo)
	if err != nil {
		return nil, err
	}
	h := &held{program: k, addr: seenFrom(lo, local)}
	if h.far, h.farAddr, err = farSocket(netip.AddrPortFrom(lo, 0)); err != nil {
		return nil, err
	}
	if err := h.cross(); err != nil {
		detach(k.fd)
		unix.Close(h.far)
		return nil, err
	}
	return h, nil
}

// cross lets the SYNs of both cross.
func (h *held) cross() error {
	if err := attach(h.far, onlySyn()); err != nil {
		return err
	}
	far := &socket{fd: h.far, domain: domainOf(h.addr)}
	if err := far.connect(h.addr); err != unix.EINPROGRESS {
		return fmt.Errorf("%w: connect to the program's socket: %w", errNotHeld, err)
	}
	if err := attach(h.program.fd, onlyReset()); err != nil {
		return err
	}
	if err := h.program.connect(h.farAddr); err != unix.EINPROGRESS {
		return err
	}
	if ours, theirs := tcpState(h.far), h.program.state(); ours != tcpSynRecv || theirs != tcpSynSent {
		h.program.disconnect()
		return fmt.Errorf("%w: states %d and %d", errNotHeld, ours, theirs)
	}
	return nil
}

// open lets the handshake end, and returns our end of the connection.
func (h *held) open() (*net.TCPConn, error) {
	fd, _, err := farSocket(h.farAddr)
	if err != nil {
		return nil, err
	}
	if err := attach(h.program.fd, noReset()); err != nil {
		unix.Close(fd)
		return nil, err
	}
	reset(h.far)
	h.far = -1
	k := &socket{fd: fd, domain: domainOf(h.addr)}
	if err := k.connect(h.addr); err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, err
	}
	defer detach(h.program.fd)
	return tcpConn(fd)
}

// refuse makes the program's connect fail with ECONNREFUSED.
func (h *held) refuse() {
	reset(h.far)
	h.far = -1
	detach(h.program.fd)
}

// expire makes it fail with ETIMEDOUT, when the kernel next sends the SYN again.
func (h *held) expire() {
	_ = unix.SetsockoptInt(h.program.fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1)
	unix.Close(h.far)
	h.far = -1
}

// boundAddr returns where the program's socket is bound, and binds it if it is
// not: the far socket must know before there is a SYN.
func boundAddr(k *socket, lo netip.Addr) (netip.AddrPort, error) {
	local, err := k.localAddr()
	if err != nil || local.Port() != 0 {
		return local, err
	}
	if local.Addr().IsUnspecified() {
		local = netip.AddrPortFrom(lo, 0)
	}
	if err := unix.Bind(k.fd, sockaddr(k.domain, local)); err != nil {
		return local, err
	}
	return k.localAddr()
}

func domainOf(a netip.AddrPort) int {
	if a.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// farSocket returns a non-blocking socket that is bound to a. Several may be, as
// long as none listens.
func farSocket(a netip.AddrPort) (int, netip.AddrPort, error) {
	fd, err := unix.Socket(domainOf(a), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, a, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err = unix.Bind(fd, sockaddr(domainOf(a), a)); err == nil {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(fd); err == nil {
			return fd, addrPort(sa), nil
		}
	}
	unix.Close(fd)
	return -1, a, err
}

// reset closes a socket with a reset.
func reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// tcpConn makes a connection of a non-blocking descriptor, which it takes over.
func tcpConn(fd int) (*net.TCPConn, error) {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, errors.New("not a TCP connection")
	}
	return tcp, nil
}

// tryHold says whether connects can be held here: it does so once with a socket
// of our own, and opens it.
func tryHold() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	k := &socket{fd: fd, domain: unix.AF_INET, kind: unix.SOCK_STREAM}
	defer k.close()
	h, err := hold(k, loopback(netip.IPv4Unspecified()))
	if err != nil {
		return err
	}
	conn, err := h.open()
	if err != nil {
		return err
	}
	defer conn.Close()
	if state := k.state(); state != tcpEstablished {
		return fmt.Errorf("opened connection: state %d", state)
	}
	return nil
}
