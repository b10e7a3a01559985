package tun

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// control deals with ICMP, and with what else no proxy carries.
type control struct {
	server *Server
	errors bucket
	pings  chan struct{} // those under way
	wg     sync.WaitGroup
}

// Bounds of a control: of errors in a second, and at once, which is about what
// Linux has for its own, and of requests whose answer is being found out.
const (
	errorRate  = 100
	errorBurst = 50
	maxPings   = 64
)

func newControl(s *Server) *control { return &control{server: s, pings: make(chan struct{}, maxPings)} }

// bucket bounds how often something happens.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.IsZero() {
		b.tokens = errorBurst
	}
	b.tokens = min(errorBurst, b.tokens+now.Sub(b.last).Seconds()*errorRate)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// packet deals with one of ICMP.
func (c *control) packet(p *packet) {
	s := c.server
	if len(p.payload) == 0 || !single(p.dst) {
		return
	}
	echo := p.src.Is4() && header.ICMPv4Type(p.payload[0]) == header.ICMPv4Echo ||
		p.src.Is6() && header.ICMPv6Type(p.payload[0]) == header.ICMPv6EchoRequest
	if !echo {
		return // errors have no answer, and the rest is for neighbours
	}
	if s.Ping == nil || p.fragment || len(p.payload) < header.ICMPv4MinimumSize {
		c.refuse(p, codeProhibited)
		return
	}
	select {
	case c.pings <- struct{}{}:
	default:
		return
	}
	kept := *p
	kept.bytes = bytes.Clone(p.bytes)
	kept.payload = kept.bytes[len(p.bytes)-len(p.payload):]
	c.wg.Go(func() {
		defer func() { <-c.pings }()
		if s.Ping(s.ctx, kept.src, kept.dst) {
			s.reply(&kept)
		} else {
			c.refuse(&kept, codeProhibited)
		}
	})
}

// refuse says of a packet that it will not be carried, unless errors have been
// many.
func (c *control) refuse(p *packet, code unreachableCode) {
	if single(p.dst) && !p.later && c.errors.take(time.Now()) {
		c.server.unreachable(p.dst, p.src, quote(p), code)
	}
}

// single reports whether an address can be that of one host: there are no errors
// about packets to many.
func single(ip netip.Addr) bool {
	return !ip.IsMulticast() && !ip.IsUnspecified() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// reply answers an echo request.
func (s *Server) reply(p *packet) {
	b := appendIP(nil, p.dst, p.src, p.protocol, len(p.payload))
	at := len(b)
	b = append(b, p.payload...)
	if p.src.Is4() {
		h := header.ICMPv4(b[at:])
		h.SetType(header.ICMPv4EchoReply)
		h.SetChecksum(0)
		h.SetChecksum(header.ICMPv4Checksum(h, 0))
	} else {
		h := header.ICMPv6(b[at:])
		h.SetType(header.ICMPv6EchoReply)
		setChecksum(h, p.dst, p.src)
	}
	s.link.send(vnetHeader{}, b)
}

func setChecksum(h header.ICMPv6, src, dst netip.Addr) {
	h.SetChecksum(0)
	h.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: h, Src: address(src), Dst: address(dst)}))
}

// unreachableCode is the code of an error of the type destination unreachable, in
// ICMP and in ICMPv6.
type unreachableCode struct {
	v4 header.ICMPv4Code
	v6 header.ICMPv6Code
}

var (
	codeNetwork    = unreachableCode{header.ICMPv4NetUnreachable, header.ICMPv6NetworkUnreachable}
	codeHost       = unreachableCode{header.ICMPv4HostUnreachable, header.ICMPv6AddressUnreachable}
	codePort       = unreachableCode{header.ICMPv4PortUnreachable, header.ICMPv6PortUnreachable}
	codeProhibited = unreachableCode{header.ICMPv4AdminProhibited, header.ICMPv6Prohibited}
)

// quote is as much of a packet as an error may have of it: errors are never longer
// than what any network carries (RFC 1812, RFC 4443).
func quote(p *packet) []byte {
	longest := 576 - header.IPv4MinimumSize - header.ICMPv4MinimumSize
	if p.src.Is6() {
		longest = header.IPv6MinimumMTU - header.IPv6MinimumSize - header.ICMPv6DstUnreachableMinimumSize
	}
	return p.bytes[:min(len(p.bytes), longest)]
}

// unreachable sends an ICMP error about a packet, of which it quotes the beginning.
func (s *Server) unreachable(src, dst netip.Addr, quoted []byte, code unreachableCode) {
	if src.Is4() {
		b := appendIP(nil, src, dst, header.ICMPv4ProtocolNumber, header.ICMPv4MinimumSize+len(quoted))
		at := len(b)
		b = append(append(b, make([]byte, header.ICMPv4MinimumSize)...), quoted...)
		h := header.ICMPv4(b[at:])
		h.SetType(header.ICMPv4DstUnreachable)
		h.SetCode(code.v4)
		h.SetChecksum(header.ICMPv4Checksum(h, 0))
		s.link.send(vnetHeader{}, b)
		return
	}
	b := appendIP(nil, src, dst, header.ICMPv6ProtocolNumber, header.ICMPv6DstUnreachableMinimumSize+len(quoted))
	at := len(b)
	b = append(append(b, make([]byte, header.ICMPv6DstUnreachableMinimumSize)...), quoted...)
	h := header.ICMPv6(b[at:])
	h.SetType(header.ICMPv6DstUnreachable)
	h.SetCode(code.v6)
	setChecksum(h, src, dst)
	s.link.send(vnetHeader{}, b)
}
