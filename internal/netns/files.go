//go:build linux

package netns

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepSockets keeps sockets of the network outside from the program. Files and
// pipes that we have inherited are for it, as the shell makes them for <(…).
func keepSockets(control int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || fd == control || !isInherited(fd) {
			continue
		}
		family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err == nil && family != unix.AF_UNIX {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// letGo closes what is the program's: a pipe has its end when the program has
// closed it. Standard error stays, for panics.
func letGo() {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return // we keep them, which matters to few
	}
	defer unix.Close(null)
	for _, fd := range []int{0, 1} {
		_ = unix.Dup3(null, fd, 0)
	}
}
