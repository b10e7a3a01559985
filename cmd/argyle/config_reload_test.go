//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/users"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// reload has the server take another text as its configuration.
func (s *server) reload(t testing.TB, path, text string) {
	t.Helper()
	n := len(s.lines("took the new configuration"))
	rewrite(t, path, text)
	s.signal(t, syscall.SIGHUP)
	eventually(t, "the new configuration", func() bool { return len(s.lines("took the new configuration")) > n })
}

// A file that somebody is writing, or has emptied, is not taken.
func TestReloadHalfWritten(t *testing.T) {
	t.Parallel()
	const text = "listen: ['127.0.0.1:0']\nrules:\n  - {name: %s, action: allow}\n"
	path := configFile(t, fmt.Sprintf(text, "first"))
	s := serveFile(t, 1, path)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, part := range strings.SplitAfter(fmt.Sprintf(text, "second"), " ") {
		time.Sleep(watchInterval / 2)
		if _, err := file.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	s.waitLog(t, "took the new configuration", 1)
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	s.signal(t, syscall.SIGHUP)
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "kept the old configuration", 1)
	dest := mirror(t, "127.0.0.1:0")
	open(t, s.dialer(""), dest).Close()
	if line := s.sessionBy(t, "dest", dest); !strings.Contains(fmt.Sprint(line["why"]), "second") {
		t.Errorf("%v", line)
	}
	if n := len(s.lines("took the new configuration")); n != 1 {
		t.Errorf("%d reloads", n)
	}
	for _, line := range s.lines("kept the old configuration") {
		if !strings.Contains(fmt.Sprint(line["err"]), "empty") {
			t.Errorf("%v", line)
		}
	}
}

// Whoever edits the file and sends SIGHUP sees one reload.
func TestReloadOnce(t *testing.T) {
	t.Parallel()
	path := configFile(t, "listen: ['127.0.0.1:0']\n")
	s := serveFile(t, 1, path)
	s.reload(t, path, "listen: ['127.0.0.1:0']\nopen: true\n")
	time.Sleep(3 * watchInterval)
	if n := len(s.lines("took the new configuration")); n != 1 {
		t.Errorf("%d reloads", n)
	}
}

// After SIGTERM no configuration is taken, whatever its file says, and the
// program ends with its last session.
func TestReloadWhileStopping(t *testing.T) {
	t.Parallel()
	path := configFile(t, "listen: ['127.0.0.1:0']\n")
	s := launch(t, 1, "-c", path)
	conn := open(t, s.dialer(""), mirror(t, "127.0.0.1:0"))
	s.signal(t, syscall.SIGTERM)
	s.waitLog(t, "stopping", 1)
	rewrite(t, path, "listen: ['127.0.0.1:0', '127.0.0.2:0']\n")
	s.signal(t, syscall.SIGHUP)
	time.Sleep(3 * watchInterval)
	hello(t, conn)
	conn.Close()
	if code := s.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if lines := s.lines("listening"); len(lines) != 1 {
		t.Errorf("%v", lines)
	}
}

// A rule knows a listener by its address as it is written, whoever chose the
// port or passed the socket.
func TestListenerAsWritten(t *testing.T) {
	t.Parallel()
	dest := mirror(t, "127.0.0.1:0")
	file := configFile(t, "rules: [{listener: '127.0.0.1:0', action: allow}]\n")
	s := startServer(t, "-c", file)
	open(t, s.dialer(""), dest).Close()

	file = configFile(t, "listen: ['systemd:socks']\nrules: [{listener: 'systemd:socks', action: allow}]\n")
	tcp := passedTCP(t)
	c := activated(t, "socks", []*os.File{tcp.file}, "serve", "-c", file, "--log-format", "json")
	passed := await(t, c, 1)
	open(t, passed.dialer(""), dest).Close()
}

// A listener takes another name, mode or breadth without a moment in which
// nobody listens.
func TestReloadListenerChanges(t *testing.T) {
	t.Parallel()
	dest := mirror(t, "127.0.0.1:0")
	socket := filepath.Join(t.TempDir(), "socket")
	const text = "listen: [{address: 'unix:%s', name: %s, mode: '%s'}]\nrules: [{listener: %s, action: allow}]\n"
	path := configFile(t, fmt.Sprintf(text, socket, "one", "0600", "one"))
	s := serveFile(t, 1, path)
	d := &socks.Dialer{Addr: "unix:" + socket}
	conn := open(t, d, dest)
	defer conn.Close()
	s.reload(t, path, fmt.Sprintf(text, socket, "two", "0660", "two"))
	open(t, d, dest).Close()
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	hello(t, conn)

	port := freePort(t)
	text2 := func(host string) string {
		return fmt.Sprintf("listen: ['%s:%d']\nrules: [{action: allow}]\n", host, port)
	}
	path = configFile(t, text2("127.0.0.1"))
	wide := serveFile(t, 1, path)
	d = &socks.Dialer{Addr: fmt.Sprintf("127.0.0.1:%d", port)}
	conn2 := open(t, d, dest)
	defer conn2.Close()
	for _, host := range []string{"0.0.0.0", "127.0.0.1"} {
		wide.reload(t, path, text2(host))
		open(t, d, dest).Close()
		other := &net.Dialer{}
		second, err := other.DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.2:%d", port))
		if err == nil {
			second.Close()
		}
		if reached := err == nil; reached != (host == "0.0.0.0") {
			t.Errorf("with %s another address of the host is reached: %v", host, reached)
		}
	}
	hello(t, conn2)
	// Nobody else may share the port with it.
	if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		ln.Close()
		t.Error("the port is shared")
	}
}

