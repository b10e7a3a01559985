package httpconnect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/proxy"

	"github.com/argyle-socks/argyle"
)

var (
	_ proxy.Dialer        = (*Dialer)(nil)
	_ proxy.ContextDialer = (*Dialer)(nil)
)

// script is a proxy that answers every request with the same bytes and then
// echoes. It passes on the requests.
func script(t testing.TB, answer string) (addr string, requests <-chan string) {
	got := make(chan string, 16)
	addr = peer(t, func(conn *net.TCPConn) {
		got <- readHeader(t, conn)
		io.WriteString(conn, answer)
		echo(conn)
	})
	return addr, got
}

func TestDialerRequest(t *testing.T) {
	addr, requests := script(t, established)
	tests := []struct {
		dialer Dialer
		dest   string
		want   string
	}{
		{Dialer{}, "a.example:80", "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n"},
		{Dialer{}, "A.Example.:80", "CONNECT A.Example.:80 HTTP/1.1\r\nHost: A.Example.:80\r\n\r\n"},
		{Dialer{}, "192.0.2.1:80", "CONNECT 192.0.2.1:80 HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n"},
		{Dialer{}, "[2001:db8::1]:80", "CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n"},
		{Dialer{}, "b\u00fccher.example:80", "CONNECT xn--bcher-kva.example:80 HTTP/1.1\r\nHost: xn--bcher-kva.example:80\r\n\r\n"},
		{
			Dialer{User: "ann", Password: "pass:w\u00f6rd"}, "a.example:80",
			"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\nProxy-Authorization: Basic YW5uOnBhc3M6d8O2cmQ=\r\n\r\n",
		},
		{
			Dialer{Header: http.Header{"User-Agent": {"x"}, "X-Tag": {"y\r\nz: 1"}}}, "a.example:80",
			"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\nUser-Agent: x\r\nX-Tag: y  z: 1\r\n\r\n",
		},
	}
	for _, tt := range tests {
		tt.dialer.Addr = addr
		conn, err := tt.dialer.Dial("tcp", tt.dest)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := <-requests; got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

func TestDialerRefusesToAsk(t *testing.T) {
	addr := peer(t, func(conn *net.TCPConn) {
		if b, _ := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("the proxy got %q", b)
		}
	})
	const secret = "hunter2"
	for _, d := range []*Dialer{
		{Addr: addr, User: "a:b", Password: secret},
		{Addr: addr, User: "ann", Password: secret + "\r\n"},
		{Addr: addr, User: "ann\x00", Password: secret},
	} {
		if _, err := d.Dial("tcp", "a.example:80"); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("user %q: %v", d.User, err)
		}
	}
	d := &Dialer{Addr: addr}
	for _, dest := range []string{"", "a.example", "a.example:http", "a b:80", "a\r\nb:80", "a?b:80", "127.1:80"} {
		var op *net.OpError
		if _, err := d.Dial("tcp", dest); !errors.As(err, &op) {
			t.Errorf("%q: %v", dest, err)
		}
	}
	if _, err := d.Dial("udp", "a.example:80"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("udp: %v", err)
	}
	if _, err := d.Listen(t.Context(), "tcp", "a.example:80"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Listen: %v", err)
	}
}

