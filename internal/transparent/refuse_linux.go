package transparent

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxRefusals bounds the refusals in a second, as the kernel bounds its own ICMP
// messages.
const maxRefusals = 100

// refusals counts those of this second.
type refusals struct {
	mu     sync.Mutex
	second int64
	n      int
}

func (r *refusals) may(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if second := now.Unix(); second != r.second {
		r.second, r.n = second, 0
	}
	r.n++
	return r.n <= maxRefusals
}

// Refuse answers a datagram from src to dst as a closed port would.
func (s *RawSender) Refuse(src, dst netip.AddrPort, payload []byte) {
	if !s.refused.may(time.Now()) {
		return
	}
	packet, err := appendRefusal(nil, src, dst, payload)
	switch {
	case err != nil:
	case src.Addr().Is4():
		_ = unix.Sendto(s.v4, packet, 0, &unix.SockaddrInet4{Addr: src.Addr().As4()}) // or the client waits
	case s.v6 >= 0:
		_ = unix.Sendto(s.v6, packet, 0, &unix.SockaddrInet6{Addr: src.Addr().As16()})
	}
}

// appendRefusal appends an IP packet that says of a datagram that its port is
// unreachable (RFC 792; RFC 4443, section 3.1).
func appendRefusal(b []byte, src, dst netip.AddrPort, payload []byte) ([]byte, error) {
	const most = 512 // more of the datagram is of use to nobody
	original, err := appendDatagram(nil, src, dst, payload)
	if err != nil {
		return nil, err
	}
	if src.Addr().Is4() {
		// In what it quotes of a header the system does not fill anything in.
		binary.BigEndian.PutUint16(original[10:], checksum(original[:20]))
	}
	original = original[:min(len(original), most)]
	message := append(make([]byte, 8, 8+most), original...)
	if src.Addr().Is4() {
		message[0], message[1] = 3, 3 // destination unreachable, port
		binary.BigEndian.PutUint16(message[2:], checksum(message))
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(message)))
		b = append(b, 0, 0, 0, 0, 64, unix.IPPROTO_ICMP, 0, 0)
	} else {
		message[0], message[1] = 1, 4
		pseudo := append(dst.Addr().AsSlice(), src.Addr().AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
		pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
		binary.BigEndian.PutUint16(message[2:], checksum(pseudo, message))
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
		b = append(b, unix.IPPROTO_ICMPV6, 64)
	}
	b = append(b, dst.Addr().AsSlice()...)
	b = append(b, src.Addr().AsSlice()...)
	return append(b, message...), nil
}

// checksum is that of RFC 1071 over parts of which all but the last are even.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, part := range parts {
		for ; len(part) >= 2; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
