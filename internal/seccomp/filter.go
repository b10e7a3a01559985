//go:build linux

package seccomp

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data. Both systems are little-endian: the lower
// half of an argument comes first.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// x32 is the bit in the numbers of the system calls of amd64's third ABI.
const x32 = 0x40000000

// Protocols and families that x/sys/unix has not on every system.
const (
	afXDP = 44

	mcastJoin       = 42 // MCAST_JOIN_GROUP
	mcastJoinSource = 46 // MCAST_JOIN_SOURCE_GROUP
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func errno(e unix.Errno) unix.SockFilter { return ret(unix.SECCOMP_RET_ERRNO | uint32(e)) }

func low(arg uint32) unix.SockFilter  { return load(offArgs + 8*arg) }
func high(arg uint32) unix.SockFilter { return load(offArgs + 8*arg + 4) }

// is jumps by yes or no instructions if the accumulator is k or is not.
func is(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
}

// has is like is, for any of the bits of k.
func has(k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: k, Jt: yes, Jf: no}
}

// when runs body, which must return, if the accumulator is k.
func when(k uint32, body ...unix.SockFilter) []unix.SockFilter {
	return append([]unix.SockFilter{is(k, 0, uint8(len(body)))}, body...)
}

// notFastOpen refuses the flag that connects a socket without connect: flags
// are in a register, so that nobody changes them after this look.
func notFastOpen(arg uint32) []unix.SockFilter {
	return []unix.SockFilter{low(arg), has(unix.MSG_FASTOPEN, 0, 1), errno(unix.EOPNOTSUPP)}
}

// withAddress notifies if the pointer arg is not nil.
func withAddress(arg uint32) []unix.SockFilter {
	return []unix.SockFilter{
		low(arg), is(0, 0, 2), high(arg), is(0, 1, 0),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		ret(unix.SECCOMP_RET_ALLOW),
	}
}

// ofPackets notifies if the descriptor is one of those that sockets for datagrams
// have: most messages come over unix sockets, and are none of ours.
func ofPackets() []unix.SockFilter {
	const ge = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	return []unix.SockFilter{
		low(0), {Code: ge, K: firstPacketFD, Jf: 2}, {Code: ge, K: lastPacketFD + 1, Jt: 1},
		ret(unix.SECCOMP_RET_USER_NOTIF),
		ret(unix.SECCOMP_RET_ALLOW),
	}
}

// socketCall lets TCP be made, has us make UDP, and refuses all else that sends
// packets, much as the kernel refuses it to users without privileges, and what
// reaches the host of a virtual machine. MPTCP is refused so that programs use
// TCP.
func socketCall() (f []unix.SockFilter) {
	f = append(f, low(0))
	for _, family := range []uint32{unix.AF_PACKET, afXDP} {
		f = append(f, when(family, errno(unix.EPERM))...)
	}
	for _, family := range []uint32{unix.AF_UNIX, unix.AF_NETLINK, unix.AF_ALG} { // they do not leave the host
		f = append(f, when(family, ret(unix.SECCOMP_RET_ALLOW))...)
	}
	f = append(f, is(unix.AF_INET, 2, 0), is(unix.AF_INET6, 1, 0), errno(unix.EAFNOSUPPORT))
	const kind = 0xf // the rest is SOCK_NONBLOCK and SOCK_CLOEXEC
	f = append(f, low(1), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: kind})
	f = append(f, when(unix.SOCK_STREAM, low(2),
		is(0, 2, 0), is(unix.IPPROTO_TCP, 1, 0), errno(unix.EPROTONOSUPPORT), ret(unix.SECCOMP_RET_ALLOW))...)
	f = append(f, when(unix.SOCK_DGRAM, low(2),
		is(0, 5, 0), is(unix.IPPROTO_UDP, 4, 0),
		is(unix.IPPROTO_ICMP, 2, 0), is(unix.IPPROTO_ICMPV6, 1, 0),
		errno(unix.EPROTONOSUPPORT), errno(unix.EACCES), ret(unix.SECCOMP_RET_USER_NOTIF))...)
	return append(f, errno(unix.EPERM))
}

// groupCall refuses the socket options that join a multicast group, at which the
// kernel sends reports by itself.
func groupCall() (f []unix.SockFilter) {
	f = append(f, low(1))
	for _, of := range []struct {
		level   uint32
		options []uint32
	}{
		{unix.IPPROTO_IP, []uint32{unix.IP_ADD_MEMBERSHIP, unix.IP_ADD_SOURCE_MEMBERSHIP, mcastJoin, mcastJoinSource}},
		{unix.IPPROTO_IPV6, []uint32{unix.IPV6_JOIN_GROUP, unix.IPV6_JOIN_ANYCAST, mcastJoin, mcastJoinSource}},
	} {
		var options []unix.SockFilter
		for _, option := range of.options {
			options = append(options, when(option, errno(unix.ENODEV))...)
		}
		f = append(f, when(of.level, append([]unix.SockFilter{low(2)}, append(options, ret(unix.SECCOMP_RET_ALLOW))...)...)...)
	}
	return append(f, ret(unix.SECCOMP_RET_ALLOW))
}

// filter returns the program that decides about every system call.
func filter() ([]unix.SockFilter, error) {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if arch == 0 {
		return nil, fmt.Errorf("seccomp on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	f := []unix.SockFilter{load(offArch), is(arch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS), load(offNr)}
	if arch == unix.AUDIT_ARCH_X86_64 {
		f = append(f, has(x32, 0, 1), errno(unix.ENOSYS))
	}
	notify := ret(unix.SECCOMP_RET_USER_NOTIF)
	allow := ret(unix.SECCOMP_RET_ALLOW)
	f = append(f, when(unix.SYS_IO_URING_SETUP, errno(unix.ENOSYS))...) // its rings connect without system calls
	f = append(f, when(unix.SYS_CONNECT, notify)...)
	f = append(f, when(unix.SYS_SOCKET, socketCall()...)...)
	f = append(f, when(unix.SYS_SETSOCKOPT, groupCall()...)...)
	f = append(f, when(unix.SYS_SENDTO, append(notFastOpen(3), withAddress(4)...)...)...)
	f = append(f, when(unix.SYS_RECVFROM, withAddress(4)...)...)
	// Ancillary data may send a datagram by another device than that which its
	// socket is bound to.
	f = append(f, when(unix.SYS_SENDMSG, append(notFastOpen(2), notify)...)...)
	f = append(f, when(unix.SYS_SENDMMSG, append(notFastOpen(3), notify)...)...)
	f = append(f, when(unix.SYS_RECVMSG, ofPackets()...)...)
	f = append(f, when(unix.SYS_RECVMMSG, ofPackets()...)...)
	return append(f, allow), nil
}
