package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// forwarding is a running argyle forward.
type forwarding struct{ *child }

// forwardLine is a line of its log.
type forwardLine struct{ Msg, Forward, From, At, Inbound, Err string }

func startForward(t *testing.T, args ...string) *forwarding {
	t.Helper()
	f := &forwarding{start(t, program(t, append([]string{"forward", "--log-format", "json"}, args...)...))}
	t.Cleanup(func() {
		_ = f.cmd.Process.Signal(syscall.SIGTERM) // a second one is no mistake
		_ = f.cmd.Process.Signal(syscall.SIGTERM)
		if code := f.wait(t); code != 0 {
			t.Errorf("forward's exit status is %d: %s", code, f.stderr.String())
		}
	})
	return f
}

// lines are those of the log that match.
func (f *forwarding) lines(match func(forwardLine) bool) (all []forwardLine) {
	for text := range strings.Lines(f.stderr.String()) {
		var line forwardLine
		if json.Unmarshal([]byte(text), &line) == nil && match(line) {
			all = append(all, line)
		}
	}
	return all
}

// at is where a forward listens.
func (f *forwarding) at(t *testing.T, name string) string {
	t.Helper()
	var found []forwardLine
	eventually(t, name+" to listen", func() bool {
		select {
		case <-f.ended:
			t.Fatalf("forward has ended: %v: %s", f.err, f.stderr.String())
		default:
		}
		found = f.lines(func(line forwardLine) bool { return line.Msg == "forwarding" && line.Forward == name })
		return len(found) > 0
	})
	return strings.TrimPrefix(found[0].From, "udp ")
}

// bound waits for the n-th time that the proxy listens, and returns where.
func (f *forwarding) bound(t *testing.T, n int) string {
	t.Helper()
	var found []forwardLine
	eventually(t, "the proxy to listen", func() bool {
		found = f.lines(func(line forwardLine) bool { return line.Msg == "the proxy listens" })
		return len(found) >= n
	})
	return found[n-1].At
}

// TestForward carries all kinds through our server and through danted.
func TestForward(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := startServer(t)
	danted(t, "1080", "none")
	for _, proxy := range []string{"socks5h://" + s.addr, "socks5h://127.0.0.1:1080", "socks4a://" + s.addr, "direct://"} {
		t.Run(proxy[:strings.IndexByte(proxy, ':')]+" "+proxy[len(proxy)-4:], func(t *testing.T) { testForward(t, proxy) })
	}
}

func testForward(t *testing.T, proxy string) {
	socket := filepath.Join(t.TempDir(), "sock")
	target, target6 := echo(t, outerAddr+":0"), echo(t, "[::1]:0")
	_, port, _ := net.SplitHostPort(target)
	args := []string{"-x", proxy, "tcp/0=" + target, "tcp/[::1]:0=" + outerName + ":" + port, "unix:" + socket + "=" + target, "bind/0.0.0.0:0=" + target6}
	udp := !strings.HasPrefix(proxy, "socks4a")
	if udp {
		args = append(args, "udp/0="+udpEcho(t, outerAddr+":0"))
	}
	f := startForward(t, args...)
	for _, from := range []string{"tcp:" + f.at(t, "tcp/0"), "tcp:" + f.at(t, "tcp/[::1]:0"), "unix:" + f.at(t, "unix:"+socket)} {
		network, address, _ := strings.Cut(from, ":")
		roundTrip(t, network, address)
	}
	var peers sync.WaitGroup
	for n := range 3 { // armed again for each, while the others are there
		at := f.bound(t, n+1)
		peers.Go(func() { roundTrip(t, "tcp", at) })
		f.bound(t, n+2)
	}
	peers.Wait()
	if udp {
		udpRoundTrips(t, f.at(t, "udp/0"))
	}
}

// roundTrip sends a lot to an echo, ends, and wants it all back, and the end.
func roundTrip(t *testing.T, network, address string) {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent := randomBytes(4 << 20)
	go func() {
		_, _ = conn.Write(sent)
		if w, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite()
		}
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%s %s: %d bytes of %d came back: %v", network, address, len(got), len(sent), err)
	}
}

// udpRoundTrips sends some to an echo, and wants each back.
func udpRoundTrips(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 2048)
	for n := range 100 {
		text := fmt.Sprintf("datagram %d", n)
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := conn.Read(buf); err != nil || string(buf[:got]) != text {
			t.Fatalf("%q came back for %q: %v", buf[:got], text, err)
		}
	}
}

// TestForwardRefused sees that clients hear of it, and nobody else is let in.
func TestForwardRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := startServer(t)
	target := echo(t, outerAddr+":0")
	f := startForward(t, "-x", s.addr, "--allow", "127.0.0.1", "--deny", outerName,
		"tcp/0="+closedPort(t), "tcp/127.0.0.1:0="+outerName+":80", "tcp/0.0.0.0:0="+target)
	wantReset(t, f.at(t, "tcp/0"))
	wantReset(t, f.at(t, "tcp/127.0.0.1:0"))
	_, port, _ := net.SplitHostPort(f.at(t, "tcp/0.0.0.0:0"))
	roundTrip(t, "tcp", "127.0.0.1:"+port)
	wantReset(t, outerAddr+":"+port) // from there, too
	if strings.Contains(f.stderr.String(), "anybody") {
		t.Errorf("it warns of what --allow has closed:\n%s", f.stderr.String())
	}
}

// TestForwardSignals has many come until it has ended: they make nobody's exit status.
func TestForwardSignals(t *testing.T) {
	for range 20 { // the moment is short
		f := startForward(t, "-x", "127.0.0.1:1", "tcp/0="+closedPort(t))
		f.at(t, "tcp/0")
		for ended := false; !ended; {
			select {
			case <-f.ended:
				ended = true // and the clean-up looks at its status
			default:
				_ = f.cmd.Process.Signal(syscall.SIGTERM)
			}
		}
	}
}

