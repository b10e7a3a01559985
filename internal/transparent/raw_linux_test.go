package transparent

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A datagram of a RawSender comes from where it says, though somebody has a socket there, and its checksum is right.
func TestRawSender(t *testing.T) {
	freshNetwork(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	raw, err := OpenRaw(7)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, at := range []string{"127.0.0.53:53", "[::1]:53"} {
		host, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		src := netip.MustParseAddrPort(at)
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(map[bool]string{true: "127.0.0.1", false: "::1"}[src.Addr().Is4()]), 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, payload := range []string{"", "x", "hello", string(make([]byte, 1232))} {
			if !raw.Send(src, conn.LocalAddr().(*net.UDPAddr).AddrPort(), []byte(payload)) {
				t.Fatalf("%s: nothing was sent", at)
			}
			buf := make([]byte, 2000)
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil || from != src || string(buf[:n]) != payload {
				t.Errorf("%s: %d bytes from %v, %v", at, n, from, err)
			}
		}
	}
	if raw.Send(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1"), nil) {
		t.Error("a datagram has changed its family")
	}
}

// The checksum over a whole datagram, with its own in it, is none that fails (RFC 1071).
func TestUDPChecksum(t *testing.T) {
	for _, src := range []string{"192.0.2.1:53", "[2001:db8::1]:53"} {
		for n := range 70 {
			from := netip.MustParseAddrPort(src)
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(7*i + n)
			}
			packet, err := appendDatagram(nil, from, netip.AddrPortFrom(from.Addr(), uint16(60000+n)), payload)
			if err != nil {
				t.Fatal(err)
			}
			datagram := packet[len(packet)-8-n:]
			if sum := udpChecksum(from.Addr(), from.Addr(), datagram); sum != 0xffff {
				t.Errorf("%s, %d bytes: %#x is left", src, n, sum)
			}
		}
	}
}
