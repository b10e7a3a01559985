package httpconnect

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relay is a handler that connects directly and copies until both directions
// have ended. It notes the requests that it saw.
type relay struct {
	mu       sync.Mutex
	requests []argyle.Request
}

func (h *relay) ServeCall(ctx context.Context, call argyle.Call) {
	req := call.Request()
	h.mu.Lock()
	h.requests = append(h.requests, *req)
	h.mu.Unlock()
	upstream, err := new(argyle.Direct).DialContext(ctx, "tcp", req.Dest.String())
	if err != nil {
		call.Reject(err)
		return
	}
	client, err := call.Accept(upstream.LocalAddr())
	if err != nil {
		upstream.Close()
		return
	}
	go join(client, upstream)
}

// seen returns the requests so far.
func (h *relay) seen() []argyle.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]argyle.Request(nil), h.requests...)
}

// join copies in both directions; a reset on one side becomes one on the other.
func join(a, b net.Conn) {
	var wg sync.WaitGroup
	var broken atomic.Bool
	wg.Go(func() { transfer(a, b, &broken) })
	wg.Go(func() { transfer(b, a, &broken) })
	wg.Wait()
	for _, c := range []net.Conn{a, b} {
		if l, ok := c.(interface{ SetLinger(int) error }); ok && broken.Load() {
			l.SetLinger(0)
		}
		c.Close()
	}
}

// transfer is one direction. If dst has gone, what it sent before is still to be
// read, by the other direction.
func transfer(dst, src net.Conn, broken *atomic.Bool) {
	b := make([]byte, 16<<10)
	for {
		n, err := src.Read(b)
		if _, werr := dst.Write(b[:n]); werr != nil {
			broken.Store(true)
			return
		}
		if err == io.EOF {
			dst.(interface{ CloseWrite() error }).CloseWrite()
			return
		}
		if err != nil {
			broken.Store(true)
			src.SetDeadline(time.Unix(1, 0))
			dst.SetDeadline(time.Unix(1, 0))
			return
		}
	}
}

// reject is a handler that refuses everything.
func reject(reason error) argyle.HandlerFunc {
	return func(_ context.Context, call argyle.Call) { call.Reject(reason) }
}

// start serves s on a listener of its own and returns its address.
func start(t testing.TB, s *Server) string {
	t.Helper()
	return startOn(t, s, listen(t))
}

func startOn(t testing.TB, s *Server, ln net.Listener) string {
	server := s.HTTPServer()
	var wg, conns sync.WaitGroup
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	wg.Go(func() { server.Serve(ln) })
	t.Cleanup(func() {
		server.Close()
		wg.Wait()
		conns.Wait()
	})
	return ln.Addr().String()
}

// startFed serves s the way cmd/argyle does: behind another server, which has
// read the first bytes and put them back.
func startFed(t testing.TB, s *Server) string {
	ln := listen(t)
	feed := serve.NewFeed(ln.Addr())
	startOn(t, s, feed)
	front := &serve.Server{Handle: func(ctx context.Context, conn net.Conn) {
		b := make([]byte, 3)
		n, err := conn.Read(b)
		if err != nil {
			conn.Close()
			return
		}
		feed.Put(ctx, serve.Unread(conn, b[:n]))
	}}
	var wg sync.WaitGroup
	wg.Go(func() { front.Serve(event.Listen(ln)) })
	t.Cleanup(func() {
		front.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// both runs a test against a server of its own and one that is fed.
func both(t *testing.T, s func() *Server, test func(t *testing.T, addr string)) {
	t.Run("own", func(t *testing.T) { test(t, start(t, s())) })
	t.Run("fed", func(t *testing.T) { test(t, startFed(t, s())) })
}

// peer serves one connection after another with handle, which need not close it.
func peer(t testing.TB, handle func(conn *net.TCPConn)) string {
	ln := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// echo sends back what it gets, and ends when its peer has.
func echo(conn *net.TCPConn) {
	io.Copy(conn, conn)
	conn.CloseWrite()
}

// origin is a web server. It closes its connections after each answer.
func origin(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// dialTCP connects; the connection has a deadline, so that no test hangs.
func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn)
}

// ask sends a raw request and returns everything until the end, which must be
// one in order.
func ask(t testing.TB, addr, request string) string {
	t.Helper()
	conn := dialTCP(t, addr)
	io.WriteString(conn, request)
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

// status returns the number in the first line of an answer.
func status(t testing.TB, answer string) int {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// readHeader reads up to the empty line, and not beyond it.
func readHeader(t testing.TB, r io.Reader) string {
	t.Helper()
	var b []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if _, err := io.ReadFull(r, one); err != nil {
			t.Fatalf("after %q: %v", b, err)
		}
		b = append(b, one[0])
	}
	return string(b)
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// proxied returns a client that sends everything through the proxy at addr.
func proxied(t testing.TB, addr string) *http.Client {
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addr})}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// recorder is a handler that refuses everything and notes what it was asked.
type recorder struct {
	mu   sync.Mutex
	reqs []argyle.Request
}

func (h *recorder) ServeCall(_ context.Context, call argyle.Call) {
	h.mu.Lock()
	h.reqs = append(h.reqs, *call.Request())
	h.mu.Unlock()
	call.Reject(argyle.ErrNotAllowed)
}

// last returns the latest request, the zero Request if there was none.
func (h *recorder) last() argyle.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.reqs) == 0 {
		return argyle.Request{}
	}
	return h.reqs[len(h.reqs)-1]
}
