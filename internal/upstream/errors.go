package upstream

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/argyle-socks/argyle"
)

// opError makes the errors of a way out through a server.
func opError(server, op, network, address string, err error) error {
	dest, _ := argyle.ParseAddr(address)
	return &net.OpError{Op: op, Net: network, Addr: dest, Err: &throughError{server, err}}
}

// throughError says which server an error came through. It has the Timeout
// that [net.OpError] looks for.
type throughError struct {
	server string
	err    error
}

func (e *throughError) Error() string { return "through " + e.server + ": " + e.err.Error() }
func (e *throughError) Unwrap() error { return e.err }
func (e *throughError) Timeout() bool { return timedOut(e.err) }

func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &ne) && ne.Timeout()
}
