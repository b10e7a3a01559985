package udp

import (
	"net"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// An ICMP error that the system reports to the reader ends one read and
// nothing else.
func TestErrorOfOneDatagram(t *testing.T) {
	a, b, gone := listen(t, loopback4), listen(t, loopback4), listen(t, loopback4)
	gone.Close()
	var err error
	a.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1) })
	if err != nil {
		t.Fatal(err)
	}
	send(t, a, 1, Message{Payload: []byte("x"), Addr: local(gone)})
	if err := a.ReadBatch(func(ms []Message) { t.Errorf("read %d messages", len(ms)) }); err != nil {
		t.Errorf("an ICMP error ended the reader: %v", err)
	}
	send(t, b, 1, Message{Payload: []byte("after"), Addr: local(a)})
	if got := receive(t, a, 1)[0]; string(got.Payload) != "after" {
		t.Errorf("received %q", got.Payload)
	}
}

func TestSockaddr(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	index := strconv.Itoa(lo.Index)
	for _, c := range []struct {
		addr, on4, on6 string // "" where the socket cannot send
	}{
		{"192.0.2.1:53", "192.0.2.1:53", "192.0.2.1:53"},
		{"[::ffff:192.0.2.1]:53", "192.0.2.1:53", "192.0.2.1:53"},
		{"255.255.255.255:65535", "255.255.255.255:65535", "255.255.255.255:65535"},
		{"[2001:db8::1]:256", "", "[2001:db8::1]:256"},
		{"[::]:0", "", "[::]:0"},
		{"[fe80::1%lo]:53", "", "[fe80::1%" + index + "]:53"},
		{"[fe80::1%7]:53", "", "[fe80::1%7]:53"},
		{"[fe80::1%nosuchinterface]:53", "", "[fe80::1]:53"},
	} {
		for v6, want := range map[bool]string{false: c.on4, true: c.on6} {
			var sa unix.RawSockaddrInet6
			got := ""
			if putAddr(&sa, netip.MustParseAddrPort(c.addr), v6) > 0 {
				got = addrPort(&sa).String()
			}
			if got != want {
				t.Errorf("%v, socket of IPv6 %v: sent to %q, want %q", c.addr, v6, got, want)
			}
		}
	}
	for _, v6 := range []bool{false, true} {
		if n := putAddr(new(unix.RawSockaddrInet6), netip.AddrPort{}, v6); n != 0 {
			t.Errorf("no address has %d bytes on a socket of IPv6 %v", n, v6)
		}
	}
}
