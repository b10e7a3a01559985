package tun

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// packet is one of the device, of a protocol above IP.
type packet struct {
	bytes    []byte // as much as is in one piece
	size     int    // of the whole
	network  tcpip.NetworkProtocolNumber
	protocol tcpip.TransportProtocolNumber
	src, dst netip.Addr
	payload  []byte // what bytes has after the headers of IP

	fragment bool // of a packet, the first of them too
	later    bool // not the first: there is no header in the payload
	extended bool // there are headers of IPv6 between its own and the payload's
}

// parse reads the headers of IP of a packet of size bytes, of which b is as much
// as is in one piece. It reports false for what is no packet.
func parse(b []byte, size int) (p packet, ok bool) {
	p.bytes, p.size = b, size
	switch header.IPVersion(b) {
	case header.IPv4Version:
		h := header.IPv4(b)
		if len(b) < header.IPv4MinimumSize || !h.IsValid(size) || int(h.HeaderLength()) > len(b) {
			return p, false
		}
		p.network, p.protocol = header.IPv4ProtocolNumber, h.TransportProtocol()
		p.src, p.dst = netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
		p.fragment, p.later = h.More() || h.FragmentOffset() != 0, h.FragmentOffset() != 0
		p.payload = b[h.HeaderLength():min(int(h.TotalLength()), len(b))]
	case header.IPv6Version:
		h := header.IPv6(b)
		if len(b) < header.IPv6MinimumSize || !h.IsValid(size) {
			return p, false
		}
		p.network, p.protocol = header.IPv6ProtocolNumber, tcpip.TransportProtocolNumber(h.NextHeader())
		p.src, p.dst = netip.AddrFrom16(h.SourceAddress().As16()), netip.AddrFrom16(h.DestinationAddress().As16())
		p.payload = b[header.IPv6MinimumSize:min(header.IPv6MinimumSize+int(h.PayloadLength()), len(b))]
		p.extensions()
	default:
		return p, false
	}
	return p, true
}

// extensions passes over headers of IPv6 as far as they can be read.
func (p *packet) extensions() {
	const unit = 8
	for {
		length := unit
		switch header.IPv6ExtensionHeaderIdentifier(p.protocol) {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier,
			header.IPv6DestinationOptionsExtHdrIdentifier:
			if len(p.payload) > 1 {
				length += unit * int(p.payload[1])
			}
		case header.IPv6FragmentExtHdrIdentifier:
			p.fragment = true
		default:
			return
		}
		if len(p.payload) < length {
			return // the protocol is then one that nobody serves
		}
		if p.fragment {
			p.later = binary.BigEndian.Uint16(p.payload[2:])>>3 != 0
		}
		p.protocol, p.payload, p.extended = tcpip.TransportProtocolNumber(p.payload[0]), p.payload[length:], true
		if p.later {
			return
		}
	}
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

// send gives a datagram to the device. The kernel takes those that are longer
// than the MTU, which is for what it sends.
func (s *Server) send(src, dst netip.AddrPort, payload []byte) bool {
	length := header.UDPMinimumSize + len(payload)
	if src.Addr().Is4() != dst.Addr().Is4() || ipSize(src.Addr())+length > maxPacket {
		return false
	}
	p := bufs.Get().(*[]byte)
	defer bufs.Put(p)
	b := appendIP((*p)[:0], src.Addr(), dst.Addr(), header.UDPProtocolNumber, length)
	at := len(b)
	b = append(b, make([]byte, header.UDPMinimumSize)...)
	b = append(b, payload...)
	*p = b
	h := header.UDP(b[at:])
	h.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(length)})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src.Addr()), address(dst.Addr()), uint16(length))
	if s.Header > 0 {
		h.SetChecksum(sum)
		return s.link.send(vnetDatagram(at), b)
	}
	sum = ^h.CalculateChecksum(checksum.Checksum(payload, sum))
	if sum == 0 {
		sum = 0xffff // 0 stands for none (RFC 768)
	}
	h.SetChecksum(sum)
	return s.link.send(vnetHeader{}, b)
}

func address(ip netip.Addr) tcpip.Address {
	if ip.Is4() {
		return tcpip.AddrFrom4(ip.As4())
	}
	return tcpip.AddrFrom16(ip.As16())
}

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
