package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
)

// What each REP stands for outside SOCKS, and that it stands for nothing else.
func TestReplyIs(t *testing.T) {
	outside := []error{
		argyle.ErrNotAllowed, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ECONNREFUSED,
		os.ErrDeadlineExceeded, errors.ErrUnsupported,
		syscall.ENETDOWN, syscall.ECONNRESET, net.ErrClosed, ErrMessage, ErrShort,
	}
	want := map[Reply]error{
		NotAllowed:           argyle.ErrNotAllowed,
		NetworkUnreachable:   syscall.ENETUNREACH,
		HostUnreachable:      syscall.EHOSTUNREACH,
		ConnectionRefused:    syscall.ECONNREFUSED,
		TTLExpired:           os.ErrDeadlineExceeded,
		CommandNotSupported:  errors.ErrUnsupported,
		AddrTypeNotSupported: errors.ErrUnsupported,
	}
	for rep := range 256 {
		reply := Reply(rep)
		err := fmt.Errorf("through a proxy: %w", &net.OpError{Op: "dial", Err: reply})
		for _, target := range outside {
			if got := errors.Is(err, target); got != (want[reply] == target) {
				t.Errorf("REP %d is %v: %v", rep, target, got)
			}
		}
		for other := range 256 {
			if got := errors.Is(err, Reply(other)); got != (other == rep) {
				t.Errorf("REP %d is REP %d: %v", rep, other, got)
			}
		}
		var ne net.Error
		if !errors.As(err, &ne) || ne.Timeout() != (reply == TTLExpired) || reply.Temporary() {
			t.Errorf("REP %d: a timeout %v, temporary %v", rep, ne.Timeout(), reply.Temporary())
		}
	}
}

func TestReplyText(t *testing.T) {
	for reply, want := range map[error]string{
		Succeeded:            "succeeded (REP 0)",
		NotAllowed:           "connection not allowed by ruleset (REP 2)",
		AddrTypeNotSupported: "address type not supported (REP 8)",
		Reply(9):             "unassigned REP 9",
		Reply(255):           "unassigned REP 255",
		Granted:              "request granted (CD 90)",
		Rejected:             "request rejected or failed (CD 91)",
		Reply4(94):           "unassigned CD 94",
	} {
		if got := reply.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, reply := range []Reply4{IdentRequired, IdentMismatch} {
		if got := reply.Error(); !strings.Contains(got, fmt.Sprintf("CD %d", byte(reply))) {
			t.Errorf("%q does not say CD %d", got, byte(reply))
		}
	}
}
