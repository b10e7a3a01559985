package httpconnect

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// ann is a Login that knows one user, whose password has a colon.
func ann(_ context.Context, client netip.Addr, user, password string) error {
	if !client.IsLoopback() {
		return fmt.Errorf("client is %v", client)
	}
	if user != "ann" || password != "pass:w\u00f6rd" {
		return errors.New("wrong user name or password")
	}
	return nil
}

func basic(credentials string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
}

func TestLogin(t *testing.T) {
	tests := []struct {
		credentials string
		want        int
	}{
		{basic("ann:pass:w\u00f6rd"), 403},
		{"basic  ", 407},
		{"bASIC" + strings.TrimPrefix(basic("ann:pass:w\u00f6rd"), "Basic"), 403},
		{"", 407},
		{basic("ann"), 407},
		{basic("ann:"), 407},
		{basic(":"), 407},
		{basic("ann:wrong"), 407},
		{basic("bob:pass:w\u00f6rd"), 407},
		{"Basic !!!", 407},
		{"Bearer abc", 407},
		{"Basic", 407},
	}
	var log lockedBuffer
	h := new(recorder)
	s := func() *Server {
		return &Server{Handler: h, Login: ann, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	}
	both(t, s, func(t *testing.T, addr string) {
		for _, target := range []string{"CONNECT a.example:443", "GET http://a.example/", "POST http://a.example/"} {
			for _, tt := range tests {
				answer := ask(t, addr, target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\nProxy-Authorization: "+tt.credentials+"\r\n\r\nearly")
				if got := status(t, answer); got != tt.want {
					t.Errorf("%s with %q: status %d, want %d", target, tt.credentials, got, tt.want)
				}
				demanded := strings.Contains(answer, "\r\nProxy-Authenticate: Basic realm=\"argyle\", charset=\"UTF-8\"\r\n")
				if demanded != (tt.want == 407) {
					t.Errorf("%s with %q: answer %q", target, tt.credentials, answer)
				}
				if got := h.last(); tt.want == 403 && got.User != "ann" {
					t.Errorf("%s: user %q", target, got.User)
				}
			}
		}
	})
	if strings.Contains(log.String(), "pass:") || strings.Contains(log.String(), "Basic") || !strings.Contains(log.String(), "bob") {
		t.Errorf("log:\n%s", log.String())
	}
}

// lockedBuffer is a buffer that many may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Who is known by other means needs no password; the others do.
func TestConnUser(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	user := func(conn net.Conn) (string, argyle.Auth) {
		if c, ok := conn.(*tls.Conn); ok {
			return "of " + c.ConnectionState().ServerName, argyle.AuthCertificate
		}
		return "", argyle.AuthNone
	}
	h := new(recorder)
	s := &Server{Handler: h, Login: ann, ConnUser: user}
	// TLS is taken off in front, so that net/http sees a wrapped connection.
	ln := listen(t)
	feed := serve.NewFeed(ln.Addr())
	startOn(t, s, feed)
	front := &serve.Server{Handle: func(ctx context.Context, conn net.Conn) {
		b := make([]byte, 1)
		io.ReadFull(conn, b)
		conn = serve.Unread(conn, b)
		if b[0] == 0x16 {
			conn = tls.Server(conn, cert.TLS)
			n, err := conn.Read(b)
			if err != nil {
				t.Error(err)
			}
			conn = serve.Unread(conn, b[:n])
		}
		feed.Put(ctx, conn)
	}}
	var wg sync.WaitGroup
	wg.Go(func() { front.Serve(ln) })
	defer wg.Wait()
	defer front.Close()

	const request = "CONNECT a.example:1 HTTP/1.1\r\n\r\n"
	if got := status(t, ask(t, ln.Addr().String(), request)); got != 407 {
		t.Errorf("without TLS: status %d", got)
	}
	conn := tls.Client(dialTCP(t, ln.Addr().String()), &tls.Config{InsecureSkipVerify: true, ServerName: "argyle.example"})
	io.WriteString(conn, request)
	answer, err := io.ReadAll(conn)
	if got := status(t, string(answer)); got != 403 || err != nil {
		t.Errorf("with TLS: status %d, %v", got, err)
	}
	if got := h.last(); got.User != "of argyle.example" || got.Auth != argyle.AuthCertificate {
		t.Errorf("user %q, known by %q", got.User, got.Auth)
	}

	conn = tls.Client(dialTCP(t, ln.Addr().String()), &tls.Config{InsecureSkipVerify: true})
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: gw.example:1080\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "curl -x https://gw.example:1080 ") {
		t.Errorf("page %q, %v", answer, err)
	}
}

func TestPage(t *testing.T) {
	tests := []struct {
		request string
		status  int
		text    string
	}{
		{"GET / HTTP/1.1\r\nHost: gw.example:1080\r\n\r\n", 200, "curl -x socks5h://gw.example:1080 "},
		{"GET /favicon.ico HTTP/1.1\r\nHost: [2001:db8::1]:1080\r\n\r\n", 200, "http://[2001:db8::1]:1080 "},
		{"GET //double HTTP/1.1\r\nHost: x\r\n\r\n", 200, "curl"},
		{"GET / HTTP/1.0\r\n\r\n", 200, "http://127.0.0.1:"},
		{"GET / HTTP/1.1\r\nHost: a;id\r\n\r\n", 200, "http://127.0.0.1:"},
		{"GET / HTTP/1.1\r\nHost: $(id)\r\n\r\n", 200, "http://127.0.0.1:"},
		{"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", 200, ""},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200, ""},
		{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405, "Allow: GET, HEAD"},
		{"OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Allow"},
		{"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Allow"},
		{"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, ""},
		{"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, ""},
	}
	h := argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		t.Errorf("the handler was asked for %v", call.Request().Dest)
		call.Reject(argyle.ErrNotAllowed)
	})
	both(t, func() *Server { return &Server{Handler: h, Login: ann} }, func(t *testing.T, addr string) {
		for _, tt := range tests {
			answer := ask(t, addr, tt.request)
			header, body, _ := strings.Cut(answer, "\r\n\r\n")
			if got := status(t, answer); got != tt.status || !strings.Contains(answer, tt.text) {
				t.Errorf("%q:\n%s", tt.request, answer)
			}
			if strings.HasPrefix(tt.request, "HEAD") != (body == "") || strings.Contains(header, "Server:") || strings.Count(answer, "HTTP/1.1 ") != 1 {
				t.Errorf("%q:\n%s", tt.request, answer)
			}
		}
	})
}

