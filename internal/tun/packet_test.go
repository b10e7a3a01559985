package tun

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"

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

// serverOf is a server that sends, but does not serve.
func serverOf(d *device, mtu int) *Server {
	s := &Server{Device: d, MTU: mtu}
	s.link = &link{wire: newPlainWire(d, 0), mtu: uint32(mtu)}
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
			s := serverOf(d, 65520)
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

// What is too long for the device, or of two families, is not sent.
func TestSendNot(t *testing.T) {
	s := serverOf(new(device), 1500)
	ends := endpoints()
	if s.send(ends[0][0], ends[0][1], make([]byte, 65508)) {
		t.Error("a datagram was sent that is longer than any packet")
	}
	if s.send(ends[0][0], ends[1][1], nil) {
		t.Error("a datagram was sent from IPv4 to IPv6")
	}
}

// An ICMP error quotes the SYN that it is about, once.
func TestUnreachable(t *testing.T) {
	for _, ends := range endpoints() {
		for said, codes := range map[unreachableCode][2]int{codeHost: {1, 3}, codeNetwork: {0, 0}, codePort: {3, 4}} {
			d := new(device)
			s := serverOf(d, 1500)
			syn := segment(ends[1], ends[0], header.TCPFlagSyn)
			p, ok := parse(syn, len(syn))
			if !ok {
				t.Fatal("the SYN is not parsed")
			}
			s.syns.note(&p)
			pair := addrPair{ends[1], ends[0]}
			s.unreachable(ends[0].Addr(), ends[1].Addr(), s.syns.take(pair), said)
			if again := s.syns.take(pair); again != nil {
				t.Errorf("the SYN is quoted twice: %x", again)
			}
			if len(d.written) != 1 {
				t.Fatalf("%d errors were sent, want 1", len(d.written))
			}
			got, ok := parse(d.written[0], len(d.written[0]))
			if !ok || got.src != ends[0].Addr() || got.dst != ends[1].Addr() {
				t.Fatalf("error from %v to %v", got.src, got.dst)
			}
			typ, code, want := int(header.ICMPv4DstUnreachable), codes[0], 8
			if got.src.Is6() {
				typ, code = int(header.ICMPv6DstUnreachable), codes[1]
			}
			if int(got.payload[0]) != typ || int(got.payload[1]) != code || !bytes.Equal(got.payload[want:], syn[:len(syn)-12]) {
				t.Errorf("%v: %x does not say %v of %x", got.src, got.payload, said, syn)
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
	s := serverOf(new(device), 1500)
	if err := s.Serve(); err == nil || errors.Is(err, ErrServerClosed) || !errors.Is(err, io.EOF) {
		t.Errorf("Serve returned %v, want the device's EOF", err)
	}
	if err := s.Serve(); !errors.Is(err, ErrServerClosed) {
		t.Errorf("the second Serve returned %v", err)
	}
}

// Whatever comes from the device, nothing panics.
func FuzzPacket(f *testing.F) {
	for _, ends := range endpoints() {
		d := new(device)
		s := serverOf(d, 1500)
		s.send(ends[0], ends[1], []byte("payload"))
		f.Add(d.written[0])
		f.Add(segment(ends[0], ends[1], header.TCPFlagSyn))
	}
	f.Add([]byte{})
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b, len(b))
		if !ok {
			return
		}
		if src, dst, payload, ok := p.datagram(); ok && (len(payload) > len(b) || !src.IsValid() || !dst.IsValid()) {
			t.Errorf("datagram of %d bytes in %d", len(payload), len(b))
		}
		var s syns
		s.note(&p)
		for _, head := range s.heads {
			if len(head) > len(b) {
				t.Error("more is quoted than there is")
			}
		}
	})
}
