package serve

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
)

// A server is closed while connections come, which its loop wants it for.
func TestCloseWhileAccepting(t *testing.T) {
	for range 50 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln := event.Listen(tcp)
		accepted := make(chan struct{}, 1)
		s := &Server{Handle: func(_ context.Context, conn net.Conn) {
			conn.Close()
			select {
			case accepted <- struct{}{}:
			default:
			}
		}}
		served := make(chan error, 1)
		go func() { served <- s.Serve(ln) }()
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for {
					c, err := net.Dial("tcp", ln.Addr().String())
					if err != nil {
						return
					}
					_ = c.(*net.TCPConn).SetLinger(0)
					c.Close()
				}
			})
		}
		for range 5 {
			<-accepted
		}
		s.Close()
		if err := <-served; err != ErrServerClosed {
			t.Error(err)
		}
		clients.Wait()
	}
}

func TestPassing(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENOBUFS, syscall.ENOSPC, syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTUNREACH,
	} {
		if err := fmt.Errorf("watch socket: %w", errno); !passing(err) {
			t.Errorf("%v ends a listener for good", errno)
		}
	}
	if passing(syscall.EINVAL) {
		t.Error("what is wrong for ever passes")
	}
}

// toLoop is a listener as that of a loop is, for which AcceptTo returns errors only.
type toLoop struct {
	net.Listener
	errs  chan error
	conns chan net.Conn
}

func (l toLoop) AcceptTo(f func(net.Conn)) error {
	for {
		select {
		case err := <-l.errs:
			return err
		case conn := <-l.conns:
			f(conn)
		}
	}
}

func (l toLoop) Addr() net.Addr { return &net.TCPAddr{} }
func (l toLoop) Close() error   { return nil }

// A lack of descriptors that has passed is told, and the next one begins anew.
func TestTwoLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &Server{Log: slog.New(slog.NewTextHandler(&log, nil)), Handle: func(_ context.Context, conn net.Conn) { conn.Close() }}
		ln := toLoop{errs: make(chan error), conns: make(chan net.Conn)}
		ended := make(chan error)
		go func() { ended <- s.Serve(ln) }()
		for range 10 {
			ln.errs <- syscall.EMFILE
		}
		near, far := net.Pipe()
		defer far.Close()
		ln.conns <- near
		ln.errs <- syscall.EMFILE
		before := time.Now()
		ln.errs <- net.ErrClosed
		if d := time.Since(before); d > 100*time.Millisecond {
			t.Errorf("the first wait of the second is %v", d)
		}
		<-ended
		for line, want := range map[string]int{"cannot accept connections": 2, "accepting connections again": 1} {
			if n := strings.Count(log.String(), line); n != want {
				t.Errorf("%q is told %d times, want %d:\n%s", line, n, want, log.String())
			}
		}
	})
}
