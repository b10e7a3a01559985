//go:build linux

package seccomp

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// call is a system call of the program that waits for its answer, which it gets
// once: later ones are dropped.
type call struct {
	*notification
	listener *listener
	answered atomic.Bool
}

// fail ends the call with errno; 0 is success.
func (c *call) fail(errno unix.Errno) bool { return c.result(0, errno) }

// result ends the call. It reports false if the call had an answer, or is gone.
func (c *call) result(val int64, errno unix.Errno) bool {
	return c.answered.CompareAndSwap(false, true) && c.listener.answer(c.id, val, errno) == nil
}

// proceed lets the kernel do the call.
func (c *call) proceed() {
	if c.answered.CompareAndSwap(false, true) {
		_ = c.listener.proceed(c.id)
	}
}

// give ends the call with a descriptor, of the number at if it can be had.
func (c *call) give(fd, at int, flags uint32) {
	if !c.answered.CompareAndSwap(false, true) {
		return
	}
	err := c.listener.give(c.id, fd, at, flags)
	if err == unix.EBADF || err == unix.EMFILE {
		err = c.listener.give(c.id, fd, 0, flags) // the limit is below
	}
	if err != nil {
		if errno, ok := err.(unix.Errno); ok && errno != unix.ENOENT { // such as EMFILE
			_ = c.listener.answer(c.id, 0, errno)
		}
	}
}

// valid reports whether the caller still waits.
func (c *call) valid() bool { return c.listener.valid(c.id) }

// read fills b from the caller's memory.
func (c *call) read(b []byte, address uint64) error {
	if len(b) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(int(c.pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(b)}}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

// write puts b into the caller's memory.
func (c *call) write(address uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMWritev(int(c.pid), local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(b)}}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

// descriptor returns a duplicate of the caller's descriptor fd. It shares the
// open file: what we do to it, the program sees.
func (c *call) descriptor(fd int) (int, error) {
	pidfd, err := openThread(int(c.pid))
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	dup, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, err
	}
	if !c.valid() { // its number may have become another's
		unix.Close(dup)
		return -1, unix.ESRCH
	}
	return dup, nil
}

// pidfdThread is PIDFD_THREAD, of Linux 6.9.
const pidfdThread = unix.O_EXCL

// openThread returns a pidfd through which the thread's descriptors are found.
func openThread(tid int) (int, error) {
	pidfd, err := unix.PidfdOpen(tid, pidfdThread)
	if err != unix.EINVAL {
		return pidfd, err
	}
	leader, err := statusNumber(tid, "Tgid:", 10)
	if err != nil {
		return -1, unix.ESRCH
	}
	return unix.PidfdOpen(int(leader), 0)
}

// statusNumber reads a field of the status of a thread.
func statusNumber(tid int, field string, base int) (uint64, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte(field)); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(value)), base, 64)
		}
	}
	return 0, fmt.Errorf("status of %d has no %s", tid, field)
}

// quiet are the signals that do not end a wait: the runtime of Go sends itself
// SIGURG all the time, and the others do nothing or restart calls by custom.
const quiet = 1<<(unix.SIGURG-1) | 1<<(unix.SIGCHLD-1) | 1<<(unix.SIGWINCH-1) |
	1<<(unix.SIGCONT-1) | 1<<(unix.SIGPROF-1) | 1<<(unix.SIGVTALRM-1)

// errRestart ends a call as the kernel does that has a signal to deliver
// (ERESTARTSYS): the program sees EINTR, or after a handler with SA_RESTART, and
// when it has been stopped, the call is made again.
const errRestart = unix.Errno(512)

// signalled reports whether a signal waits for the caller that does something.
// Once we have received a notification, the kernel wakes its task only for what
// kills it at once, and leaves the others to us: handlers, what stops it, and
// what leaves a core.
func (c *call) signalled() bool {
	tid := int(c.pid)
	ignored, err := statusNumber(tid, "SigIgn:", 16)
	if err != nil {
		return false
	}
	blocked, _ := statusNumber(tid, "SigBlk:", 16)
	own, _ := statusNumber(tid, "SigPnd:", 16)
	shared, _ := statusNumber(tid, "ShdPnd:", 16)
	return (own|shared)&^ignored&^blocked&^quiet != 0
}
