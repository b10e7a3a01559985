package socks_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// answer5 reads a SOCKS 5 reply of an IPv4 address and returns REP and BND.
func answer5(t testing.TB, conn io.Reader) (wire.Reply, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 10)
	if n, err := io.ReadFull(conn, b); err != nil {
		t.Fatalf("read reply: %v after % x", err, b[:n])
	}
	response, n, err := wire.ParseResponse(b)
	if err != nil || n != 10 || b[2] != 0 {
		t.Fatalf("reply % x: %v", b, err)
	}
	return response.Reply, response.Bound.AddrPort()
}

// conversation is a whole exchange up to the answer, in the three versions.
func conversations(dest netip.AddrPort) map[string]struct{ say, hear []byte } {
	four := request4(1, dest)
	name := append([]byte{4, 1, four[2], four[3], 0, 0, 0, 1}, "user\x00"+dest.Addr().String()+"\x00"...)
	literal := append([]byte{5, 1, 0, 3, byte(len(dest.Addr().String()))}, dest.Addr().String()...)
	literal = append(literal, four[2], four[3])
	return map[string]struct{ say, hear []byte }{
		"SOCKS 4":         {four, append([]byte{0, 90}, four[2:8]...)},
		"SOCKS 4a":        {name, append([]byte{0, 90}, name[2:8]...)},
		"SOCKS 5":         {append([]byte{5, 1, 0}, request5(1, dest)...), []byte{5, 0, 5, 0, 0, 1}},
		"SOCKS 5 literal": {append([]byte{5, 2, 0, 2}, literal...), []byte{5, 0, 5, 0, 0, 1}},
	}
}

