package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

func nobody(context.Context, string, netip.AddrPort) error { return argyle.ErrNotAllowed }

// The only user of the servers in these tests, with all that a URL makes trouble of.
const (
	user     = "ann@home"
	password = "c:o/r?r@e%c t"
	login    = "ann%40home:c%3Ao%2Fr%3Fr%40e%25c%20t@"
)

// server is a real proxy on loopback, which notes what it is asked for.
type server struct {
	addr string

	mu   sync.Mutex
	seen []argyle.Request
	sni  string
	cert string // of the client
}

// startServer serves SOCKS and HTTP on ln, to anybody or to the one user.
func startServer(t *testing.T, ln net.Listener, closed bool) *server {
	t.Helper()
	s := &server{addr: ln.Addr().String()}
	carrier := new(proxy.Proxy)
	handler := argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		s.mu.Lock()
		s.seen = append(s.seen, *call.Request())
		s.mu.Unlock()
		carrier.ServeCall(ctx, call)
	})
	verify := func(_ context.Context, _ netip.Addr, u, p string) error {
		if u != user || p != password {
			return errors.New("who is that?")
		}
		return nil
	}
	web := &httpconnect.Server{Handler: handler}
	socksServer := &socks.Server{Handler: handler}
	if closed {
		web.Login = verify
		socksServer.Authenticators = []socks.Authenticator{socks.Password{Verify: verify}}
	}
	feed := serve.NewFeed(ln.Addr())
	socksServer.Other = feed.Put
	httpServer := web.HTTPServer()
	var running sync.WaitGroup
	running.Go(func() { _ = socksServer.Serve(ln) })
	running.Go(func() { _ = httpServer.Serve(feed) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(socksServer.Shutdown(ctx), carrier.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
		feed.Close()
		httpServer.Close()
		running.Wait()
	})
	return s
}

// asked returns the destinations that a server was asked for since the last time.
func (s *server) asked() (dests []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, req := range s.seen {
		dests = append(dests, req.Dest.String())
	}
	s.seen = nil
	return dests
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// startTLS is startServer inside TLS, which must know the client's certificate if it has one.
func startTLS(t *testing.T, pair tls.Certificate, closed bool) *server {
	t.Helper()
	var s *server
	clients := x509.NewCertPool()
	clients.AddCert(pair.Leaf)
	ln := tls.NewListener(listen(t), &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    clients,
		VerifyConnection: func(state tls.ConnectionState) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sni, s.cert = state.ServerName, ""
			if len(state.VerifiedChains) > 0 {
				s.cert = state.PeerCertificates[0].Subject.CommonName
			}
			return nil
		},
	})
	s = startServer(t, ln, closed)
	return s
}

// certificate makes a certificate for gw.test and 127.0.0.1 that is its own authority, and its files.
func certificate(t *testing.T) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "gw"},
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"gw.test"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile = write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", raw)
	if pair, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return pair, certFile, keyFile
}

