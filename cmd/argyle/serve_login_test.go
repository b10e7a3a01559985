//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// A door is a way to a server's port: bare, or inside TLS.
type door struct {
	name string
	open func(testing.TB) net.Conn
}

// Where users are set, no protocol and no command goes without them.
func TestUsersOnly(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, certFile, keyFile := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(2)})
	s := startServer(t, "--users", usersFile(t), "--tls-cert", certFile, "--tls-key", keyFile)
	for _, d := range []door{
		{"plain", func(t testing.TB) net.Conn { return dialRaw(t, s.addr) }},
		{"TLS", func(t testing.TB) net.Conn { return dialTLS(t, s.addr, ca.config()) }},
	} {
		t.Run(d.name, func(t *testing.T) { testNobodyEnters(t, d) })
	}
	// Who has said nothing of use has no session, and none is in the log.
	if sessions := s.lines("session"); sessions != nil {
		t.Errorf("%v", sessions)
	}
}

// testNobodyEnters tries everything that can be tried without a right password. Refusals take their time, so that all
// is asked before the first answer is read.
func testNobodyEnters(t *testing.T, d door) {
	dest := argyle.Addr{Name: "a.example", Port: 80}
	ip := addrOf(t, "203.0.113.9:80")
	var answers []func()
	later := func(f func()) { answers = append(answers, f) }

	for _, login := range []wire.Login{{User: user, Password: "wrong"}, {User: "bob", Password: password}, {User: user}, {}} {
		conn := d.open(t)
		// The offer of none beside the password helps nobody.
		if got := method5(t, conn, wire.NoAuth, wire.UserPass); got != wire.UserPass {
			t.Fatalf("the server chooses %v", got)
		}
		write(t, conn, login)
		write(t, conn, wire.Request{Command: argyle.Connect, Dest: dest})
		later(func() {
			if got := read(t, conn, 2); got[1] == 0 {
				t.Errorf("%+v passes", login)
			}
			gone(t, conn)
		})
	}
	for _, header := range []string{
		"",
		basic(user, "wrong"),
		basic("bob", password),
		basic("", ""),
		"Proxy-Authorization: Bearer x\r\n",
		"Proxy-Authorization: Basic !\r\n",
		strings.Replace(basic(user, password), "Proxy-", "", 1), // for the website
	} {
		for method, target := range map[string]string{"CONNECT": dest.String(), "GET": "http://" + dest.String() + "/"} {
			conn := d.open(t)
			ask(t, conn, method, target, header)
			later(func() {
				if got := answered(t, conn, method); got != http.StatusProxyAuthRequired {
					t.Errorf("%s with %q: %d", method, header, got)
				}
			})
		}
	}

	for _, methods := range [][]wire.Method{{wire.NoAuth}, {wire.NoAuth, 3, 0x80}, {}, {1}} {
		if got := method5(t, d.open(t), methods...); got != wire.NoAcceptable {
			t.Errorf("offered %v, the server chooses %v", methods, got)
		}
	}
	for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind} {
		if got := cd4(t, d.open(t), cmd, ip); got != wire.Rejected {
			t.Errorf("SOCKS 4 %v: %v", cmd, got)
		}
		if got := cd4(t, d.open(t), cmd, dest); got != wire.Rejected {
			t.Errorf("SOCKS 4a %v: %v", cmd, got)
		}
	}
	for _, answer := range answers {
		answer()
	}
}

// basic is the header of a password.
func basic(user, password string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n"
}

// A certificate of the right authority is a user, in every protocol; nothing else is where there are no other users.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	_, certFile, keyFile := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(2)})
	flags := []string{"--tls-cert", certFile, "--tls-key", keyFile, "--tls-client-ca", ca.file}
	only := startServer(t, flags...)
	also := startServer(t, append(flags, "--users", usersFile(t))...)
	bob, _, _ := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "bob"}})
	forged, _, _ := stranger.issue(t, x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "bob"}})

	for _, s := range []*server{only, also} {
		dest := mirror(t, "127.0.0.1:0")
		for _, d := range []argyle.Dialer{
			&socks.Dialer{Addr: s.addr, TLS: ca.config(bob)},
			&socks.Dialer{Addr: s.addr, Version: 4, TLS: ca.config(bob)},
			&httpconnect.Dialer{Addr: s.addr, TLS: ca.config(bob)},
		} {
			open(t, d, dest).Close()
		}
		for n := range 3 {
			if line := s.waitLog(t, "session", n+1); line["user"] != "bob" {
				t.Errorf("the session's user is %v", line["user"])
			}
		}
		// Whoever else's certificate it is ends in TLS.
		conn := dialTLS(t, s.addr, ca.config(forged))
		write(t, conn, wire.Greeting{Methods: []wire.Method{wire.NoAuth}})
		if got, err := io.ReadAll(conn); err == nil {
			t.Errorf("a forged certificate is answered % x", got)
		}
	}

	// Without one.
	t.Run("nobody else", func(t *testing.T) {
		testNobodyEnters(t, door{"plain", func(t testing.TB) net.Conn { return dialRaw(t, only.addr) }})
		conn := dialRaw(t, only.addr)
		method5(t, conn, wire.UserPass)
		write(t, conn, wire.Login{User: user, Password: password})
		if got := read(t, conn, 2); got[1] == 0 {
			t.Error("there are no passwords, but one passes")
		}
		bare := dialTLS(t, only.addr, ca.config())
		write(t, bare, wire.Greeting{Methods: []wire.Method{wire.NoAuth}})
		if got, err := io.ReadAll(bare); err == nil {
			t.Errorf("no certificate is answered % x", got)
		}
	})
	t.Run("or a password", func(t *testing.T) {
		dest := mirror(t, "127.0.0.1:0")
		for n, config := range []*tls.Config{nil, ca.config()} {
			d := also.dialer(user)
			d.TLS = config
			open(t, d, dest).Close()
			if line := also.waitLog(t, "session", 4+n); line["user"] != user {
				t.Errorf("the session's user is %v", line["user"])
			}
		}
		testNobodyEnters(t, door{"TLS", func(t testing.TB) net.Conn { return dialTLS(t, also.addr, ca.config()) }})
	})
}