// A page has no place to speak of anything but itself.
func TestPageIsHTML(t *testing.T) {
	w := httptest.NewRecorder() // cannot be hijacked
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = "<script>"
	new(Server).ServeHTTP(w, r)
	if body := w.Body.String(); w.Code != 200 || strings.Contains(body, "script>") || !strings.Contains(body, "HOST:PORT") {
		t.Errorf("%d\n%s", w.Code, body)
	}
	if w.Header().Get("Connection") != "close" {
		t.Error("the connection stays open")
	}
}

func TestGarbage(t *testing.T) {
	addr := startFed(t, &Server{Handler: new(recorder)})
	for _, request := range []string{
		"\x00\x01\x02\r\n\r\n",
		"GET\r\n\r\n",
		"CONNECT a.example:443\r\n\r\n",
		"CONNECT a.example:443 HTTP/1.1 x\r\n\r\n",
		"CONNECT [fe80::1%eth0]:443 HTTP/1.1\r\n\r\n",
		"CONNECT a\x01b:443 HTTP/1.1\r\n\r\n",
		"CONNECT a.example:443 HTTP/3.0\r\n\r\n",
		"GET http://a.example/ HTTP/1.1\r\n\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"GET http://a b/ HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		if got := status(t, ask(t, addr, request)); got/100 != 4 && got != 505 {
			t.Errorf("%q: status %d", request, got)
		}
	}
	huge := "CONNECT a.example:443 HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeaderBytes+8<<10)
	if got := status(t, ask(t, addr, huge[:maxHeaderBytes+4<<10])); got != 431 {
		t.Errorf("huge header: status %d", got)
	}
}

// Only authorised clients are spared when handshakes are cut to make room.
func TestEstablished(t *testing.T) {
	ln := listen(t)
	feed := serve.NewFeed(ln.Addr())
	accepted := make(chan net.Conn)
	startOn(t, &Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		conn, err := call.Accept(nil)
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	})}, feed)
	front := &serve.Server{MaxHandshakes: 1, Handle: feed.Put}
	var wg sync.WaitGroup
	wg.Go(func() { front.Serve(ln) })
	defer wg.Wait()
	defer front.Close()

	addr := ln.Addr().String()
	tunnel := dialTCP(t, addr)
	io.WriteString(tunnel, "CONNECT a.example:1 HTTP/1.1\r\n\r\n")
	inside := <-accepted
	defer inside.Close()
	readHeader(t, tunnel)

	slow := dialTCP(t, addr)
	io.WriteString(slow, "CONNECT")
	next := dialTCP(t, addr)
	io.WriteString(next, "CONNECT a.example:1 HTTP/1.1\r\n\r\n")
	other := <-accepted
	defer other.Close()
	if got, err := io.ReadAll(slow); len(got) > 0 {
		t.Errorf("the slow client got %q, %v", got, err)
	}
	go io.WriteString(tunnel, "still there")
	if _, err := io.ReadFull(inside, make([]byte, 11)); err != nil {
		t.Error(err)
	}
}
