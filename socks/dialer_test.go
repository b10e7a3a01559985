package socks_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	xproxy "golang.org/x/net/proxy"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

var (
	_ xproxy.Dialer        = (*socks.Dialer)(nil)
	_ xproxy.ContextDialer = (*socks.Dialer)(nil)
)

// annOnly lets ann in.
var annOnly = []socks.Authenticator{socks.Password{
	Verify: func(_ context.Context, _ netip.Addr, user, password string) error {
		if user == "ann" && password == "secret" {
			return nil
		}
		return errors.New("wrong")
	},
}}

// ping sends something through conn to an echo server, with a half-close.
func ping(t testing.TB, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	write(t, conn, []byte("ping"))
	expect(t, conn, []byte("ping"))
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	expectEOF(t, conn)
}

func TestDialer(t *testing.T) {
	dest := echo(t)
	open, closed := start(t, &socks.Server{}), start(t, &socks.Server{Authenticators: annOnly})
	byName := fmt.Sprintf("localhost:%d", dest.Port())
	for _, d := range []*socks.Dialer{
		{Addr: open}, {Addr: open, Version: 5}, {Addr: open, Version: 4}, {Addr: open, User: "ann", Password: "any"},
		{Addr: closed, User: "ann", Password: "secret"},
		{Addr: open, ResolveNames: true}, {Addr: open, ResolveNames: true, Version: 4},
		{Addr: open, Forward: &socks.Dialer{Addr: closed, User: "ann", Password: "secret"}},
		{Addr: closed, User: "ann", Password: "secret", Forward: &socks.Dialer{Addr: open, Version: 4, Forward: &socks.Dialer{Addr: open}}},
	} {
		for _, address := range []string{dest.String(), byName} {
			conn, err := d.DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Errorf("%v to %s: %v", d, address, err)
				continue
			}
			if _, bare := conn.(*net.TCPConn); !bare {
				t.Errorf("%v: a %T cannot be spliced", d, conn)
			}
			ping(t, conn)
		}
	}
}

// The names that Dialers resolve themselves never reach the server, the others do.
func TestDialerNames(t *testing.T) {
	requests := make(chan argyle.Request, 1)
	addr := start(t, &socks.Server{Handler: recording(requests)})
	for _, test := range []struct {
		dialer socks.Dialer
		want   string
	}{
		{socks.Dialer{}, "localhost:80"},
		{socks.Dialer{Version: 4}, "localhost:80"},
		{socks.Dialer{ResolveNames: true, Version: 4}, "127.0.0.1:80"},
	} {
		d := test.dialer
		d.Addr = addr
		_, err := d.DialContext(t.Context(), "tcp", "localhost:80")
		if err == nil {
			t.Fatal("connected")
		}
		if got := (<-requests).Dest.String(); got != test.want {
			t.Errorf("%v asked for %s, want %s", &d, got, test.want)
		}
	}
}

// What a Dialer resolves itself it may only use if Check lets it.
func TestDialerCheck(t *testing.T) {
	requests := make(chan argyle.Request, 1)
	var asked []netip.AddrPort
	d := &socks.Dialer{
		Addr: start(t, &socks.Server{Handler: recording(requests)}), ResolveNames: true,
		Check: func(_ context.Context, _ string, addr netip.AddrPort) error {
			asked = append(asked, addr)
			return argyle.ErrNotAllowed
		},
	}
	_, err := d.DialContext(t.Context(), "tcp", "localhost:80")
	if !errors.Is(err, argyle.ErrNotAllowed) || len(asked) == 0 || !asked[0].Addr().IsLoopback() || asked[0].Port() != 80 {
		t.Errorf("asked about %v: %v", asked, err)
	}
	if len(requests) != 0 {
		t.Errorf("the server was asked for %v", <-requests)
	}
}

