package httpconnect

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// StatusError is the status with which a proxy refused a CONNECT. [errors.Is]
// finds in it what [Server] says with that status: [argyle.ErrNotAllowed],
// [syscall.EHOSTUNREACH], [os.ErrDeadlineExceeded], [errors.ErrUnsupported].
type StatusError int

func (e StatusError) Error() string {
	text := "proxy answered " + strconv.Itoa(int(e))
	if e == http.StatusProxyAuthRequired {
		return text + ": it wants a user name and a password, or does not know these"
	}
	if phrase := http.StatusText(int(e)); phrase != "" {
		text += " " + phrase
	}
	return text
}

// Is reports whether target is what e stands for outside HTTP.
func (e StatusError) Is(target error) bool {
	switch e {
	case http.StatusForbidden:
		return target == argyle.ErrNotAllowed
	case http.StatusBadGateway:
		return target == error(syscall.EHOSTUNREACH)
	case http.StatusGatewayTimeout:
		return target == os.ErrDeadlineExceeded
	case http.StatusMethodNotAllowed:
		return target == errors.ErrUnsupported
	}
	return false
}

// Timeout reports whether the status says that time ran out, as [net.Error] has it.
func (e StatusError) Timeout() bool { return e == http.StatusGatewayTimeout }

// Temporary completes [net.Error]. It is always false.
func (e StatusError) Temporary() bool { return false }

// proxyError is an error on the way through a proxy. It says of a timeout what
// the error inside says, which fmt.Errorf would hide from [net.OpError].
type proxyError struct {
	proxy string
	err   error
}

func (e *proxyError) Error() string { return "through " + e.proxy + ": " + e.err.Error() }
func (e *proxyError) Unwrap() error { return e.err }

func (e *proxyError) Timeout() bool {
	var ne net.Error
	return errors.As(e.err, &ne) && ne.Timeout()
}
