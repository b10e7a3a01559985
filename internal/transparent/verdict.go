package transparent

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// verdict is what becomes of a SYN: NFQA_VERDICT_HDR and NFQA_MARK. The rules
// of this package read the marks and reject in the words that they stand for.
type verdict struct {
	code uint32
	mark uint32
}

// The marks of rejected SYNs.
const (
	markRefused uint32 = 0x61726701 + iota
	markHostUnreachable
	markNetUnreachable
)

// NF_DROP and NF_ACCEPT.
const (
	nfDrop   = 0
	nfAccept = 1
)

// drop lets the client ask again until it has had enough: a timeout.
func drop() verdict { return verdict{code: nfDrop} }

// accept lets the system finish the handshake.
func accept() verdict { return verdict{code: nfAccept} }

func rejectBy(mark uint32) verdict { return verdict{code: nfAccept, mark: mark} }

// verdictFor returns what tells a client of err.
func verdictFor(err error) verdict {
	switch Errno(err) {
	case syscall.ECONNREFUSED:
		return rejectBy(markRefused)
	case syscall.ENETUNREACH:
		return rejectBy(markNetUnreachable)
	case syscall.EHOSTUNREACH:
		return rejectBy(markHostUnreachable)
	}
	return drop()
}

// Errno returns what connect(2) shall tell a client of err, as far as packets have
// words for it: ECONNREFUSED, EHOSTUNREACH or ENETUNREACH, or ETIMEDOUT, which is
// said by silence. What the rules forbid is refused at once: no error of IPv4 says
// more, and the words of IPv6 (EACCES) would say it in one family only.
func Errno(err error) syscall.Errno {
	if errors.Is(err, argyle.ErrNotAllowed) {
		return syscall.ECONNREFUSED
	}
	for _, e := range errnoWords {
		if errors.Is(err, e.errno) {
			return e.word
		}
	}
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		return syscall.ETIMEDOUT
	}
	// Names that do not exist, and our own failures. They say nothing of the
	// port, so the client must not take it for closed.
	return syscall.EHOSTUNREACH
}

var errnoWords = []struct{ errno, word syscall.Errno }{
	{syscall.ECONNREFUSED, syscall.ECONNREFUSED},
	{syscall.ECONNRESET, syscall.ECONNREFUSED},
	{syscall.ENETUNREACH, syscall.ENETUNREACH},
	{syscall.ENETDOWN, syscall.ENETUNREACH},
	{syscall.EAFNOSUPPORT, syscall.ENETUNREACH},
	{syscall.EADDRNOTAVAIL, syscall.ENETUNREACH}, // no local address of the destination's family
	{syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
	{syscall.EHOSTDOWN, syscall.EHOSTUNREACH},
}