// An upstream's REP is an error that errors.Is finds, across a chain too, and
// reaches the next client unchanged.
func TestDialerReplies(t *testing.T) {
	for code, want := range map[wire.Reply]error{
		wire.GeneralFailure: nil, wire.NotAllowed: argyle.ErrNotAllowed, wire.NetworkUnreachable: syscall.ENETUNREACH,
		wire.HostUnreachable: syscall.EHOSTUNREACH, wire.ConnectionRefused: syscall.ECONNREFUSED,
		wire.TTLExpired: os.ErrDeadlineExceeded, wire.CommandNotSupported: errors.ErrUnsupported,
		wire.AddrTypeNotSupported: errors.ErrUnsupported, 0x77: nil,
	} {
		far := start(t, &socks.Server{Handler: rejecting(code)})
		middle := &proxy.Proxy{Policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) {
			return &socks.Dialer{Addr: far}, nil
		})}
		defer middle.Close()
		near := start(t, &socks.Server{Handler: middle})
		for _, d := range []*socks.Dialer{{Addr: far}, {Addr: near}} {
			_, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80")
			var op *net.OpError
			if !errors.As(err, &op) || !errors.Is(err, code) || want != nil && !errors.Is(err, want) {
				t.Errorf("REP %d: %v", code, err)
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() != (code == wire.TTLExpired) {
				t.Errorf("REP %d: Timeout is %v", code, ne.Timeout())
			}
		}
		four := &socks.Dialer{Addr: far, Version: 4}
		if _, err := four.DialContext(t.Context(), "tcp", "192.0.2.1:80"); !errors.Is(err, wire.Rejected) {
			t.Errorf("SOCKS 4: %v", err)
		}
	}
}

func TestDialerErrors(t *testing.T) {
	closed := start(t, &socks.Server{Authenticators: annOnly})
	say := func(b string) string { // a server that says b whatever it hears
		return listen(t, func(conn net.Conn) {
			_, _ = conn.Write([]byte(b))
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}).String()
	}
	tests := []struct {
		name   string
		dialer socks.Dialer
		dest   string
		want   error
		text   string
	}{
		{"no password", socks.Dialer{Addr: closed}, "192.0.2.1:80", socks.ErrMethod, "may want a user name"},
		{"wrong password", socks.Dialer{Addr: closed, User: "ann", Password: "hunter2"}, "192.0.2.1:80", socks.ErrLogin, `user "ann"`},
		{"bad destination", socks.Dialer{Addr: closed}, "nowhere", nil, "missing port"},
		{"version", socks.Dialer{Addr: closed, Version: 6}, "192.0.2.1:80", nil, "SOCKS version 6"},
		{"IPv6 over SOCKS 4", socks.Dialer{Addr: closed, Version: 4}, "[2001:db8::1]:80", wire.ErrMessage, "IPv6"},
		{"not a SOCKS server", socks.Dialer{Addr: say("HTTP/1.1 400 Bad Request\r\n\r\n")}, "192.0.2.1:80", wire.ErrMessage, "version 72"},
		{"method that was not offered", socks.Dialer{Addr: say("\x05\x01")}, "192.0.2.1:80", socks.ErrMethod, "gssapi"},
		{"password chosen without one", socks.Dialer{Addr: say("\x05\x02")}, "192.0.2.1:80", socks.ErrMethod, "password"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.dialer.DialContext(t.Context(), "tcp", test.dest)
			var op *net.OpError
			if !errors.As(err, &op) || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in %v", err)
			}
		})
	}
	if _, err := (&socks.Dialer{Addr: closed}).DialContext(t.Context(), "unix", "/x"); !errors.As(err, new(net.UnknownNetworkError)) {
		t.Error(err)
	}
	if _, err := (&socks.Dialer{Addr: closed, Version: 4}).ListenPacket(t.Context(), "udp", ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// A context is honoured to the end of the handshake, at whatever step the
// server falls silent, and has no power afterwards.
func TestDialerContext(t *testing.T) {
	for name, says := range map[string]string{
		"before the method": "", "within the method": "\x05", "before the reply": "\x05\x00",
		"within the reply": "\x05\x00\x05\x00\x00\x01\x7f", "before the login": "\x05\x02",
	} {
		for cause, want := range map[string]error{"cancel": context.Canceled, "deadline": context.DeadlineExceeded} {
			t.Run(name+", "+cause, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if cause == "deadline" {
					ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
				}
				defer cancel()
				addr := listen(t, func(conn net.Conn) {
					_, _ = conn.Write([]byte(says))
					if cause == "cancel" {
						_, _ = io.ReadFull(conn, make([]byte, 3)) // the greeting has come
						cancel()
					}
					_, _ = io.Copy(io.Discard, conn)
					conn.Close()
				})
				d := &socks.Dialer{Addr: addr.String(), User: "ann", Password: "secret"}
				if _, err := d.DialContext(ctx, "tcp", "192.0.2.1:80"); !errors.Is(err, want) {
					t.Errorf("%v", err)
				}
			})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := (&socks.Dialer{Addr: start(t, &socks.Server{})}).DialContext(ctx, "tcp", echo(t).String())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	ping(t, conn)
}

// The server's answer and the first bytes of the destination may come in one piece.
func TestDialerReadsNothingBeyond(t *testing.T) {
	addr := listen(t, func(conn net.Conn) {
		_, _ = conn.Write([]byte("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50220 hello\r\n"))
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	})
	conn, err := (&socks.Dialer{Addr: addr.String()}).Dial("tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	expect(t, conn, []byte("220 hello\r\n"))
}

func TestHTTPTransport(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "page") }))
	defer page.Close()
	d := &socks.Dialer{Addr: start(t, &socks.Server{})}
	transport := &http.Transport{DialContext: d.DialContext}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(page.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if b, _ := io.ReadAll(response.Body); string(b) != "page" {
		t.Errorf("%q", b)
	}
}

