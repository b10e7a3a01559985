package source

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
)

// both is a resolver of names that have an address of each family.
type both struct{}

func (both) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")}, nil
}

// Where the pool has nothing of the first family, the race goes on with the other.
func TestOtherFamily(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := &Source{Addrs: prefixes("127.7.0.0/16")}
	d := &argyle.Direct{Resolver: both{}, Local: s.Local, Control: s.Control}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	conn, err := d.DialContext(t.Context(), "tcp", "both.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from := argyle.AddrOf(conn.LocalAddr()).IP; !s.Addrs[0].Contains(from) {
		t.Errorf("a connection from %v", from)
	}

	// And where there is only that family, the client hears of it as of a missing way.
	if _, err := d.DialContext(t.Context(), "tcp", "[::1]:"+port); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("%v", err)
	}
}

// An interface that is not there is an error which names it.
func TestNoInterface(t *testing.T) {
	s := &Source{Interface: "none0"}
	d := &argyle.Direct{Local: s.Local, Control: s.Control}
	_, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:9")
	if !errors.Is(err, syscall.ENODEV) || err.Error() != "dial tcp 127.0.0.1:9: interface none0: setsockopt: no such device" {
		t.Errorf("%v", err)
	}
}
