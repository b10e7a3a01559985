package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sys is what Linux adds to a socket.
type sys struct {
	raw syscall.RawConn
	v6  bool // the socket's family is AF_INET6: IPv4 addresses must be mapped
}

func (s *sys) init(c *net.UDPConn) (err error) {
	if s.raw, err = c.SyscallConn(); err != nil {
		return err
	}
	var family int
	ctrlErr := s.raw.Control(func(fd uintptr) {
		family, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
	})
	s.v6 = family == unix.AF_INET6
	if ctrlErr != nil {
		return ctrlErr
	}
	return err
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// batch is the kernel's view of up to batchSize messages. Its step method is
// made a func once, so that waiting for the socket allocates nothing.
type batch struct {
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize][2]unix.Iovec
	names [batchSize]unix.RawSockaddrInet6 // large enough for IPv4 too
	msgs  [batchSize]Message

	next, n int // messages next to n are still to be sent
	sent    int
	size    int64 // payload of those
	errno   syscall.Errno
	buf     *[batchSize * maxMessage]byte

	read, write func(fd uintptr) bool
}

var batches = sync.Pool{New: func() any {
	b := new(batch)
	b.read, b.write = b.recv, b.send
	return b
}}

// ReadBatch waits for datagrams and hands those that are there to handle.
// They are valid until it returns. Only one ReadBatch may run at a time.
func (c *Conn) ReadBatch(handle func([]Message)) error {
	b := batches.Get().(*batch)
	defer batches.Put(b)
	err := c.raw.Read(b.read)
	if b.buf != nil {
		defer b.release()
	}
	switch {
	case err != nil && fatal(err):
		return err
	case b.errno == unix.ENOSYS || b.errno == unix.EPERM || b.errno == unix.EINVAL:
		return os.NewSyscallError("recvmmsg", b.errno) // it would never end
	case err != nil || b.errno != 0:
		return nil // an error of one datagram, now consumed
	}
	n := 0
	for i := range b.n {
		if b.hdrs[i].hdr.Flags&unix.MSG_TRUNC != 0 {
			continue
		}
		b.msgs[n] = Message{
			Payload: b.buf[i*maxMessage:][:b.hdrs[i].len],
			Addr:    addrPort(&b.names[i]),
		}
		n++
	}
	if n > 0 {
		handle(b.msgs[:n])
	}
	return nil
}

// release gives the buffer back and forgets it, wherever b points to it: one
// pointer left would keep it alive when the pool drops it.
func (b *batch) release() {
	buffers.Put(b.buf)
	b.buf = nil
	clear(b.iovs[:])
	clear(b.msgs[:])
}

// recv reads what is there. It takes a buffer when the socket is ready and
// returns it when it is not, so that an idle socket holds none.
func (b *batch) recv(fd uintptr) bool {
	b.buf = buffers.Get().(*[batchSize * maxMessage]byte)
	for i := range b.hdrs {
		b.iovs[i][0].Base = &b.buf[i*maxMessage]
		b.iovs[i][0].SetLen(maxMessage)
		h := &b.hdrs[i].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.names[i])), Namelen: unix.SizeofSockaddrInet6, Iov: &b.iovs[i][0]}
		h.SetIovlen(1)
	}
	b.n, b.errno = mmsg(unix.SYS_RECVMMSG, fd, b.hdrs[:])
	if b.errno == unix.EAGAIN {
		b.release()
		return false
	}
	return true
}

// WriteBatch sends each message and says how many the system took. One that it
// refuses is dropped. It fails only on a closed socket.
func (c *Conn) WriteBatch(ms []Message) (int, error) {
	b := batches.Get().(*batch)
	// The kernel is done with the payloads then; do not keep them alive in the pool.
	defer func() {
		clear(b.iovs[:])
		batches.Put(b)
	}()
	sent := 0
	for len(ms) > 0 {
		n := min(len(ms), batchSize)
		b.fill(ms[:n], c.v6)
		err := c.raw.Write(b.write)
		sent += b.sent
		c.sent.Add(b.size)
		if err != nil && fatal(err) {
			return sent, err
		}
		ms = ms[n:]
	}
	return sent, nil
}

func (b *batch) fill(ms []Message, v6 bool) {
	b.next, b.n, b.sent, b.size = 0, 0, 0, 0
	for i := range ms {
		m := &ms[i]
		namelen := putAddr(&b.names[b.n], m.Addr, v6)
		if namelen == 0 {
			continue // IPv6 destination on an IPv4 socket, or the reverse
		}
		iov := &b.iovs[b.n]
		iov[0], iov[1] = unix.Iovec{Base: unsafe.SliceData(m.Head)}, unix.Iovec{Base: unsafe.SliceData(m.Payload)}
		iov[0].SetLen(len(m.Head))
		iov[1].SetLen(len(m.Payload))
		h := &b.hdrs[b.n].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.names[b.n])), Namelen: namelen, Iov: &iov[0]}
		h.SetIovlen(2)
		b.n++
	}
}

// send hands the kernel the messages that are left. A message that it refuses
// is skipped, since sendmmsg stops at it.
func (b *batch) send(fd uintptr) bool {
	for b.next < b.n {
		n, errno := mmsg(unix.SYS_SENDMMSG, fd, b.hdrs[b.next:b.n])
		switch errno {
		case 0:
			for i := range n {
				b.size += int64(b.iovs[b.next+i][1].Len)
			}
			b.next += n
			b.sent += n
		case unix.EAGAIN:
			return false
		default:
			b.next++
		}
	}
	return true
}

// mmsg calls recvmmsg or sendmmsg without waiting.
func mmsg(trap, fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// putAddr writes a socket address and returns its length, or 0 if the socket
// cannot send there.
func putAddr(sa *unix.RawSockaddrInet6, ap netip.AddrPort, v6 bool) uint32 {
	ip := ap.Addr()
	if !v6 {
		if !ip.Unmap().Is4() {
			return 0
		}
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		*sa4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ip.Unmap().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa4.Port))[:], ap.Port())
		return unix.SizeofSockaddrInet4
	}
	if !ip.IsValid() {
		return 0
	}
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: ip.As16(), Scope_id: scope(ip.Zone())}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], ap.Port())
	return unix.SizeofSockaddrInet6
}

// addrPort reads a socket address that the kernel wrote.
func addrPort(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:])
	if sa.Family == unix.AF_INET {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), port)
	}
	ip := netip.AddrFrom16(sa.Addr).Unmap()
	if sa.Scope_id != 0 {
		ip = ip.WithZone(strconv.FormatUint(uint64(sa.Scope_id), 10))
	}
	return netip.AddrPortFrom(ip, port)
}

// scope returns the interface number of a zone, which is a number or a name.
func scope(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}
