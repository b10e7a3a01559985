package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// through is an error of a way out, as ours make them.
func through(err error) error { return opError("test", "dial", "tcp", "192.0.2.1:80", err) }

func TestJudge(t *testing.T) {
	direct := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	read := func(err error) error {
		return fmt.Errorf("read reply: %w", &net.OpError{Op: "read", Net: "tcp", Err: err})
	}
	for _, tt := range []struct {
		name string
		err  error
		want verdict
	}{
		{"nil", nil, good},

		// The proxy's words about the destination.
		{"REP 1", through(wire.GeneralFailure), doubtful},
		{"REP 2", through(wire.NotAllowed), refused},
		{"REP 3", through(wire.NetworkUnreachable), unanswered},
		{"REP 4", through(wire.HostUnreachable), final},
		{"REP 5", through(wire.ConnectionRefused), final},
		{"REP 6", through(wire.TTLExpired), unanswered},
		{"REP 7", through(wire.CommandNotSupported), unable},
		{"REP 8", through(wire.AddrTypeNotSupported), unable},
		{"REP 99", through(wire.Reply(99)), doubtful},
		{"SOCKS 4", through(wire.Rejected), doubtful},
		{"HTTP 403", through(httpconnect.StatusError(403)), refused},
		{"HTTP 405", through(httpconnect.StatusError(405)), unable},
		{"HTTP 407", through(httpconnect.StatusError(407)), fault},
		{"HTTP 500", through(httpconnect.StatusError(500)), doubtful},
		{"HTTP 502", through(httpconnect.StatusError(502)), final},
		{"HTTP 503", through(httpconnect.StatusError(503)), doubtful},
		{"HTTP 504", through(httpconnect.StatusError(504)), unanswered},
		{"SSH prohibited", through(&channelError{Reason: ssh.Prohibited}), refused},
		{"SSH failed", through(&channelError{Reason: ssh.ConnectionFailed}), final},
		{"SSH unknown type", through(&channelError{Reason: ssh.UnknownChannelType}), unable},
		{"SSH shortage", through(&channelError{Reason: ssh.ResourceShortage}), doubtful},
		{"name that we looked up", through(&net.DNSError{IsNotFound: true}), final},
		{"look-up that failed", through(&net.DNSError{IsTimeout: true}), unanswered},
		{"direct, refused", direct, final},
		{"a check", &net.OpError{Op: "dial", Err: argyle.ErrNotAllowed}, refused},
		{"unsupported", errors.ErrUnsupported, unable},

		// The proxy's own.
		{"unreachable", through(direct), fault},
		{"name of the proxy", through(&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}), fault},
		{"SYN without answer", through(&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}), fault},
		{"its proxy says refused", through(through(wire.ConnectionRefused)), fault},
		{"a group says refused", through(&groupError{"g", 1, through(wire.ConnectionRefused)}), fault},
		{"reset", through(read(syscall.ECONNRESET)), fault},
		{"gone", through(fmt.Errorf("read method: %w", io.EOF)), fault},
		{"in the middle", through(fmt.Errorf("read reply: %w", io.ErrUnexpectedEOF)), fault},
		{"login", through(fmt.Errorf("%w: user", socks.ErrLogin)), fault},
		{"method", through(socks.ErrMethod), fault},
		{"SSH login", through(&connError{errTest}), fault},

		// One cannot know.
		{"our time is up", through(context.DeadlineExceeded), doubtful},
		{"garbage", through(fmt.Errorf("read reply: %w", wire.ErrMessage)), doubtful},
		{"who knows", errTest, doubtful},

		// For want of something here.
		{"descriptors", through(&net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}), unable},
		{"UDP at the proxy before", opError("b", "associate", "udp", "", opError("a", "associate", "udp", "", errors.ErrUnsupported)), unable},
	} {
		if got := judge(tt.err); got != tt.want {
			t.Errorf("%s: %v is judged %d, want %d", tt.name, tt.err, got, tt.want)
		}
		if tt.err == nil {
			continue
		}
		if got := judge(&groupError{"inner", 1, tt.err}); got != tt.want {
			t.Errorf("%s in a group: judged %d, want %d", tt.name, got, tt.want)
		}
	}
}
