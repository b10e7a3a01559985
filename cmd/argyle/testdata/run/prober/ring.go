package main

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendmmsg sends to a port by the call that sends several.
func sendmmsg(port int) error {
	return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
		type message struct {
			header unix.Msghdr
			length uint32
			_      uint32
		}
		text, dest := []byte("probe"), rawAddr(port)
		part := unix.Iovec{Base: &text[0], Len: uint64(len(text))}
		one := message{header: unix.Msghdr{Name: &dest[0], Namelen: uint32(len(dest)), Iov: &part, Iovlen: 1}}
		_, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&one)), 1, 0, 0, 0)
		runtime.KeepAlive(&dest)
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// rawAddr is the target as the kernel has it.
func rawAddr(port int) *[16]byte {
	addr := &[16]byte{0: unix.AF_INET}
	binary.BigEndian.PutUint16(addr[2:], uint16(port))
	copy(addr[4:], target4[:])
	return addr
}

// Opcodes of io_uring.
const (
	opSendmsg = 9
	opConnect = 16
)

func ringConnect(port int) error {
	return with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) error {
		dest := rawAddr(port)
		defer runtime.KeepAlive(dest)
		return ring(func(entry []byte) {
			entry[0] = opConnect
			binary.NativeEndian.PutUint32(entry[4:], uint32(fd))
			binary.NativeEndian.PutUint64(entry[8:], uint64(len(dest)))
			binary.NativeEndian.PutUint64(entry[16:], uint64(uintptr(unsafe.Pointer(dest))))
		})
	})
}

func ringSend(port int) error {
	return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
		dest, text := rawAddr(port), []byte("probe")
		part := &unix.Iovec{Base: &text[0], Len: uint64(len(text))}
		message := &unix.Msghdr{Name: &dest[0], Namelen: uint32(len(dest)), Iov: part, Iovlen: 1}
		var pin runtime.Pinner
		pin.Pin(message)
		pin.Pin(part)
		pin.Pin(dest)
		pin.Pin(&text[0])
		defer pin.Unpin()
		return ring(func(entry []byte) {
			entry[0] = opSendmsg
			binary.NativeEndian.PutUint32(entry[4:], uint32(fd))
			binary.NativeEndian.PutUint64(entry[16:], uint64(uintptr(unsafe.Pointer(message))))
			binary.NativeEndian.PutUint32(entry[24:], 1)
		})
	})
}

// ringParams is struct io_uring_params: sizes, features, and where in the
// memory that is shared the rings are.
type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sqHead, sqTail, sqMask, sqSize, sqFlags, sqDropped, sqArray, _         uint32
	_                                                                      uint64
	cqHead, cqTail, cqMask, cqSize, cqOverflow, cqEntriesAt, cqFlags, _    uint32
	_                                                                      uint64
}

// ring has the kernel do one thing by io_uring.
func ring(fill func(entry []byte)) error {
	var p ringParams
	number, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	fd := int(number)
	defer unix.Close(fd)
	const offsetRing, offsetEntries = 0, 0x10000000
	size := max(int(p.sqArray+p.sqEntries*4), int(p.cqEntriesAt+p.cqEntries*16))
	rings, err := unix.Mmap(fd, offsetRing, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(rings) }()
	entries, err := unix.Mmap(fd, offsetEntries, int(p.sqEntries)*64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(entries) }()
	fill(entries[:64])
	binary.NativeEndian.PutUint32(rings[p.sqArray:], 0)
	binary.NativeEndian.PutUint32(rings[p.sqTail:], 1) // the kernel looks when it is told to
	const getEvents = 1
	if _, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, number, 1, 1, getEvents, 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	if result := int32(binary.NativeEndian.Uint32(rings[p.cqEntriesAt+8:])); result < 0 && unix.Errno(-result) != unix.ECONNREFUSED {
		return unix.Errno(-result)
	}
	return nil
}
