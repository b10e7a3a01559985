//go:build linux

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// What clients reach through the proxy.

const page = "the page that the proxy was asked for"

// website serves page on addr and returns the address with its port.
func website(t testing.TB, addr string) string {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serveHTTP(t, ln, http.HandlerFunc(servePage))
	return ln.Addr().String()
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, page)
}

// serveHTTP serves a website until the test ends.
func serveHTTP(t testing.TB, ln net.Listener, handler http.Handler) {
	site := &http.Server{Handler: handler}
	served := make(chan error)
	go func() { served <- site.Serve(ln) }()
	t.Cleanup(func() {
		site.Close()
		<-served
	})
}

// websiteAs starts a website and returns host:port for it, where host may be a name of loopback.
func websiteAs(t testing.TB, host string) string {
	t.Helper()
	listenOn := host
	if net.ParseIP(host) == nil {
		listenOn = "127.0.0.1"
	}
	_, port, _ := net.SplitHostPort(website(t, net.JoinHostPort(listenOn, "0")))
	return net.JoinHostPort(host, port)
}

// closedPort is an address that refuses connections. It stays bound until the end of the test, so that nobody else gets it.
func closedPort(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(bound.(*unix.SockaddrInet4).Port))
}

// echo reads to the end and then answers with what it got, so that only a client whose half-close arrives gets anything.
func echo(t testing.TB, addr string) string {
	t.Helper()
	return serveTCP(t, addr, func(conn *net.TCPConn) {
		all, err := io.ReadAll(conn)
		if err != nil {
			return // the test is over, or misses its answer
		}
		_, _ = conn.Write(all)
	})
}

// udpEcho sends every datagram back.
func udpEcho(t testing.TB, addr string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

// randomBytes cannot be mistaken for anything, and not compressed.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// sshd is an OpenSSH server that lets the user who runs the tests in, and only with key.
type sshd struct {
	host, port string
	key        string
	knownHosts string
}

func startSSHD(t testing.TB) *sshd { return startSSHDAt(t, "127.0.0.1:0") }

func startSSHDAt(t testing.TB, addr string) *sshd {
	t.Helper()
	path := peer(t, "sshd")
	hostKey, hostPublic := sshKey(t)
	key, public := sshKey(t)
	config := writeFile(t, "sshd_config", strings.Join([]string{
		"HostKey " + hostKey,
		"AuthorizedKeysFile " + writeFile(t, "authorized_keys", public),
		"StrictModes no", // the folders above a temporary one are not sshd's idea of safe
		"UsePAM no",
		"PidFile none",
	}, "\n"))
	addr = inetd(t, addr, func() *exec.Cmd {
		if os.Getuid() != 0 {
			return command(t, path, "-i", "-e", "-f", config)
		}
		// Root's sshd insists on an empty /run/sshd, which Debian makes when the service starts. Here it is in a
		// mount namespace.
		cmd := command(t, "/bin/sh", "-c",
			`mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"`, "sh", path, "-i", "-e", "-f", config)
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
		return cmd
	})
	host, port, _ := net.SplitHostPort(addr)
	return &sshd{host, port, key, writeFile(t, "known_hosts", "["+host+"]:"+port+" "+hostPublic)}
}

// sshKey makes a key pair as ssh-keygen does: a file, and the line for authorized_keys and known_hosts.
func sshKey(t testing.TB) (file, public string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "key", string(pem.EncodeToMemory(block))), string(ssh.MarshalAuthorizedKey(sshPub))
}

// client prepares ssh to that server, with nothing of the user's own configuration.
func (s *sshd) client(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	return command(t, peer(t, "ssh"), append([]string{
		"-F", "none", "-i", s.key, "-p", s.port,
		"-o", "UserKnownHostsFile=" + s.knownHosts, "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", s.host,
	}, args...)...)
}

// via logs in through a ProxyCommand and has data come back unchanged.
func (s *sshd) via(t testing.TB, proxyCommand string) {
	t.Helper()
	data := randomBytes(256 << 10)
	cmd := s.client(t, "-o", "ProxyCommand="+proxyCommand, "cat")
	cmd.Stdin = bytes.NewReader(data)
	if got := mustRun(t, cmd); got != string(data) {
		t.Errorf("cat at the other end gave back %d bytes, not the %d that it got", len(got), len(data))
	}
}
