//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Signals are the signals that come to us while a program runs. They are caught
// rather than ignored, as a program that we start would ignore them as well.
type Signals struct {
	c chan os.Signal

	// mu is held while we are stopped, and until the terminal is in order
	// again: the program must not go on before.
	mu      sync.Mutex
	stopped bool // the program was stopped, and did not go on with us
}

// Catch begins to catch signals. Those that come before Wait reach the program
// then. What we were started to ignore, by nohup for one, stays ignored.
func Catch() *Signals {
	ignored := ignored()
	s := &Signals{c: make(chan os.Signal, 32)}
	for _, sig := range []syscall.Signal{
		unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
		unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT,
	} {
		if !signal.Ignored(sig) && ignored&(1<<(sig-1)) == 0 {
			signal.Notify(s.c, sig)
		}
	}
	return s
}

// ignored returns the signals that the kernel ignores for us: of some, such as
// SIGTSTP, the Go runtime does not know it.
func ignored() (mask uint64) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	if _, after, ok := bytes.Cut(text, []byte("\nSigIgn:")); ok {
		_, _ = fmt.Sscanf(string(after), "%x", &mask) // 0 if it is no number
	}
	return mask
}

// Stop ends what Catch began.
func (s *Signals) Stop() { signal.Stop(s.c) }

// KeepIgnored makes what this process executes ignore SIGQUIT if SIGINT is
// ignored: the shell has both ignored in what runs in the background, but the
// Go runtime keeps the one only.
func KeepIgnored() {
	if signal.Ignored(unix.SIGINT) {
		signal.Ignore(unix.SIGQUIT)
	}
}

// forward hands signals to the program until quit is closed. others returns the
// processes that get them in its place when it has ended.
func (s *Signals) forward(program *os.Process, others func() []int, quit <-chan struct{}) {
	for {
		select {
		case sig := <-s.c:
			number, ok := sig.(syscall.Signal)
			if !ok || !s.isForUs(number) {
				continue
			}
			if err := program.Signal(number); !errors.Is(err, os.ErrProcessDone) {
				continue
			}
			for _, pid := range others() {
				_ = unix.Kill(pid, number) // it may have ended since
			}
		case <-quit:
			return
		}
	}
}

// isForUs reports whether we have to hand a signal on: whether the program has
// not got it by itself, as a member of our process group.
func (s *Signals) isForUs(sig syscall.Signal) bool {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT:
		return !inForeground()
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	case unix.SIGCONT:
		s.mu.Lock()
		defer s.mu.Unlock()
		stopped := s.stopped
		s.stopped = false
		return stopped
	}
	return true
}

// inForeground reports whether the terminal's keys send signals to our group.
func inForeground() bool {
	term, ok := openTerminal()
	if !ok {
		return false
	}
	defer term.close()
	return term.isForeground(unix.Getpgrp())
}

// isStopped reports whether a process is.
func isStopped(pid int) bool {
	state, _, err := stat(pid)
	return err == nil && state == 'T'
}

// stat reads the state and the parent of a process.
func stat(pid int) (state byte, parent int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name before may hold anything, but no ) comes after it.
	rest := text[bytes.LastIndexByte(text, ')')+1:]
	if _, err := fmt.Sscanf(string(rest), " %c %d", &state, &parent); err != nil {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return state, parent, nil
}
