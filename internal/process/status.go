//go:build linux

package process

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Status says how a program ended.
type Status struct {
	Code   int            // its exit status; 128 and Signal, as in a shell, if it was killed
	Signal syscall.Signal // what killed it; 0 if nothing did
}

// statusOf returns the Status of a process that has ended.
func statusOf(ws unix.WaitStatus) Status {
	if ws.Signaled() {
		return Status{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	return Status{Code: ws.ExitStatus()}
}

// Exit ends us as the program ended: with its code, or by its signal, so that a
// shell says the same of us as it would of the program. It does not return.
func (s Status) Exit() {
	if s.Signal != 0 {
		// The memory that matters was the program's, not ours.
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
		raise(s.Signal, nil)
	}
	os.Exit(s.Code) //nolint:revive // it says so
}

// raise sends ourselves a signal that does what it does by default, whatever
// the runtime has made of it, and returns if that is to go on. If it is a stop, and
// unless, asked at the last moment, reports true, nothing happens; should a
// SIGCONT come after that, the kernel takes the stop back.
func raise(sig syscall.Signal, unless func() bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	only := setOf(sig)
	var mask unix.Sigset_t
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &only, &mask)
	var byDefault, before sigaction
	replaced := sigactionSyscall(sig, &byDefault, &before) == 0
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig) // it waits
	if unless != nil && unless() {
		_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGCONT)
	}
	_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &only, nil) // it is handled before this returns
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil)
	if replaced {
		sigactionSyscall(sig, &before, nil)
	}
}

func setOf(sig syscall.Signal) (set unix.Sigset_t) {
	bits := uint(unsafe.Sizeof(set.Val[0]) * 8)
	set.Val[uint(sig-1)/bits] = 1 << (uint(sig-1) % bits)
	return set
}

// sigaction has room for the kernel's struct of any architecture. Zero is the
// default action.
type sigaction [8]uint64

func sigactionSyscall(sig syscall.Signal, to, from *sigaction) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(from)), sigsetSize, 0, 0)
	return errno
}
