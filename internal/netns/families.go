//go:build linux

package netns

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of struct seccomp_data: where the number, the architecture and the first argument
// are. The systems that we know are little-endian.
const (
	offNumber   = 0
	offArch     = 4
	offArgument = 16
)

// The numbers of socket(2): i386 has one of its own, and x32 a bit beside it.
const (
	i386Socket = 359
	x32Bit     = 0x40000000
)

// families are the families of sockets that belong to the namespace, or do not leave
// the host. Of the others some know of no namespaces, such as those to the host of a
// virtual machine (vsock).
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_ALG}

// refuseFamilies lets what this thread will execute make sockets of families only.
func refuseFamilies() error {
	native := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if native == 0 {
		return nil // there is no filter for it: docs/run.md says so
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	is := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	allow := ret(unix.SECCOMP_RET_ALLOW)
	f := []unix.SockFilter{
		load(offArch), is(native, 0, 4),
		load(offNumber), is(unix.SYS_SOCKET, 5, 0), is(unix.SYS_SOCKET|x32Bit, 4, 0), allow,
		load(offNumber), is(i386Socket, 1, 0), allow,
		load(offArgument),
	}
	for _, family := range families {
		f = append(f, is(family, 0, 1), allow)
	}
	f = append(f, ret(unix.SECCOMP_RET_ERRNO|uint32(unix.EAFNOSUPPORT)))
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	install := func() error {
		_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
		runtime.KeepAlive(f)
		switch errno {
		case 0:
			return nil
		case unix.ENOSYS, unix.EINVAL:
			return errors.ErrUnsupported
		}
		return os.NewSyscallError("seccomp", errno)
	}
	err := install()
	if errors.Is(err, unix.EACCES) { // without rights over the namespace
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
		err = install()
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // a kernel without seccomp has nothing that could hold it
	}
	return err
}
