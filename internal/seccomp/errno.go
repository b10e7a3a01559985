//go:build linux

package seccomp

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// known are the errors that connect(2) has for what may be wrong on the way.
func known() []unix.Errno {
	return []unix.Errno{
		unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT, unix.ENETDOWN, unix.EHOSTDOWN,
		unix.ECONNRESET, unix.EACCES, unix.EPERM, unix.EADDRNOTAVAIL, unix.EINTR,
	}
}

// Errno returns what connect tells the program when a connection has failed
// with err: the errno that err is, ETIMEDOUT for timeouts, EHOSTUNREACH for
// names that are not known, and ECONNREFUSED for all else, and thus for what the
// rules forbid.
func Errno(err error) unix.Errno {
	for _, errno := range known() {
		if errors.Is(err, errno) {
			return errno
		}
	}
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return unix.ETIMEDOUT
	case errors.As(err, &dns):
		return unix.EHOSTUNREACH
	}
	return unix.ECONNREFUSED
}
