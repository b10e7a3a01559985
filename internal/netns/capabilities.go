//go:build linux

package netns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// neededCapabilities are those that the child needs over its namespaces. They are
// ambient, or they would be lost with the exec of a user who is not root.
func neededCapabilities() []uintptr {
	return []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
}

// keptCapabilities are those that a program of root's keeps, so that it can do
// with files what root does, apt become its own user, and a daemon its own. None
// is about networks or namespaces. Other users' programs have none.
func keptCapabilities() uint64 {
	if os.Geteuid() != 0 {
		return 0
	}
	var keep uint64
	for _, c := range []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SYS_CHROOT, unix.CAP_SYS_NICE, unix.CAP_IPC_OWNER,
		unix.CAP_SETFCAP,
	} {
		keep |= 1 << c
	}
	return keep & ownCapabilities()
}

// ownCapabilities returns our permitted set.
func ownCapabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// idMaps returns the identity, so that the program stays who it is: of us alone,
// which is all that the kernel lets ordinary users map, or of everybody.
func idMaps() (uids, gids []syscall.SysProcIDMap, all bool) {
	both := uint64(1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID)
	if ownCapabilities()&both == both {
		uids, uidErr := readIDMap("/proc/self/uid_map")
		gids, gidErr := readIDMap("/proc/self/gid_map")
		if uidErr == nil && gidErr == nil {
			return uids, gids, true
		}
	}
	return []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		[]syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}, false
}

// readIDMap returns the identity of all ids that our own namespace has.
func readIDMap(path string) (maps []syscall.SysProcIDMap, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var inside, outside, size int
		if _, err := fmt.Sscan(lines.Text(), &inside, &outside, &size); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		maps = append(maps, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: size})
	}
	if len(maps) == 0 {
		return nil, errors.New(path + " is empty")
	}
	return maps, nil
}

// dropCapabilities takes all capabilities from us, and all but keep from what we
// execute: what a file or root would give it is bounded.
func dropCapabilities(keep uint64) error {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if keep&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			break // an older kernel knows fewer
		}
		if err != nil {
			return os.NewSyscallError("prctl PR_CAPBSET_DROP", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", err)
	}
	return capset()
}

// capset empties the sets of all threads. With cgo, where Go cannot do that, it
// does so on this one, which starts the program; the program cannot reach the
// others, as we are not dumpable.
func capset() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if errno == unix.ENOTSUP {
		return os.NewSyscallError("capset", unix.Capset(&header, &none[0]))
	}
	runtime.KeepAlive(&none)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}

// confinement returns what /proc says of our own seccomp filters.
func confinement() (filtered bool) {
	text, err := os.ReadFile("/proc/self/status")
	return err == nil && strings.Contains(string(text), "\nSeccomp:\t2")
}
