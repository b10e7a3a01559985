package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
)

// verdict is what an error of a way out says of it. The order is that of how
// much they tell a user when all fail.
type verdict int

const (
	good       verdict = iota // no error
	fault                     // the way out is to blame: unreachable, broken, or it does not let us in
	unable                    // it works, and does not do such a thing
	doubtful                  // it failed, perhaps because of the destination: another one's answer will tell
	refused                   // it works, and its rules forbid this
	unanswered                // it works, and says what another one may know better: network unreachable, timed out
	final                     // it works, and says of the destination what every other one would say
)

// judge says what err, of a request to a way out, tells of it.
//
// Ways out wrap what failed in a [net.OpError]. A second one inside is that of
// the way to the server, or of the connection to it: then the server has said
// nothing, whatever the error is.
func judge(err error) verdict {
	if err == nil {
		return good
	}
	if isOurs(err) {
		return unable
	}
	requests := 0
	for e := err; e != nil; e = errors.Unwrap(e) {
		switch e := e.(type) { //nolint:errorlint // it goes through them one by one
		case *connError, *hopError:
			return fault
		case *net.DNSError: // of the destination; what may be inside is the resolver's
			return ofAnswer(e)
		case *net.OpError:
			if requests++; requests == 1 && isRequest(e.Op) {
				continue
			}
			if errors.Is(e, errors.ErrUnsupported) { // the server before cannot, as for UDP in a chain
				return unable
			}
			return fault
		}
	}
	return ofAnswer(err)
}

// isRequest reports whether op is one of those that ways out have.
func isRequest(op string) bool { return op == "dial" || op == "listen" || op == "associate" }

// isOurs reports whether err is for want of something on this host.
func isOurs(err error) bool {
	return isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
}

// ofAnswer judges what came from the server itself.
func ofAnswer(err error) verdict {
	var dns *net.DNSError
	switch {
	case errors.Is(err, argyle.ErrNotAllowed):
		return refused
	case errors.Is(err, socks.ErrMethod), errors.Is(err, socks.ErrLogin),
		errors.Is(err, httpconnect.StatusError(http.StatusProxyAuthRequired)),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fault
	case errors.Is(err, errors.ErrUnsupported):
		return unable
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return final
		}
		return unanswered
	case isAny(err, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAFNOSUPPORT, syscall.EADDRNOTAVAIL, syscall.ETIMEDOUT):
		return unanswered
	case isAny(err, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ECONNRESET):
		return final
	case errors.Is(err, context.DeadlineExceeded): // our own clock
		return doubtful
	case errors.Is(err, os.ErrDeadlineExceeded): // the server's
		return unanswered
	}
	return doubtful
}

func isAny(err error, errnos ...syscall.Errno) bool {
	for _, errno := range errnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