// golang.org/x/net/proxy against our server, and with our Dialer below it.
func TestXNetProxy(t *testing.T) {
	dest := echo(t)
	near, far := start(t, &socks.Server{}), start(t, &socks.Server{Authenticators: annOnly})
	u, _ := url.Parse("socks5h://ann:secret@" + far)
	for _, forward := range []xproxy.Dialer{xproxy.Direct, &socks.Dialer{Addr: near}} {
		d, err := xproxy.FromURL(u, forward)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := d.Dial("tcp", dest.String())
		if err != nil {
			t.Fatal(err)
		}
		write(t, conn, []byte("ping"))
		expect(t, conn, []byte("ping"))
		conn.Close()
	}
}

func TestDialerOverTLS(t *testing.T) {
	cert, pool := certificate(t)
	server := &socks.Server{}
	server.Other = func(ctx context.Context, conn net.Conn) {
		server.ServeConn(ctx, tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}
	addr := start(t, server)
	d := &socks.Dialer{Addr: addr, TLS: &tls.Config{RootCAs: pool}}
	conn, err := d.DialContext(t.Context(), "tcp", echo(t).String())
	if err != nil {
		t.Fatal(err)
	}
	ping(t, conn)
	d.TLS = &tls.Config{} // an authority that it does not know
	if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:80"); !errors.As(err, new(*tls.CertificateVerificationError)) {
		t.Error(err)
	}
}

// certificate returns the certificate that net/http's tests use for 127.0.0.1.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0], s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

func TestDialerUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socks")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := new(proxy.Proxy)
	defer p.Close()
	s := &socks.Server{Handler: p}
	go s.Serve(ln)
	defer s.Shutdown(t.Context())
	d := &socks.Dialer{Addr: "unix:" + path}
	conn, err := d.DialContext(t.Context(), "tcp", echo(t).String())
	if err != nil {
		t.Fatal(err)
	}
	ping(t, conn)
	if _, err := d.ListenPacket(t.Context(), "udp", ""); !errors.Is(err, wire.CommandNotSupported) {
		t.Errorf("UDP over a unix socket: %v", err)
	}
}

// BIND of both versions, and through a chain.
func TestListen(t *testing.T) {
	addr := start(t, &socks.Server{})
	for _, d := range []*socks.Dialer{
		{Addr: addr}, {Addr: addr, Version: 4}, {Addr: addr, Forward: &socks.Dialer{Addr: addr}},
	} {
		ln, err := d.Listen(t.Context(), "tcp", "127.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		peer := from(t, "127.0.0.2", argyle.AddrOf(ln.Addr()).AddrPort())
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if conn.RemoteAddr().String() != peer.LocalAddr().String() {
			t.Errorf("peer %v, want %v", conn.RemoteAddr(), peer.LocalAddr())
		}
		write(t, conn, []byte("hello"))
		expect(t, peer, []byte("hello"))
		second := make(chan error)
		go func() { _, err := ln.Accept(); second <- err }()
		ln.Close()
		if err := <-second; !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Accept: %v", err)
		}
		write(t, peer, []byte("still"))
		expect(t, conn, []byte("still"))
		conn.Close()
	}
	ln, err := (&socks.Dialer{Addr: addr}).Listen(t.Context(), "tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() { _, err := ln.Accept(); waiting <- err }()
	ln.Close()
	if err := <-waiting; err == nil {
		t.Error("Accept outlived Close")
	}
}

// A BIND that is served by a chain: server over server, and the peer's
// address through both.
func TestListenThroughServers(t *testing.T) {
	far := start(t, &socks.Server{})
	p := &proxy.Proxy{Policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) {
		return &socks.Dialer{Addr: far}, nil
	})}
	defer p.Close()
	conn, bound := bind(t, start(t, &socks.Server{Handler: p}), 5, netip.MustParseAddrPort("127.0.0.2:0"))
	peer := from(t, "127.0.0.2", bound)
	if _, who := reply(t, conn, 5); who.String() != peer.LocalAddr().String() {
		t.Errorf("second reply %v, want %v", who, peer.LocalAddr())
	}
	write(t, peer, []byte("hello"))
	expect(t, conn, []byte("hello"))
}

