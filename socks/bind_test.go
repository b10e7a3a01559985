package socks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// reply reads one reply of either version and returns its code and address.
func reply(t testing.TB, conn io.Reader, version int) (byte, netip.AddrPort) {
	t.Helper()
	if version == 5 {
		rep, bound := answer5(t, conn)
		return byte(rep), bound
	}
	b := make([]byte, 8)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatalf("read reply: %v", err)
	}
	response, _, err := wire.ParseResponse4(b)
	if err != nil {
		t.Fatal(err)
	}
	if response.Reply == wire.Granted {
		return 0, response.Bound.AddrPort()
	}
	return byte(response.Reply), response.Bound.AddrPort()
}

// bind begins a BIND in a version and returns the connection and BND.
func bind(t testing.TB, addr string, version int, peer netip.AddrPort) (*net.TCPConn, netip.AddrPort) {
	t.Helper()
	conn := dialRaw(t, addr)
	if version == 5 {
		write(t, conn, append([]byte{5, 1, 0}, request5(2, peer)...))
		expect(t, conn, []byte{5, 0})
	} else {
		write(t, conn, request4(2, peer))
	}
	code, bound := reply(t, conn, version)
	if code != 0 {
		t.Fatalf("first reply %d", code)
	}
	return conn, bound
}

// sentAway connects from a stranger's address and wants to be refused: the
// reset may come before or after the connection counts as made.
func sentAway(t testing.TB, local string, to netip.AddrPort) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", to.String())
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stranger was let in: %v", err)
	}
}

// from connects from a local address.
func from(t testing.TB, local string, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn)
}

// T18 to T20: strangers are sent away, the peer is not; bytes sent early by
// the client are kept; the second reply tells who came.
func TestBind(t *testing.T) {
	addr := start(t, &socks.Server{})
	for _, version := range []int{4, 5} {
		for _, expected := range []string{"127.0.0.2", "0.0.0.0"} {
			t.Run(fmt.Sprintf("SOCKS %d, peer %s", version, expected), func(t *testing.T) {
				conn, bound := bind(t, addr, version, netip.MustParseAddrPort(expected+":0"))
				if !bound.Addr().IsLoopback() || bound.Port() == 0 {
					t.Fatalf("BND %v", bound)
				}
				write(t, conn, []byte("early"))
				if expected != "0.0.0.0" {
					sentAway(t, "127.0.0.3", bound)
				}
				peer := from(t, "127.0.0.2", bound)
				code, who := reply(t, conn, version)
				if code != 0 || who.String() != peer.LocalAddr().String() {
					t.Fatalf("second reply %d, %v, want %v", code, who, peer.LocalAddr())
				}
				expect(t, peer, []byte("early"))
				write(t, peer, []byte("hello"))
				_ = peer.CloseWrite()
				expect(t, conn, []byte("hello"))
				expectEOF(t, conn)
				write(t, conn, []byte("bye"))
				_ = conn.CloseWrite()
				expect(t, peer, []byte("bye"))
				expectEOF(t, peer)
			})
		}
	}
}

// T18: the port is a wish; a taken one becomes another.
func TestBindPort(t *testing.T) {
	addr := start(t, &socks.Server{})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wish := argyle.AddrOf(free.Addr()).AddrPort()
	_, bound := bind(t, addr, 5, wish)
	if bound.Port() == wish.Port() {
		t.Errorf("a taken port was given")
	}
	free.Close()
	if _, bound = bind(t, addr, 5, wish); bound.Port() != wish.Port() {
		t.Errorf("wished for port %d, got %d", wish.Port(), bound.Port())
	}
	if _, bound = bind(t, addr, 5, netip.MustParseAddrPort("127.0.0.1:21")); bound.Port() == 21 {
		t.Error("a client got a port below 1024")
	}
}

// T20: nobody comes in time.
func TestBindTimeout(t *testing.T) {
	p := &proxy.Proxy{Timeouts: proxy.Timeouts{BindTimeout: 50 * time.Millisecond}}
	defer p.Close()
	addr := start(t, &socks.Server{Handler: p})
	for version, want := range map[int]byte{4: 91, 5: byte(wire.TTLExpired)} {
		conn, _ := bind(t, addr, version, netip.MustParseAddrPort("127.0.0.2:0"))
		if code, _ := reply(t, conn, version); code != want {
			t.Errorf("SOCKS %d: second reply %d, want %d", version, code, want)
		}
		expectEOF(t, conn)
	}
}

// T20: a client that goes takes its listener with it.
func TestBindClientGone(t *testing.T) {
	ended := make(chan error, 1)
	p := &proxy.Proxy{OnSession: func(s *proxy.Session) {
		if over, err := s.Ended(); over {
			ended <- err
		}
	}}
	defer p.Close()
	addr := start(t, &socks.Server{Handler: p})
	conn, bound := bind(t, addr, 5, netip.MustParseAddrPort("127.0.0.2:0"))
	conn.Close()
	if err := <-ended; err == nil {
		t.Error("no reason given")
	}
	if conn, err := net.Dial("tcp", bound.String()); err == nil {
		conn.Close()
		t.Error("the listener is still there")
	}
}

// A failing listener is told to the client in the first reply.
func TestBindRefused(t *testing.T) {
	p := &proxy.Proxy{Policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) {
		return argyleStreamOnly{}, nil
	})}
	defer p.Close()
	conn := dialRaw(t, start(t, &socks.Server{Handler: p}))
	write(t, conn, append([]byte{5, 1, 0}, request5(2, netip.MustParseAddrPort("192.0.2.1:0"))...))
	expect(t, conn, []byte{5, 0})
	if rep, _ := answer5(t, conn); rep != wire.CommandNotSupported {
		t.Error(rep)
	}
	expectEOF(t, conn)
}

type argyleStreamOnly struct{ argyle.StreamOnly }

func (argyleStreamOnly) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}
