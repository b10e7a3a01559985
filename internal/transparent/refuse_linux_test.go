package transparent

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A refusal is a message that others read, about the datagram.
func TestRefusal(t *testing.T) {
	for _, test := range []struct {
		src, dst string
		header   int
		protocol int
		kind     icmp.Type
		code     int
	}{
		{"192.0.2.1:1000", "198.18.0.20:53", 20, 1, ipv4.ICMPTypeDestinationUnreachable, 3},
		{"[2001:db8::1]:1000", "[fd00::20]:53", 40, 58, ipv6.ICMPTypeDestinationUnreachable, 4},
	} {
		src, dst := netip.MustParseAddrPort(test.src), netip.MustParseAddrPort(test.dst)
		packet, err := appendRefusal(nil, src, dst, []byte("odd"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := icmp.ParseMessage(test.protocol, packet[test.header:])
		if err != nil || m.Type != test.kind || m.Code != test.code {
			t.Fatalf("%v: %+v, %v", src, m, err)
		}
		quoted := m.Body.(*icmp.DstUnreach).Data
		if len(quoted) < test.header+8+3 || string(quoted[test.header+8:test.header+11]) != "odd" {
			t.Errorf("%v: it quotes %x", src, quoted)
		}
		sum := checksum(packet[test.header:])
		if src.Addr().Is6() {
			pseudo := append(append(dst.Addr().AsSlice(), src.Addr().AsSlice()...), 0, 0, 0, byte(len(packet)-40), 0, 0, 0, 58)
			sum = checksum(pseudo, packet[test.header:])
		}
		if sum != 0 {
			t.Errorf("%v: the checksum is off by %x", src, sum)
		}
	}
	if _, err := appendRefusal(nil, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[fd00::1]:1"), nil); err == nil {
		t.Error("two families make a packet")
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now := time.Unix(1000, 0)
	sent := 0
	for range 10 * maxRefusals {
		if r.may(now) {
			sent++
		}
	}
	if sent != maxRefusals || !r.may(now.Add(time.Second)) {
		t.Errorf("%d in a second, or none in the next", sent)
	}
}
