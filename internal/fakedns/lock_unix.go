//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package fakedns

import (
	"os"
	"syscall"
)

// lock fails at once if another process has the lock.
func lock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// syncDir makes a rename last. If it fails, a power failure may bring back the
// former file.
func syncDir(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	_ = d.Sync()
	d.Close()
}
