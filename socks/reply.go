package socks

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

// ReplyFor returns the reply that tells a SOCKS 5 client of err: an upstream's
// own reply if there is one in it, else what err stands for. nil is
// [wire.Succeeded].
func ReplyFor(err error) wire.Reply {
	var upstream wire.Reply
	if err == nil || errors.As(err, &upstream) {
		return upstream
	}
	if errors.Is(err, argyle.ErrNotAllowed) {
		return wire.NotAllowed
	}
	for _, e := range errnoReplies {
		if errors.Is(err, e.errno) {
			return e.reply
		}
	}
	if timedOut(err) {
		return wire.TTLExpired
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return wire.HostUnreachable
	case errors.Is(err, errors.ErrUnsupported):
		return wire.CommandNotSupported
	}
	return wire.GeneralFailure
}

var errnoReplies = []struct {
	errno syscall.Errno
	reply wire.Reply
}{
	{syscall.ENETUNREACH, wire.NetworkUnreachable},
	{syscall.ENETDOWN, wire.NetworkUnreachable},
	{syscall.EAFNOSUPPORT, wire.NetworkUnreachable},
	{syscall.EADDRNOTAVAIL, wire.NetworkUnreachable}, // no local address of the destination's family
	{syscall.EHOSTUNREACH, wire.HostUnreachable},
	{syscall.EHOSTDOWN, wire.HostUnreachable},
	{syscall.ECONNREFUSED, wire.ConnectionRefused},
	{syscall.ECONNRESET, wire.ConnectionRefused},
	{syscall.ETIMEDOUT, wire.TTLExpired},
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout()
}

// reply4For returns what tells a SOCKS 4 client of err; it knows one failure only.
func reply4For(err error) wire.Reply4 {
	if err == nil {
		return wire.Granted
	}
	return wire.Rejected
}

// opError says at which step a connection failed.
func opError(step string, err error) error {
	return &stepError{step, err}
}

type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }
