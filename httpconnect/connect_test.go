package httpconnect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/argyle-socks/argyle"
)

func TestConnectSplitAtEveryByte(t *testing.T) {
	dest := peer(t, echo)
	request := "CONNECT " + dest + " HTTP/1.1\r\nHost: " + dest + "\r\nX: y\r\n\r\n"
	both(t, func() *Server { return &Server{Handler: new(relay)} }, func(t *testing.T, addr string) {
		for i := range len(request) {
			conn := dialTCP(t, addr)
			conn.SetNoDelay(true)
			io.WriteString(conn, request[:i])
			io.WriteString(conn, request[i:]+"early")
			if got := readHeader(t, conn); got != established {
				t.Fatalf("split at %d: %q", i, got)
			}
			io.WriteString(conn, " and late")
			conn.CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != "early and late" {
				t.Fatalf("split at %d: %q, %v", i, got, err)
			}
			conn.Close()
		}
	})
}

// The handler gets the bare socket when nothing was sent ahead, so that the
// kernel can splice, and what was sent ahead in front of it otherwise.
func TestConnectHandsOverBareSocket(t *testing.T) {
	for _, early := range []string{"", "early"} {
		got := make(chan net.Conn, 1)
		handler := argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
			conn, err := call.Accept(nil)
			if err != nil {
				t.Error(err)
			}
			if ctx.Done() != nil {
				t.Error("the call's context can be cancelled")
			}
			got <- conn
		})
		both(t, func() *Server { return &Server{Handler: handler} }, func(t *testing.T, addr string) {
			client := dialTCP(t, addr)
			io.WriteString(client, "CONNECT a.example:1 HTTP/1.1\r\n\r\n"+early)
			readHeader(t, client)
			conn := <-got
			defer conn.Close()
			inner, unread := bare(conn)
			if _, ok := inner.(syscall.Conn); !ok { // of package net or of an event loop
				t.Errorf("inner connection is %T", inner)
			}
			if early == "" && inner != conn {
				t.Errorf("connection is wrapped in %T for nothing", conn)
			}
			if string(unread) != early {
				t.Errorf("unread %q, want %q", unread, early)
			}
		})
	}
}

func TestConnectHalfClose(t *testing.T) {
	up := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	down := bytes.Repeat([]byte("fedcba9876543210"), 1<<20/16)
	got := make(chan []byte, 1)
	dest := peer(t, func(conn *net.TCPConn) {
		all, _ := io.ReadAll(conn) // before the first byte of the answer
		got <- all
		conn.Write(down)
	})
	both(t, func() *Server { return &Server{Handler: new(relay)} }, func(t *testing.T, addr string) {
		d := &Dialer{Addr: addr}
		conn, err := d.DialContext(t.Context(), "tcp", dest)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(up); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(conn); err != nil || !bytes.Equal(all, down) {
			t.Errorf("%d bytes down, %v", len(all), err)
		}
		if all := <-got; !bytes.Equal(all, up) {
			t.Errorf("%d bytes up", len(all))
		}
	})
}

func TestConnectRequest(t *testing.T) {
	tests := []struct {
		target string
		want   argyle.Addr
	}{
		{"a.example:443", argyle.Addr{Name: "a.example", Port: 443}},
		{"A.Example.:443", argyle.Addr{Name: "A.Example.", Port: 443}},
		{"192.0.2.1:80", argyle.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 80}},
		{"[2001:db8::1]:80", argyle.Addr{IP: netip.MustParseAddr("2001:db8::1"), Port: 80}},
		{"[::ffff:192.0.2.1]:80", argyle.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 80}},
		{"_x._tcp.example:65535", argyle.Addr{Name: "_x._tcp.example", Port: 65535}},
	}
	h := &recorder{}
	both(t, func() *Server { return &Server{Handler: h} }, func(t *testing.T, addr string) {
		for _, tt := range tests {
			client := dialTCP(t, addr)
			io.WriteString(client, "CONNECT "+tt.target+" HTTP/1.0\r\n\r\n")
			io.ReadAll(client)
			got := h.last()
			want := argyle.Request{
				Command: argyle.Connect,
				Dest:    tt.want,
				Client:  netip.MustParseAddrPort(client.LocalAddr().String()),
				Inbound: got.Inbound,
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\ngot  %+v\nwant %+v", tt.target, got, want)
			}
			if fed := strings.HasSuffix(t.Name(), "fed"); fed && got.Inbound != addr {
				t.Errorf("inbound %q, want %q", got.Inbound, addr)
			}
		}
	})
}

