package httpconnect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// StatusFor returns the status that tells an HTTP client of err. nil is 200.
func StatusFor(err error) int {
	if err == nil {
		return http.StatusOK
	}
	status, _ := outcomeOf(err)
	return status
}

// outcomeOf returns the status for err, which is not nil, and a reason that
// names neither addresses nor upstreams.
func outcomeOf(err error) (status int, reason string) {
	if errors.Is(err, argyle.ErrNotAllowed) {
		return http.StatusForbidden, "not allowed by the rules"
	}
	for _, o := range unreachable {
		if errors.Is(err, o.errno) {
			return http.StatusBadGateway, o.reason
		}
	}
	var dns *net.DNSError
	switch {
	case timedOut(err):
		return http.StatusGatewayTimeout, "the destination did not answer in time"
	case errors.As(err, &dns):
		return http.StatusBadGateway, "the host name is unknown"
	case errors.Is(err, errors.ErrUnsupported):
		return http.StatusMethodNotAllowed, "not supported on this route"
	}
	return http.StatusServiceUnavailable, "the proxy cannot do this now"
}

// unreachable are the errors that say something of the destination.
var unreachable = []struct {
	errno  syscall.Errno
	reason string
}{
	{syscall.ECONNREFUSED, "connection refused"},
	{syscall.ECONNRESET, "connection reset"},
	{syscall.EHOSTUNREACH, "host unreachable"},
	{syscall.EHOSTDOWN, "host is down"},
	{syscall.ENETUNREACH, "network unreachable"},
	{syscall.ENETDOWN, "network is down"},
	{syscall.EAFNOSUPPORT, "no such address family here"},
	{syscall.EADDRNOTAVAIL, "no such address family here"}, // no local address of the destination's family
}

func timedOut(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return true
	}
	// A look-up that timed out says so itself; what wraps it may not.
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Timeout()
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