// skipBound reads the address of a SOCKS 5 reply, of which ATYP has been read.
func skipBound(t testing.TB, conn io.Reader, hear []byte) {
	if hear[0] == 5 {
		if _, err := io.ReadFull(conn, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
	}
}

// T1: a message may arrive in any number of pieces.
func TestSplitMessages(t *testing.T) {
	dest := echo(t)
	addr := start(t, &socks.Server{})
	for name, c := range conversations(dest) {
		t.Run(name, func(t *testing.T) {
			for at := 1; at < len(c.say); at++ {
				conn := dialRaw(t, addr)
				write(t, conn, c.say[:at])
				// Give the first piece a segment and a read of its own,
				// where an answer to it shows that it was read.
				if c.say[0] == 5 && at >= 2+int(c.say[1]) {
					expect(t, conn, c.hear[:2])
				}
				write(t, conn, c.say[at:])
				if c.say[0] == 5 && at < 2+int(c.say[1]) {
					expect(t, conn, c.hear[:2])
				}
				rest := c.hear
				if c.say[0] == 5 {
					rest = c.hear[2:]
				}
				expect(t, conn, rest)
				skipBound(t, conn, c.hear)
				write(t, conn, []byte("ping"))
				expect(t, conn, []byte("ping"))
				conn.Close()
			}
			conn := dialRaw(t, addr)
			for i := range c.say {
				write(t, conn, c.say[i:i+1])
			}
			expect(t, conn, c.hear)
			conn.Close()
		})
	}
}

// T2: what a client sends ahead of the answer is kept, in order.
func TestOptimisticData(t *testing.T) {
	dest := echo(t)
	addr := start(t, &socks.Server{})
	early := bytes.Repeat([]byte("optimistic"), 5000)
	for name, c := range conversations(dest) {
		t.Run(name, func(t *testing.T) {
			conn := dialRaw(t, addr)
			go func() {
				_, _ = conn.Write(append(bytes.Clone(c.say), early...))
				_ = conn.CloseWrite()
			}()
			expect(t, conn, c.hear)
			skipBound(t, conn, c.hear)
			expect(t, conn, early)
			expectEOF(t, conn)
		})
	}
}

// T3, T4: the server's preference decides, and FF ends the connection cleanly.
func TestMethodSelection(t *testing.T) {
	verify := func(_ context.Context, _ netip.Addr, user, password string) error {
		if user == "ann" && password == "secret" {
			return nil
		}
		return errors.New("wrong")
	}
	password := socks.Password{Verify: verify}
	all := make([]byte, 255)
	for i := range all {
		all[i] = byte(i)
	}
	tests := []struct {
		name  string
		auths []socks.Authenticator
		offer []byte
		want  byte
	}{
		{"nothing offered", nil, []byte{}, 0xff},
		{"none wanted, none offered", nil, []byte{0}, 0},
		{"curl with a password on an open server", nil, []byte{0, 2}, 0},
		{"Firefox with a user name on an open server", nil, []byte{2}, 2},
		{"PuTTY on an open server", nil, []byte{0, 3, 2}, 0},
		{"unknown only", nil, []byte{3, 0x80}, 0xff},
		{"all 255", nil, all, 0},
		{"the same twice", nil, []byte{0, 0}, 0},
		{"password wanted, none first", []socks.Authenticator{password}, []byte{0, 2}, 2},
		{"password wanted, all offered", []socks.Authenticator{password}, all, 2},
		{"password wanted, none offered", []socks.Authenticator{password}, []byte{0}, 0xff},
		{"password wanted, CHAP offered", []socks.Authenticator{password}, []byte{0, 3}, 0xff},
		{"password preferred", []socks.Authenticator{password, socks.NoAuth{}}, []byte{0, 2}, 2},
		{"password preferred, none offered", []socks.Authenticator{password, socks.NoAuth{}}, []byte{0}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn := dialRaw(t, start(t, &socks.Server{Authenticators: test.auths}))
			write(t, conn, append([]byte{5, byte(len(test.offer))}, test.offer...))
			// More than the server reads: closing must not become a reset.
			write(t, conn, bytes.Repeat([]byte{'x'}, 10))
			expect(t, conn, []byte{5, test.want})
			if test.want == 0xff {
				expectEOF(t, conn)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	dest := echo(t)
	var gotClient netip.Addr
	addr := start(t, &socks.Server{Authenticators: []socks.Authenticator{socks.Password{
		Verify: func(_ context.Context, client netip.Addr, user, password string) error {
			gotClient = client
			if user == "ann" && password == "" || user == "bob" && password == "secret" {
				return nil
			}
			return errors.New("wrong")
		},
	}}})
	tests := []struct {
		name  string
		login string
		ok    bool
	}{
		{"right", "\x01\x03bob\x06secret", true},
		{"version 5, as some clients send (T5)", "\x05\x03bob\x06secret", true},
		{"empty password, as Java sends (T4)", "\x01\x03ann\x00", true},
		{"wrong password", "\x01\x03bob\x05wrong", false},
		{"unknown user", "\x01\x03eve\x05wrong", false},
		{"empty both", "\x01\x00\x00", false},
		{"longest", "\x01\xff" + strings.Repeat("u", 255) + "\xff" + strings.Repeat("p", 255), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn := dialRaw(t, addr)
			write(t, conn, []byte{5, 1, 2})
			expect(t, conn, []byte{5, 2})
			write(t, conn, []byte(test.login))
			if !test.ok {
				// T6: the failure comes here and not as a REP.
				write(t, conn, request5(1, dest))
				expect(t, conn, []byte{1, 1})
				expectEOF(t, conn)
				return
			}
			expect(t, conn, []byte{1, 0})
			write(t, conn, request5(1, dest))
			if rep, _ := answer5(t, conn); rep != wire.Succeeded {
				t.Error(rep)
			}
			if gotClient != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("Verify saw client %v", gotClient)
			}
		})
	}
}

// T4: on an open server a client that insists on a password may send any, and
// one that sends it unasked is understood. Neither gets a name by it.
func TestPasswordNobodyAskedFor(t *testing.T) {
	for name, exchange := range map[string]func(*testing.T, net.Conn){
		"insists": func(t *testing.T, conn net.Conn) {
			write(t, conn, []byte{5, 1, 2})
			expect(t, conn, []byte{5, 2})
		},
		"unasked": func(t *testing.T, conn net.Conn) {
			write(t, conn, []byte{5, 2, 0, 2})
			expect(t, conn, []byte{5, 0})
		},
	} {
		t.Run(name, func(t *testing.T) {
			requests := make(chan argyle.Request, 1)
			conn := dialRaw(t, start(t, &socks.Server{Handler: recording(requests)}))
			exchange(t, conn)
			write(t, conn, []byte("\x01\x05admin\x01x"))
			expect(t, conn, []byte{1, 0})
			write(t, conn, []byte{5, 1, 0, 1, 192, 0, 2, 1, 0, 80})
			if rep, _ := answer5(t, conn); rep != wire.NotAllowed {
				t.Error(rep)
			}
			if req := <-requests; req.User != "" {
				t.Errorf("user %q", req.User)
			}
		})
	}
}

// The same in one piece, with logins shorter than the shortest request.
func TestPasswordNobodyAskedForPipelined(t *testing.T) {
	dest := echo(t)
	addr := start(t, &socks.Server{})
	for _, login := range []string{"\x01\x00\x00", "\x01\x01a\x00", "\x01\x01a\x01b", "\x01\x02ab\x01c", "\x01\x02ab\x02cd", "\x01\x03abc\x03def"} {
		conn := dialRaw(t, addr)
		write(t, conn, append(append([]byte("\x05\x01\x00"+login), request5(1, dest)...), "early"...))
		expect(t, conn, []byte{5, 0, 1, 0})
		if rep, _ := answer5(t, conn); rep != wire.Succeeded {
			t.Error(rep)
		}
		expect(t, conn, []byte("early"))
	}
}

// Users are set: SOCKS 4 carries no password, so its USERID is no way round.
func TestSOCKS4WhereUsersAreSet(t *testing.T) {
	addr := start(t, &socks.Server{
		Handler:        rejecting(errors.New("the handler was asked")),
		Authenticators: []socks.Authenticator{socks.Password{Verify: func(context.Context, netip.Addr, string, string) error { return nil }}},
	})
	for _, request := range []string{
		"\x04\x01\x00\x50\xc0\x00\x02\x01ann\x00",
		"\x04\x01\x00\x50\x00\x00\x00\x01ann\x00host.example\x00",
		"\x04\x02\x00\x50\xc0\x00\x02\x01ann\x00",
	} {
		conn := dialRaw(t, addr)
		write(t, conn, []byte(request))
		expect(t, conn, append([]byte{0, 91}, request[2:8]...))
		expectEOF(t, conn)
	}
}

func TestConnUser(t *testing.T) {
	requests := make(chan argyle.Request, 1)
	addr := start(t, &socks.Server{
		Handler:        recording(requests),
		ConnUser:       func(net.Conn) (string, argyle.Auth) { return "carl", argyle.AuthCertificate },
		Authenticators: []socks.Authenticator{socks.Password{Verify: func(context.Context, netip.Addr, string, string) error { return errors.New("no") }}},
	})
	for name, say := range map[string]string{
		"SOCKS 4": "\x04\x01\x00\x50\xc0\x00\x02\x01eve\x00",
		"SOCKS 5": "\x05\x02\x02\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50",
	} {
		write(t, dialRaw(t, addr), []byte(say))
		if req := <-requests; req.User != "carl" || req.Auth != argyle.AuthCertificate {
			t.Errorf("%s: user %q, known by %q", name, req.User, req.Auth)
		}
	}
}

// The requests of all versions as the handler sees them; T9, T10, T13.
func TestRequests(t *testing.T) {
	requests := make(chan argyle.Request, 1)
	addr := start(t, &socks.Server{Handler: recording(requests)})
	ip := func(s string) argyle.Addr { return argyle.AddrFrom(netip.MustParseAddrPort(s)) }
	tests := []struct {
		say  string
		want argyle.Addr
	}{
		{"\x04\x01\x00\x50\xc0\x00\x02\x01\x00", ip("192.0.2.1:80")},
		{"\x04\x01\x00\x50\x00\x00\x00\x07u\x00host.example\x00", argyle.Addr{Name: "host.example", Port: 80}},
		{"\x04\x01\x00\x50\x00\x00\x01\x07\x00", ip("0.0.1.7:80")}, // not 0.0.0.x
		{"\x05\x01\x00\x05\x01\xaa\x01\xc0\x00\x02\x01\x00\x50", ip("192.0.2.1:80")},
		{"\x05\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", ip("[2001:db8::1]:80")},
		{"\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01\x00\x50", ip("192.0.2.1:80")},
		{"\x05\x01\x00\x05\x01\x00\x03\x0cHost.Example\x01\xbb", argyle.Addr{Name: "Host.Example", Port: 443}},
		{"\x05\x01\x00\x05\x01\x00\x03\x09192.0.2.1\x01\xbb", ip("192.0.2.1:443")},
		{"\x05\x01\x00\x05\x01\x00\x03\x0b2001:db8::1\x01\xbb", ip("[2001:db8::1]:443")},
		{"\x05\x01\x00\x05\x01\x00\x03\x0d[2001:db8::1]\x01\xbb", ip("[2001:db8::1]:443")},
		{"\x05\x01\x00\x05\x01\x00\x03\x10::ffff:192.0.2.1\x01\xbb", ip("192.0.2.1:443")},
	}
	for _, test := range tests {
		conn := dialRaw(t, addr)
		write(t, conn, []byte(test.say))
		req := <-requests
		if req.Dest != test.want || req.Command != argyle.Connect {
			t.Errorf("% x: %v %v, want %v", test.say, req.Command, req.Dest, test.want)
		}
		if req.Client.String() != conn.LocalAddr().String() || req.Inbound != addr {
			t.Errorf("client %v, inbound %q", req.Client, req.Inbound)
		}
	}
}

// What no handler is asked about, and the answers; T11, T13, T16.
func TestRefusals(t *testing.T) {
	addr := start(t, &socks.Server{Handler: rejecting(errors.New("the handler was asked"))})
	name := func(s string) string { return "\x05\x01\x00\x03" + string(rune(len(s))) + s + "\x00\x50" }
	tests := []struct {
		what, request string
		want          wire.Reply
	}{
		{"unknown command", "\x05\x09\x00\x01\xc0\x00\x02\x01\x00\x50", wire.CommandNotSupported},
		{"Tor's RESOLVE", "\x05\xf0\x00\x01\xc0\x00\x02\x01\x00\x50", wire.CommandNotSupported},
		{"command 0", "\x05\x00\x00\x01\xc0\x00\x02\x01\x00\x50", wire.CommandNotSupported},
		{"unknown address type", "\x05\x01\x00\x02\xc0\x00\x02\x01\x00\x50", wire.AddrTypeNotSupported},
		{"address type 0", "\x05\x01\x00\x00\xc0\x00\x02\x01\x00\x50", wire.AddrTypeNotSupported},
		{"port 0", "\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x00", wire.NotAllowed},
		{"0.0.0.0", "\x05\x01\x00\x01\x00\x00\x00\x00\x00\x50", wire.NotAllowed},
		{"::", "\x05\x01\x00\x04" + strings.Repeat("\x00", 16) + "\x00\x50", wire.NotAllowed},
		{"0.0.0.0 as a name", name("0.0.0.0"), wire.NotAllowed},
		{":: as a name", name("[::]"), wire.NotAllowed},
		{"no name", name(""), wire.HostUnreachable},
		{"0", name("0"), wire.HostUnreachable},
		{"127.1", name("127.1"), wire.HostUnreachable},
		{"decimal", name("2130706433"), wire.HostUnreachable},
		{"hexadecimal", name("0x7f000001"), wire.HostUnreachable},
		{"octal", name("0177.0.0.01"), wire.HostUnreachable},
		{"NUL", name("a\x00b"), wire.HostUnreachable},
		{"space", name("a b"), wire.HostUnreachable},
		{"line feed", name("a\nb"), wire.HostUnreachable},
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			conn := dialRaw(t, addr)
			write(t, conn, []byte("\x05\x01\x00"+test.request))
			expect(t, conn, []byte{5, 0})
			rep, bound := answer5(t, conn)
			if rep != test.want || bound.String() != "0.0.0.0:0" {
				t.Errorf("%v, %v, want %v", rep, bound, test.want)
			}
			expectEOF(t, conn)
		})
	}
	t.Run("SOCKS 4 UDP", func(t *testing.T) {
		conn := dialRaw(t, addr)
		write(t, conn, request4(3, netip.MustParseAddrPort("192.0.2.1:80")))
		expect(t, conn, []byte{0, 91, 0, 80, 192, 0, 2, 1})
		expectEOF(t, conn)
	})
}

