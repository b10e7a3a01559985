//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server is argyle serve on a port of its own, and what its log says.
type server struct {
	*child
	addr  string
	files int // open when it began
}

// startServer starts the program; when the test ends it has to have closed all its sockets, and to obey SIGTERM.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{child: start(t, program(t, append([]string{"serve", "-l", "127.0.0.1:0", "--log-format", "json"}, args...)...))}
	eventually(t, "the server to listen", func() bool {
		select {
		case <-s.ended:
			t.Fatalf("the server ended: %v", s.err)
		default:
		}
		listening := s.logged(func(line logLine) bool { return line.Msg == "listening" })
		if listening != nil {
			s.addr = listening.Address
		}
		return listening != nil
	})
	s.files = s.openFiles()
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *server) stop(t testing.TB) {
	eventually(t, "the server to close what its clients made it open", func() bool { return s.openFiles() <= s.files })
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("the server is gone before its time: %v", err)
	}
	if code := s.wait(t); code != 0 {
		t.Errorf("the server's exit status is %d", code)
	}
}

// openFiles counts sockets and files. Pipes and the like are the runtime's: it keeps those of splice for the next time.
func (s *server) openFiles() int {
	count := 0
	for _, name := range openFiles(s.cmd.Process.Pid) {
		if strings.HasPrefix(name, "socket:") || strings.HasPrefix(name, "/") {
			count++
		}
	}
	return count
}

func (s *server) port() string {
	_, port, _ := net.SplitHostPort(s.addr)
	return port
}

// logLine is a line of the program's log, with the keys that the tests look at.
type logLine struct {
	Msg     string
	Address string // of "listening"

	Cmd  string // of a session
	Dest string
	User string
	Up   int64
	Down int64
	Err  string
}

// logged returns the first line of the log that matches, nil if there is none yet.
func (s *server) logged(match func(logLine) bool) *logLine {
	for text := range strings.Lines(s.stderr.String()) {
		var line logLine
		if json.Unmarshal([]byte(text), &line) == nil && match(line) {
			return &line
		}
	}
	return nil
}

// sessions counts the sessions to a destination that the log has by now.
func (s *server) sessions(dest string) (count int) {
	s.logged(func(line logLine) bool {
		if line.Dest == dest {
			count++
		}
		return false
	})
	return count
}

// session waits for the line that the server logs at the end of a session that matches. A client that quietly went
// around its proxy, as several do for destinations that look local, fails here.
func (s *server) session(t testing.TB, what string, match func(logLine) bool) (line logLine) {
	t.Helper()
	eventually(t, "the session "+what+" in the server's log", func() bool {
		found := s.logged(match)
		if found != nil {
			line = *found
		}
		return found != nil
	})
	return line
}

// sessionTo is the session to a destination, spelled as the client sent it.
func (s *server) sessionTo(t testing.TB, dest string) logLine {
	t.Helper()
	return s.session(t, "to "+dest, func(line logLine) bool { return line.Dest == dest })
}

// The user of every test that needs one.
const (
	user     = "ann"
	password = "correct horse"
)

// usersFile makes a users file with that one user.
func usersFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	cmd := program(t, "passwd", path, user)
	cmd.Stdin = strings.NewReader(password + "\n")
	mustRun(t, cmd)
	return path
}

// certificate makes a certificate for loopback addresses, and names, that is its own authority.
func certificate(t testing.TB, names ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "loopback"}, // curl wants one
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:              names,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "CERTIFICATE", cert), writePEM(t, "PRIVATE KEY", secret)
}

func writePEM(t testing.TB, kind string, der []byte) string {
	return writeFile(t, strings.ReplaceAll(kind, " ", ""), string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

// writeFile makes a file in a folder of its own and returns its path.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
