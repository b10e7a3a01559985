//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/internal/upstream"
)

// refusesConnections waits until nobody listens any more.
func (s *server) refusesConnections(t testing.TB) {
	t.Helper()
	eventually(t, "the server to stop listening", func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// SIGTERM ends the listening at once, and the program with the last session.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := launch(t, 1, "-l", "127.0.0.1:0")
			dest, datagrams := mirror(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
			bySOCKS := open(t, s.dialer(""), dest)
			byHTTP := open(t, &httpconnect.Dialer{Addr: s.addr}, dest)
			association, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer association.Close()

			s.signal(t, sig)
			s.refusesConnections(t)
			hello(t, bySOCKS)
			hello(t, byHTTP)
			helloPacket(t, association, addrOf(t, datagrams))
			association.Close()
			bySOCKS.Close()
			hello(t, byHTTP)
			if !s.alive() {
				t.Fatal("the server has not waited for the last session")
			}
			byHTTP.Close()
			if code := s.wait(t); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if got := s.lines("session"); len(got) != 3 {
				t.Errorf("%d sessions in the log, want 3", len(got))
			}
			if cut := s.lines("sessions cut"); cut != nil {
				t.Errorf("%v", cut)
			}
		})
	}
}

// helloPacket wants a datagram back.
func helloPacket(t testing.TB, conn net.PacketConn, dest argyle.Addr) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteTo([]byte("hello"), dest); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := conn.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q came back from %v: %v", buf[:n], from, err)
	}
}

// What has not ended when the time is over, or at a second signal, is cut; that is no failure.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		drain   string
		signals int
	}{
		{"1h", 2},
		{"100ms", 1},
		{"0", 1},
	} {
		t.Run(fmt.Sprintf("%s %d", tt.drain, tt.signals), func(t *testing.T) {
			t.Parallel()
			s := launch(t, 1, "-l", "127.0.0.1:0", "--drain", tt.drain)
			dest := mirror(t, "127.0.0.1:0")
			conn := open(t, s.dialer(""), dest)
			association, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer association.Close()
			silent := dialRaw(t, s.addr)
			s.signal(t, syscall.SIGTERM)
			s.waitLog(t, "stopping", 1)
			if tt.signals == 2 {
				hello(t, conn)
				s.signal(t, syscall.SIGHUP) // is no second
				hello(t, conn)
				s.signal(t, syscall.SIGTERM)
			}
			gone(t, conn)
			gone(t, silent)
			if code := s.wait(t); code != 0 {
				t.Errorf("exit status %d", code)
			}
			s.waitLog(t, "sessions cut", 1)
			for _, line := range s.lines("session") {
				if line["cmd"] == "connect" && line["err"] == nil {
					t.Errorf("the log says nothing of the cut: %v", line)
				}
			}
		})
	}
}

// A connection of HTTP that waits for its next request does not hold the end up.
func TestDrainIdleHTTP(t *testing.T) {
	t.Parallel()
	s := launch(t, 1, "-l", "127.0.0.1:0", "--drain", "1h")
	conn := dialRaw(t, s.addr)
	if got := statusOf(t, conn, http.MethodGet, "http://"+website(t, "127.0.0.1:0")+"/", ""); got != http.StatusOK {
		t.Fatalf("status %d", got)
	}
	s.end(t)
	gone(t, conn)
}

// The users file is read again at SIGHUP and when it changes. Sessions stay, and so do the users while it is bad.
func TestReloadUsers(t *testing.T) {
	t.Parallel()
	const took, kept = "took the new users file", "kept the old users file"
	file := usersFile(t)
	s := startServer(t, "--users", file)
	dest := mirror(t, "127.0.0.1:0")
	conn := open(t, s.dialer(user), dest)
	add := func(name string) {
		cmd := program(t, "passwd", file, name)
		cmd.Stdin = strings.NewReader(password + "\n")
		mustRun(t, cmd)
	}

	add("bob")
	s.waitLog(t, took, 1) // nobody has told it
	hello(t, open(t, s.dialer("bob"), dest))

	add("carol")
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	hello(t, open(t, s.dialer("carol"), dest))

	if err := writeOver(file, "ann:hush\n"); err != nil {
		t.Fatal(err)
	}
	line := s.waitLog(t, kept, 1)
	if text := fmt.Sprint(line["err"]); !strings.HasPrefix(text, file+":1:5: ") || strings.Contains(text, "hush") {
		t.Errorf("%q does not say what is wrong with %s", text, file)
	}
	if line["level"] != "ERROR" {
		t.Errorf("the level is %v", line["level"])
	}
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "kept the old configuration", 1)
	hello(t, open(t, s.dialer("carol"), dest))
	hello(t, conn)
}

