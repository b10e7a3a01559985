package udp

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
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

// sized are messages of these sizes, each with its number and a head.
func sized(to netip.AddrPort, sizes ...int) (ms []Message) {
	for i, size := range sizes {
		b := bytes.Repeat([]byte{byte(i)}, size)
		cut := min(size, 10)
		ms = append(ms, Message{Head: b[:cut], Payload: b[cut:], Addr: to})
	}
	return ms
}

// Datagrams keep their borders and their order, whether the system takes several as
// one, gives several as one, or does neither.
func TestSegments(t *testing.T) {
	var many, mixed []int
	for i := range 200 {
		many = append(many, 1200)
		mixed = append(mixed, 100+i%7)
	}
	for name, sizes := range map[string][]int{
		"one":            {1},
		"equal":          {500, 500, 500},
		"a shorter last": {500, 500, 3, 500, 500},
		"a longer last":  {500, 500, 501},
		"empty":          {0, 500, 500, 0, 0, 500},
		"many":           many,
		"mixed":          mixed,
		"large":          {30000, 30000, 30000, 60000, 60000},
	} {
		for kind, prepare := range map[string]func(fd int) error{
			"as it is": func(int) error { return nil },
			// Without checksums the system refuses to cut a message.
			"refused": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				from, to := listen(t, loopback4), listen(t, loopback4)
				plain, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback4))
				if err != nil {
					t.Fatal(err)
				}
				defer plain.Close()
				_ = plain.SetReadBuffer(1 << 20)
				from.raw.Control(func(fd uintptr) { err = prepare(int(fd)) })
				if err != nil {
					t.Fatal(err)
				}
				want := sized(local(to), sizes...)
				for first := range slices.Chunk(want, 20) { // no more than the other side holds
					if n, err := from.WriteBatch(first); n != len(first) || err != nil {
						t.Fatalf("sent %d of %d: %v", n, len(first), err)
					}
					for i, got := range receive(t, to, len(first)) {
						if whole := slices.Concat(first[i].Head, first[i].Payload); !bytes.Equal(got.Payload, whole) || got.Addr != local(from) {
							t.Fatalf("datagram %d has %d bytes from %v, want %d", i, len(got.Payload), got.Addr, len(whole))
						}
					}
					for i := range first {
						first[i].Addr = plain.LocalAddr().(*net.UDPAddr).AddrPort()
					}
					if n, err := from.WriteBatch(first); n != len(first) || err != nil {
						t.Fatalf("sent %d of %d: %v", n, len(first), err)
					}
					buf := make([]byte, maxMessage)
					for i := range first {
						whole := slices.Concat(first[i].Head, first[i].Payload)
						if n, err := plain.Read(buf); err != nil || !bytes.Equal(buf[:n], whole) {
							t.Fatalf("an ordinary socket has %d bytes, want %d: %v", n, len(whole), err)
						}
					}
				}
				sum := int64(0)
				for _, m := range want {
					sum += 2 * int64(len(m.Payload))
				}
				if got := from.Sent(); got != sum {
					t.Errorf("%d bytes of payload are counted, want %d", got, sum)
				}
			})
		}
	}
}

// Datagrams to several addresses are not mixed up.
func TestSegmentsApart(t *testing.T) {
	from, a, b := listen(t, loopback4), listen(t, loopback4), listen(t, loopback4)
	var ms []Message
	for i := range 30 {
		to := a
		if i%3 == 0 {
			to = b
		}
		ms = append(ms, Message{Payload: []byte{byte(i), byte(i)}, Addr: local(to)})
	}
	if n, err := from.WriteBatch(ms); n != len(ms) || err != nil {
		t.Fatalf("sent %d: %v", n, err)
	}
	for to, count := range map[*Conn]int{a: 20, b: 10} {
		for _, got := range receive(t, to, count) {
			if isB := got.Payload[0]%3 == 0; isB != (to == b) || len(got.Payload) != 2 {
				t.Errorf("datagram %v is at the wrong socket", got.Payload)
			}
		}
	}
}

// A sender that lets the system cut is understood.
func TestSegmentedSender(t *testing.T) {
	to := listen(t, loopback4)
	from, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(local(to)))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 300) })
	if err != nil {
		t.Skip("the system does not cut messages:", err)
	}
	b := make([]byte, 300*40+7)
	for i := range b {
		b[i] = byte(i / 300)
	}
	if _, err := from.Write(b); err != nil {
		t.Fatal(err)
	}
	for i, got := range receive(t, to, 41) {
		if want := b[300*i : min(300*i+300, len(b))]; !bytes.Equal(got.Payload, want) {
			t.Errorf("datagram %d has %d bytes, want %d", i, len(got.Payload), len(want))
		}
	}
}
