package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sys is what Linux adds to a socket.
type sys struct {
	raw syscall.RawConn
	v6  bool // the socket's family is AF_INET6: IPv4 addresses must be mapped

	refused atomic.Int32 // how often the system would not cut a message into datagrams
	joins   atomic.Bool  // datagrams may come as one message
	rest    rest
}

// maxRefused is how often that may be tried in vain.
const maxRefused = 8

func (s *sys) init(c *net.UDPConn) (err error) {
	if s.raw, err = c.SyscallConn(); err != nil {
		return err
	}
	var family int
	ctrlErr := s.raw.Control(func(fd uintptr) {
		family, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if _, err := unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
			s.refused.Store(maxRefused) // before Linux 4.18, which would send the whole as one datagram
		}
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

// control is a control message with the size of the datagrams that a message is
// made of: UDP_GRO on the way in, UDP_SEGMENT on the way out.
type control struct {
	hdr  unix.Cmsghdr
	size [8]byte
}

// maxSegmented is how long a message may be that the kernel is to cut, with room for
// headers.
const maxSegmented = 65000

// batch is the kernel's view of messages: of up to batchSize to be read, which may
// be several datagrams each, or of up to maxSegments datagrams to be sent. Its step
// method is made a func once, so that waiting for the socket allocates nothing.
type batch struct {
	hdrs     [maxSegments]mmsghdr
	controls [maxSegments]control
	iovs     [maxSegments][2]unix.Iovec
	names    [maxSegments]unix.RawSockaddrInet6 // large enough for IPv4 too
	msgs     [maxSegments]Message
	ends     [maxSegments]int // the datagram after those of a message to be sent

	next, n int // messages next to n are still to be sent
	done    int // datagrams before those of message next
	sent    int
	size    int64 // payload of those
	apart   bool  // the kernel would not take a message of several datagrams
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
	if !c.joins.Load() {
		c.join()
	}
	if ms := c.rest.take(); len(ms) > 0 {
		handle(ms)
		return nil
	}
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
		all, size, from := b.buf[i*maxMessage:][:b.hdrs[i].len], b.datagram(i), addrPort(&b.names[i])
		for first := true; first || len(all) > 0; first = false {
			if n == len(b.msgs) {
				handle(b.msgs[:n])
				n = 0
			}
			one := all[:min(size, len(all))]
			all = all[len(one):]
			b.msgs[n] = Message{Payload: one, Addr: from}
			n++
		}
	}
	if n > 0 {
		handle(b.msgs[:n])
	}
	return nil
}

// join has the system join datagrams of one size and sender. Older ones cannot.
func (c *Conn) join() {
	c.joins.Store(true)
	_ = c.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
}

// ReadFrom reads one datagram.
func (c *Conn) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	if !c.joins.Load() {
		return c.UDPConn.ReadFrom(b)
	}
	return c.rest.readFrom(c.ReadBatch, b)
}

// datagram returns the size of the datagrams that message i has; the last may be
// shorter.
func (b *batch) datagram(i int) int {
	c := &b.controls[i]
	told := b.hdrs[i].hdr.Controllen > 0 && c.hdr.Level == unix.SOL_UDP && c.hdr.Type == unix.UDP_GRO
	if size := int(int32(binary.NativeEndian.Uint32(c.size[:]))); told && size > 0 {
		return size
	}
	return maxMessage
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
	for i := range batchSize {
		b.iovs[i][0].Base = &b.buf[i*maxMessage]
		b.iovs[i][0].SetLen(maxMessage)
		h := &b.hdrs[i].hdr
		*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.names[i])), Namelen: unix.SizeofSockaddrInet6, Iov: &b.iovs[i][0]}
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&b.controls[i]))
		h.SetControllen(unix.CmsgSpace(4))
	}
	b.n, b.errno = mmsg(unix.SYS_RECVMMSG, fd, b.hdrs[:batchSize])
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
		n := min(len(ms), maxSegments)
		merge := c.refused.Load() < maxRefused
		b.fill(ms[:n], c.v6, merge)
		err := c.raw.Write(b.write)
		sent += b.sent
		c.sent.Add(b.size)
		if err != nil && fatal(err) {
			return sent, err
		}
		if b.apart {
			c.refused.Add(1)
		}
		ms = ms[n:]
	}
	return sent, nil
}

