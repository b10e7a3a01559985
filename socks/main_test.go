package socks_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server on loopback until the test ends and returns its address.
// Without a Handler it goes out directly.
func start(t testing.TB, s *socks.Server) string {
	t.Helper()
	if s.Handler == nil {
		p := new(proxy.Proxy)
		t.Cleanup(func() { p.Close() })
		s.Handler = p
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(event.Listen(ln)) }()
	t.Cleanup(func() {
		s.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != socks.ErrServerClosed {
			t.Errorf("Serve returned %v", err)
		}
	})
	return ln.Addr().String()
}

// echo runs a TCP server that sends back what it gets, and ends when its
// client's side does.
func echo(t testing.TB) netip.AddrPort {
	t.Helper()
	return listen(t, func(conn net.Conn) {
		_, _ = io.Copy(conn, conn)
		conn.Close()
	})
}

// listen runs a TCP server on 127.0.0.1.
func listen(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return argyle.AddrOf(ln.Addr()).AddrPort()
}

// udpEcho runs a UDP server that sends back what it gets, on the address ip.
func udpEcho(t testing.TB, ip string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return argyle.AddrOf(conn.LocalAddr()).AddrPort()
}

// dialRaw opens a bare connection that ends with the test and never hangs.
func dialRaw(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn)
}

func write(t testing.TB, conn io.Writer, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly want.
func expect(t testing.TB, conn io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(conn, got)
	if string(got[:n]) != string(want) {
		t.Fatalf("got % x (%v), want % x", got[:n], err, want)
	}
}

// expectEOF wants a clean end, not a reset.
func expectEOF(t testing.TB, conn io.Reader) {
	t.Helper()
	b, err := io.ReadAll(conn)
	if err != nil || len(b) > 0 {
		t.Fatalf("got % x, %v, want a clean end", b, err)
	}
}

// request5 returns a SOCKS 5 request for an IPv4 address.
func request5(command byte, dest netip.AddrPort) []byte {
	ip := dest.Addr().As4()
	b := append([]byte{5, command, 0, 1}, ip[:]...)
	return append(b, byte(dest.Port()>>8), byte(dest.Port()))
}

// request4 returns a SOCKS 4 request without USERID.
func request4(command byte, dest netip.AddrPort) []byte {
	ip := dest.Addr().As4()
	return append([]byte{4, command, byte(dest.Port() >> 8), byte(dest.Port())}, append(ip[:], 0)...)
}

// rejecting is a handler that rejects every call with err.
func rejecting(err error) argyle.Handler {
	return argyle.HandlerFunc(func(_ context.Context, call argyle.Call) { call.Reject(err) })
}

// recording is a handler that rejects every call after handing its request over.
func recording(requests chan<- argyle.Request) argyle.Handler {
	return argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		requests <- *call.Request()
		call.Reject(argyle.ErrNotAllowed)
	})
}
