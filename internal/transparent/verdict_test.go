package transparent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

func TestVerdictFor(t *testing.T) {
	refused, host, network := rejectBy(markRefused), rejectBy(markHostUnreachable), rejectBy(markNetUnreachable)
	for _, test := range []struct {
		err  error
		want verdict
	}{
		{syscall.ECONNREFUSED, refused},
		{fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}), refused},
		{wire.ConnectionRefused, refused},
		{argyle.ErrNotAllowed, refused},
		{wire.NotAllowed, refused},
		{syscall.EHOSTUNREACH, host},
		{wire.HostUnreachable, host},
		{&net.DNSError{IsNotFound: true}, host},
		{wire.GeneralFailure, host},
		{errors.New("anything"), host},
		{errNoName, host},
		{nil, host},
		{syscall.ENETUNREACH, network},
		{wire.NetworkUnreachable, network},
		{syscall.EAFNOSUPPORT, network},
		{os.ErrDeadlineExceeded, drop()},
		{context.DeadlineExceeded, drop()},
		{context.Canceled, drop()},
		{syscall.ETIMEDOUT, drop()},
		{wire.TTLExpired, drop()},
		{&net.DNSError{IsTimeout: true}, drop()},
	} {
		if got := verdictFor(test.err); got != test.want {
			t.Errorf("%v: %+v, want %+v", test.err, got, test.want)
		}
	}
}
