package socks_test

import (
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
)

// BenchmarkUDP sends datagrams through an association and back.
func BenchmarkUDP(b *testing.B) {
	_, relay := associate(b, start(b, &socks.Server{}))
	conn := udpFrom(b, "127.0.0.1")
	to := udpEcho(b, "127.0.0.1")
	out := datagram(b, 0, argyle.AddrFrom(to), "0123456789")
	in := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		sendTo(b, conn, relay, out)
		if _, _, err := conn.ReadFromUDPAddrPort(in); err != nil {
			b.Fatal(err)
		}
	}
}
