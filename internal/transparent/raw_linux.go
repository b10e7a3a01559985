package transparent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// A RawSender sends datagrams from whatever address, that of another's socket on
// this host for one: a [PacketServer.Send].
type RawSender struct {
	v4, v6  int // -1 where there is no such family
	refused refusals
}

// OpenRaw opens sockets that give their packets a mark, which takes CAP_NET_RAW
// and CAP_NET_ADMIN.
func OpenRaw(mark uint32) (*RawSender, error) {
	s := &RawSender{v6: -1}
	var err error
	if s.v4, err = rawSocket(unix.AF_INET, mark); err != nil {
		return nil, err
	}
	if s.v6, err = rawSocket(unix.AF_INET6, mark); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		unix.Close(s.v4)
		return nil, err
	}
	return s, nil
}

func rawSocket(family int, mark uint32) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("setsockopt SO_MARK", err)
	}
	return fd, nil
}

// RawFiles opens such sockets as files, for a [NewRaw] elsewhere: the second is nil
// where there is no IPv6. It takes CAP_NET_RAW in this network namespace.
func RawFiles() (v4, v6 *os.File, err error) {
	for family, file := range map[int]**os.File{unix.AF_INET: &v4, unix.AF_INET6: &v6} {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
		if family == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			if v4 != nil {
				v4.Close()
			}
			if v6 != nil {
				v6.Close()
			}
			return nil, nil, os.NewSyscallError("socket", err)
		}
		*file = os.NewFile(uintptr(fd), "raw")
	}
	return v4, v6, nil
}

// NewRaw returns a sender by duplicates of sockets of RawFiles.
func NewRaw(v4, v6 *os.File) (*RawSender, error) {
	s := &RawSender{v6: -1}
	var err error
	if s.v4, err = unix.FcntlInt(v4.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if v6 != nil {
		if s.v6, err = unix.FcntlInt(v6.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			unix.Close(s.v4)
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	return s, nil
}

// Close closes the sockets. Nothing may be sent any more.
func (s *RawSender) Close() error {
	err := unix.Close(s.v4)
	if s.v6 >= 0 {
		err = errors.Join(err, unix.Close(s.v6))
	}
	return err
}

// Send sends one datagram and reports whether it has gone. One that is too long
// for the link does not go: nobody takes it to pieces.
func (s *RawSender) Send(src, dst netip.AddrPort, payload []byte) bool {
	packet, err := appendDatagram(nil, src, dst, payload)
	if err != nil {
		return false
	}
	if dst.Addr().Is4() {
		return unix.Sendto(s.v4, packet, 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()}) == nil
	}
	return s.v6 >= 0 && unix.Sendto(s.v6, packet, 0, &unix.SockaddrInet6{Addr: dst.Addr().As16()}) == nil
}

// appendDatagram appends an IP packet with a UDP datagram (RFC 768).
func appendDatagram(b []byte, src, dst netip.AddrPort, payload []byte) ([]byte, error) {
	size := 8 + len(payload)
	switch {
	case src.Addr().Is4() && dst.Addr().Is4() && 20+size <= 1<<16-1:
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+size))
		b = append(b, 0, 0, 0, 0, 64, protoUDP, 0, 0) // the system adds an identification and the checksum
	case src.Addr().Is6() && dst.Addr().Is6() && size <= 1<<16-1:
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
		b = append(b, protoUDP, 64)
	default:
		return nil, fmt.Errorf("datagram of %d bytes from %v to %v", len(payload), src, dst)
	}
	b = append(b, src.Addr().AsSlice()...)
	b = append(b, dst.Addr().AsSlice()...)
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[start+6:], udpChecksum(src.Addr(), dst.Addr(), b[start:]))
	return b, nil
}

// udpChecksum is that of RFC 768, over the pseudo header too. It is never 0,
// which would say that there is none.
func udpChecksum(src, dst netip.Addr, datagram []byte) uint16 {
	sum := uint32(protoUDP) + uint32(len(datagram))
	for _, part := range [][]byte{src.AsSlice(), dst.AsSlice(), datagram} {
		for ; len(part) >= 2; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff
	}
	return ^uint16(sum)
}
