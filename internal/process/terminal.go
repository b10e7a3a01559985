//go:build linux

package process

import "golang.org/x/sys/unix"

// terminal is the one that we have in common with the program and the shell.
type terminal struct{ fd int }

func openTerminal() (terminal, bool) {
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	return terminal{fd}, err == nil
}

func (t terminal) close() { unix.Close(t.fd) }

// isForeground reports whether a process group has the terminal.
func (t terminal) isForeground(group int) bool {
	now, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	return err == nil && now == group
}

// restore gives the terminal, if the shell has given it to us, back to the group
// that the program has made for itself: one that has jobs of its own does so.
func (t terminal) restore(group int) {
	if t.isForeground(unix.Getpgrp()) {
		_ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, group) // it may have gone
	}
}
