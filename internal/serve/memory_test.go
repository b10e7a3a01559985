package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a listener without a network, whose clients come from where they
// say and which fails when it is told to. It works in a synctest bubble.
type memory struct {
	queue chan accepted
	done  chan struct{}
	once  sync.Once

	mu    sync.Mutex
	calls []time.Time // of Accept
}

type accepted struct {
	conn net.Conn
	err  error
}

func newMemory() *memory {
	return &memory{queue: make(chan accepted, 1000), done: make(chan struct{})}
}

func (l *memory) Accept() (net.Conn, error) {
	l.mu.Lock()
	l.calls = append(l.calls, time.Now())
	l.mu.Unlock()
	select {
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "memory", Err: net.ErrClosed}
	default:
	}
	select {
	case a := <-l.queue:
		return a.conn, a.err
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "memory", Err: net.ErrClosed}
	}
}

func (l *memory) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1080} }

func (l *memory) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// fail lets an Accept fail.
func (l *memory) fail(err error) { l.queue <- accepted{err: &net.OpError{Op: "accept", Err: err}} }

// dial connects from an "address:port", or from a unix socket if from is "".
func (l *memory) dial(from string) net.Conn {
	client, server := pair(from)
	l.queue <- accepted{conn: server}
	return client
}

// pair returns both ends of a connection from an "address:port".
func pair(from string) (client net.Conn, server net.Conn) {
	client, server = net.Pipe()
	var remote net.Addr = &net.UnixAddr{Name: "@", Net: "unix"}
	if from != "" {
		remote = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	return client, &memoryConn{Conn: server, remote: remote}
}

type memoryConn struct {
	net.Conn
	remote net.Addr
}

func (c *memoryConn) RemoteAddr() net.Addr { return c.remote }

// run serves ln in a goroutine of its own, whose end the returned function
// waits for.
func run(s *Server, ln net.Listener) (wait func() error) {
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ln) }()
	return func() error { return <-ended }
}

// isCut reports whether the server has closed the connection of a client.
// It may be called when all is at rest.
func isCut(t *testing.T, client net.Conn) bool {
	t.Helper()
	synctest.Wait()
	client.SetReadDeadline(time.Now().Add(time.Nanosecond))
	n, err := client.Read(make([]byte, 1))
	switch {
	case err == io.EOF:
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false
	}
	t.Fatalf("read %d bytes, %v", n, err)
	return false
}

// hold is a Handle whose clients say "e" when their handshake is over, and
// which ends with the connection.
func hold(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	b := make([]byte, 1)
	for {
		if _, err := conn.Read(b); err != nil {
			return
		}
		if b[0] == 'e' {
			Established(ctx)
		}
	}
}

func establish(t *testing.T, client net.Conn) {
	t.Helper()
	if _, err := client.Write([]byte("e")); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// journal is a log that a test can read.
type journal struct {
	mu sync.Mutex
	b  strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(b)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.b.String(), text)
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
