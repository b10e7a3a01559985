//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// outcome is what a server answers to the same wish in every protocol.
type outcome struct {
	rep    wire.Reply
	cd     wire.Reply4
	status int
}

var (
	passes  = outcome{wire.Succeeded, wire.Granted, http.StatusOK}
	refused = outcome{wire.NotAllowed, wire.Rejected, http.StatusForbidden}
)

// connectBy asks a server to connect to dest in every way that there is, and ends what it gets.
func connectBy(t *testing.T, server string, dest argyle.Addr, want outcome) {
	t.Helper()
	dial := func() net.Conn { return dialRaw(t, server) }
	asName := argyle.Addr{Name: dest.Host(), Port: dest.Port} // a literal may come as a name
	for _, addr := range []argyle.Addr{dest, asName} {
		conn := dial()
		if got := rep5(t, conn, argyle.Connect, addr); got != want.rep {
			t.Errorf("SOCKS 5 to %+v: %v", addr, got)
		}
		conn.Close()
		if addr.IP.Is6() {
			continue
		}
		conn = dial()
		if got := cd4(t, conn, argyle.Connect, addr); got != want.cd {
			t.Errorf("SOCKS 4 to %+v: %v", addr, got)
		}
		conn.Close()
	}
	for method, target := range map[string]string{"CONNECT": dest.String(), "GET": "http://" + dest.String() + "/"} {
		conn := dial()
		if got := statusOf(t, conn, method, target, ""); got != want.status {
			t.Errorf("%s %s: %d", method, target, got)
		}
		conn.Close()
	}
}

// --allow holds for every protocol and every command. Clients on this host are no exception, those on a unix socket are.
func TestAllow(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "argyle.sock")
	s := startServer(t, "--allow", "192.0.2.0/24", "--allow", "2001:db8::/32", "-l", "unix:"+socket)
	site := addrOf(t, website(t, "127.0.0.1:0"))
	connectBy(t, s.addr, site, refused)
	for _, cmd := range []argyle.Command{argyle.Bind, argyle.Associate} {
		if got := rep5(t, dialRaw(t, s.addr), cmd, site); got != wire.NotAllowed {
			t.Errorf("%v: %v", cmd, got)
		}
	}
	if got := cd4(t, dialRaw(t, s.addr), argyle.Bind, site); got != wire.Rejected {
		t.Errorf("SOCKS 4 bind: %v", got)
	}
	connectBy(t, "unix:"+socket, site, passes)

	listed := startServer(t, "--allow", "192.0.2.1", "--allow", "127.0.0.0/8")
	connectBy(t, listed.addr, site, passes)
}

// The proxy is no destination, for anybody, under any of its addresses.
func TestOwnListenersRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t, "-l", "[::1]:0")
	s.waitLog(t, "listening", 2)
	for _, addr := range s.addrs() {
		connectBy(t, s.addr, addrOf(t, addr), refused)
	}
}