// freePort returns a port that the system gives to nobody by itself.
func freePort(t testing.TB) int {
	t.Helper()
	for port := 20000 + os.Getpid()%5000; port < 30000; port++ {
		if ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("every port is in use")
	return 0
}

// Where the counts are kept is no matter for a reload, which says so.
func TestReloadState(t *testing.T) {
	t.Parallel()
	path := configFile(t, "listen: ['127.0.0.1:0']\n")
	s := serveFile(t, 1, path)
	rewrite(t, path, "listen: ['127.0.0.1:0']\nstate: kept\n")
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "kept the old configuration", 1)
	if text := fmt.Sprint(s.lines("kept the old configuration")[0]["err"]); !strings.Contains(text, "yaml:2:8: ") {
		t.Error(text)
	}
}

// A BIND under way is decided about by the rules that let it begin.
func TestReloadBind(t *testing.T) {
	t.Parallel()
	const text = "rules: [{command: bind, source: {address: %s}, action: allow}]\n"
	path := configFile(t, fmt.Sprintf(text, "127.0.0.1"))
	s := startServer(t, "-c", path)
	ln, err := s.dialer("").Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s.reload(t, path, fmt.Sprintf(text, "127.0.0.2"))
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = peer.Write([]byte("hello")) }()
	buf := make([]byte, 5)
	if _, err := conn.Read(buf); err != nil || string(buf) != "hello" {
		t.Errorf("%q, %v", buf, err)
	}
}

// end-refused knows the far end of a session through a group, or with a PROXY
// header, when that is the destination; and users who are gone.
func TestReloadEndsRefusedWays(t *testing.T) {
	t.Parallel()
	const text = `
users: users
reload: {sessions: end-refused}
names: {hosts: {plain.test: 127.0.0.1, group.test: 127.0.0.1, header.test: 127.0.0.1}}
upstreams: {pool: {group: [direct]}}
rules:
%s  - {to: group.test, via: pool}
  - {to: header.test, send-proxy: 1, action: allow}
  - {action: allow}
`
	path := configFile(t, fmt.Sprintf(text, ""), "ann", "bob")
	s := startServer(t, "-c", path)
	_, port, _ := net.SplitHostPort(mirror(t, "127.0.0.1:0"))
	var conns []net.Conn
	for _, host := range []string{"plain", "group", "header"} {
		conn, err := s.dialer("ann").DialContext(t.Context(), "tcp", host+".test:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	other := mirror(t, "127.0.0.9:0")
	bob, stays := open(t, s.dialer("bob"), other), open(t, s.dialer("ann"), other)
	s.reload(t, path, fmt.Sprintf(text, "  - {to: 127.0.0.1/32, action: deny}\n"))
	for _, conn := range conns {
		gone(t, conn)
	}
	hello(t, bob)
	hello(t, stays)
	rewrite(t, filepath.Join(filepath.Dir(path), "users"), "")
	if err := users.Set(filepath.Join(filepath.Dir(path), "users"), "ann", password); err != nil {
		t.Fatal(err)
	}
	s.reload(t, path, fmt.Sprintf(text, ""))
	gone(t, bob)
	hello(t, stays)
}

// A limit that a reload takes away holds nobody back any more.
func TestReloadLiftsLimits(t *testing.T) {
	t.Parallel()
	const text = "users: users\nlisten: ['127.0.0.1:0']\n%s"
	const limits = "limits: {user: {sessions: 1, down: 80kbit/s}}\nrules: [{name: slow, action: allow, limits: {down: 80kbit/s}}]\n"
	path := configFile(t, fmt.Sprintf(text, limits), "ann")
	s := serveFile(t, 1, path)
	dest := spring(t)
	conn, err := s.dialer("ann").DialContext(t.Context(), "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	refuses(t, s.dialer("ann"), dest, wire.GeneralFailure)
	s.reload(t, path, fmt.Sprintf(text, "rules: [{name: slow, action: allow}]\n"))
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 64<<10)
	for n := 0; n < 8<<20; { // 800 s at the old limit
		m, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		n += m
	}
	open(t, s.dialer("ann"), mirror(t, "127.0.0.1:0")).Close()
}