// echo sends back what it gets, and returns its port.
func echo(t *testing.T) string {
	t.Helper()
	ln := listen(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// say goes through proxies to dest and wants its words back.
func say(t *testing.T, dest string, proxies ...string) {
	t.Helper()
	d, err := Chain(proxies)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", dest)
	if err != nil {
		t.Errorf("%q: %v", proxies, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Error(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("%q: got back %q, %v", proxies, got, err)
	}
}

// Every scheme goes through a real server, and leaves names to whom it should.
func TestSchemes(t *testing.T) {
	t.Parallel()
	pair, ca, _ := certificate(t)
	open, closed := startServer(t, listen(t), false), startServer(t, listen(t), true)
	secure, locked := startTLS(t, pair, false), startTLS(t, pair, true)
	port := echo(t)
	for _, tt := range []struct {
		scheme  string
		server  *server
		options string
		login   bool
		here    bool // names are looked up by us
	}{
		{"", open, "", false, false},
		{"socks5h://", open, "", false, false},
		{"socks5://", open, "", false, true},
		{"socks4a://", open, "", false, false},
		{"socks4://", open, "", false, true},
		{"http://", open, "", false, false},
		{"", closed, "", true, false},
		{"socks5h://", closed, "", true, false},
		{"socks5://", closed, "", true, true},
		{"http://", closed, "", true, false},
		{"socks5h+tls://", secure, "?ca=" + ca, false, false},
		{"socks5+tls://", secure, "?ca=" + ca, false, true},
		{"https://", secure, "?ca=" + ca, false, false},
		{"socks5h+tls://", locked, "?ca=" + ca, true, false},
		{"socks5+tls://", locked, "?ca=" + ca, true, true},
		{"https://", locked, "?ca=" + ca, true, false},
	} {
		proxyURL := tt.scheme + tt.server.addr + tt.options
		if tt.login {
			proxyURL = tt.scheme + login + tt.server.addr + tt.options
		}
		for _, host := range []string{"127.0.0.1", "localhost"} {
			dest := net.JoinHostPort(host, port)
			say(t, dest, proxyURL)
			asked := tt.server.asked()
			wantName := host == "localhost" && !tt.here
			if len(asked) != 1 || strings.HasPrefix(asked[0], "localhost:") != wantName || !strings.HasSuffix(asked[0], ":"+port) {
				t.Errorf("%s to %s: the server was asked for %q", proxyURL, dest, asked)
			}
		}
	}
}

// The nearest proxy comes first.
func TestChain(t *testing.T) {
	t.Parallel()
	near, far := startServer(t, listen(t), false), startServer(t, listen(t), true)
	dest := net.JoinHostPort("localhost", echo(t))
	for _, scheme := range []string{"socks5h://", "http://"} {
		say(t, dest, "socks5://"+near.addr, scheme+login+far.addr)
		if asked := near.asked(); !slices.Equal(asked, []string{far.addr}) {
			t.Errorf("the near proxy was asked for %q, not %s", asked, far.addr)
		}
		if asked := far.asked(); !slices.Equal(asked, []string{dest}) {
			t.Errorf("the far proxy was asked for %q, not %s", asked, dest)
		}
	}

	// direct in a chain is no step of its own.
	say(t, dest, "direct://", near.addr, "direct://")
	if asked := near.asked(); !slices.Equal(asked, []string{dest}) {
		t.Errorf("asked for %q", asked)
	}

	// A third hop through the same two.
	say(t, dest, near.addr, login+far.addr, near.addr)
	if asked := near.asked(); !slices.Equal(asked, []string{far.addr, dest}) {
		t.Errorf("asked for %q", asked)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a@b?c.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, ln, true)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	escaped := strings.NewReplacer("%", "%25", "@", "%40", "?", "%3F").Replace(path)
	for _, scheme := range []string{"", "socks5://", "http://"} {
		say(t, dest, scheme+login+"unix:"+escaped)
		if asked := s.asked(); !slices.Equal(asked, []string{dest}) {
			t.Errorf("asked for %q", asked)
		}
	}
}

func TestTLSOptions(t *testing.T) {
	t.Parallel()
	pair, cert, key := certificate(t)
	s := startTLS(t, pair, false)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	_, port, _ := net.SplitHostPort(s.addr)
	for _, scheme := range []string{"https://", "socks5h+tls://"} {
		for _, tt := range []struct{ host, options, sni, cert string }{
			{"127.0.0.1", "?ca=" + cert, "", ""},
			{"127.0.0.1", "?ca=" + cert + "&sni=gw.test", "gw.test", ""},
			{"127.0.0.1", "?sni=gw.test&cert=" + cert + "&key=" + key + "&ca=" + cert, "gw.test", "gw"},
		} {
			say(t, dest, scheme+tt.host+":"+port+tt.options)
			s.mu.Lock()
			if s.sni != tt.sni || s.cert != tt.cert {
				t.Errorf("%s: the server saw the name %q and the certificate of %q", tt.options, s.sni, s.cert)
			}
			s.mu.Unlock()
		}
		for options, want := range map[string]string{
			"":                             "unknown authority",
			"?sni=gw.test":                 "unknown authority",
			"?ca=" + cert + "&sni=no.test": "not no.test",
		} {
			d, err := Parse(scheme+"127.0.0.1:"+port+options, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.DialContext(t.Context(), "tcp", dest); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s%s: %v, want %s", scheme, options, err, want)
			}
		}
	}
}

// No error on the way through shows the password, and each names the proxy.
func TestDialErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t, listen(t), true)
	ln := listen(t) // answers nobody once it is closed
	dead := ln.Addr().String()
	ln.Close()
	for _, scheme := range []string{"socks5h://", "http://"} {
		for _, tt := range []struct{ url, dest, want string }{
			{"ann%40home:sesame@" + s.addr, "127.0.0.1:1", ""},
			{"ann%40home:sesame@" + dead, "127.0.0.1:1", "connection refused"},
			{login + s.addr, dead, ""},
			{login + s.addr, "nowhere..invalid:80", ""},
		} {
			d, err := Parse(scheme+tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = d.DialContext(t.Context(), "tcp", tt.dest)
			if err == nil {
				t.Fatalf("%s to %s: no error", tt.url, tt.dest)
			}
			text := err.Error()
			if strings.Contains(text, "sesame") || strings.Contains(text, password) {
				t.Errorf("the password is in %q", text)
			}
			_, addr, _ := strings.Cut(tt.url, "@")
			if !strings.Contains(text, scheme+addr) || !strings.Contains(text, tt.want) {
				t.Errorf("%q does not say what is wrong with %s", text, addr)
			}
		}
	}
	d, err := Parse(login+s.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", dead); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v is not ECONNREFUSED", err)
	}
}