// A client from elsewhere reaches what is public, and nothing of this host or its network: by no protocol, name or dress.
func TestRemoteClients(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	inner, outer := addrOf(t, website(t, "127.0.0.1:0")), addrOf(t, website(t, outerAddr+":0"))
	inner6 := addrOf(t, website(t, "[::1]:0"))
	private := []argyle.Addr{
		inner, inner6,
		{Name: "localhost", Port: inner.Port},
		{Name: "LocalHost", Port: inner.Port},
		{Name: "localhost", Port: inner6.Port},
	}
	for _, text := range []string{
		"10.0.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16",
		"fd00::1", "fe80::1", "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::1",
		"2001:0:7f00:1::f7f7:f7f7", "2001:db8::5efe:7f00:1",
	} {
		private = append(private, addrOf(t, net.JoinHostPort(text, fmt.Sprint(inner.Port))))
	}

	for _, flags := range [][]string{{"--open"}, {"--allow", outerAddr}, {"--open", "-x", "direct://"}} {
		s := remoteServer(t, flags...)
		connectBy(t, s.addr, outer, passes)
		connectBy(t, s.addr, argyle.Addr{Name: outerName, Port: outer.Port}, passes)
		for _, dest := range private {
			connectBy(t, s.addr, dest, refused)
		}
		connectBy(t, s.addr, addrOf(t, s.addr), refused)
		// Zeros are loopback to the system.
		connectBy(t, s.addr, addrOf(t, net.JoinHostPort("0.0.0.0", fmt.Sprint(inner.Port))), refused)
		connectBy(t, s.addr, addrOf(t, net.JoinHostPort("::", fmt.Sprint(inner.Port))), refused)
		for _, dest := range []argyle.Addr{inner, private[2], addrOf(t, "0.0.0.0:0"), addrOf(t, "10.0.0.1:0")} {
			if got := rep5(t, dialRaw(t, s.addr), argyle.Bind, dest); got != wire.NotAllowed {
				t.Errorf("bind %v: %v", dest, got)
			}
		}
		testRemoteDatagrams(t, s)
	}

	s := remoteServer(t, "--open", "--allow-private")
	connectBy(t, s.addr, inner, passes)
	connectBy(t, s.addr, argyle.Addr{Name: "localhost", Port: inner.Port}, passes)
	connectBy(t, s.addr, addrOf(t, s.addr), refused)

	// Through an upstream a literal is looked at all the same.
	up := launch(t, 1, "-l", "127.0.0.1:0")
	s = remoteServer(t, "--open", "-x", up.addr)
	connectBy(t, s.addr, outer, passes)
	connectBy(t, s.addr, inner, refused)
	connectBy(t, s.addr, private[2], refused)
	// And so is what a name means, where we resolve it.
	s = remoteServer(t, "--open", "-x", "socks5://"+up.addr)
	connectBy(t, s.addr, argyle.Addr{Name: outerName, Port: outer.Port}, passes)
	connectBy(t, s.addr, private[2], refused)
	up.end(t)
}

// remoteServer is a server that knows its clients by an address other than loopback.
func remoteServer(t *testing.T, flags ...string) *server {
	t.Helper()
	s := launch(t, 1, append([]string{"-l", outerAddr + ":0"}, flags...)...)
	t.Cleanup(func() { s.end(t) })
	return s
}

// testRemoteDatagrams sends to private destinations, and last to a public one, whose answer tells that all has been seen.
func testRemoteDatagrams(t *testing.T, s *server) {
	t.Helper()
	var strays atomic.Int32
	inner, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, _, err := inner.ReadFrom(make([]byte, 100)); err != nil {
				return
			}
			strays.Add(1)
		}
	}()
	defer func() {
		inner.Close()
		<-done
	}()
	association, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer association.Close()
	port := addrOf(t, inner.LocalAddr().String()).Port
	hosts := []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "10.0.0.1", "169.254.169.254", "localhost"}
	for _, host := range hosts {
		dest, err := argyle.ParseHost(host, port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := association.WriteTo([]byte("stray"), dest); err != nil {
			t.Fatal(err)
		}
	}
	helloPacket(t, association, addrOf(t, udpEcho(t, outerAddr+":0")))
	association.Close()
	s.session(t, "of the association", func(l logLine) bool { return l.Cmd == "udp" })
	got := s.lines("session")
	line := got[len(got)-1]
	// The look-up of the name may still be under way when the association ends.
	if n, _ := line["dropped"].(float64); int(n) != len(hosts) && int(n) != len(hosts)-1 {
		t.Errorf("%v, want %d dropped", line, len(hosts))
	}
	if line["down"] != float64(len("hello")) {
		t.Errorf("%v, want one answer", line)
	}
	if n := strays.Load(); n != 0 {
		t.Errorf("%d datagrams got through", n)
	}
}

