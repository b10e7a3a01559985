package upstream

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/argyle-socks/argyle"
)

// A way out whose first proxy is refused, as a server refuses itself, fails,
// and what a scheme makes us resolve is looked at.
func TestChecks(t *testing.T) {
	refuse := func(_ context.Context, _ string, addr netip.AddrPort) error {
		if addr.Addr().IsLoopback() {
			return argyle.ErrNotAllowed
		}
		return nil
	}
	for _, url := range []string{"socks5h://localhost:1", "socks5://127.0.0.1:1", "socks4://localhost:1", "http://127.0.0.1:1"} {
		d, err := Checks{First: refuse}.Chain([]string{url})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, argyle.ErrNotAllowed) {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{"socks5://127.0.0.1:1", "socks4://127.0.0.1:1"} {
		d, err := Checks{Dest: refuse}.Chain([]string{url, url})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.DialContext(t.Context(), "tcp", "localhost:80"); !errors.Is(err, argyle.ErrNotAllowed) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
