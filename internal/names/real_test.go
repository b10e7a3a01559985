package names

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// realServer serves z on loopback over "udp" (and TCP, at the same port), "tcp",
// "tls" or "https" and returns what ParseServer made of its URL. Certificates
// are for example.com and 127.0.0.1.
func realServer(t *testing.T, network string, z *zone, options ...string) Server {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		if reply := z.handle(query); reply != nil {
			if network == networkUDP && w.RemoteAddr().Network() == "udp" {
				reply.Truncate(dns.MinMsgSize)
			}
			w.WriteMsg(reply)
		}
	})
	if network == networkHTTPS {
		return parsed(t, httpsServer(t, z, true), options)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln = &tracked{Listener: ln, zone: z}
	switch network {
	case networkUDP:
		packets, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Skipf("the port is taken for UDP: %v", err)
		}
		start(t, &dns.Server{PacketConn: packets, Handler: handler})
	case networkTLS:
		certificate, file := certificate(t)
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{certificate}})
		options = append(options, "ca="+url.QueryEscape(file))
	}
	start(t, &dns.Server{Listener: ln, Handler: handler})
	return parsed(t, network+"://"+address, options)
}

func start(t *testing.T, server *dns.Server) {
	t.Helper()
	started, ended := make(chan struct{}), make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() {
		defer close(ended)
		server.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		server.Shutdown()
		<-ended
	})
}

func parsed(t *testing.T, text string, options []string) Server {
	t.Helper()
	if len(options) > 0 {
		separator := "?"
		if strings.Contains(text, "?") {
			separator = "&"
		}
		text += separator + strings.Join(options, "&")
	}
	s, err := ParseServer(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// certificate returns that of httptest, and a file with its authority.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	return server.TLS.Certificates[0], authority(t, server)
}

func authority(t *testing.T, server *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// httpsServer returns the URL of a server for example.com, with the options.
func httpsServer(t *testing.T, z *zone, http2 bool) string {
	t.Helper()
	return handlerServer(t, z, http2, func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		query := new(dns.Msg)
		switch {
		case query.Unpack(body) != nil || query.Id != 0:
			http.Error(w, "not a query", http.StatusBadRequest)
			return
		case request.URL.Path != "/dns-query", request.Method != http.MethodPost,
			request.Header.Get("Content-Type") != messageType, request.Header["User-Agent"] != nil,
			http2 != (request.ProtoMajor == 2), !strings.HasPrefix(request.Host, "example.com:"):
			t.Errorf("the request is %v", request)
		}
		reply := z.handle(query)
		if reply == nil {
			<-request.Context().Done()
			return
		}
		packed, _ := reply.Pack()
		w.Header().Set("Content-Type", messageType)
		w.Write(packed)
	})
}

func handlerServer(t *testing.T, z *zone, http2 bool, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	if z != nil {
		server.Listener = &tracked{Listener: server.Listener, zone: z}
	}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = http2
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	return "https://example.com:" + port + "/dns-query?address=127.0.0.1&ca=" + url.QueryEscape(authority(t, server))
}

// tracked is a listener whose zone can hang up.
type tracked struct {
	net.Listener
	zone *zone
}

func (l *tracked) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.zone.mu.Lock()
		l.zone.conns = append(l.zone.conns, conn)
		l.zone.mu.Unlock()
	}
	return conn, err
}

// A wire counts connections, and can be cut without either side noticing.
type wire struct {
	dials atomic.Int32
	mu    sync.Mutex
	conns []*cutConn
}

type cutConn struct {
	net.Conn
	cut atomic.Bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials.Add(1)
	c := &cutConn{Conn: conn}
	w.conns = append(w.conns, c)
	return c, nil
}

func (w *wire) each(do func(*cutConn)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		do(c)
	}
}

