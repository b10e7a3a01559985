package users

import (
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// lock takes the lock file path, and waits while another process has it. It
// stays behind, for Windows does not remove a file that another has open.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, new(windows.Overlapped))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// keepOwner does nothing: the new file inherits its folder's permissions.
func keepOwner(*os.File, os.FileInfo) {}

// syncDir does nothing: Windows does not sync folders.
func syncDir(string) error { return nil }
