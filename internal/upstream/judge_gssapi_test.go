package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle/socks"
)

// That there is no ticket is a fault of the way, whatever the reason: not what
// became of the destination.
func TestJudgeTicket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, reason := range []error{
		syscall.ECONNREFUSED, &net.DNSError{Err: "no such host", IsNotFound: true}, errors.New("no ticket"),
	} {
		d := &socks.Dialer{Addr: ln.Addr().String(), GSSAPI: &socks.GSSAPIClient{
			Initiate: func(context.Context, string, string) (socks.SecurityContext, error) {
				return nil, fmt.Errorf("kerberos: %w", reason)
			},
		}}
		_, err := d.Dial("tcp", "192.0.2.1:80")
		if got := judge(err); got != fault || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v is judged %d, want %d", err, got, fault)
		}
	}
}