// realResolver asks over connections that the test can cut.
func realResolver(t *testing.T, servers ...Server) (*Resolver, *wire) {
	t.Helper()
	w := &wire{}
	r := &Resolver{Servers: servers, Dial: w.dial, Timeout: 10 * time.Second}
	t.Cleanup(func() { r.Close() })
	return r, w
}

var transports = []string{networkUDP, networkTCP, networkTLS, networkHTTPS}

func TestTransports(t *testing.T) {
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			z := newZone(t, "www.example. 60 IN CNAME a.example.", "a.example. 60 IN A 192.0.2.80", "a.example. 60 IN AAAA 2001:db8::80",
				"example. 60 IN SOA ns. host. 1 2 3 4 60")
			r := &Resolver{Servers: []Server{realServer(t, network, z)}}
			defer r.Close()
			want(t, r, "www.example", "2001:db8::80", "192.0.2.80")
			wantNotFound(t, r, "gone.example")
			r.Close()
			want(t, r, "a.example", "2001:db8::80", "192.0.2.80") // over a new connection
			if n := z.total(); n != 6 {
				t.Errorf("%d questions, want 6", n)
			}
		})
	}
}

func TestConnectionsAreKept(t *testing.T) {
	for _, network := range transports[1:] {
		t.Run(network, func(t *testing.T) {
			r, w := realResolver(t, realServer(t, network, wild(t)))
			r.Prefer = IPv4Only
			for i := range 5 {
				want(t, r, nth(i), "192.0.2.80")
			}
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() { want(t, r, nth(10+i), "192.0.2.80") })
			}
			all.Wait()
			if n := w.dials.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// HTTP/1.1 does as well, with a connection for each question at a time.
func TestHTTP1(t *testing.T) {
	r, w := realResolver(t, parsed(t, httpsServer(t, wild(t), false), nil))
	r.Prefer = IPv4Only
	for i := range 3 {
		want(t, r, nth(i), "192.0.2.80")
	}
	if n := w.dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A server may close a connection at any time, and the next question goes over
// another.
func TestClosedConnection(t *testing.T) {
	for _, network := range transports[1:] {
		t.Run(network, func(t *testing.T) {
			z := wild(t)
			r, w := realResolver(t, realServer(t, network, z))
			r.Prefer = IPv4Only
			for i := range 20 {
				want(t, r, nth(i), "192.0.2.80")
				z.hangUp()
			}
			if n := w.dials.Load(); n != 20 {
				t.Errorf("%d connections, want 20", n)
			}
		})
	}
}

// A network that forgot the connection says nothing. That costs one try, not
// the look-up.
func TestSilentConnection(t *testing.T) {
	for _, network := range transports[1:] {
		t.Run(network, func(t *testing.T) {
			r, w := realResolver(t, realServer(t, network, wild(t)))
			r.Prefer, r.Timeout = IPv4Only, 400*time.Millisecond
			want(t, r, nth(1), "192.0.2.80")
			w.each(func(c *cutConn) { c.cut.Store(true) })
			want(t, r, nth(2), "192.0.2.80")
			if n := w.dials.Load(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	z := newZone(t)
	for i := range 60 {
		rr := record(t, "www.example. 60 IN A 192.0.2.1").(*dns.A)
		rr.A = net.IPv4(192, 0, 2, byte(i+1))
		z.records["www.example."] = append(z.records["www.example."], rr)
	}
	r, w := realResolver(t, realServer(t, networkUDP, z))
	got, err := r.LookupNetIP(t.Context(), "ip4", "www.example")
	if err != nil || len(got) != 60 {
		t.Errorf("got %d addresses, %v; want 60", len(got), err)
	}
	if n := w.dials.Load(); n != 2 {
		t.Errorf("%d sockets, want one for UDP and one for TCP", n)
	}
}

func TestClosedPort(t *testing.T) {
	z := newZone(t, wwwRecord)
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			closed := Server{Network: network, Address: ln.Addr().String()}
			ln.Close()
			r := &Resolver{Servers: []Server{closed, realServer(t, network, z)}, Timeout: 10 * time.Second}
			defer r.Close()
			began := time.Now()
			want(t, r, "www.example", "192.0.2.80")
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestSilentServer(t *testing.T) {
	z := newZone(t, wwwRecord)
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			mute := newZone(t)
			mute.instead = silent
			r, _ := realResolver(t, realServer(t, network, mute), realServer(t, network, z))
			r.Timeout = 300 * time.Millisecond
			want(t, r, "www.example", "192.0.2.80")
			if mute.total() == 0 {
				t.Error("the silent server was not asked")
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	z := newZone(t, wwwRecord)
	good := map[string]Server{
		"TLS, the address":  realServer(t, networkTLS, z),
		"TLS, a name":       realServer(t, networkTLS, z, "name=example.com"),
		"HTTPS, a name":     realServer(t, networkHTTPS, z),
		"TLS, another name": realServer(t, networkTLS, z, "name=dns.example"),
		"TLS, another CA":   realServer(t, networkTLS, z, "name=example.com"),
		"HTTPS, another CA": realServer(t, networkHTTPS, z),
		"HTTPS, of another": realServer(t, networkHTTPS, z),
	}
	for name, server := range good {
		t.Run(name, func(t *testing.T) {
			bad := strings.Contains(name, "another")
			if strings.Contains(name, "another CA") {
				server.Roots = nil
			}
			if name == "HTTPS, of another" {
				server.Name = "dns.example"
			}
			r := &Resolver{Servers: []Server{server}}
			defer r.Close()
			if !bad {
				want(t, r, "www.example", "192.0.2.80")
				return
			}
			before := z.total()
			if err := wantError(t, r, "www.example"); !strings.Contains(err.Err, "x509") && !strings.Contains(err.Err, "certificate") {
				t.Errorf("got %v", err)
			}
			if z.total() != before {
				t.Error("the question went to a server that is not the one")
			}
		})
	}
}

func TestHTTPAnswers(t *testing.T) {
	question := new(dns.Msg).SetQuestion("other.example.", dns.TypeA)
	question.Id = 0
	other, _ := new(dns.Msg).SetReply(question).Pack()
	tests := map[string]struct {
		status int
		kind   string
		body   string
		want   string
	}{
		"status":           {http.StatusTooManyRequests, messageType, "", "429"},
		"redirect":         {http.StatusFound, messageType, "", "302"},
		"type":             {http.StatusOK, "text/html", "<html>", "text/html"},
		"nonsense":         {http.StatusOK, messageType, "nonsense", "dns:"},
		"another question": {http.StatusOK, messageType, string(other), "another question"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			address := handlerServer(t, nil, true, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", test.kind)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			})
			r := &Resolver{Servers: []Server{parsed(t, address, nil)}}
			defer r.Close()
			err := wantError(t, r, "www.example")
			if !strings.Contains(err.Err, test.want) || strings.Contains(err.Error(), "dns-query") {
				t.Errorf("got %q, want %q and no path", err, test.want)
			}
		})
	}
}

// Without Dial, a name in Address is the system's to look up; with it, too, and
// Dial sees addresses.
func TestNameOfServer(t *testing.T) {
	server := realServer(t, networkTLS, newZone(t, wwwRecord), "name=example.com")
	_, port, _ := net.SplitHostPort(server.Address)
	server.Address = net.JoinHostPort("localhost", port)
	if _, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip4", "localhost"); err != nil {
		t.Skip("this system does not know localhost")
	}
	r := &Resolver{Servers: []Server{server}}
	defer r.Close()
	want(t, r, "www.example", "192.0.2.80")

	through := &Resolver{Servers: []Server{server}, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "localhost") {
			t.Errorf("Dial got %s", address)
		}
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, address)
	}}
	defer through.Close()
	want(t, through, "www.example", "192.0.2.80")
}