// fill makes messages of datagrams: with merge, one of several that have the same
// address and size, which the kernel cuts again.
func (b *batch) fill(ms []Message, v6, merge bool) {
	b.next, b.n, b.done, b.sent, b.size, b.apart = 0, 0, 0, 0, 0, false
	datagrams := 0
	var g group
	for i := range ms {
		m := &ms[i]
		size := len(m.Head) + len(m.Payload)
		more := merge && g.takes(m.Addr, size)
		if !more {
			namelen := putAddr(&b.names[b.n], m.Addr, v6)
			if namelen == 0 {
				continue // IPv6 destination on an IPv4 socket, or the reverse
			}
			h := &b.hdrs[b.n].hdr
			*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.names[b.n])), Namelen: namelen, Iov: &b.iovs[datagrams][0]}
			b.n++
			g = group{to: m.Addr, each: size}
		}
		iov := &b.iovs[datagrams]
		iov[0], iov[1] = unix.Iovec{Base: unsafe.SliceData(m.Head)}, unix.Iovec{Base: unsafe.SliceData(m.Payload)}
		iov[0].SetLen(len(m.Head))
		iov[1].SetLen(len(m.Payload))
		datagrams++
		g.add(size)
		h := &b.hdrs[b.n-1].hdr
		h.SetIovlen(2 * g.count)
		b.ends[b.n-1] = datagrams
		if g.count == 2 {
			b.segment(b.n-1, g.each)
		}
	}
}

// segment has the kernel cut message i into datagrams of a size.
func (b *batch) segment(i, size int) {
	c := &b.controls[i]
	c.hdr.Level, c.hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	c.hdr.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c.size[:], uint16(size))
	h := &b.hdrs[i].hdr
	h.Control = (*byte)(unsafe.Pointer(c))
	h.SetControllen(unix.CmsgSpace(2))
}

// group are datagrams that make one message.
type group struct {
	to     netip.AddrPort
	each   int // the size of all but the last
	count  int
	size   int
	closed bool // the last was shorter
}

// takes reports whether a datagram may be the next.
func (g *group) takes(to netip.AddrPort, size int) bool {
	return g.count > 0 && !g.closed && size > 0 && size <= g.each && g.count < maxSegments && g.size+size <= maxSegmented && to == g.to
}

func (g *group) add(size int) {
	g.count++
	g.size += size
	g.closed = size < g.each
}

// send hands the kernel the messages that are left. A datagram that it refuses
// is skipped, since sendmmsg stops at it; of several in one message each is tried by
// itself: they may be too long for the network, and will be cut into fragments.
func (b *batch) send(fd uintptr) bool {
	for b.next < b.n {
		n, errno := mmsg(unix.SYS_SENDMMSG, fd, b.hdrs[b.next:b.n])
		switch {
		case errno == 0:
			for range n {
				b.pass(true)
			}
		case errno == unix.EAGAIN:
			return false
		case b.ends[b.next]-b.done > 1:
			b.apart = true
			if !b.split(fd) {
				return false
			}
		default:
			b.pass(false)
		}
	}
	return true
}

// pass counts the message next, and goes on to the one after it.
func (b *batch) pass(sent bool) {
	end := b.ends[b.next]
	if sent {
		for _, iov := range b.iovs[b.done:end] {
			b.size += int64(iov[1].Len)
		}
		b.sent += end - b.done
	}
	b.done = end
	b.next++
}

// split sends the datagrams of the message next one by one. It reports false if the
// socket takes no more.
func (b *batch) split(fd uintptr) bool {
	h := &b.hdrs[b.next].hdr
	for end := b.ends[b.next]; b.done < end; b.done++ {
		one := mmsghdr{hdr: unix.Msghdr{Name: h.Name, Namelen: h.Namelen, Iov: &b.iovs[b.done][0]}}
		one.hdr.SetIovlen(2)
		switch _, errno := mmsg(unix.SYS_SENDMMSG, fd, []mmsghdr{one}); errno {
		case 0:
			b.size += int64(b.iovs[b.done][1].Len)
			b.sent++
		case unix.EAGAIN:
			// The rest of them is what the message has now.
			h.Iov = &b.iovs[b.done][0]
			h.SetIovlen(2 * (end - b.done))
			if end-b.done == 1 {
				h.Control = nil
				h.SetControllen(0)
			}
			return false
		}
	}
	b.next++
	return true
}

// mmsg calls recvmmsg or sendmmsg without waiting, and without telling the scheduler
// of a call that is over before it could give the processor to another goroutine:
// for that it would wake its monitor each time.
func mmsg(trap, fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
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
