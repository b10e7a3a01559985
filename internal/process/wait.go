//go:build linux

package process

import (
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Adopt makes us the parent of what our descendants leave behind, so that Wait
// can wait for it.
func Adopt() error {
	return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// Wait waits for a program, a child of ours, hands our signals to it, and stops
// us when it is stopped. If all is set, it waits for every other child too, those
// of [Adopt] among them, but for our helpers: then nobody else may wait for
// children of ours at the time. The Status is that of the program.
func (s *Signals) Wait(pid int, all bool, helpers ...int) (Status, error) {
	program, err := os.FindProcess(pid)
	if err != nil {
		return Status{}, err
	}
	defer func() { _ = program.Release() }()
	others := func() []int {
		if !all {
			return nil
		}
		return children(helpers)
	}
	quit, forwarded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(forwarded)
		s.forward(program, others, quit)
	}()
	defer func() {
		close(quit)
		<-forwarded
	}()
	return s.wait(pid, all, others)
}

func (s *Signals) wait(pid int, all bool, others func() []int) (status Status, err error) {
	which := pid
	if all {
		which = -1
	}
	for running := true; running || len(others()) > 0; {
		got, ws, err := wait4(which)
		switch {
		case err == unix.ECHILD && !running:
			return status, nil
		case err != nil:
			return status, os.NewSyscallError("wait4", err)
		case got != pid:
		case ws.Stopped():
			s.stop(pid, ws.StopSignal())
		default:
			status, running = statusOf(ws), false
		}
	}
	return status, nil
}

func wait4(which int) (pid int, ws unix.WaitStatus, err error) {
	for {
		pid, err = unix.Wait4(which, &ws, unix.WUNTRACED, nil)
		if err != unix.EINTR {
			return pid, ws, err
		}
	}
}

// stop stops us as the program was stopped, so that the shell takes the terminal
// back, and returns when we go on. Where no shell would make us go on, the kernel
// does not stop us by any of these signals; it would by SIGSTOP.
func (s *Signals) stop(pid int, by syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if term, ok := openTerminal(); ok {
		defer term.close()
		if group, err := unix.Getpgid(pid); err == nil && term.isForeground(group) {
			defer term.restore(group)
		}
	}
	if by != unix.SIGTTIN && by != unix.SIGTTOU {
		by = unix.SIGTSTP
	}
	raise(by, func() bool { return !isStopped(pid) })
	s.stopped = isStopped(pid)
}

// children returns our children, without our helpers.
func children(helpers []int) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(helpers, pid) {
			continue
		}
		if _, parent, err := stat(pid); err == nil && parent == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}
