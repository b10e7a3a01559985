package wire

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// Reply is the field REP of RFC 1928, section 6. Every Reply but Succeeded is
// an error: [errors.Is] finds it, and finds in it what it stands for
// ([argyle.ErrNotAllowed], [syscall.ECONNREFUSED], [os.ErrDeadlineExceeded]…).
type Reply byte

// The replies of RFC 1928, section 6.
const (
	Succeeded            Reply = 0
	GeneralFailure       Reply = 1
	NotAllowed           Reply = 2
	NetworkUnreachable   Reply = 3
	HostUnreachable      Reply = 4
	ConnectionRefused    Reply = 5
	TTLExpired           Reply = 6
	CommandNotSupported  Reply = 7
	AddrTypeNotSupported Reply = 8
)

var replyText = [...]string{
	"succeeded",
	"general SOCKS server failure",
	"connection not allowed by ruleset",
	"network unreachable",
	"host unreachable",
	"connection refused",
	"TTL expired",
	"command not supported",
	"address type not supported",
}

func (r Reply) Error() string {
	if int(r) < len(replyText) {
		return fmt.Sprintf("%s (REP %d)", replyText[r], byte(r))
	}
	return fmt.Sprintf("unassigned REP %d", byte(r))
}

// Is reports whether target is what r stands for outside SOCKS.
func (r Reply) Is(target error) bool {
	switch r {
	case NotAllowed:
		return target == argyle.ErrNotAllowed
	case NetworkUnreachable:
		return target == error(syscall.ENETUNREACH)
	case HostUnreachable:
		return target == error(syscall.EHOSTUNREACH)
	case ConnectionRefused:
		return target == error(syscall.ECONNREFUSED)
	case TTLExpired:
		return target == os.ErrDeadlineExceeded
	case CommandNotSupported, AddrTypeNotSupported:
		return target == errors.ErrUnsupported
	}
	return false
}

// Timeout reports whether the reply says that time ran out, as [net.Error] has it.
func (r Reply) Timeout() bool { return r == TTLExpired }

// Temporary completes [net.Error]. It is always false.
func (r Reply) Temporary() bool { return false }

// Reply4 is the field CD of a SOCKS 4 reply. Every Reply4 but Granted is an error.
type Reply4 byte

// The replies of SOCKS 4.
const (
	Granted       Reply4 = 90
	Rejected      Reply4 = 91
	IdentRequired Reply4 = 92 // the client runs no identd that the server can reach
	IdentMismatch Reply4 = 93 // identd and USERID name different users
)

func (r Reply4) Error() string {
	switch r {
	case Granted:
		return "request granted (CD 90)"
	case Rejected:
		return "request rejected or failed (CD 91)"
	case IdentRequired:
		return "request rejected: no identd on the client (CD 92)"
	case IdentMismatch:
		return "request rejected: identd reports another user (CD 93)"
	}
	return fmt.Sprintf("unassigned CD %d", byte(r))
}