// T8: other protocols are handed over with nothing lost, and none hangs.
func TestOtherProtocols(t *testing.T) {
	got := make(chan string)
	addr := start(t, &socks.Server{Other: func(_ context.Context, conn net.Conn) {
		defer conn.Close()
		b, _ := io.ReadAll(conn)
		got <- string(b)
	}})
	for _, say := range []string{"G", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "\x00"} {
		conn := dialRaw(t, addr)
		write(t, conn, []byte(say))
		_ = conn.CloseWrite()
		if heard := <-got; heard != say {
			t.Errorf("%q became %q", say, heard)
		}
	}
	conn := dialRaw(t, start(t, &socks.Server{}))
	write(t, conn, []byte("G"))
	expectEOF(t, conn)
}

// T12: the answer carries the address that the destination sees.
func TestBoundAddress(t *testing.T) {
	seen := make(chan net.Addr, 1)
	dest := listen(t, func(conn net.Conn) {
		seen <- conn.RemoteAddr()
		conn.Close()
	})
	conn := dialRaw(t, start(t, &socks.Server{}))
	write(t, conn, append([]byte{5, 1, 0}, request5(1, dest)...))
	expect(t, conn, []byte{5, 0})
	rep, bound := answer5(t, conn)
	if rep != wire.Succeeded || bound.String() != (<-seen).String() {
		t.Errorf("%v, %v", rep, bound)
	}
}

