//go:build linux

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/process"
)

// childName is the argv[0] by which the program knows that it was started to
// become another.
const childName = "argyle-seccomp"

// childPair is the child's end of the pair of sockets.
const childPair = 3

// Child must be called first thing in main. If this process was made by
// [Start], it becomes the program and does not return.
func Child() {
	if len(os.Args) < 3 || os.Args[0] != childName {
		return
	}
	// Only this thread gets the filter, and it is the one that execs.
	runtime.LockOSThread()
	unix.CloseOnExec(childPair)
	err := become(os.Args[1], os.Args[2:])
	_ = unix.Sendto(childPair, report(err), unix.MSG_NOSIGNAL, nil)
	os.Exit(process.ExitCode(err)) //nolint:revive // this is main
}

// listenerPrefix is before the number of the listener in the child's message.
const listenerPrefix = "listener "

// become installs the filter, hands its listener to the parent, waits for its
// word and executes path.
func become(path string, argv []string) error {
	fd, err := install()
	if err != nil {
		return err
	}
	number := []byte(listenerPrefix + strconv.Itoa(fd))
	if err := unix.Sendto(childPair, number, unix.MSG_NOSIGNAL, nil); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var b [1]byte
	for {
		n, err := unix.Read(childPair, b[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return errors.New("the parent has gone")
		}
		break
	}
	unix.Close(fd)
	process.KeepIgnored()
	err = unix.Exec(path, argv, os.Environ())
	if err == unix.ENOEXEC { // a script without #!, which execvp gives to the shell
		err = unix.Exec("/bin/sh", append([]string{"/bin/sh", path}, argv[1:]...), os.Environ())
	}
	return &os.PathError{Op: "exec", Path: path, Err: err}
}

// install puts the filter on this thread.
func install() (int, error) {
	insns, err := filter()
	if err != nil {
		return -1, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, os.NewSyscallError("prctl", err)
	}
	prog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(insns)
	switch errno {
	case 0:
		return int(fd), nil
	case unix.EBUSY:
		return -1, ErrNested
	case unix.EINVAL:
		return -1, ErrKernel
	}
	return -1, fmt.Errorf("install the seccomp filter: %w", errno)
}

// The errors of [Start] for what cannot be had here.
var (
	// ErrNested says that the kernel allows a task one listener only.
	ErrNested = errors.New("a seccomp listener is in force already: this engine does not run inside itself, " +
		"nor in a container whose runtime uses one")

	// ErrKernel says that the kernel is too old.
	ErrKernel = errors.New("the seccomp engine needs Linux 5.19 or newer")
)

// report is an error as the child sends it: a letter for its kind, and its text.
func report(err error) []byte {
	kind := "x"
	switch {
	case errors.Is(err, ErrNested):
		kind = "n"
	case errors.Is(err, ErrKernel):
		kind = "k"
	}
	var path *os.PathError
	if errors.As(err, &path) {
		var errno unix.Errno
		if errors.As(path.Err, &errno) {
			return fmt.Appendf(nil, "e%d %s", int(errno), path.Path)
		}
	}
	return []byte(kind + err.Error())
}

// parseReport is the inverse of report.
func parseReport(b []byte) error {
	if len(b) == 0 {
		return errors.New("the child ended before it could execute the program")
	}
	text := string(b[1:])
	switch b[0] {
	case 'n':
		return ErrNested
	case 'k':
		return ErrKernel
	case 'e':
		number, path, _ := strings.Cut(text, " ")
		var errno int
		if _, err := fmt.Sscanf(number, "%d", &errno); err == nil {
			return &os.PathError{Op: "exec", Path: path, Err: unix.Errno(errno)}
		}
	}
	return errors.New(text)
}