// UDP: direct, through a chain of dialers, and through a chain of servers.
func TestListenPacket(t *testing.T) {
	addr := start(t, &socks.Server{})
	p := &proxy.Proxy{Policy: proxy.PolicyFunc(func() func(context.Context, *argyle.Request) (argyle.Dialer, error) {
		d := &socks.Dialer{Addr: addr}
		return func(context.Context, *argyle.Request) (argyle.Dialer, error) { return d, nil }
	}())}
	defer p.Close()
	over := start(t, &socks.Server{Handler: p})
	v4, v6 := udpEcho(t, "127.0.0.1"), udpEcho(t, "::1")
	for _, d := range []*socks.Dialer{
		{Addr: addr}, {Addr: over},
		{Addr: addr, Forward: &socks.Dialer{Addr: addr}},
		{Addr: addr, Forward: &socks.Dialer{Addr: addr, Forward: &socks.Dialer{Addr: over}}},
	} {
		conn, err := d.ListenPacket(t.Context(), "udp", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		for _, to := range []struct {
			addr   net.Addr
			source netip.AddrPort
		}{
			{net.UDPAddrFromAddrPort(v4), v4}, {net.UDPAddrFromAddrPort(v6), v6},
			{argyle.Addr{Name: "localhost", Port: v4.Port()}, netip.AddrPort{}},
		} {
			payload := bytes.Repeat([]byte("u"), 1200)
			if _, err := conn.WriteTo(payload, to.addr); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 2000)
			n, source, err := conn.ReadFrom(b)
			if err != nil || !bytes.Equal(b[:n], payload) {
				t.Fatalf("%v to %v: %d bytes, %v", d.Forward, to.addr, n, err)
			}
			if to.source.IsValid() && argyle.AddrOf(source).AddrPort() != to.source {
				t.Errorf("from %v, want %v", source, to.source)
			}
		}
		conn.Close()
		if _, _, err := conn.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// The association of a client ends when the server ends its TCP connection.
func TestListenPacketServerGone(t *testing.T) {
	p := new(proxy.Proxy)
	addr := start(t, &socks.Server{Handler: p})
	conn, err := (&socks.Dialer{Addr: addr}).ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := conn.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// T24: a server that says 0.0.0.0 means itself.
func TestListenPacketUnspecified(t *testing.T) {
	relay := udpFrom(t, "127.0.0.1")
	port := argyle.AddrOf(relay.LocalAddr()).Port
	addr := listen(t, func(conn net.Conn) {
		defer conn.Close()
		_, _ = conn.Write([]byte{5, 0, 5, 0, 0, 1, 0, 0, 0, 0, byte(port >> 8), byte(port)})
		_, _ = io.Copy(io.Discard, conn)
	})
	conn, err := (&socks.Dialer{Addr: addr.String()}).ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteTo([]byte("hello"), argyle.Addr{Name: "host.example", Port: 7}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	_ = relay.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, client, err := relay.ReadFromUDPAddrPort(b)
	if want := "\x00\x00\x00\x03\x0chost.example\x00\x07hello"; err != nil || string(b[:n]) != want {
		t.Fatalf("%q, %v", b[:n], err)
	}
	// A stranger's datagram is not the relay's.
	stranger := udpFrom(t, "127.0.0.2")
	answer := datagram(t, 0, argyle.AddrFrom(netip.MustParseAddrPort("192.0.2.1:7")), "x")
	sendTo(t, stranger, client, answer)
	sendTo(t, relay, client, append(answer[:len(answer)-1], "yes"...))
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, source, err := conn.ReadFrom(b)
	if err != nil || string(b[:n]) != "yes" || source.String() != "192.0.2.1:7" {
		t.Fatalf("%q from %v, %v", b[:n], source, err)
	}
}
