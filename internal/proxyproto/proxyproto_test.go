package proxyproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/goleak"

	"github.com/argyle-socks/argyle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// pipe returns the two ends of a TCP connection.
func pipe(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{client, server} {
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return client, server
}

func header(t testing.TB, version byte, from, to string) []byte {
	t.Helper()
	addr := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	b, err := proxyproto.HeaderProxyFromAddrs(version, addr(from), addr(to)).Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAccept(t *testing.T) {
	v1 := header(t, 1, "192.0.2.7:4711", "198.51.100.1:1080")
	v2 := header(t, 2, "[2001:db8::7]:4711", "[2001:db8::1]:1080")
	mixed := header(t, 2, "192.0.2.7:4711", "[2001:db8::1]:1080")
	local := []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
	for _, c := range []struct {
		name   string
		header []byte
		client string // "" is the balancer
	}{
		{"version 1", v1, "192.0.2.7:4711"},
		{"version 2", v2, "[2001:db8::7]:4711"},
		{"mixed families", mixed, "192.0.2.7:4711"},
		{"version 1 unknown", []byte("PROXY UNKNOWN\r\n"), ""},
		{"version 2 local", local, ""},
	} {
		// In one piece, and cut at every byte.
		for cut := 0; cut <= len(c.header); cut++ {
			client, server := pipe(t)
			conn := Accept(server, loopback)
			if conn.RemoteAddr() != server.RemoteAddr() {
				t.Errorf("%s: %v before the header", c.name, conn.RemoteAddr())
			}
			go func() {
				client.Write(c.header[:cut])
				if cut > 0 && cut < len(c.header) {
					time.Sleep(time.Millisecond)
				}
				client.Write(append(bytes.Clone(c.header[cut:]), "hello"...))
				client.(*net.TCPConn).CloseWrite()
			}()
			first := make([]byte, 3)
			if _, err := io.ReadFull(conn, first); err != nil || string(first) != "hel" {
				t.Fatalf("%s: %q, %v", c.name, first, err)
			}
			inner, unread := conn.(interface{ Unwrap() (net.Conn, []byte) }).Unwrap()
			rest, err := io.ReadAll(inner)
			if inner != server || string(unread)+string(rest) != "lo" || err != nil {
				t.Errorf("%s: %q and %q are left, %v", c.name, unread, rest, err)
			}
			want := c.client
			if want == "" {
				want = server.RemoteAddr().String()
			}
			if got := argyle.AddrOf(conn.RemoteAddr()).String(); got != want {
				t.Errorf("%s: the client is %s, want %s", c.name, got, want)
			}
		}
	}
}

// A header from elsewhere is only bytes, and balancers must send one.
func TestTrust(t *testing.T) {
	v1 := header(t, 1, "192.0.2.7:4711", "198.51.100.1:1080")
	client, server := pipe(t)
	conn := Accept(server, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::/0")})
	if conn != server {
		t.Errorf("a stranger's connection is %T", conn)
	}
	client.Write(v1)
	got := make([]byte, len(v1))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, v1) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"\x05\x01\x00", "GET / HTTP/1.1\r\n\r\n", "PROXY TCP4 192.0.2.7\r\n", "PROXY TCP4 " + strings.Repeat("1", 200),
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + strings.Repeat("\x00", 70000), "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x01\x00"} {
		client, server := pipe(t)
		conn := Accept(server, loopback)
		var writer sync.WaitGroup
		writer.Go(func() {
			io.WriteString(client, bad)
			client.(*net.TCPConn).CloseWrite()
		})
		n, err := conn.Read(make([]byte, 100))
		if n != 0 || err == nil || errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "header") || !strings.Contains(err.Error(), "PROXY header") {
			t.Errorf("%.20q: %d bytes, %v", bad, n, err)
		}
		server.Close()
		writer.Wait()
	}

	// A health check says nothing.
	client, server = pipe(t)
	client.Close()
	if _, err := Accept(server, loopback).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%v", err)
	}
	// A balancer that stays silent is subject to the deadline of the handshake.
	_, server = pipe(t)
	conn = Accept(server, loopback)
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("%v", err)
	}
}

// The header that a Dialer writes is the one that Accept reads.
func TestDialer(t *testing.T) {
	for _, version := range []int{1, 2} {
		for _, c := range []struct{ client, want string }{
			{"192.0.2.7:4711", "192.0.2.7:4711"},
			{"[2001:db8::7]:4711", "[2001:db8::7]:4711"},
			{"", ""},
		} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if c.client != "" {
				ctx = argyle.WithRequest(ctx, &argyle.Request{Client: netip.MustParseAddrPort(c.client)})
			} else {
				ctx = argyle.WithRequest(ctx, new(argyle.Request)) // on a unix socket
			}
			d := &Dialer{Dialer: new(argyle.Direct), Version: version}
			out, err := d.DialContext(ctx, "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(out, "x")
			in, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			conn := Accept(in, loopback)
			b := make([]byte, 1)
			if _, err := conn.Read(b); err != nil || string(b) != "x" {
				t.Errorf("version %d, %s: %q, %v", version, c.client, b, err)
			}
			want := c.want
			if want == "" {
				want = out.LocalAddr().String()
			}
			if got := argyle.AddrOf(conn.RemoteAddr()).String(); got != want {
				t.Errorf("version %d: the client is %s, want %s", version, got, want)
			}
			out.Close()
			in.Close()
			ln.Close()
		}
	}
	if got := (&Dialer{Dialer: new(argyle.Direct)}).String(); got != "direct" {
		t.Error(got)
	}
}

// A context that is over ends the connection.
func TestDialerContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	d := &Dialer{Dialer: cancelling{new(argyle.Direct), cancel}, Version: 1}
	if _, err := d.DialContext(ctx, "tcp", ln.Addr().String()); err == nil {
		t.Error("no error")
	}
}

// cancelling cancels a context once it is connected.
type cancelling struct {
	argyle.Dialer
	cancel func()
}

func (c cancelling) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.Dialer.DialContext(ctx, network, address)
	c.cancel()
	return conn, err
}

// Whatever a balancer sends, what comes after a good header is all there.
func FuzzAccept(f *testing.F) {
	f.Add(header(f, 1, "192.0.2.7:4711", "198.51.100.1:1080"))
	f.Add(header(f, 2, "[2001:db8::7]:4711", "[2001:db8::1]:1080"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte("\x05\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &headed{Conn: &reader{Reader: io.MultiReader(bytes.NewReader(b), strings.NewReader("tail"))}}
		got, err := io.ReadAll(c)
		if whole := append(b, "tail"...); err == nil && !bytes.HasSuffix(whole, got) {
			t.Errorf("%q is not the end of %q", got, whole)
		}
	})
}

// reader is a connection that only reads.
type reader struct {
	net.Conn
	io.Reader
}

func (r *reader) Read(b []byte) (int, error) { return r.Reader.Read(b) }
func (r *reader) RemoteAddr() net.Addr       { return &net.TCPAddr{} }