func TestConnectRejected(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	tests := []struct {
		handler argyle.Handler
		target  string
		want    int
		reason  string
	}{
		{reject(argyle.ErrNotAllowed), "a.example:443", 403, "not allowed"},
		{reject(refused), "a.example:443", 502, "connection refused"},
		{reject(context.DeadlineExceeded), "a.example:443", 504, "in time"},
		{reject(errors.ErrUnsupported), "a.example:443", 405, "not supported"},
		{reject(syscall.EMFILE), "a.example:443", 503, "cannot"},
		{argyle.HandlerFunc(func(context.Context, argyle.Call) {}), "a.example:443", 503, "cannot"},

		// These reach no handler.
		{nil, "a.example", 400, "port"},
		{nil, "a.example:", 400, "port"},
		{nil, "a.example:http", 400, ""},
		{nil, "a.example:65536", 400, "port"},
		{nil, "a.example:443/path", 400, "host:port"},
		{nil, "a.example:443?query", 400, "host:port"},
		{nil, "a.example:443?", 400, "host:port"},
		{nil, "user@a.example:443", 400, "host:port"},
		{nil, "/path", 400, "port"},
		{nil, "http://a.example/", 400, ""},
		{nil, "*", 400, "port"},
		{nil, ":443", 502, "unknown"},
		{nil, "127.1:443", 502, "unknown"},
		{nil, "0x7f.1:443", 502, "unknown"},
		{nil, "a.example:0", 403, "not allowed"},
		{nil, "0.0.0.0:80", 403, "not allowed"},
		{nil, "[::]:80", 403, "not allowed"},
		{nil, "[::ffff:0.0.0.0]:80", 403, "not allowed"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d", tt.target, tt.want), func(t *testing.T) {
			handler := tt.handler
			if handler == nil {
				handler = argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
					t.Errorf("the handler was asked for %v", call.Request().Dest)
				})
			}
			both(t, func() *Server { return &Server{Handler: handler} }, func(t *testing.T, addr string) {
				// Bytes of a tunnel that was refused are neither a
				// reason for a reset nor the next request.
				answer := ask(t, addr, "CONNECT "+tt.target+" HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
				if got := status(t, answer); got != tt.want {
					t.Errorf("status %d, want %d", got, tt.want)
				}
				if !strings.Contains(answer, tt.reason) || strings.Count(answer, "HTTP/1.1") != 1 {
					t.Errorf("answer %q", answer)
				}
				if tt.want == 405 && !strings.Contains(answer, "\r\nAllow: ") {
					t.Errorf("no Allow in %q", answer)
				}
			})
		})
	}
}

func TestConnectWithBody(t *testing.T) {
	addr := start(t, &Server{Handler: reject(argyle.ErrNotAllowed)})
	for field, want := range map[string]int{
		"Content-Length: 0":          403,
		"Content-Length: 5":          400,
		"Transfer-Encoding: chunked": 400,
	} {
		if got := status(t, ask(t, addr, "CONNECT a.example:1 HTTP/1.1\r\n"+field+"\r\n\r\nhello")); got != want {
			t.Errorf("%s: status %d, want %d", field, got, want)
		}
	}
}

// A reset of the destination is one for the client.
func TestConnectReset(t *testing.T) {
	dest := peer(t, func(conn *net.TCPConn) {
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
	})
	addr := start(t, &Server{Handler: new(relay)})
	conn := dialTCP(t, addr)
	io.WriteString(conn, "CONNECT "+dest+" HTTP/1.1\r\n\r\n")
	readHeader(t, conn)
	io.WriteString(conn, "x")
	if _, err := io.ReadAll(conn); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
}
