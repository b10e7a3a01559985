package httpconnect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

func TestStatusFor(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	errno := func(e syscall.Errno) error {
		return dial(os.NewSyscallError("connect", e))
	}
	tests := []struct {
		err  error
		want int
	}{
		{nil, 200},
		{argyle.ErrNotAllowed, 403},
		{fmt.Errorf("rule 3: %w", argyle.ErrNotAllowed), 403},
		{errno(syscall.ENETUNREACH), 502},
		{errno(syscall.ENETDOWN), 502},
		{errno(syscall.EAFNOSUPPORT), 502},
		{errno(syscall.EADDRNOTAVAIL), 502},
		{errno(syscall.EHOSTUNREACH), 502},
		{errno(syscall.EHOSTDOWN), 502},
		{errno(syscall.ECONNREFUSED), 502},
		{errno(syscall.ECONNRESET), 502},
		{dial(&net.DNSError{Err: "no such host", Name: "a.example", IsNotFound: true}), 502},
		{dial(&net.DNSError{Err: "i/o timeout", Name: "a.example", IsTimeout: true}), 504},
		{fmt.Errorf("look up: %w", &net.DNSError{Err: "i/o timeout", IsTimeout: true}), 504},
		{errno(syscall.ETIMEDOUT), 504},
		{fmt.Errorf("through gw: %w", errno(syscall.ETIMEDOUT)), 504},
		{context.DeadlineExceeded, 504},
		{dial(os.ErrDeadlineExceeded), 504},
		{errors.ErrUnsupported, 405},
		{errno(syscall.EMFILE), 503},
		{errno(syscall.ENOBUFS), 503},
		{errors.New("anything"), 503},
		{context.Canceled, 503},
		{io.EOF, 503},

		{wire.GeneralFailure, 503},
		{wire.NotAllowed, 403},
		{wire.NetworkUnreachable, 502},
		{wire.HostUnreachable, 502},
		{wire.ConnectionRefused, 502},
		{wire.TTLExpired, 504},
		{wire.CommandNotSupported, 405},
		{wire.AddrTypeNotSupported, 405},
		{dial(fmt.Errorf("through gw: %w", wire.TTLExpired)), 504},

		{StatusError(403), 403},
		{StatusError(502), 502},
		{StatusError(503), 503},
		{StatusError(504), 504},
		{StatusError(405), 405},
		{StatusError(407), 503},
	}
	for _, tt := range tests {
		if got := StatusFor(tt.err); got != tt.want {
			t.Errorf("StatusFor(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}
