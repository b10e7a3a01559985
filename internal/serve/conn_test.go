package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestUnread(t *testing.T) {
	for _, size := range []int{1, 2, 5, 100} {
		client, server := net.Pipe()
		go func() {
			client.Write([]byte(" and the rest"))
			client.Close()
		}()
		conn := Unread(server, []byte("first"))
		var got []byte
		for {
			b := make([]byte, size)
			n, err := conn.Read(b)
			got = append(got, b[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("read %d, %v", n, err)
			}
		}
		if string(got) != "first and the rest" {
			t.Errorf("read %q in pieces of %d", got, size)
		}
		conn.Close()
	}
}

func TestUnreadNothing(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	for _, b := range [][]byte{nil, {}} {
		if conn := Unread(server, b); conn != server {
			t.Errorf("a connection with nothing put back is a %T", conn)
		}
	}
}

// unwrapper is what the relay asks connections for.
type unwrapper interface {
	Unwrap() (net.Conn, []byte)
}

func TestUnwrap(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	conn := Unread(server, []byte("first"))
	for read, want := range map[int]string{2: "rst", 0: "first"} {
		conn := Unread(server, []byte("first"))
		io.ReadFull(conn, make([]byte, read))
		if inner, unread := conn.(unwrapper).Unwrap(); inner != server || string(unread) != want {
			t.Errorf("after %d bytes: %q and a %T, want %q", read, unread, inner, want)
		}
	}
	io.ReadFull(conn, make([]byte, 5))
	if inner, unread := conn.(unwrapper).Unwrap(); inner != server || len(unread) != 0 {
		t.Errorf("after all: %q and a %T", unread, inner)
	}
}

// fed returns what the other side of a Feed gets for conn.
func fed(t *testing.T, ctx context.Context, conn net.Conn) net.Conn {
	t.Helper()
	feed := NewFeed(nil)
	go feed.Put(ctx, conn)
	got, err := feed.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFedUnwrap(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	for want, conn := range map[string]net.Conn{"": server, "put back": Unread(server, []byte("put back"))} {
		inner, unread := fed(t, t.Context(), conn).(unwrapper).Unwrap()
		if inner != server || string(unread) != want {
			t.Errorf("%q and a %T, want %q and the bare connection", unread, inner, want)
		}
	}
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// A wrapper must not take half-close away: http.Server ends with it, so that
// an answer is not overtaken by a reset.
func TestCloseWrite(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"Unread":       func(c net.Conn) net.Conn { return Unread(c, []byte("x")) },
		"Feed":         func(c net.Conn) net.Conn { return fed(t, t.Context(), c) },
		"Feed, Unread": func(c net.Conn) net.Conn { return fed(t, t.Context(), Unread(c, []byte("x"))) },
	} {
		t.Run(name, func(t *testing.T) {
			client, server := tcpPair(t)
			conn, ok := wrap(server).(interface{ CloseWrite() error })
			if !ok {
				t.Fatal("no CloseWrite")
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(client); len(b) != 0 || err != nil {
				t.Errorf("the client read %q, %v; want EOF", b, err)
			}
			if _, err := client.Write([]byte("still here")); err != nil {
				t.Error(err)
			}
			client.CloseWrite()
			if b, err := io.ReadAll(server); string(b) != "still here" || err != nil {
				t.Errorf("the server read %q, %v", b, err)
			}
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			err := wrap(a).(interface{ CloseWrite() error }).CloseWrite()
			if !errors.Is(err, syscall.ENOTSUP) {
				t.Errorf("CloseWrite without one inside: %v, want ENOTSUP", err)
			}
		})
	}
}

func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addr := newMemory().Addr()
		feed := NewFeed(addr)
		if feed.Addr() != addr {
			t.Errorf("Addr is %v, want %v", feed.Addr(), addr)
		}
		client, server := pair("192.0.2.1:1")
		go feed.Put(t.Context(), server) // its context has no handshake
		conn, err := feed.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if ctx := ConnContext(t.Context(), conn); ctx != t.Context() {
			t.Error("a handshake that nobody began")
		}
		go io.WriteString(conn, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(client, got); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		if conn.RemoteAddr().String() != "192.0.2.1:1" {
			t.Errorf("from %v", conn.RemoteAddr())
		}
		conn.Close()
		if !isCut(t, client) {
			t.Error("Close did not close")
		}
	})
}

func TestFeedClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := NewFeed(nil)
		waiting, server := pair("192.0.2.1:1")
		go feed.Put(t.Context(), server)
		if isCut(t, waiting) {
			t.Fatal("cut before Close")
		}
		for range 2 {
			if err := feed.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		late, server := pair("192.0.2.1:2")
		feed.Put(t.Context(), server)
		for _, client := range []net.Conn{waiting, late} {
			if !isCut(t, client) {
				t.Error("a connection that nobody will accept is open")
			}
		}
		if _, err := feed.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v, want net.ErrClosed", err)
		}
		ended := make(chan error, 1)
		other := NewFeed(nil)
		go func() {
			_, err := other.Accept()
			ended <- err
		}()
		synctest.Wait()
		other.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept under way: %v, want net.ErrClosed", err)
		}
	})
}

