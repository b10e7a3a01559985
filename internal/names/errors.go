package names

import (
	"context"
	"errors"
	"net"

	"github.com/miekg/dns"
)

const (
	errNoHost    = "no such host"
	errNoAddress = "no address of the wanted family"
)

var (
	errAliases = errors.New("too many aliases, or aliases in a circle")
	errLame    = errors.New("the server neither knows the name nor looks it up")
	// errStale is for a connection that has answered before and does not
	// now: the server may be well, and is asked again over a new one.
	errStale = errors.New("the connection has broken")
	errLost  = errors.New("the connection was lost")
)

// rcodeError is an answer that is none (RFC 1035, section 4.1.1).
type rcodeError int

func (e rcodeError) Error() string {
	text, ok := dns.RcodeToString[int(e)]
	if !ok {
		text = "unknown code"
	}
	return "the server answers " + text
}

// misbehaves tells whether err is an answer: bad, but of a server that lives.
func misbehaves(err error) bool {
	var code rcodeError
	return errors.As(err, &code) || errors.Is(err, errAliases) || errors.Is(err, errLame)
}

// lookupError is a net.DNSError whose Name is not known yet: callers spell one
// name differently.
type lookupError net.DNSError

func (e *lookupError) named(host string) error {
	named := net.DNSError(*e)
	named.Name = host
	return &named
}

func notFound(text string) *lookupError {
	return &lookupError{Err: text, IsNotFound: true}
}

// failure returns err as a DNSError.
func failure(err error) *lookupError {
	var already *net.DNSError
	if errors.As(err, &already) {
		known := lookupError(*already)
		return &known
	}
	e := &lookupError{Err: err.Error(), UnwrapErr: err, IsTemporary: true}
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		e.Err, e.IsTemporary = "operation was canceled", false
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Err, e.IsTimeout = "i/o timeout", true
	}
	return e
}
