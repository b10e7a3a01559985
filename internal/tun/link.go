package tun

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the device as the stack sees it.
type link struct {
	wire   wire
	header int // length of what is before each packet, 0 for nothing

	mu         sync.RWMutex
	mtu        uint32
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

// MTU implements [stack.LinkEndpoint].
func (l *link) MTU() uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mtu
}

// SetMTU implements [stack.LinkEndpoint].
func (l *link) SetMTU(mtu uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mtu = mtu
}

// Capabilities implements [stack.LinkEndpoint]. What needs to be checked of what
// comes by a device with headers is checked before the stack sees it. The other
// way, it is segments of connections alone that leave without a checksum.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	if l.header == 0 {
		return 0
	}
	return stack.CapabilityRXChecksumOffload
}

// GSOMaxSize implements [stack.GSOEndpoint].
func (l *link) GSOMaxSize() uint32 { return maxPacket }

// SupportedGSO implements [stack.GSOEndpoint].
func (l *link) SupportedGSO() stack.SupportedGSO {
	if l.header == 0 {
		return stack.GSONotSupported
	}
	return stack.HostGSOSupported
}

// Attach implements [stack.LinkEndpoint].
func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = dispatcher
}

// IsAttached implements [stack.LinkEndpoint].
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// inject gives the stack a packet, whose reference it takes.
func (l *link) inject(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	defer pkt.DecRef()
	l.mu.RLock()
	dispatcher := l.dispatcher
	l.mu.RUnlock()
	if dispatcher != nil {
		dispatcher.DeliverNetworkPacket(protocol, pkt)
	}
}

// pieces is a packet as it is written.
type pieces struct {
	header [maxHeader]byte
	parts  [][]byte
}

var piecesPool = sync.Pool{New: func() any { return new(pieces) }}

func (p *pieces) release() {
	clear(p.parts)
	p.parts = p.parts[:0]
	piecesPool.Put(p)
}

// start begins with a header, if the device has any.
func (p *pieces) start(size int, h vnetHeader) {
	if size > 0 {
		clear(p.header[:size])
		h.put(p.header[:])
		p.parts = append(p.parts, p.header[:size])
	}
}

// WritePackets implements [stack.LinkEndpoint]. What the device does not take is
// lost, and TCP sends it again.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range list.AsSlice() {
		p := piecesPool.Get().(*pieces)
		p.start(l.header, vnetFor(pkt))
		views, offset := pkt.AsViewList()
		for v := views.Front(); v != nil; v = v.Next() {
			b := v.AsSlice()
			skip := min(offset, len(b))
			offset -= skip
			if len(b) > skip {
				p.parts = append(p.parts, b[skip:])
			}
		}
		_ = l.wire.write(p.parts)
		p.release()
	}
	return list.Len(), nil
}

// send gives the device a packet that is not of the stack.
func (l *link) send(h vnetHeader, b []byte) bool {
	p := piecesPool.Get().(*pieces)
	defer p.release()
	p.start(l.header, h)
	p.parts = append(p.parts, b)
	return l.wire.write(p.parts) == nil
}

// MaxHeaderLength implements [stack.LinkEndpoint].
func (*link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements [stack.LinkEndpoint].
func (*link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements [stack.LinkEndpoint].
func (*link) SetLinkAddress(tcpip.LinkAddress) {}

// Wait implements [stack.LinkEndpoint].
func (*link) Wait() {}

// ARPHardwareType implements [stack.LinkEndpoint].
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements [stack.LinkEndpoint].
func (*link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements [stack.LinkEndpoint].
func (*link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements [stack.LinkEndpoint].
func (*link) Close() {}

// SetOnCloseAction implements [stack.LinkEndpoint].
func (*link) SetOnCloseAction(func()) {}

// inbound is where packets are read to. What the stack keeps of a packet is
// replaced by fresh memory, and the rest is used again.
type inbound struct {
	header [maxHeader]byte
	views  [len(viewSizes)]*buffer.View
	parts  [][]byte
}

// viewSizes are the pieces that a packet is read to: a small one needs the first
// alone. Together they hold the longest packet. They are sizes of which the stack
// has memory: it would move what follows a piece that is not full.
var viewSizes = [...]int{2 << 10, 16 << 10, 16 << 10, 32 << 10}

// prepare returns memory for a packet and what is before it.
func (in *inbound) prepare(header int) [][]byte {
	in.parts = in.parts[:0]
	if header > 0 {
		in.parts = append(in.parts, in.header[:header])
	}
	for i, size := range viewSizes {
		if in.views[i] == nil {
			in.views[i] = buffer.NewViewSize(size)
		}
		in.parts = append(in.parts, in.views[i].AsSlice())
	}
	return in.parts
}

// take hands over the memory of a packet of n bytes.
func (in *inbound) take(n int) (b buffer.Buffer) {
	for i := range in.views {
		if n <= 0 {
			break
		}
		v := in.views[i]
		in.views[i] = nil
		if n < v.Size() {
			v.CapLength(n)
		}
		n -= v.Size()
		_ = b.Append(v) // it is not nil
	}
	return b
}

// flat returns the n bytes of a packet in one piece, in buf if they are not.
func (in *inbound) flat(n int, buf []byte) []byte {
	if first := in.views[0].AsSlice(); n <= len(first) {
		return first[:n]
	}
	buf = buf[:0]
	for _, v := range in.views {
		b := v.AsSlice()
		b = b[:min(len(b), n-len(buf))]
		buf = append(buf, b...)
	}
	return buf
}

func (in *inbound) release() {
	for i, v := range in.views {
		if v != nil {
			v.Release()
			in.views[i] = nil
		}
	}
}