// A server that is closed does not wait for one that accepts no more.
func TestPutEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := NewFeed(nil)
		defer feed.Close()
		s := &Server{Handle: feed.Put}
		ln := newMemory()
		wait := run(s, ln)
		client := ln.dial("192.0.2.1:1")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Errorf("Shutdown: %v", err)
		}
		if !isCut(t, client) {
			t.Error("the connection is open")
		}
		wait()
	})
}

// The handshake of a fed connection goes on: it has its deadline and counts,
// until it is established or closed.
func TestFedHandshake(t *testing.T) {
	for _, end := range []string{"Established", "Close"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				feed := NewFeed(nil)
				defer feed.Close()
				s := &Server{Handle: feed.Put, MaxHandshakes: 2, MaxPerClient: 2}
				ln := namedListener{newMemory()}
				wait := run(s, ln)
				var clients, fed []net.Conn
				dial := func() {
					clients = append(clients, ln.dial("192.0.2.1:1"))
					conn, err := feed.Accept()
					if err != nil {
						t.Fatal(err)
					}
					fed = append(fed, conn)
					synctest.Wait() // Handle has returned
				}
				dial()
				dial()
				ctx := ConnContext(t.Context(), fed[0])
				if name := Inbound(ctx); name != "office" {
					t.Errorf("Inbound is %q", name)
				}
				if end == "Established" {
					Established(ctx)
				} else {
					fed[0].Close()
				}
				dial() // takes the place of the first
				if isCut(t, clients[1]) || isCut(t, clients[2]) {
					t.Error("cut, though there was room")
				}
				dial() // finds none
				if !isCut(t, clients[1]) || isCut(t, clients[2]) || isCut(t, clients[3]) {
					t.Error("the oldest handshake should have been cut, and no other")
				}
				if cut := isCut(t, clients[0]); cut != (end == "Close") {
					t.Errorf("the first is cut: %v", cut)
				}
				s.Close()
				if !isCut(t, clients[2]) || !isCut(t, clients[3]) {
					t.Error("Close left fed handshakes")
				}
				fed[0].Close()
				wait()
			})
		})
	}
}

func TestFedDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := NewFeed(nil)
		defer feed.Close()
		s := &Server{Handle: feed.Put}
		ln := newMemory()
		wait := run(s, ln)
		start := time.Now()
		client := ln.dial("192.0.2.1:1")
		defer client.Close()
		conn, err := feed.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) && !isTimeout(err) {
			t.Errorf("read: %v, want a timeout", err)
		}
		if took := time.Since(start); took != DefaultTimeout {
			t.Errorf("the handshake had %v", took)
		}
		conn.Close()
		s.Close()
		wait()
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// An http.Server behind a Feed sees whole requests and knows where they come
// from; its answers arrive even if it does not read all that it is sent.
func TestFeedHTTP(t *testing.T) {
	feed := NewFeed(nil)
	behind := &http.Server{
		ConnContext: ConnContext,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			Established(r.Context())
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, Inbound(r.Context()))
		}),
	}
	s := &Server{Handle: func(ctx context.Context, conn net.Conn) {
		b := make([]byte, 3)
		n, _ := conn.Read(b)
		feed.Put(ctx, Unread(conn, b[:n]))
	}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wait := run(s, ln)
	ended := make(chan error, 1)
	go func() { ended <- behind.Serve(feed) }()
	defer func() {
		s.Close()
		behind.Close()
		wait()
		<-ended
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// More than the server reads on behalf of a handler that does not.
	body := bytes.Repeat([]byte("x"), 1<<20)
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1048576\r\n\r\n")
	conn.Write(body)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("after %d bytes of the answer: %v", len(answer), err)
	}
	if got := string(answer); !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.HasSuffix(got, ln.Addr().String()) {
		t.Errorf("answer %q", got)
	}
}
