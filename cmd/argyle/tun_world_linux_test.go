package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/tun"
)

// inTunWorld makes the world of redirect, but that this host has one way to all that is not near: a default route.
func inTunWorld(t *testing.T) (w *redirectWorld, ok bool) {
	t.Helper()
	if _, err := os.Stat(tun.Path); err != nil {
		missing(t, tun.Path)
	}
	if w, ok = inRedirectWorld(t); !ok {
		return nil, false
	}
	ip := peer(t, "ip")
	for _, line := range []string{
		"route del 192.0.2.0/24", "route del 198.51.100.0/24", "-6 route del 2001:db8::/32",
		"route add default via 10.85.2.2", "-6 route add default via fd00:85:2::2",
	} {
		mustRun(t, command(t, ip, strings.Fields(line)...))
	}
	w.outside.enter(t, func() {
		for _, host := range []string{outsideProxy, "fd00:85:2::2"} {
			serveTCP(t, net.JoinHostPort(host, "7"), tellAndEcho)
		}
	})
	return w, true
}

// startTun starts the program and waits until it takes packets. At the end of the test it obeys SIGTERM, and the host is as it
// was.
func startTun(t *testing.T, args ...string) *redirection {
	t.Helper()
	before := hostState(t)
	r := startTunAs(t, args...)
	r.before = before
	return r
}

// startTunAs is startTun where the host is not as it should be.
func startTunAs(t *testing.T, args ...string) *redirection {
	t.Helper()
	return awaitTun(t, program(t, append([]string{"tun", "-v", "--log-format", "json"}, args...)...))
}

func awaitTun(t *testing.T, cmd *exec.Cmd) *redirection {
	t.Helper()
	r := &redirection{child: start(t, cmd)}
	eventually(t, "tun to begin", func() bool {
		select {
		case <-r.ended:
			t.Fatalf("tun ended: %v: %s", r.err, r.stderr.String())
		default:
		}
		return strings.Contains(r.stderr.String(), `"msg":"taking packets"`)
	})
	t.Cleanup(func() {
		select {
		case <-r.ended:
		default:
			r.stop(t)
		}
	})
	return r
}

// ping sends echo requests until there is an answer of one kind or the other. A nil network is this host.
func ping(t *testing.T, from *network, host string) (err error) {
	t.Helper()
	network, kind := "ip4:icmp", byte(8)
	if netip.MustParseAddr(host).Is6() {
		network, kind = "ip6:ipv6-icmp", 128
	}
	var conn net.Conn
	from.enter(t, func() { conn, err = net.Dial(network, host) })
	if err != nil {
		return err
	}
	defer conn.Close()
	request := []byte{kind, 0, 0, 0, 0x61, 0x72, 0, 1}
	if kind == 8 {
		sum := ^(uint32(kind)<<8 + 0x6172 + 1)
		request[2], request[3] = byte(sum>>8), byte(sum)
	}
	reply := make([]byte, 1500)
	for range 20 {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, _, err := conn.(*net.IPConn).ReadFrom(reply) // without the header of IPv4
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			if n == len(request) && reply[0] == kind&^8|kind>>7&1 && reply[4] == 0x61 && reply[5] == 0x72 {
				return nil
			}
		}
	}
	return os.ErrDeadlineExceeded
}

// makeTUN makes a device of that name with these flags, as somebody else does, who gives it addresses and routes.
func makeTUN(t *testing.T, name string, flags uint16) *os.File {
	t.Helper()
	fd, err := unix.Open(tun.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { file.Close() })
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	return file
}

// nobody runs a program without any rights.
func nobody(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	cmd.Dir, cmd.SysProcAttr.Credential = "/", &syscall.Credential{Uid: 65001, Gid: 65001}
	return readable(t, cmd)
}

// dig prepares a question, in dig's words.
func dig(t *testing.T, words string) *exec.Cmd {
	t.Helper()
	return command(t, peer(t, "dig"), append([]string{"+short", "+time=3", "+tries=2"}, strings.Fields(words)...)...)
}