// The certificate is read again at SIGHUP and when its files change. Sessions stay, and so does the certificate while
// the new one is bad.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	const took = "took the new certificate"
	oldCert, oldKey := certificate(t)
	newCert, newKey := certificate(t)
	certFile, keyFile := copyOf(t, oldCert), copyOf(t, oldKey)
	s := startServer(t, "--tls-cert", certFile, "--tls-key", keyFile)
	dest := mirror(t, "127.0.0.1:0")

	through := func(ca string) (argyle.Dialer, error) {
		return upstream.Chain([]string{"socks5h+tls://" + s.addr + "?ca=" + ca})
	}
	trusting := func(ca string) argyle.Dialer {
		d, err := through(ca)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	conn := open(t, trusting(oldCert), dest)

	if err := errors.Join(writeOver(certFile, contents(t, newCert)), writeOver(keyFile, contents(t, newKey))); err != nil {
		t.Fatal(err)
	}
	s.waitLog(t, took, 1) // nobody has told it
	hello(t, open(t, trusting(newCert), dest))
	if stray, err := trusting(oldCert).DialContext(t.Context(), "tcp", dest); err == nil {
		stray.Close()
		t.Error("the old certificate is still in use")
	}

	if err := writeOver(keyFile, contents(t, oldKey)); err != nil {
		t.Fatal(err)
	}
	s.signal(t, syscall.SIGHUP)
	line := s.waitLog(t, "kept the old configuration", 1)
	if text := fmt.Sprint(line["err"]); !strings.Contains(text, certFile) || !strings.Contains(text, keyFile) {
		t.Errorf("%q does not name the files", text)
	}
	hello(t, open(t, trusting(newCert), dest))
	hello(t, conn)

	if err := errors.Join(writeOver(certFile, contents(t, oldCert)), writeOver(keyFile, contents(t, oldKey))); err != nil {
		t.Fatal(err)
	}
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	hello(t, open(t, trusting(oldCert), dest))
	hello(t, conn)
}

// SIGHUP ends nothing where there is nothing to read again.
func TestReloadNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	conn := open(t, s.dialer(""), mirror(t, "127.0.0.1:0"))
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	hello(t, conn)
}

// docs/serve.md tells every key of a session's line.
func TestLogKeys(t *testing.T) {
	t.Parallel()
	s := startServer(t, "-c", configFile(t, "rules: [{action: allow}]\n"))
	open(t, s.dialer(""), mirror(t, "127.0.0.1:0")).Close()
	line := s.waitLog(t, "session", 1)
	for _, common := range []string{"time", "level", "msg"} {
		delete(line, common)
	}
	_, table, _ := strings.Cut(docsPage(t, "serve"), "| key | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.Lines(strings.TrimPrefix(table, "|---|---|\n")) {
		keys, _, _ := strings.Cut(strings.Trim(row, "| "), " |")
		for key := range strings.SplitSeq(keys, ", ") {
			key = strings.Trim(key, "`")
			if _, found := line[key]; !found && key != "dropped" && key != "err" {
				t.Errorf("the log has no %q", key)
			}
			delete(line, key)
		}
	}
	if len(line) > 0 {
		t.Errorf("the page does not tell of %v", line)
	}
}

// A signal ends argyle connect, whatever it is waiting for.
func TestConnectInterrupted(t *testing.T) {
	t.Parallel()
	dest := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "hello")
		_, _ = io.Copy(io.Discard, conn)
	})
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := program(t, "connect", "-x", "direct://", dest)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		c := start(t, cmd)
		eventually(t, "the server's word", func() bool { return c.stdout.String() == "hello" })
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := c.wait(t); code != 1 || c.stderr.String() != "argyle: interrupted\n" {
			t.Errorf("%v: exit status %d, %q", sig, code, c.stderr.String())
		}
		stdin.Close()
	}
}

// So it does where nobody takes what it has to give.
func TestConnectInterruptedWriting(t *testing.T) {
	t.Parallel()
	full := make(chan struct{})
	dest := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // long enough to fill every buffer on the way
		_, _ = io.Copy(conn, neverEnding{})
		close(full)
		_, _ = io.Copy(io.Discard, conn)
	})
	cmd := program(t, "connect", "-x", "direct://", dest)
	unread, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	defer stdout.Close()
	cmd.Stdout = stdout
	c := start(t, cmd)
	<-full
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(t); code != 1 || c.stderr.String() != "argyle: interrupted\n" {
		t.Errorf("exit status %d, %q", code, c.stderr.String())
	}
}

// neverEnding has always more.
type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

// connect gives up on a proxy that says nothing.
func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	mute := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	for _, scheme := range []string{"socks5h://", "socks4://", "http://", "https://"} {
		c := start(t, program(t, "connect", "--timeout", "50ms", "-x", scheme+mute, "127.0.0.1", "1"))
		if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), scheme+mute) ||
			!strings.Contains(c.stderr.String(), "deadline exceeded") || strings.Count(c.stderr.String(), "\n") != 1 {
			t.Errorf("%s: exit status %d, %q", scheme, code, c.stderr.String())
		}
	}
}
