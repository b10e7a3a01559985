package transparent

import (
	"encoding/binary"
	"net/netip"
)

// Messages of nfnetlink_queue, the protocol of NFQUEUE. Headers are in the
// machine's byte order, numbers in attributes in the network's.
const (
	subsysQueue = 3 << 8 // NFNL_SUBSYS_QUEUE

	msgPacket  = subsysQueue     // NFQNL_MSG_PACKET
	msgVerdict = subsysQueue | 1 // NFQNL_MSG_VERDICT
	msgConfig  = subsysQueue | 2 // NFQNL_MSG_CONFIG

	attrPacketHdr  = 1  // NFQA_PACKET_HDR
	attrVerdictHdr = 2  // NFQA_VERDICT_HDR
	attrMark       = 3  // NFQA_MARK
	attrPayload    = 10 // NFQA_PAYLOAD

	flagRequest = 1 // NLM_F_REQUEST
	flagAck     = 4 // NLM_F_ACK

	headerSize = 16 // struct nlmsghdr
	familySize = 4  // struct nfgenmsg
	attrSize   = 4  // struct nlattr
)

// queued is a packet that waits for a verdict.
type queued struct {
	queue  uint16
	id     uint32
	packet []byte // from the IP header on, cut short
}

// nextMessage takes a netlink message off b. It reports false at the end, and
// for what is not whole.
func nextMessage(b []byte) (kind uint16, body, rest []byte, ok bool) {
	if len(b) < headerSize {
		return 0, nil, nil, false
	}
	n := int64(binary.NativeEndian.Uint32(b))
	if n < headerSize || n > int64(len(b)) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(b[4:]), b[headerSize:n], b[min(align(int(n)), len(b)):], true
}

// parseQueued reads the body of an NFQNL_MSG_PACKET. It reports false for one
// that cannot even be given a verdict.
func parseQueued(b []byte) (q queued, ok bool) {
	if len(b) < familySize {
		return q, false
	}
	q.queue = binary.BigEndian.Uint16(b[2:])
	for b = b[familySize:]; len(b) >= attrSize; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < attrSize || n > len(b) {
			return q, false
		}
		switch value := b[attrSize:n]; binary.NativeEndian.Uint16(b[2:]) & 0x3fff { // without NLA_F_NESTED and the like
		case attrPacketHdr:
			if len(value) < 4 {
				return q, false
			}
			q.id, ok = binary.BigEndian.Uint32(value), true
		case attrPayload:
			q.packet = value
		}
		b = b[min(align(n), len(b)):]
	}
	return q, ok
}

// align rounds up to the 4 bytes of netlink.
func align(n int) int { return (n + 3) &^ 3 }

// appendVerdict appends an NFQNL_MSG_VERDICT.
func appendVerdict(b []byte, queue uint16, id uint32, v verdict) []byte {
	start := len(b)
	b = appendHeader(b, msgVerdict, flagRequest, queue)
	b = appendAttr(b, attrVerdictHdr, 8)
	b = binary.BigEndian.AppendUint32(b, v.code)
	b = binary.BigEndian.AppendUint32(b, id)
	if v.mark != 0 {
		b = appendAttr(b, attrMark, 4)
		b = binary.BigEndian.AppendUint32(b, v.mark)
	}
	return finish(b, start)
}

// appendHeader appends struct nlmsghdr, of a length that finish fills in, and
// struct nfgenmsg.
func appendHeader(b []byte, kind, flags, queue uint16) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number, port
	b = append(b, 0, 0)                   // AF_UNSPEC, NFNETLINK_V0
	return binary.BigEndian.AppendUint16(b, queue)
}

func appendAttr(b []byte, kind uint16, size int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrSize+size))
	return binary.NativeEndian.AppendUint16(b, kind)
}

// finish pads the message that begins at start and sets its length.
func finish(b []byte, start int) []byte {
	for len(b)%4 != start%4 {
		b = append(b, 0)
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// synPacket is what identifies one attempt to connect. A SYN that is sent
// again has the same sequence number; a new attempt from the same port has
// another.
type synPacket struct {
	pair
	seq uint32
}

// pair is the two ends of a connection.
type pair struct {
	client, dest netip.AddrPort
}

const (
	protoTCP = 6
	protoUDP = 17

	tcpHeader = 20
	flagsSYN  = 0x02
	flagsMask = 0x17 // FIN, SYN, RST, ACK
)

// parseSYN reads an IP packet. It reports false for all but a whole TCP header
// of a SYN right behind an IP header.
func parseSYN(b []byte) (p synPacket, ok bool) {
	if len(b) == 0 {
		return p, false
	}
	var src, dst netip.Addr
	var tcp []byte
	switch b[0] >> 4 {
	case 4:
		size := int(b[0]&0xf) * 4
		fragment := len(b) >= 20 && binary.BigEndian.Uint16(b[6:])&0x1fff != 0
		if size < 20 || len(b) < size || b[9] != protoTCP || fragment {
			return p, false
		}
		src, dst, tcp = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[size:]
	case 6:
		if len(b) < 40 || b[6] != protoTCP {
			return p, false
		}
		src, dst, tcp = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	}
	if len(tcp) < tcpHeader || tcp[13]&flagsMask != flagsSYN {
		return p, false
	}
	p.client = plain(netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)))
	p.dest = plain(netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])))
	p.seq = binary.BigEndian.Uint32(tcp[4:])
	return p, true
}
