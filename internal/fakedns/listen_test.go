package fakedns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// listen serves on a loopback address, over UDP and TCP, until the test ends.
func listen(t testing.TB, s *Server, address string) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		ln.Close()
		t.Skipf("the same port of UDP: %v", err)
	}
	ended := make(chan error, 2)
	go func() { ended <- s.Serve(ln) }()
	go func() { ended <- s.ServePacket(conn) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, ErrServerClosed) {
				t.Errorf("served until %v", err)
			}
		}
	})
	return ln.Addr().String()
}

// TestServe asks with the resolver of Go, over UDP and over TCP.
func TestServe(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		s := server(t)
		address := listen(t, s, "127.0.0.1:0")
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
		got, err := r.LookupNetIP(t.Context(), "ip", "www.example.")
		want := addrs(t, s.Pool, ann, "www.example")
		for i := range got {
			got[i] = got[i].Unmap()
		}
		if err != nil || len(got) != 2 || !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
			t.Errorf("over %s: %v, %v, want %v", network, got, err, want)
		}
		if names, err := r.LookupAddr(t.Context(), want[1].String()); err != nil || names[0] != "www.example." {
			t.Errorf("over %s: %v is %v, %v", network, want[1], names, err)
		}
		var missing *net.DNSError
		if _, err := r.LookupNetIP(t.Context(), "ip", "a.invalid."); !errors.As(err, &missing) || !missing.IsNotFound {
			t.Errorf("over %s: %v", network, err)
		}
	}
}

// TestServeWildcard: a socket of all addresses replies with the one that was
// asked, which a connected client insists on.
func TestServeWildcard(t *testing.T) {
	for _, all := range []string{"0.0.0.0:0", "[::]:0"} {
		s := server(t)
		_, port, err := net.SplitHostPort(listen(t, s, all))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("udp", net.JoinHostPort("127.0.0.7", port))
		if err != nil {
			t.Skip(err)
		}
		defer conn.Close()
		c := dns.Client{Timeout: 10 * time.Second}
		reply, _, err := c.ExchangeWithConn(new(dns.Msg).SetQuestion("www.example.", dns.TypeA), &dns.Conn{Conn: conn})
		if err != nil || len(reply.Answer) != 1 {
			t.Errorf("%s: %v, %v", all, reply, err)
		}
	}
}

// TestServeConn: messages that come in pieces and all at once, in order.
func TestServeConn(t *testing.T) {
	s := server(t)
	s.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	conn, err := net.Dial("tcp", listen(t, s, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var stream []byte
	for id := range uint16(3) {
		q := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
		q.Id = id
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(b))), b...)
	}
	for piece := range slices.Chunk(stream, 50) {
		if _, err := conn.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	for id := range uint16(3) {
		b, err := readMessage(conn)
		if err != nil || binary.BigEndian.Uint16(b) != id {
			t.Errorf("reply %d: %x, %v", id, b, err)
		}
	}
	if _, err := conn.Write([]byte{0, 3, 1, 2, 3}); err != nil { // no DNS: it is the end
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Errorf("after garbage: %x, %v", b, err)
	}
}

// fakeConn is one end of a pipe with an address.
type fakeConn struct {
	net.Conn
	addr netip.AddrPort
}

func (c fakeConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.addr) }

// TestServeConnEnds: a client that says nothing, or half of it, is let go; so
// are those that are too many, and all when the context ends.
func TestServeConnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t)
		defer s.Close()
		serve := func(ctx context.Context, client string) (net.Conn, chan error) {
			ours, theirs := net.Pipe()
			ended := make(chan error, 1)
			go func() { ended <- s.ServeConn(ctx, fakeConn{ours, netip.MustParseAddrPort(client)}) }()
			synctest.Wait()
			return theirs, ended
		}
		for _, said := range []string{"", "\x00", "\x00\x20half"} {
			conn, ended := serve(t.Context(), "127.0.0.1:1")
			began := time.Now()
			if _, err := io.WriteString(conn, said); err != nil {
				t.Error(err)
			}
			if err := <-ended; err == nil || time.Since(began) != streamIdle {
				t.Errorf("%q: ended after %v with %v", said, time.Since(began), err)
			}
			conn.Close()
		}

		ctx, cancel := context.WithCancel(t.Context())
		var all []chan error
		for range maxStreams / 4 {
			conn, ended := serve(ctx, "127.0.0.1:1")
			defer conn.Close()
			all = append(all, ended)
		}
		if conn, ended := serve(ctx, "127.0.0.1:1"); !errors.Is(<-ended, errBusy) {
			t.Error("one client has more connections than its share")
		} else if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection too many is open")
		}
		other, ended := serve(ctx, "127.0.0.2:1")
		defer other.Close()
		all = append(all, ended)
		cancel()
		for _, ended := range all {
			if err := <-ended; err == nil {
				t.Error("no error when the context ends")
			}
		}
	})
}

// deadConn fails as a socket does.
type deadConn struct {
	net.PacketConn
	err   error
	reads int
}

func (c *deadConn) ReadFrom([]byte) (int, net.Addr, error) { c.reads++; return 0, nil, c.err }
func (c *deadConn) Close() error                           { return nil }

// TestServeFails: what may pass is tried again, but not for ever.
func TestServeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t)
		broken := errors.New("broken")
		conn := &deadConn{err: broken}
		if err := s.ServePacket(conn); !errors.Is(err, broken) || conn.reads != maxFailures+1 {
			t.Errorf("%v after %d reads", err, conn.reads)
		}
		if err := s.ServePacket(&deadConn{err: net.ErrClosed}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed by another: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.ServePacket(conn); !errors.Is(err, ErrServerClosed) {
			t.Errorf("after Close: %v", err)
		}
		ours, theirs := net.Pipe()
		defer theirs.Close()
		if err := s.ServeConn(t.Context(), ours); !errors.Is(err, ErrServerClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestCloseWaits: after Close nothing of the server is left, whatever it was
// about.
func TestCloseWaits(t *testing.T) {
	s := server(t)
	asked := make(chan struct{})
	ended := make(chan struct{})
	s.Exchange = func(ctx context.Context, _ *dns.Msg) (*dns.Msg, error) {
		close(asked)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.ServePacket(conn) }()
	client, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	q, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeMX).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write(bytes.Clone(q)); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	default:
		t.Error("Close has not waited")
	}
	if err := <-served; !errors.Is(err, ErrServerClosed) {
		t.Error(err)
	}
}
