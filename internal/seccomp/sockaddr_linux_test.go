package seccomp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What appendInet writes parseInet reads, and the kernel too.
func TestSockaddr(t *testing.T) {
	for _, text := range []string{"192.0.2.1:80", "0.0.0.0:0", "[2001:db8::1]:65535", "[fe80::1%7]:53", "[::]:1"} {
		want := netip.MustParseAddrPort(text)
		domain := unix.AF_INET
		if want.Addr().Is6() {
			domain = unix.AF_INET6
		}
		got, ok := parseInet(appendInet(nil, domain, want))
		if !ok || got != want {
			t.Errorf("%v became %v, %t", want, got, ok)
		}
	}
	mapped, ok := parseInet(appendInet(nil, unix.AF_INET6, netip.MustParseAddrPort("192.0.2.1:80")))
	if want := netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"); !ok || mapped != want {
		t.Errorf("an AF_INET6 socket has %v, want %v", mapped, want)
	}
}

func TestUnixPath(t *testing.T) {
	family := []byte{unix.AF_UNIX, 0}
	for bytes, want := range map[string]string{
		"":                   "",
		"\x00":               "",
		"\x00name":           "@name",
		"/run/nscd/socket":   "/run/nscd/socket",
		"/run/socket\x00abc": "/run/socket",
	} {
		if got := unixPath(append(family[:2:2], bytes...)); got != want {
			t.Errorf("unixPath(%q) = %q, want %q", bytes, got, want)
		}
	}
}

// A program may write what it likes: nothing panics.
func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{unix.AF_UNIX, 0, 0, 'a'})
	f.Add(appendInet(nil, unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:80")))
	f.Add(appendInet(nil, unix.AF_INET6, netip.MustParseAddrPort("[fe80::1%7]:53")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = unixPath(b)
		addr, ok := parseInet(b)
		if !ok {
			return
		}
		if !addr.IsValid() {
			t.Errorf("%x is %v", b, addr)
		}
		_ = appendInet(nil, family(b), addr)
	})
}

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		err  error
		want unix.Errno
	}{
		{fmt.Errorf("dial: %w", syscall.ECONNREFUSED), unix.ECONNREFUSED},
		{syscall.EHOSTUNREACH, unix.EHOSTUNREACH},
		{syscall.ENETUNREACH, unix.ENETUNREACH},
		{context.DeadlineExceeded, unix.ETIMEDOUT},
		{os.ErrDeadlineExceeded, unix.ETIMEDOUT},
		{&net.DNSError{IsNotFound: true}, unix.EHOSTUNREACH},
		{errors.New("the rules forbid it"), unix.ECONNREFUSED},
	} {
		if got := Errno(test.err); got != test.want {
			t.Errorf("Errno(%v) = %v, want %v", test.err, got, test.want)
		}
	}
}

// Only what is known to lead nowhere is let through of the abstract sockets.
func TestRefused(t *testing.T) {
	s := &supervisor{refuse: Resolvers()}
	for path, want := range map[string]bool{
		"@/tmp/.X11-unix/X0":          false,
		"@/tmp/dbus-abc":              false,
		"@resolver":                   true,
		"/run/nscd/socket":            true,
		"/run/systemd/../nscd/socket": true,
		"/run/user/1000/bus":          false,
	} {
		if got := s.refused(path, os.Getpid()); got != want {
			t.Errorf("refused(%q) = %t, want %t", path, got, want)
		}
	}
}
