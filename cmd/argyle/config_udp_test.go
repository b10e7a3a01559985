//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

// fountain answers each datagram with ten of 1000 bytes, and tells when they
// are on their way.
func fountain(t testing.TB, addr string) (dest argyle.Addr, sent <-chan struct{}) {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done, flown := make(chan struct{}), make(chan struct{}, 100)
	go func() {
		defer close(done)
		buf := make([]byte, 1000)
		for {
			_, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			for range 10 {
				_, _ = conn.WriteTo(buf, from)
			}
			flown <- struct{}{}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return argyle.AddrOf(conn.LocalAddr()), flown
}

// What comes back from a name counts against the limits of the rule about the
// name, whoever has looked it up. Where that is the server itself, it does not
// count against those of another name.
func TestUDPReplyLimits(t *testing.T) {
	t.Parallel()
	const text = `
state: state
names: {hosts: {little.test: 127.0.0.1, plenty.test: 127.0.0.2}}
upstreams: {up: 'socks5h://%s'}
rules:
  - {name: little, to: little.test, via: %s, limits: {quota: 5kB/total}}
  - {name: plenty, to: plenty.test, via: %[2]s, limits: {quota: 1GB/total}}
  - {via: %[2]s}
`
	up := startServer(t, "-c", configFile(t, "names: {hosts: {little.test: 127.0.0.1, plenty.test: 127.0.0.2}}\n"))
	for way, names := range map[string][]string{"direct": {"plenty.test", "little.test", "plenty.test"}, "up": {"plenty.test", "little.test"}} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, "-c", configFile(t, fmt.Sprintf(text, up.addr, way)))
			conn, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			little, littleSent := fountain(t, "127.0.0.1:0")
			_, plentySent := fountain(t, net.JoinHostPort("127.0.0.2", fmt.Sprint(little.Port)))
			last := addrOf(t, udpEcho(t, "127.0.0.1:0"))
			for _, name := range names {
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := conn.WriteTo([]byte("?"), argyle.Addr{Name: name, Port: little.Port}); err != nil {
					t.Fatal(err)
				}
				want, flown := 10, plentySent
				if name == "little.test" {
					want, flown = 5, littleSent
				}
				<-flown
				// What has its own limits, none, comes after all those.
				if _, err := conn.WriteTo([]byte("last"), last); err != nil {
					t.Fatal(err)
				}
				got, buf := 0, make([]byte, 2000)
				for n := 0; n != len("last"); got++ {
					if n, _, err = conn.ReadFrom(buf); err != nil {
						t.Fatalf("%d datagrams from %s, and then %v", got, name, err)
					}
				}
				if got--; got != want {
					t.Errorf("%d datagrams came from %s, want %d", got, name, want)
				}
			}
		})
	}
}
