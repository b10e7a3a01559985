package proxyproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

const sig2 = "\r\n\r\n\x00\r\nQUIT\n"

// The oddities that both versions allow, and those that they do not.
func TestHeaders(t *testing.T) {
	const balancer = "the balancer"
	for _, c := range []struct{ name, header, client string }{
		{"more than the two ends in version 1", "PROXY UNKNOWN and whatever else is there\r\n", balancer},
		{"the longest line", "PROXY UNKNOWN " + strings.Repeat("x", 107-14-2) + "\r\n", balancer},
		{"a line too long", "PROXY UNKNOWN " + strings.Repeat("x", 107-14-1) + "\r\n", ""},
		{"no carriage return", "PROXY UNKNOWN\n", ""},
		{"a family that is not its own", "PROXY TCP6 192.0.2.7 ::1 1 2\r\n", ""},
		{"a name", "PROXY TCP4 localhost 192.0.2.7 1 2\r\n", ""},
		{"an address with a zone", "PROXY TCP6 fe80::1%lo ::1 1 2\r\n", ""},
		{"a port too high", "PROXY TCP4 192.0.2.7 192.0.2.8 65536 2\r\n", ""},
		{"IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7:1"},
		{"more after the addresses", sig2 + "\x21\x11\x00\x0f\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02\x04\x00\x00", "192.0.2.7:1"},
		{"the longest that is taken", sig2 + "\x21\x11\x0f\xf0\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02\x04\x0f\xe1" + strings.Repeat("\x00", 4065), "192.0.2.7:1"},
		{"one byte longer", sig2 + "\x21\x11\x0f\xf1\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02\x04\x0f\xe2" + strings.Repeat("\x00", 4066), ""},
		{"a check of health that tells addresses", sig2 + "\x20\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02", balancer},
		{"datagrams", sig2 + "\x21\x12\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02", balancer},
		{"too short for its addresses", sig2 + "\x21\x11\x00\x0b\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00", ""},
		{"version 3", sig2 + "\x31\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02", ""},
		{"an unknown command", sig2 + "\x22\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02", ""},
	} {
		client, server := pipe(t)
		conn := Accept(server, loopback)
		_, _ = io.WriteString(client, c.header+"rest")
		_ = client.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(conn)
		if c.client == "" {
			if err == nil || len(got) > 0 || conn.RemoteAddr() != server.RemoteAddr() {
				t.Errorf("%s is taken: %q from %v", c.name, got, conn.RemoteAddr())
			}
			continue
		}
		want := c.client
		if want == balancer {
			want = server.RemoteAddr().String()
		}
		if from := argyle.AddrOf(conn.RemoteAddr()).String(); err != nil || string(got) != "rest" || from != want {
			t.Errorf("%s: %q from %s, want %s; %v", c.name, got, from, want, err)
		}
	}
}

// A header that does not come to its end is bound by the deadline, and its error
// is a timeout. A client that speaks first does not wait for it in vain either.
func TestSlowHeader(t *testing.T) {
	client, server := pipe(t)
	conn := Accept(server, loopback)
	_, _ = io.WriteString(client, "PROXY TCP4 192.0")
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	// It stays refused: half a header is no beginning.
	_ = conn.SetReadDeadline(time.Time{})
	_, _ = io.WriteString(client, "05\x01\x00")
	if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Others may ask for the addresses while the header is being read.
func TestAskedMeanwhile(t *testing.T) {
	client, server := pipe(t)
	conn := Accept(server, loopback)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for conn.RemoteAddr() == server.RemoteAddr() {
			_ = conn.LocalAddr()
		}
	}()
	_, _ = client.Write(append(header(t, 1, "192.0.2.7:4711", "198.51.100.1:1080"), 'x'))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Error(err)
		server.Close()
		return
	}
	<-done
}

// remote is a connection from which a header can be read that was written to it.
type remote struct {
	net.Conn
	addr   net.Addr
	wrote  bytes.Buffer
	fail   error
	closed bool
}

func (r *remote) RemoteAddr() net.Addr        { return r.addr }
func (r *remote) SetDeadline(time.Time) error { return nil }
func (r *remote) Close() error                { r.closed = true; return nil }
func (r *remote) Write(b []byte) (int, error) {
	if r.fail != nil {
		return 0, r.fail
	}
	return r.wrote.Write(b)
}

// out is a way out that leads to a remote.
type out struct {
	argyle.StreamOnly
	conn *remote
}

func (o out) DialContext(context.Context, string, string) (net.Conn, error) { return o.conn, nil }