func TestDialerAnswers(t *testing.T) {
	tests := []struct {
		answer string
		want   error // nil: success
	}{
		{established, nil},
		{"HTTP/1.0 200\r\n\r\n", nil},
		{"HTTP/1.1 299 Whatever\nX: y\n\n", nil},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", nil},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", nil},
		{"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + established, nil},
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", argyle.ErrNotAllowed},
		{"HTTP/1.1 502 Bad Gateway\r\n\r\n", syscall.EHOSTUNREACH},
		{"HTTP/1.1 504 Gateway Timeout\r\n\r\n", os.ErrDeadlineExceeded},
		{"HTTP/1.1 405 Method Not Allowed\r\n\r\n", errors.ErrUnsupported},
		{"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n", StatusError(407)},
		{"HTTP/1.1 503 \r\n\r\n", StatusError(503)},
		{"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", StatusError(301)},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", StatusError(101)},
		{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), errAny},
		{"HTTP/2.0 200 OK\r\n\r\n", errAny},
		{"HTTP/1.1 2000 OK\r\n\r\n", errAny},
		{"SSH-2.0-OpenSSH_9.2\r\n\r\n", errAny},
		{"\x05\xff\r\n\r\n", errAny},
	}
	for _, tt := range tests {
		addr, _ := script(t, tt.answer)
		d := &Dialer{Addr: addr, User: "ann", Password: "hunter2"}
		conn, err := d.DialContext(t.Context(), "tcp", "a.example:80")
		if tt.want == nil {
			if err != nil {
				t.Errorf("%q: %v", tt.answer, err)
				continue
			}
			io.WriteString(conn, "hello")
			conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
				t.Errorf("%q: echo %q, %v", tt.answer, got, err)
			}
			conn.Close()
			continue
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Addr.String() != "a.example:80" || tt.want != errAny && !errors.Is(err, tt.want) {
			t.Errorf("%q: %v, want %v", tt.answer, err, tt.want)
		}
		if strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("%q: text %q", tt.answer, err)
		}
		if got, want := op.Timeout(), tt.want == os.ErrDeadlineExceeded; got != want {
			t.Errorf("%q: Timeout() = %v", tt.answer, got)
		}
	}
}

// errAny stands for any error.
var errAny = errors.New("any")

// An answer may come in any pieces, and the tunnel's first bytes with it.
func TestDialerAnswerSplitAtEveryByte(t *testing.T) {
	const answer = "HTTP/1.1 200 Fine\r\nX: y\r\n\r\nwelcome"
	for i := range len(answer) + 1 {
		addr := peer(t, func(conn *net.TCPConn) {
			conn.SetNoDelay(true)
			readHeader(t, conn)
			io.WriteString(conn, answer[:i])
			io.WriteString(conn, answer[i:])
			echo(conn)
		})
		conn, err := (&Dialer{Addr: addr}).DialContext(t.Context(), "tcp", "a.example:80")
		if err != nil {
			t.Fatalf("split at %d: %v", i, err)
		}
		io.WriteString(conn, "!")
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "welcome!" {
			t.Errorf("split at %d: %q, %v", i, got, err)
		}
		conn.Close()
	}
}

func TestDialerHeaderBound(t *testing.T) {
	addr := peer(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := io.WriteString(conn, "X: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				return
			}
		}
	})
	_, err := (&Dialer{Addr: addr}).DialContext(t.Context(), "tcp", "a.example:80")
	if err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
		t.Error(err)
	}
}

// pipeDialer dials one end of a connection in memory.
type pipeDialer struct {
	argyle.StreamOnly
	conn net.Conn
}

func (d *pipeDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return d.conn, nil
}

// The context bounds the handshake to its end.
func TestDialerSilentProxy(t *testing.T) {
	for _, answer := range []string{"", "HTTP/1.1 200 OK\r\nX: "} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			go func() {
				readHeader(t, theirs)
				io.WriteString(theirs, answer)
			}()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			d := &Dialer{Addr: "gw.example:8080", Forward: &pipeDialer{conn: ours}}
			_, err := d.DialContext(ctx, "tcp", "a.example:80")
			var ne net.Error
			if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("error %v", err)
			}
			if d := time.Since(start); d != time.Minute {
				t.Errorf("after %v", d)
			}
			if _, err := ours.Write([]byte("x")); err != io.ErrClosedPipe {
				t.Errorf("the connection is open: %v", err)
			}
		})
	}
}