// Whoever says who may use it gets listeners on every address.
func TestOpenRelayWanted(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ca := newAuthority(t)
	certFile, keyFile := certificate(t)
	for _, flags := range [][]string{
		{"--open"},
		{"--users", usersFile(t)},
		{"--allow", "192.0.2.0/24"},
		{"--tls-cert", certFile, "--tls-key", keyFile, "--tls-client-ca", ca.file},
	} {
		s := launch(t, 3, append(flags, "-l", "0.0.0.0:0", "-l", "[::]:0", "-l", ":0")...)
		addrs := s.addrs()
		if !strings.HasPrefix(addrs[0], "0.0.0.0:") || !strings.HasPrefix(addrs[1], "[::]:") {
			t.Errorf("listening on %q", addrs)
		}
		// 0.0.0.0 is every IPv4 address and no other.
		if conn, err := net.Dial("tcp", net.JoinHostPort("::1", fmt.Sprint(addrOf(t, addrs[0]).Port))); err == nil {
			conn.Close()
			t.Error("0.0.0.0 listens to IPv6")
		}
		dialRaw(t, net.JoinHostPort(outerAddr, fmt.Sprint(addrOf(t, addrs[0]).Port))).Close()
		dialRaw(t, net.JoinHostPort("::1", fmt.Sprint(addrOf(t, addrs[1]).Port))).Close()
		dialRaw(t, net.JoinHostPort(outerAddr, fmt.Sprint(addrOf(t, addrs[2]).Port))).Close()
		s.end(t)
	}
}

// Without flags it listens on loopback, of IPv6 only where there is any.
func TestDefaultListeners(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := launch(t, 2)
	if got := s.addrs(); !slices.Equal(got, []string{"127.0.0.1:1080", "[::1]:1080"}) {
		t.Errorf("listening on %q", got)
	}
	for _, addr := range s.addrs() {
		connectBy(t, addr, addrOf(t, website(t, "127.0.0.1:0")), passes)
	}
	second := start(t, program(t, "serve"))
	if code := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), "--listen 127.0.0.1:1080: ") {
		t.Errorf("a second one: exit status %d, %q", code, second.stderr.String())
	}
	s.end(t)

	// A port that somebody has is missed, whichever it is.
	serveTCP(t, "[::1]:1080", func(*net.TCPConn) {})
	second = start(t, program(t, "serve"))
	if code := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), "--listen [::1]:1080: ") {
		t.Errorf("with ::1 in use: exit status %d, %q", code, second.stderr.String())
	}

	mustRun(t, command(t, peer(t, "ip"), "-6", "address", "del", "::1/128", "dev", "lo"))
	s = launch(t, 1)
	if got := s.addrs(); !slices.Equal(got, []string{"127.0.0.1:1080"}) {
		t.Errorf("without IPv6, listening on %q", got)
	}
	s.end(t)
}

