package tun

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// vnetHeader is struct virtio_net_hdr of linux/virtio_net.h: what the kernel says
// of a packet, and we to it.
type vnetHeader struct {
	flags      uint8
	gso        uint8
	length     uint16 // of the headers of the packet
	segment    uint16 // data of each packet that this one stands for
	csumStart  uint16
	csumOffset uint16
}

// vnetSize is the length of a vnetHeader. Files may have longer ones, of which
// the rest is zero.
const vnetSize = 10

// maxHeader is the longest one that is understood.
const maxHeader = 64

const (
	vnetNeedsChecksum = 1 // there is only that of the pseudo header
	vnetChecked       = 2 // it is right

	vnetTCP4   = 1
	vnetTCP6   = 4
	vnetUDP    = 5 // datagrams of one length, of which the last may be shorter
	vnetECNBit = 0x80

	udpChecksum = 6 // where it is in the header of UDP
)

// parseVnet reads a header. It reports false for one that is too short.
func parseVnet(b []byte) (h vnetHeader, ok bool) {
	if len(b) < vnetSize {
		return h, false
	}
	native := binary.NativeEndian
	return vnetHeader{
		flags: b[0], gso: b[1] &^ vnetECNBit,
		length: native.Uint16(b[2:]), segment: native.Uint16(b[4:]),
		csumStart: native.Uint16(b[6:]), csumOffset: native.Uint16(b[8:]),
	}, true
}

// put writes the header to b, which is zero.
func (h vnetHeader) put(b []byte) {
	native := binary.NativeEndian
	b[0], b[1] = h.flags, h.gso
	native.PutUint16(b[2:], h.length)
	native.PutUint16(b[4:], h.segment)
	native.PutUint16(b[6:], h.csumStart)
	native.PutUint16(b[8:], h.csumOffset)
}

// vnetFor returns what to say of a packet of the stack.
func vnetFor(pkt *stack.PacketBuffer) (h vnetHeader) {
	gso := pkt.GSOOptions
	if gso.Type == stack.GSONone {
		return h
	}
	h.length = uint16(pkt.HeaderSize())
	if gso.NeedsCsum {
		h.flags, h.csumStart, h.csumOffset = vnetNeedsChecksum, gso.L3HdrLen, gso.CsumOffset
	}
	if pkt.Data().Size() > int(gso.MSS) {
		h.gso, h.segment = vnetTCP4, gso.MSS
		if gso.Type == stack.GSOTCPv6 {
			h.gso = vnetTCP6
		}
	}
	return h
}

// vnetDatagram returns what to say of a datagram that has the checksum of its
// pseudo header only.
func vnetDatagram(ipSize int) vnetHeader {
	return vnetHeader{flags: vnetNeedsChecksum, csumStart: uint16(ipSize), csumOffset: udpChecksum}
}
