package tun

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// device keeps what is written to it, and has nothing to read.
type device struct{ written [][]byte }

func (d *device) Read([]byte) (int, error) { return 0, io.EOF }
func (d *device) Close() error             { return nil }
func (d *device) Write(b []byte) (int, error) {
	d.written = append(d.written, bytes.Clone(b))
	return len(b), nil
}

// newTestServer returns a server that serves nobody yet.
func newTestServer(d io.ReadWriteCloser, header int) *Server {
	s := &Server{Device: d, MTU: 1500, Header: header}
	s.link = &link{wire: newPlainWire(d, header), header: header, mtu: 1500}
	s.control = newControl(s)
	s.receiver.server = s
	return s
}

func endpoints() [][2]netip.AddrPort {
	return [][2]netip.AddrPort{
		{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("10.0.0.2:40000")},
		{netip.MustParseAddrPort("[2001:db8::1]:53"), netip.MustParseAddrPort("[fd00::2]:40000")},
	}
}

// What send writes is a datagram with right checksums.
func TestSend(t *testing.T) {
	for _, ends := range endpoints() {
		for _, size := range []int{0, 1, 2, 1401, 65000} {
			d := new(device)
			s := newTestServer(d, 0)
			payload := bytes.Repeat([]byte{0xa5}, size)
			if !s.send(ends[0], ends[1], payload) {
				t.Fatalf("%d bytes were not sent", size)
			}
			p, ok := parse(d.written[0], len(d.written[0]))
			if !ok || p.protocol != header.UDPProtocolNumber {
				t.Fatalf("%d bytes: parse = %t, protocol %d", size, ok, p.protocol)
			}
			src, dst, got, ok := p.datagram()
			if !ok || src != ends[0] || dst != ends[1] || !bytes.Equal(got, payload) {
				t.Errorf("%d bytes came as %d from %v to %v", size, len(got), src, dst)
			}
			h := header.UDP(p.payload)
			if !h.IsChecksumValid(address(p.src), address(p.dst), checksum.Checksum(got, 0)) {
				t.Errorf("%v, %d bytes: the checksum of UDP is wrong", ends[0], size)
			}
			if p.src.Is4() && !header.IPv4(p.bytes).IsChecksumValid() {
				t.Errorf("%d bytes: the checksum of IP is wrong", size)
			}
		}
	}
}

// What is too long for any packet, or of two families, is not sent.
func TestSendNot(t *testing.T) {
	s := newTestServer(new(device), 0)
	ends := endpoints()
	if s.send(ends[0][0], ends[0][1], make([]byte, 65508)) {
		t.Error("a datagram was sent that is longer than any")
	}
	if s.send(ends[0][0], ends[1][1], nil) {
		t.Error("a datagram was sent from IPv4 to IPv6")
	}
}

// An ICMP error quotes the SYN that it is about, once.
func TestUnreachable(t *testing.T) {
	for _, ends := range endpoints() {
		for code, want := range map[unreachableCode][2]int{codeHost: {1, 3}, codeNetwork: {0, 0}, codePort: {3, 4}, codeProhibited: {13, 1}} {
			d := new(device)
			s := newTestServer(d, 0)
			syn := segment(ends[1], ends[0], header.TCPFlagSyn)
			p, ok := parse(syn, len(syn))
			if !ok {
				t.Fatal("the SYN is not parsed")
			}
			s.syns.note(&p)
			pair := addrPair{ends[1], ends[0]}
			quoted := s.syns.take(pair)
			if again := s.syns.take(pair); again != nil {
				t.Error("a SYN is kept that was taken")
			}
			s.unreachable(pair.dst.Addr(), pair.src.Addr(), quoted, code)
			got, ok := parse(d.written[0], len(d.written[0]))
			if !ok || got.src != ends[0].Addr() || got.dst != ends[1].Addr() {
				t.Fatalf("error from %v to %v", got.src, got.dst)
			}
			typ, number := int(header.ICMPv4DstUnreachable), want[0]
			if got.src.Is6() {
				typ, number = int(header.ICMPv6DstUnreachable), want[1]
			}
			if int(got.payload[0]) != typ || int(got.payload[1]) != number || !bytes.Equal(got.payload[8:], syn[:len(syn)-12]) {
				t.Errorf("%v: %x does not say %v of %x", got.src, got.payload, code, syn)
			}
		}
	}
}

// segment is one of TCP without data.
func segment(src, dst netip.AddrPort, flags header.TCPFlags) []byte {
	b := appendIP(nil, src.Addr(), dst.Addr(), header.TCPProtocolNumber, header.TCPMinimumSize)
	at := len(b)
	b = append(b, make([]byte, header.TCPMinimumSize)...)
	header.TCP(b[at:]).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: 12345, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 1000,
	})
	return b
}

// Serve ends with the device.
func TestServeEnds(t *testing.T) {
	s := &Server{Device: new(device), MTU: 1500}
	if err := s.Serve(); err == nil || errors.Is(err, ErrServerClosed) || !errors.Is(err, io.EOF) {
		t.Errorf("Serve returned %v, want the device's EOF", err)
	}
	if err := s.Serve(); !errors.Is(err, ErrServerClosed) {
		t.Errorf("the second Serve returned %v", err)
	}
}

// Headers of IPv6 before the payload's are passed over, and fragments are known.
func TestExtensions(t *testing.T) {
	src, dst := endpoints()[1][1].Addr(), endpoints()[1][0].Addr()
	udp := []byte{0, 1, 0, 2, 0, 8, 0, 0}
	for _, test := range []struct {
		what            string
		first           byte
		headers         string
		protocol        int
		fragment, later bool
	}{
		{"hop by hop", 0, "1100010400000000", 17, false, false},
		{"destination options of 16 bytes", 60, "11010104000000000000000000000000", 17, false, false},
		{"routing, then hop by hop", 43, "00000000000000001100010400000000", 17, false, false},
		{"first fragment", 44, "1100000100000001", 17, true, false},
		{"later fragment", 44, "1100000800000001", 17, true, true},
		{"cut off", 0, "11ff0104000000", 0, false, false},
		{"unknown", 135, "1100000000000000", 135, false, false},
	} {
		rest, err := hex.DecodeString(test.headers)
		if err != nil {
			t.Fatal(err)
		}
		if test.protocol == 17 {
			rest = append(rest, udp...)
		}
		b := append(appendIP(nil, src, dst, tcpip.TransportProtocolNumber(test.first), len(rest)), rest...)
		p, ok := parse(b, len(b))
		if !ok || int(p.protocol) != test.protocol || p.fragment != test.fragment || p.later != test.later {
			t.Errorf("%s: protocol %d, fragment %t, later %t, %t", test.what, p.protocol, p.fragment, p.later, ok)
		}
		if test.protocol == 17 && !bytes.Equal(p.payload, udp) {
			t.Errorf("%s: payload %x", test.what, p.payload)
		}
	}
}
