//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// launch starts argyle serve for a test that sees to its end. It waits until the server has said that it listens as often
// as there are listeners.
func launch(t testing.TB, listeners int, args ...string) *server {
	t.Helper()
	return await(t, start(t, program(t, append([]string{"serve", "--log-format", "json"}, args...)...)), listeners)
}

func await(t testing.TB, c *child, listeners int) *server {
	t.Helper()
	s := &server{child: c}
	s.waitLog(t, "listening", listeners)
	s.addr = s.addrs()[0]
	return s
}

// addrs returns the addresses that a server listens on.
func (s *server) addrs() (all []string) {
	for _, line := range s.lines("listening") {
		all = append(all, line["address"].(string))
	}
	return all
}

// lines returns the lines of the log with a message.
func (s *server) lines(msg string) (all []map[string]any) {
	for text := range strings.Lines(s.stderr.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == msg {
			all = append(all, line)
		}
	}
	return all
}

// waitLog waits for the nth line with a message and returns it.
func (s *server) waitLog(t testing.TB, msg string, n int) map[string]any {
	t.Helper()
	eventually(t, fmt.Sprintf("line %d of %q in the server's log", n, msg), func() bool {
		select {
		case <-s.ended:
			return true // with its last line
		default:
		}
		return len(s.lines(msg)) >= n
	})
	all := s.lines(msg)
	if len(all) < n {
		t.Fatalf("the server ended (%v) without line %d of %q", s.err, n, msg)
	}
	return all[n-1]
}

func (s *server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func (s *server) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// end stops the server with one signal; it must have nothing left to wait for.
func (s *server) end(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGTERM)
	if code := s.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// mirror sends everything back as it comes.
func mirror(t testing.TB, addr string) string {
	t.Helper()
	return serveTCP(t, addr, func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) })
}

// dialer goes through the server with the password of the tests' user, or without a user.
func (s *server) dialer(name string) *socks.Dialer {
	d := &socks.Dialer{Addr: s.addr, User: name}
	if name != "" {
		d.Password = password
	}
	return d
}

// open connects to dest and has a word come back.
func open(t testing.TB, d argyle.Dialer, dest string) net.Conn {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	hello(t, conn)
	return conn
}

// hello wants a word back from a mirror.
func hello(t testing.TB, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	word := randomBytes(8)
	if _, err := conn.Write(word); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(word))
	if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(back, word) {
		t.Fatalf("% x came back, not % x: %v", back, word, err)
	}
}

// gone wants the other side to end a connection.
func gone(t testing.TB, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, conn)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("the connection lives on")
	}
}

// dialRaw opens a bare connection to a server.
func dialRaw(t testing.TB, addr string) net.Conn {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// message is what can be written to a server.
type message interface{ Append([]byte) ([]byte, error) }

func write(t testing.TB, conn net.Conn, m message) {
	t.Helper()
	b, err := m.Append(nil)
	if err == nil {
		_, err = conn.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, conn net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

// method5 offers SOCKS 5 methods and returns the server's choice.
func method5(t testing.TB, conn net.Conn, methods ...wire.Method) wire.Method {
	t.Helper()
	write(t, conn, wire.Greeting{Methods: methods})
	return wire.Method(read(t, conn, 2)[1])
}

// rep5 asks for something by SOCKS 5, without a password, and returns REP.
func rep5(t testing.TB, conn net.Conn, cmd argyle.Command, dest argyle.Addr) wire.Reply {
	t.Helper()
	if method := method5(t, conn, wire.NoAuth); method != wire.NoAuth {
		t.Fatalf("the server chose method %#02x", byte(method))
	}
	write(t, conn, wire.Request{Command: cmd, Dest: dest})
	return wire.Reply(read(t, conn, 10)[1])
}

// cd4 asks for something by SOCKS 4 or 4a and returns CD.
func cd4(t testing.TB, conn net.Conn, cmd argyle.Command, dest argyle.Addr) wire.Reply4 {
	t.Helper()
	write(t, conn, wire.Request4{Command: cmd, Dest: dest, UserID: user})
	return wire.Reply4(read(t, conn, 8)[1])
}

// statusOf sends an HTTP request and returns the status; header is whole lines.
func statusOf(t testing.TB, conn net.Conn, method, target, header string) int {
	t.Helper()
	ask(t, conn, method, target, header)
	return answered(t, conn, method)
}

// ask sends an HTTP request.
func ask(t testing.TB, conn net.Conn, method, target, header string) {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, target, header); err != nil {
		t.Fatal(err)
	}
}

// answered returns the status of the answer to a request.
func answered(t testing.TB, conn net.Conn, method string) int {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// addrOf reads "host:port"; a literal stays one.
func addrOf(t testing.TB, text string) argyle.Addr {
	t.Helper()
	addr, err := argyle.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	a.cert = &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "authority"},
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der := a.sign(t, a.cert, a.key)
	a.file = writePEM(t, "CERTIFICATE", der)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// issue makes a certificate for a server on loopback, and for a client of that name.
func (a *authority) issue(t testing.TB, template x509.Certificate) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template.NotAfter = time.Now().Add(time.Hour)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	certFile = writePEM(t, "CERTIFICATE", a.sign(t, &template, key))
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile = writePEM(t, "PRIVATE KEY", secret)
	if pair, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return pair, certFile, keyFile
}

// config is TLS for a client that trusts the authority and has perhaps certificates.
func (a *authority) config(certs ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", Certificates: certs}
}

// dialTLS opens TLS to a server; it may still be refused.
func dialTLS(t testing.TB, addr string, config *tls.Config) *tls.Conn {
	t.Helper()
	return tls.Client(dialRaw(t, addr), config)
}

// writeOver replaces a file as a whole, as programs should.
func writeOver(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func contents(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func copyOf(t testing.TB, path string) string {
	t.Helper()
	return writeFile(t, "copy", contents(t, path))
}
