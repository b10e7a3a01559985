package source

import (
	"errors"
	"net"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
)

// In a network namespace of the test: connections come from addresses that no
// interface has, by the interface and with the mark that are wanted.
func TestNamespace(t *testing.T) {
	// The thread is never given back, and so the namespace ends with it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"-6", "route", "add", "local", "2001:db8:1::/64", "dev", "lo"},
		{"route", "add", "local", "192.0.2.0/24", "dev", "lo"},
		{"link", "add", "up0", "type", "dummy"},
		{"addr", "add", "198.51.100.1/24", "dev", "up0"},
		{"link", "set", "up0", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %v: %v: %s", args, err, out)
		}
	}
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	s := &Source{Addrs: prefixes("2001:db8:1::/64 192.0.2.0/24"), Mark: 42}
	d := &argyle.Direct{Local: s.Local, Control: s.Control}
	for _, dest := range []string{"2001:db8:1::99", "127.0.0.1"} {
		seen := make(map[string]bool)
		for range 20 {
			conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(dest, port))
			if err != nil {
				t.Fatal(err)
			}
			peer, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			from := argyle.AddrOf(peer.RemoteAddr())
			if !s.Addrs[0].Contains(from.IP) && !s.Addrs[1].Contains(from.IP) {
				t.Errorf("a connection from %v", from)
			}
			seen[from.Host()] = true
			if got := option(t, conn, unix.SO_MARK); got != 42 {
				t.Errorf("mark %d", got)
			}
			conn.Close()
			peer.Close()
		}
		if len(seen) < 15 {
			t.Errorf("20 connections from %d addresses", len(seen))
		}
	}

	// Bound to an interface that does not lead there, nothing gets through.
	away := &Source{Interface: "up0"}
	d = &argyle.Direct{Local: away.Local, Control: away.Control}
	if conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("2001:db8:1::99", port)); err == nil {
		conn.Close()
		t.Error("connected by an interface that does not lead there")
	}
	none := &Source{Interface: "none0"}
	d = &argyle.Direct{Control: none.Control}
	if _, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:"+port); err == nil || !errors.Is(err, syscall.ENODEV) {
		t.Errorf("an interface that is not there: %v", err)
	}
}

func option(t *testing.T, conn net.Conn, name int) (value int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, name) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return value
}