// The context has no power over the tunnel.
func TestDialerContextEndsLater(t *testing.T) {
	addr, _ := script(t, established)
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := (&Dialer{Addr: addr}).DialContext(ctx, "tcp", "a.example:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	io.WriteString(conn, "hello")
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestDialerCancelled(t *testing.T) {
	asked := make(chan struct{})
	addr := peer(t, func(conn *net.TCPConn) {
		readHeader(t, conn)
		close(asked)
		io.Copy(io.Discard, conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := (&Dialer{Addr: addr}).DialContext(ctx, "tcp", "a.example:80"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDialerNoProxyThere(t *testing.T) {
	ln := listen(t)
	addr := ln.Addr().String()
	ln.Close()
	if _, err := (&Dialer{Addr: addr}).Dial("tcp", "a.example:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}

func TestDialerTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(&Server{Handler: new(relay), Login: ann})
	server.Config = (&Server{Handler: new(relay), Login: ann}).HTTPServer()
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	dest := peer(t, echo)

	d := &Dialer{Addr: server.Listener.Addr().String(), User: "ann", Password: "pass:w\u00f6rd", TLS: &tls.Config{RootCAs: pool}}
	if got, want := d.String(), "https://"+d.Addr; got != want {
		t.Errorf("String() = %q", got)
	}
	conn, err := d.Dial("tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	conn.(*tls.Conn).CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	d.TLS = &tls.Config{RootCAs: pool, ServerName: "another.example"}
	var hostname x509.HostnameError
	if _, err := d.Dial("tcp", dest); !errors.As(err, &hostname) {
		t.Errorf("with another name: %v", err)
	}
}

func TestDialerUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	h := new(relay)
	startOn(t, &Server{Handler: h}, ln)
	d := &Dialer{Addr: "unix:" + path}
	conn, err := d.Dial("tcp", peer(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello")
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	if client := h.seen()[0].Client; client.IsValid() {
		t.Errorf("client %v", client)
	}
	// Absolute URLs come from nowhere too.
	server := origin(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprintf(raw, "GET %s/ HTTP/1.0\r\n\r\n", server.URL)
	if got, err := io.ReadAll(raw); err != nil || !strings.HasSuffix(string(got), "hello") {
		t.Errorf("%q, %v", got, err)
	}
}

// A chain, and an http.Client at its end.
func TestDialerChain(t *testing.T) {
	server := origin(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	first, second := new(relay), new(relay)
	d := &Dialer{
		Addr:    start(t, &Server{Handler: second}),
		Forward: &Dialer{Addr: start(t, &Server{Handler: first})},
	}
	transport := &http.Transport{DialContext: d.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if to := first.seen()[0].Dest.String(); to != d.Addr {
		t.Errorf("first proxy was asked for %s, want %s", to, d.Addr)
	}
	if to := second.seen()[0].Dest.String(); to != server.Listener.Addr().String() {
		t.Errorf("second proxy was asked for %s", to)
	}
}

// What our server says of an error, our client understands.
func TestDialerUnderstandsServer(t *testing.T) {
	for _, reason := range []error{argyle.ErrNotAllowed, syscall.EHOSTUNREACH, os.ErrDeadlineExceeded, errors.ErrUnsupported} {
		d := &Dialer{Addr: start(t, &Server{Handler: reject(reason)})}
		if _, err := d.Dial("tcp", "a.example:80"); !errors.Is(err, reason) || StatusFor(err) != StatusFor(reason) {
			t.Errorf("%v: %v", reason, err)
		}
	}
	d := &Dialer{Addr: start(t, &Server{Handler: new(relay), Login: ann}), User: "ann", Password: "hunter2"}
	if _, err := d.Dial("tcp", "a.example:80"); !errors.Is(err, StatusError(407)) || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestDialerConcurrently(t *testing.T) {
	dest := peer(t, echo)
	d := &Dialer{Addr: start(t, &Server{Handler: new(relay)}), Header: http.Header{"X-Tag": {"y"}}, User: "ann"}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			conn, err := d.Dial("tcp", dest)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			want := fmt.Sprint("hello ", i)
			io.WriteString(conn, want)
			conn.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != want {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
}
