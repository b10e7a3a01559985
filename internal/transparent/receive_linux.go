package transparent

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	receiveBatch = 16
	maxPayload   = 1 << 16 // a byte more than the longest, so that one cut short can be told
	controlSize  = 128     // for one IP_ORIGDSTADDR or IPV6_ORIGDSTADDR, and others unasked for
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// batchReader reads datagrams with their destinations, many in one system call.
type batchReader struct {
	raw     syscall.RawConn
	handle  func([]packet)
	step    func(fd uintptr) bool // recv, made once
	hdrs    [receiveBatch]mmsghdr
	iovs    [receiveBatch]unix.Iovec
	names   [receiveBatch][unix.SizeofSockaddrInet6]byte
	control [receiveBatch][controlSize]byte
	packets [receiveBatch]packet
	buf     []byte
	n       int
	errno   syscall.Errno
}

// receiver returns a function that waits for datagrams on a socket of
// [ListenUDP] and hands those that are there to handle. They are valid until
// it returns.
func receiver(conn *net.UDPConn, handle func([]packet)) (func() error, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &batchReader{raw: raw, handle: handle, buf: make([]byte, receiveBatch*maxPayload)}
	r.step = r.recv
	for i := range r.hdrs {
		r.iovs[i].Base = &r.buf[i*maxPayload]
		r.iovs[i].SetLen(maxPayload)
	}
	return r.read, nil
}

func (r *batchReader) read() error {
	if err := r.raw.Read(r.step); err != nil {
		return err
	}
	switch r.errno {
	case 0:
	case unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.EBADF, unix.ENOTSOCK:
		return os.NewSyscallError("recvmmsg", r.errno) // it would never end
	default:
		return nil // an error of one datagram, now consumed
	}
	n := 0
	for i := range r.n {
		if p, ok := r.packet(i); ok {
			r.packets[n] = p
			n++
		}
	}
	r.handle(r.packets[:n])
	return nil
}

// packet returns what was read; what has no destination goes to none.
func (r *batchReader) packet(i int) (p packet, ok bool) {
	h := &r.hdrs[i]
	if h.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return p, false
	}
	p.src, ok = parseSockaddr(r.names[i][:min(int(h.hdr.Namelen), unix.SizeofSockaddrInet6)])
	p.dst, _ = parseControl(r.control[i][:min(int(h.hdr.Controllen), controlSize)])
	p.payload = r.buf[i*maxPayload:][:h.len]
	return p, ok
}

func (r *batchReader) recv(fd uintptr) bool {
	for i := range r.hdrs {
		h := &r.hdrs[i].hdr
		*h = unix.Msghdr{
			Name: &r.names[i][0], Namelen: unix.SizeofSockaddrInet6,
			Iov: &r.iovs[i], Control: &r.control[i][0],
		}
		h.SetIovlen(1)
		h.SetControllen(controlSize)
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.hdrs[0])), receiveBatch, unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			r.n, r.errno = int(n), errno
			return errno != unix.EAGAIN
		}
	}
}

// parseControl finds the original destination among control messages.
func parseControl(b []byte) (netip.AddrPort, bool) {
	const header = unix.SizeofCmsghdr
	for len(b) >= header {
		size := wordOf(b)
		if size < header || size > uint64(len(b)) {
			break
		}
		kind := b[header-8 : header] // level and type
		level, typ := binary.NativeEndian.Uint32(kind), binary.NativeEndian.Uint32(kind[4:])
		if level == unix.SOL_IP && typ == unix.IP_ORIGDSTADDR || level == unix.SOL_IPV6 && typ == unix.IPV6_ORIGDSTADDR {
			return parseSockaddr(b[header:size])
		}
		b = b[min((int(size)+unix.SizeofPtr-1)&^(unix.SizeofPtr-1), len(b)):]
	}
	return netip.AddrPort{}, false
}

// wordOf reads cmsg_len, a size_t.
func wordOf(b []byte) uint64 {
	if unix.SizeofPtr == 4 {
		return uint64(binary.NativeEndian.Uint32(b))
	}
	return binary.NativeEndian.Uint64(b)
}