// A certificate has a name, whatever it says.
func TestCertName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cert x509.Certificate
		want string
	}{
		{x509.Certificate{Subject: pkix.Name{CommonName: "ann"}, EmailAddresses: []string{"ann@a.example"}}, "ann"},
		{x509.Certificate{EmailAddresses: []string{"ann@a.example"}, DNSNames: []string{"a.example"}}, "ann@a.example"},
		{x509.Certificate{DNSNames: []string{"a.example"}}, "a.example"},
		{x509.Certificate{SerialNumber: big.NewInt(0xbeef)}, "serial:beef"},
	} {
		if got := certName(&tt.cert); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// Whatever happens to passwords, none is in a log or a message, however much is said.
func TestNoSecretsInLogs(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, certFile, keyFile := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(2)})
	s := startServer(t, "-v", "-v", "--users", usersFile(t), "--tls-cert", certFile, "--tls-key", keyFile)
	dest := website(t, "127.0.0.1:0")
	const wrong = "sesame-hush"
	for _, d := range []door{
		{"plain", func(t testing.TB) net.Conn { return dialRaw(t, s.addr) }},
		{"TLS", func(t testing.TB) net.Conn { return dialTLS(t, s.addr, ca.config()) }},
	} {
		var answers []func() // after everything has been asked, since refusals take their time
		request := func(method, target, secret string) {
			conn := d.open(t)
			ask(t, conn, method, target, basic(user, secret))
			answers = append(answers, func() {
				answered(t, conn, method)
				conn.Close()
			})
		}
		for _, secret := range []string{password, wrong} {
			for _, target := range []string{dest, "127.0.0.1:0", "nowhere..invalid:80"} {
				conn := d.open(t)
				method5(t, conn, wire.UserPass)
				write(t, conn, wire.Login{User: user, Password: secret})
				write(t, conn, wire.Request{Command: argyle.Connect, Dest: argyle.Addr{Name: "nowhere..invalid", Port: 80}})
				answers = append(answers, func() { gone(t, conn) })
				request("CONNECT", target, secret)
				request("CONNECT", user+":"+wrong+"@"+target, secret)
				request("GET", "http://"+target+"/", secret)
				request("GET", "http://"+user+":"+wrong+"@"+target+"/", secret)
				request("POST", user+":"+wrong+"@"+target, secret)
				request("BREW", "ftp://"+user+":"+wrong+"@"+target+"/%zz", secret)
			}
		}
		for _, answer := range answers {
			answer()
		}
		// Cut short, or not in the right form.
		conn := d.open(t)
		method5(t, conn, wire.UserPass)
		fmt.Fprintf(conn, "\x01\x03%s\xff%s", user, wrong)
		conn.Close()
		conn = d.open(t)
		fmt.Fprintf(conn, "\x05\x02%s", wrong)
		conn.Close()
		conn = d.open(t)
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\n%s: x\r\n\x00\r\n\r\n", dest, wrong)
		gone(t, conn)
	}
	var said strings.Builder
	for _, scheme := range []string{"socks5h://", "http://"} {
		for _, at := range []string{s.addr, closedPort(t)} {
			for _, secret := range []string{"correct%20horse", wrong} {
				c := start(t, program(t, "connect", "-v", "-x", scheme+user+":"+secret+"@"+at, "nowhere..invalid", "80"))
				if code := c.wait(t); code != 1 {
					t.Errorf("exit status %d", code)
				}
				said.WriteString(c.stdout.String() + c.stderr.String())
			}
		}
	}
	for _, msg := range []string{"session", "login refused", "handshake ended", "request refused", "request failed"} {
		s.waitLog(t, msg, 1) // or else there is nothing to look at
	}
	said.WriteString(s.stderr.String())
	for _, secret := range []string{
		password, wrong,
		strings.TrimSpace(strings.TrimPrefix(basic(user, password), "Proxy-Authorization: Basic ")),
		strings.TrimSpace(strings.TrimPrefix(basic(user, wrong), "Proxy-Authorization: Basic ")),
		"correct%20horse",
	} {
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, secret) {
				t.Errorf("%q is in %s", secret, line)
			}
		}
	}
}