// wantReset connects to what is accepted and then refused. The reset may come before the connect has returned.
func wantReset(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want a reset", address, err)
	}
}

// TestForwardStdio is the ProxyCommand of a real ssh.
func TestForwardStdio(t *testing.T) {
	s := startServer(t)
	box := startSSHD(t)
	words := append(programWords(t), "forward", "-x", s.addr, "stdio=%h:%p")
	box.via(t, strings.Join(words, " "))
}

// TestForwardFile takes forwards of a file and of the command line together, with rules that name them.
func TestForwardFile(t *testing.T) {
	s := startServer(t)
	open, closed := echo(t, "127.0.0.1:0"), echo(t, "127.0.0.1:0")
	config := writeFile(t, "argyle.yaml", `
proxy: socks5h://`+s.addr+`
forward:
  - tcp/0=`+open+`
  - {spec: "tcp/127.0.0.1:0=`+closed+`", name: shut}
rules:
  - {listener: shut, action: deny}
  - {action: allow}
`)
	f := startForward(t, "-c", config, "tcp/localhost:0="+open)
	roundTrip(t, "tcp", f.at(t, "tcp/0"))
	roundTrip(t, "tcp", f.at(t, "tcp/localhost:0"))
	wantReset(t, f.at(t, "shut"))
}

// TestForwardDrain ends it while a session lives: that goes on.
func TestForwardDrain(t *testing.T) {
	s := startServer(t)
	socket := filepath.Join(t.TempDir(), "sock")
	answering := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) })
	f := startForward(t, "-x", s.addr, "tcp/0="+answering, "unix:"+socket+"="+closedPort(t))
	at := f.at(t, "tcp/0")
	f.at(t, "unix:"+socket)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v, want mode 0600", info.Mode(), err)
	}
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func(text string) {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(patience))
		got := make([]byte, len(text))
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			t.Fatalf("%q came back for %q: %v", got, text, err)
		}
	}
	say("before")
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it to listen no longer", func() bool {
		other, err := net.Dial("tcp", at)
		if err == nil {
			other.Close()
		}
		return err != nil
	})
	say("after")
	conn.Close()
	if code := f.wait(t); code != 0 {
		t.Errorf("the exit status is %d", code)
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// TestForwardAgain has the proxy die and come back under a reverse forward.
func TestForwardAgain(t *testing.T) {
	port := strconv.Itoa(freePort(t))
	serve := func() *child {
		c := start(t, program(t, "serve", "-q", "-l", "127.0.0.1:"+port))
		eventually(t, "the proxy", func() bool { return listeningAddr(c.cmd.Process.Pid) != "" })
		return c
	}
	proxy := serve()
	f := startForward(t, "-x", "127.0.0.1:"+port, "bind/0.0.0.0:0="+echo(t, "127.0.0.1:0"))
	roundTrip(t, "tcp", f.bound(t, 1))
	f.bound(t, 2)
	if err := proxy.cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	proxy.wait(t)
	serve()
	roundTrip(t, "tcp", f.bound(t, 3))
}

// TestForwardMistakes wants each told with what was expected, and nothing left behind.
func TestForwardMistakes(t *testing.T) {
	s := startServer(t)
	taken := echo(t, "127.0.0.1:0")
	socket := filepath.Join(t.TempDir(), "sock")
	file := func(text string) string { return writeFile(t, "bad.yaml", "proxy: socks5h://gw\n"+text) }
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-x", s.addr}, 2, "nothing to forward"},
		{[]string{"-x", s.addr, "tcp/5=x"}, 2, "where to"},
		{[]string{"-x", s.addr, "tcp/=x:1"}, 2, "where to listen"},
		{[]string{"-x", s.addr, "tcp/5=x:0"}, 2, "port 0"},
		{[]string{"-x", s.addr, "tls/5=x:1"}, 2, "want tcp/"},
		{[]string{"-x", s.addr, "tcp/0=unix:/x"}, 2, "where to"},
		{[]string{"-x", s.addr, "bind/x=x:1"}, 2, "who may come"},
		{[]string{"-x", s.addr, "tcp/0=x:1", "tcp/0=y:1"}, 2, "twice"},
		{[]string{"-x", s.addr, "--allow", "x", "tcp/0=x:1"}, 2, "--allow"},
		{[]string{"-x", s.addr, "unix:" + socket + "=x:1", "tcp/" + taken + "=x:1"}, 1, "address already in use"},
		{[]string{"-x", "http://127.0.0.1:9", "udp/0=x:1"}, 1, "datagrams"},
		{[]string{"-x", "http://127.0.0.1:9", "bind/0.0.0.0:0=x:1"}, 1, "BIND"},
		{[]string{"-x", "127.0.0.1:9", "bind/0.0.0.0:0=x:1"}, 1, "refused"},
		{[]string{"-x", s.addr, "stdio=" + closedPort(t)}, 1, "refused"},
		{[]string{"-c", file("forward: tcp/5=x\n")}, 1, "bad.yaml:2:10"},
		{[]string{"-c", file("forward: [tcp/5=x:1, tcp/5=y:1]\n")}, 1, "twice"},
		{[]string{"-c", file("forward: {name: x}\n")}, 1, "spec"},
	} {
		c := start(t, program(t, append([]string{"forward"}, test.args...)...))
		if code := c.wait(t); code != test.code || !strings.Contains(c.stderr.String(), test.says) {
			t.Errorf("%q: exit status %d, want %d, with %q:\n%s", test.args, code, test.code, test.says, c.stderr.String())
		}
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket is left behind: %v", err)
	}
}
