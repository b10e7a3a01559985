package tun

import (
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// packet is one of the device, of a protocol above IP.
type packet struct {
	bytes    []byte // all of it
	network  tcpip.NetworkProtocolNumber
	protocol tcpip.TransportProtocolNumber
	src, dst netip.Addr
	payload  []byte // without the header of IP
}

// parse reads the header of IP. Fragments and packets of IPv6 with headers between
// those of IPv6 and of TCP or UDP are of no use here: it reports false for them,
// and for what is no packet.
func parse(b []byte) (p packet, ok bool) {
	p.bytes = b
	switch header.IPVersion(b) {
	case header.IPv4Version:
		h := header.IPv4(b)
		if len(b) < header.IPv4MinimumSize || !h.IsValid(len(b)) || h.More() || h.FragmentOffset() != 0 {
			return p, false
		}
		p.network, p.protocol = header.IPv4ProtocolNumber, h.TransportProtocol()
		p.src, p.dst = netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
		p.payload = h.Payload()
	case header.IPv6Version:
		h := header.IPv6(b)
		if len(b) < header.IPv6MinimumSize || !h.IsValid(len(b)) {
			return p, false
		}
		p.network, p.protocol = header.IPv6ProtocolNumber, tcpip.TransportProtocolNumber(h.NextHeader())
		p.src, p.dst = netip.AddrFrom16(h.SourceAddress().As16()), netip.AddrFrom16(h.DestinationAddress().As16())
		p.payload = h.Payload()
	default:
		return p, false
	}
	return p, true
}

// datagram reads the header of UDP.
func (p *packet) datagram() (src, dst netip.AddrPort, payload []byte, ok bool) {
	if len(p.payload) < header.UDPMinimumSize {
		return src, dst, nil, false
	}
	h := header.UDP(p.payload)
	length := int(h.Length())
	if length < header.UDPMinimumSize || length > len(p.payload) {
		return src, dst, nil, false
	}
	src = netip.AddrPortFrom(p.src, h.SourcePort())
	dst = netip.AddrPortFrom(p.dst, h.DestinationPort())
	return src, dst, p.payload[header.UDPMinimumSize:length], true
}

// bufs holds packets that are made.
var bufs = sync.Pool{New: func() any { return new([]byte) }}

// send gives a datagram to the device.
func (s *Server) send(src, dst netip.AddrPort, payload []byte) bool {
	if src.Addr().Is4() != dst.Addr().Is4() {
		return false
	}
	size := ipSize(src.Addr()) + header.UDPMinimumSize + len(payload)
	if size > s.MTU {
		return false
	}
	p := bufs.Get().(*[]byte)
	defer bufs.Put(p)
	b := appendIP((*p)[:0], src.Addr(), dst.Addr(), header.UDPProtocolNumber, header.UDPMinimumSize+len(payload))
	at := len(b)
	b = append(b, make([]byte, header.UDPMinimumSize)...)
	b = append(b, payload...)
	*p = b
	h := header.UDP(b[at:])
	h.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(h))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src.Addr()), address(dst.Addr()), uint16(len(h)))
	sum = ^h.CalculateChecksum(checksum.Checksum(payload, sum))
	if sum == 0 {
		sum = 0xffff // 0 stands for none (RFC 768)
	}
	h.SetChecksum(sum)
	_, err := s.Device.Write(b)
	return err == nil
}

func address(ip netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(ip.AsSlice()) }

func ipSize(ip netip.Addr) int {
	if ip.Is4() {
		return header.IPv4MinimumSize
	}
	return header.IPv6MinimumSize
}

// appendIP appends the header of a packet with so many bytes after it.
func appendIP(b []byte, src, dst netip.Addr, protocol tcpip.TransportProtocolNumber, length int) []byte {
	const hops = 64
	at := len(b)
	b = append(b, make([]byte, ipSize(src))...)
	if !src.Is4() {
		header.IPv6(b[at:]).Encode(&header.IPv6Fields{
			PayloadLength: uint16(length), TransportProtocol: protocol, HopLimit: hops,
			SrcAddr: address(src), DstAddr: address(dst),
		})
		return b
	}
	h := header.IPv4(b[at:])
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + length), TTL: hops, Protocol: uint8(protocol),
		SrcAddr: address(src), DstAddr: address(dst),
	})
	h.SetChecksum(^h.CalculateChecksum())
	return b
}