// CONTRACT: after a refusal the client gets the answer and a clean end, though
// it has sent more than anybody read.
func TestRefusalIsNoReset(t *testing.T) {
	addr := start(t, &socks.Server{Handler: rejecting(argyle.ErrNotAllowed)})
	for name, c := range conversations(netip.MustParseAddrPort("192.0.2.1:80")) {
		t.Run(name, func(t *testing.T) {
			conn := dialRaw(t, addr)
			write(t, conn, append(c.say, bytes.Repeat([]byte("x"), 100<<10)...))
			b, err := io.ReadAll(conn)
			if want := 8; c.say[0] == 4 && (len(b) != want || b[1] != 91) {
				t.Errorf("got % x", b)
			}
			if want := 12; c.say[0] == 5 && (len(b) != want || b[3] != 2) {
				t.Errorf("got % x", b)
			}
			if err != nil {
				t.Errorf("end: %v", err)
			}
		})
	}
}

// A handler that answers nothing leaves no client waiting.
func TestUnansweredCall(t *testing.T) {
	conn := dialRaw(t, start(t, &socks.Server{Handler: argyle.HandlerFunc(func(context.Context, argyle.Call) {})}))
	write(t, conn, append([]byte{5, 1, 0}, request5(1, netip.MustParseAddrPort("192.0.2.1:80"))...))
	expect(t, conn, []byte{5, 0})
	if rep, _ := answer5(t, conn); rep != wire.GeneralFailure {
		t.Error(rep)
	}
}

// T41: nobody stays in the handshake longer than its deadline, one byte at a
// time or silent, and before it ends nothing is refused to others.
func TestHandshakeDeadline(t *testing.T) {
	addr := start(t, &socks.Server{HandshakeTimeout: 300 * time.Millisecond})
	for _, begin := range []string{"", "\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01", "\x04\x01\x00\x50\x01\x02\x03\x04user"} {
		conn := dialRaw(t, addr)
		began := time.Now()
		write(t, conn, []byte(begin))
		_, err := io.Copy(io.Discard, conn)
		if d := time.Since(began); err != nil || d < 200*time.Millisecond || d > 10*time.Second {
			t.Errorf("%q: ended after %v with %v", begin, d, err)
		}
	}
}
