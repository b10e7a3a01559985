package tun

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// receiveFunc takes a datagram, of which it keeps nothing.
type receiveFunc func(src, dst netip.AddrPort, payload []byte)

// receiver reads the packets of the device, in one goroutine.
type receiver struct {
	server  *Server
	in      inbound
	flat    []byte      // for a packet in one piece
	receive receiveFunc // during a read; nil if there are no datagrams any more
}

// read deals with the next packet of the device.
func (r *receiver) read(receive receiveFunc) error {
	size := r.server.Header
	n, err := r.server.link.wire.read(r.in.prepare(size))
	if err != nil {
		return fmt.Errorf("read from the tun device: %w", err)
	}
	var h vnetHeader
	if size > 0 {
		var ok bool
		if h, ok = parseVnet(r.in.header[:min(n, size)]); !ok {
			return nil
		}
	}
	if n -= size; n > 0 {
		r.receive = receive
		r.packet(h, n)
	}
	return nil
}

// packet deals with one packet of n bytes, which has been read.
func (r *receiver) packet(h vnetHeader, n int) {
	s := r.server
	first := r.in.views[0].AsSlice()
	p, ok := parse(first[:min(n, len(first))], n)
	if !ok {
		return
	}
	switch p.protocol {
	case header.UDPProtocolNumber:
		if p.fragment || p.extended {
			r.inject(&p)
			return
		}
		r.udp(h, n)
	case header.TCPProtocolNumber:
		if !p.fragment && !p.extended && h.flags&(vnetNeedsChecksum|vnetChecked) == 0 && s.Header > 0 && !r.checked(&p) {
			return
		}
		s.syns.note(&p)
		r.inject(&p)
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		p, _ = parse(r.in.flat(n, r.scratch()), n)
		s.control.packet(&p)
	default:
		s.control.refuse(&p, codeProhibited)
	}
}

// scratch returns memory for a packet in one piece.
func (r *receiver) scratch() []byte {
	if r.flat == nil {
		r.flat = make([]byte, 0, maxPacket)
	}
	return r.flat
}

// inject gives the packet that was read to the stack.
func (r *receiver) inject(p *packet) {
	r.server.link.inject(p.network, stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: r.in.take(p.size)}))
}

// udp deals with the datagram, or those of one length, that were read.
func (r *receiver) udp(h vnetHeader, n int) {
	p, _ := parse(r.in.flat(n, r.scratch()), n)
	src, dst, payload, ok := p.datagram()
	if !ok {
		return
	}
	if s := r.server; r.receive == nil || s.RejectUDP && (dst.Port() != 53 || s.DNS == nil) {
		s.control.refuse(&p, codePort)
		return
	}
	if h.gso == vnetUDP && h.segment > 0 {
		for step := int(h.segment); len(payload) > step; payload = payload[step:] {
			r.receive(src, dst, payload[:step])
		}
	}
	r.receive(src, dst, payload)
}

// reassembled takes a datagram that came in fragments. The stack calls it while it
// is given the last of them.
func (r *receiver) reassembled(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	pair := pair(id)
	payload := pkt.Data().AsRange().ToSlice()
	if h := header.UDP(pkt.TransportHeader().Slice()); len(h) >= header.UDPMinimumSize {
		payload = payload[:min(len(payload), max(0, int(h.Length())-header.UDPMinimumSize))]
	}
	if r.receive == nil || r.server.RejectUDP {
		return false // the stack says so
	}
	r.receive(pair.src, pair.dst, payload)
	return true
}

// checked reports whether a segment has the right checksum. Those that are made on
// this host need none.
func (r *receiver) checked(p *packet) bool {
	flat, _ := parse(r.in.flat(p.size, r.scratch()), p.size)
	length := uint16(len(flat.payload))
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, address(p.src), address(p.dst), length)
	return checksum.Checksum(flat.payload, sum) == 0xffff
}
