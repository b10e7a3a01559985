package proxyproto

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

// program finds somebody else's program. A test that misses one is skipped, unless
// ARGYLE_PEERS=require.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, folder := range append([]string{"/usr/bin"}, filepath.SplitList(os.Getenv("PATH"))...) {
		if path, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
			return path
		}
	}
	if os.Getenv("ARGYLE_PEERS") == "require" {
		t.Fatalf("%s is missing, and ARGYLE_PEERS=require", name)
	}
	t.Skipf("%s is missing", name)
	return ""
}

// accept takes one connection of a program as a listener with a balancer does.
func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return Accept(conn, loopback)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// curl sends a header and its request, and is pleased with the answer.
func TestCurlAnswered(t *testing.T) {
	curl, ln := program(t, "curl"), listen(t)
	var out bytes.Buffer
	cmd := exec.Command(curl, "-sS", "--noproxy", "*", "--max-time", "10", "--haproxy-protocol", "http://"+ln.Addr().String()+"/path")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn := accept(t, ln)
	buf := make([]byte, 1000)
	n, err := conn.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "GET /path HTTP/1.1\r\n") {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if conn.RemoteAddr() == conn.(*headed).Conn.RemoteAddr() { // the same object, not only the same address
		t.Error("the header told nothing")
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	conn.Close()
	if err := cmd.Wait(); err != nil || out.String() != "ok" {
		t.Errorf("%v: %q", err, out.String())
	}
}

// What programs pass on as it is: headers of both versions, and none at all.
func TestRawBytes(t *testing.T) {
	for _, tool := range []string{"socat", "ncat"} {
		path := program(t, tool)
		for _, c := range []struct{ name, send, client, rest string }{
			{"version 1", string(header(t, 1, "192.0.2.7:4711", "198.51.100.1:1080")) + "rest", "192.0.2.7:4711", "rest"},
			{"version 2", string(header(t, 2, "[2001:db8::7]:4711", "[2001:db8::1]:1080")) + "rest", "[2001:db8::7]:4711", "rest"},
			{"none", "\x05\x01\x00", "", ""},
			{"nothing", "", "", ""},
		} {
			ln := listen(t)
			host, port, _ := net.SplitHostPort(ln.Addr().String())
			args := []string{"--send-only", host, port}
			if tool == "socat" {
				args = []string{"-u", "-", "TCP:" + host + ":" + port}
			}
			cmd := exec.Command(path, args...)
			cmd.Stdin = strings.NewReader(c.send)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			conn := accept(t, ln)
			got, err := io.ReadAll(conn)
			if string(got) != c.rest || (err == nil) != (c.client != "" || c.send == "") {
				t.Errorf("%s, %s: %q, %v", tool, c.name, got, err)
			}
			if from := argyle.AddrOf(conn.RemoteAddr()).String(); c.client != "" && from != c.client {
				t.Errorf("%s, %s: the client is %s, want %s", tool, c.name, from, c.client)
			}
			conn.Close()
			_ = cmd.Wait() // it may have met the reset of what was refused
		}
	}
}