func TestUnixListener(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "argyle.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close() // leaves its socket, as a server that was killed

	s := launch(t, 1, "-l", "unix:"+path)
	dest := mirror(t, "127.0.0.1:0")
	for _, d := range []argyle.Dialer{
		&socks.Dialer{Addr: "unix:" + path},
		&socks.Dialer{Addr: "unix:" + path, Version: 4},
		&httpconnect.Dialer{Addr: "unix:" + path},
	} {
		open(t, d, dest).Close()
	}
	for n := range 3 {
		line := s.waitLog(t, "session", n+1)
		if line["client"] != "unix" || line["inbound"] != "unix:"+path {
			t.Errorf("%v", line)
		}
	}
	raw := dialRaw(t, "unix:"+path)
	if got := rep5(t, raw, argyle.Associate, argyle.Addr{Name: "x"}); got != wire.CommandNotSupported {
		t.Errorf("UDP ASSOCIATE: %v", got)
	}
	raw.Close()
	cmd := program(t, "connect", "-x", "unix:"+path, dest)
	cmd.Stdin = strings.NewReader("hello")
	if got := mustRun(t, cmd); got != "hello" {
		t.Errorf("through the socket came %q", got)
	}

	second := start(t, program(t, "serve", "-l", "unix:"+path))
	if code := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), "--listen unix:"+path+": ") ||
		!strings.Contains(second.stderr.String(), "address already in use") {
		t.Errorf("a second server: exit status %d, %q", code, second.stderr.String())
	}
	hello(t, open(t, &socks.Dialer{Addr: "unix:" + path}, dest))
	s.signal(t, syscall.SIGTERM)
	s.waitLog(t, "stopping", 1)
	s.signal(t, syscall.SIGTERM)
	s.wait(t)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// systemd starts the program with sockets that are open.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	tcp, tcp2, other := passedTCP(t), passedTCP(t), passedTCP(t)
	path := filepath.Join(t.TempDir(), "argyle.sock")
	unixLn, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	unixFile, err := unixLn.File()
	if err != nil {
		t.Fatal(err)
	}
	unixLn.SetUnlinkOnClose(false)
	unixLn.Close()
	defer unixFile.Close()

	s := await(t, activated(t, "socks:other:socks:local", []*os.File{tcp.file, other.file, tcp2.file, unixFile},
		"serve", "--log-format", "json", "-l", "systemd:socks", "-l", "systemd:local", "-l", "127.0.0.1:0"), 4)
	dest := mirror(t, "127.0.0.1:0")
	want := []string{tcp.addr, tcp2.addr, path}
	if got := s.addrs(); !slices.Equal(got[:3], want) {
		t.Errorf("listening on %q, want %q first", got, want)
	}
	for _, addr := range []string{tcp.addr, tcp2.addr, "unix:" + path, s.addrs()[3]} {
		open(t, &socks.Dialer{Addr: addr}, dest).Close()
	}
	// One that was not asked for is nobody's.
	conn := dialRaw(t, other.addr)
	write(t, conn, wire.Greeting{Methods: []wire.Method{wire.NoAuth}})
	_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a socket of another name is answered: %d bytes, %v", n, err)
	}
	s.waitLog(t, "session", 4)
	s.end(t)
	// The socket of systemd is not ours to remove.
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestSocketActivationErrors(t *testing.T) {
	t.Parallel()
	tcp := passedTCP(t)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	datagrams, err := udp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, tt := range []struct {
		names string
		file  *os.File
		args  string
		code  int
		want  string
	}{
		{"socks", tcp.file, "-l systemd:other", 1, `--listen systemd:other: no such name in LISTEN_FDNAMES "socks"`},
		{"socks", tcp.file, "-l systemd:", 1, "--listen systemd:: no such name"},
		{"socks", tcp.file, "-l systemd:socks -l systemd:socks", 2, "--listen systemd:socks is there twice"},
		{"socks", datagrams, "-l systemd:socks", 1, "--listen systemd:socks: "},
		{"socks", plain, "-l systemd:socks", 1, "--listen systemd:socks: "},
	} {
		c := activated(t, tt.names, []*os.File{tt.file}, append([]string{"serve"}, strings.Fields(tt.args)...)...)
		if code := c.wait(t); code != tt.code || !strings.HasPrefix(c.stderr.String(), "argyle: "+tt.want) || strings.Count(c.stderr.String(), "\n") != 1 {
			t.Errorf("%s: exit status %d, %q", tt.args, code, c.stderr.String())
		}
	}
	wide, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer wide.Close()
	file, err := wide.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := activated(t, "socks", []*os.File{file}, "serve", "-l", "systemd:socks")
	if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), "refusing to listen on 0.0.0.0:") {
		t.Errorf("an open relay by systemd: exit status %d, %q", code, c.stderr.String())
	}
}

// passed is a listening socket for another process.
type passed struct {
	addr string
	file *os.File
}

func passedTCP(t testing.TB) passed {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return passed{ln.Addr().String(), file}
}

// activated starts the program as systemd does: sockets from descriptor 3 on, and a variable with its own number, which
// only a process that becomes it can set.
func activated(t testing.TB, names string, files []*os.File, args ...string) *child {
	t.Helper()
	cmd := command(t, "/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", testBinary(t)}, args...)...)
	cmd.Env = append(append(cmd.Env, programEnv...), fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = files
	return start(t, cmd)
}