// The header as bytes, for every pair of families.
func TestDialerBytes(t *testing.T) {
	six := "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07"
	mapped := strings.Repeat("\x00", 10) + "\xff\xff"
	for _, c := range []struct{ client, dest, v1, v2 string }{
		{"192.0.2.7:4711", "198.51.100.1:80", "PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n",
			sig2 + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x00\x50"},
		{"[2001:db8::7]:4711", "[2001:db8::7]:80", "PROXY TCP6 2001:db8::7 2001:db8::7 4711 80\r\n",
			sig2 + "\x21\x21\x00\x24" + six + six + "\x12\x67\x00\x50"},
		{"192.0.2.7:4711", "[2001:db8::7]:80", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::7 4711 80\r\n",
			sig2 + "\x21\x21\x00\x24" + mapped + "\xc0\x00\x02\x07" + six + "\x12\x67\x00\x50"},
		{"[2001:db8::7]:4711", "198.51.100.1:80", "PROXY TCP6 2001:db8::7 ::ffff:198.51.100.1 4711 80\r\n",
			sig2 + "\x21\x21\x00\x24" + six + mapped + "\xc6\x33\x64\x01" + "\x12\x67\x00\x50"},
		{"[fe80::7%lo]:4711", "[2001:db8::7]:80", "PROXY TCP6 fe80::7 2001:db8::7 4711 80\r\n", ""},
		{"", "198.51.100.1:80", "PROXY UNKNOWN\r\n", sig2 + "\x20\x00\x00\x00"},
		{"none", "198.51.100.1:80", "PROXY UNKNOWN\r\n", sig2 + "\x20\x00\x00\x00"},
		{"192.0.2.7:4711", "unix", "PROXY UNKNOWN\r\n", sig2 + "\x20\x00\x00\x00"},
	} {
		ctx := t.Context()
		switch c.client {
		case "none": // a connection of our own
		case "": // a client on a unix socket
			ctx = argyle.WithRequest(ctx, new(argyle.Request))
		default:
			ctx = argyle.WithRequest(ctx, &argyle.Request{Client: netip.MustParseAddrPort(c.client)})
		}
		var to net.Addr = &net.UnixAddr{Name: "/run/x", Net: "unix"}
		if c.dest != "unix" {
			to = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.dest))
		}
		for version, want := range map[int]string{1: c.v1, 2: c.v2, 0: c.v2} {
			conn := &remote{addr: to}
			got, err := (&Dialer{Dialer: out{conn: conn}, Version: version}).DialContext(ctx, "tcp", "x:1")
			if err != nil || got != net.Conn(conn) || want != "" && conn.wrote.String() != want {
				t.Errorf("version %d from %q to %s: %q, %v; want %q", version, c.client, c.dest, conn.wrote.String(), err, want)
			}
		}
	}
}

// A connection that does not take its header is closed, and one that does is the
// bare one, as the relay likes it.
func TestDialerFails(t *testing.T) {
	conn := &remote{addr: &net.TCPAddr{IP: net.IPv6loopback, Port: 80}, fail: errors.New("no more")}
	got, err := (&Dialer{Dialer: out{conn: conn}, Version: 2}).DialContext(t.Context(), "tcp", "x:1")
	if got != nil || !errors.Is(err, conn.fail) || !conn.closed {
		t.Errorf("%v, %v; closed: %v", got, err, conn.closed)
	}
	d := &Dialer{Dialer: out{conn: conn}}
	if _, err := d.Listen(t.Context(), "tcp", "x:1"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("BIND: %v", err)
	}
	if _, err := d.ListenPacket(t.Context(), "udp", ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("UDP: %v", err)
	}
}

// FuzzHeader sends what it likes, from a balancer and from a stranger: who is not
// trusted is believed nothing, and a balancer is believed a header alone.
func FuzzHeader(f *testing.F) {
	f.Add(header(f, 1, "192.0.2.7:4711", "198.51.100.1:1080"))
	f.Add(header(f, 2, "[2001:db8::7]:4711", "[2001:db8::1]:1080"))
	f.Add([]byte(sig2 + "\x20\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x08\x00\x01\x00\x02"))
	f.Add([]byte("PROXY UNKNOWN\r\n\x05\x01\x00"))
	f.Add([]byte("\x05\x01\x00"))
	stranger := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	trusted := []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")}
	f.Fuzz(func(t *testing.T, b []byte) {
		from := &net.TCPAddr{IP: net.IPv4(198, 51, 100, 9), Port: 9}
		conn := Accept(&readerFrom{&reader{Reader: bytes.NewReader(b)}, from}, stranger)
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, b) || conn.RemoteAddr() != net.Addr(from) {
			t.Fatalf("a stranger's %q is %q from %v, %v", b, got, conn.RemoteAddr(), err)
		}
		conn = Accept(&readerFrom{&reader{Reader: bytes.NewReader(b)}, from}, trusted)
		got, err = io.ReadAll(conn)
		begins := bytes.HasPrefix(b, begin1) || bytes.HasPrefix(b, begin2)
		if !begins && (len(got) > 0 || err == nil && len(b) > 0 || conn.RemoteAddr() != net.Addr(from)) {
			t.Errorf("%q is taken for a header: %q from %v, %v", b, got, conn.RemoteAddr(), err)
		}
		if !bytes.HasSuffix(b, got) || len(b) > 0 && len(got) == len(b) {
			t.Errorf("%q leaves %q", b, got)
		}
		if a := argyle.AddrOf(conn.RemoteAddr()); !a.IP.IsValid() {
			t.Errorf("%q comes from %v", b, conn.RemoteAddr())
		}
	})
}

// readerFrom is a reader from an address.
type readerFrom struct {
	*reader
	from net.Addr
}

func (r *readerFrom) RemoteAddr() net.Addr { return r.from }
