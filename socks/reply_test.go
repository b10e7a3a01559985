package socks_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// T14: every cause has its answer.
func TestReplyFor(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	tests := []struct {
		err  error
		want wire.Reply
	}{
		{nil, wire.Succeeded},
		{argyle.ErrNotAllowed, wire.NotAllowed},
		{fmt.Errorf("rule 7: %w", argyle.ErrNotAllowed), wire.NotAllowed},
		{dial(argyle.ErrNotAllowed), wire.NotAllowed},
		{dial(syscall.ENETUNREACH), wire.NetworkUnreachable},
		{dial(syscall.ENETDOWN), wire.NetworkUnreachable},
		{dial(syscall.EAFNOSUPPORT), wire.NetworkUnreachable},
		{dial(syscall.EADDRNOTAVAIL), wire.NetworkUnreachable},
		{dial(syscall.EHOSTUNREACH), wire.HostUnreachable},
		{dial(syscall.EHOSTDOWN), wire.HostUnreachable},
		{dial(syscall.ECONNREFUSED), wire.ConnectionRefused},
		{dial(syscall.ECONNRESET), wire.ConnectionRefused},
		{dial(syscall.ETIMEDOUT), wire.TTLExpired},
		{dial(os.ErrDeadlineExceeded), wire.TTLExpired},
		{context.DeadlineExceeded, wire.TTLExpired},
		{&net.DNSError{IsNotFound: true}, wire.HostUnreachable},
		{&net.DNSError{IsTemporary: true}, wire.HostUnreachable},
		{&net.DNSError{IsTimeout: true}, wire.TTLExpired},
		{errors.ErrUnsupported, wire.CommandNotSupported},
		{dial(syscall.EMFILE), wire.GeneralFailure},
		{dial(syscall.ENOBUFS), wire.GeneralFailure},
		{context.Canceled, wire.GeneralFailure},
		{errors.New("anything"), wire.GeneralFailure},
	}
	for code := range 256 {
		upstream := wire.Reply(code)
		if upstream == wire.Succeeded {
			continue // is no error
		}
		tests = append(tests, struct {
			err  error
			want wire.Reply
		}{fmt.Errorf("through a chain: %w", dial(upstream)), upstream})
	}
	for _, test := range tests {
		if got := socks.ReplyFor(test.err); got != test.want {
			t.Errorf("ReplyFor(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}
