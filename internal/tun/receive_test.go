package tun

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/argyle-socks/argyle"
)

// queueDevice gives the packets of a channel, and keeps what is written.
type queueDevice struct {
	in     chan []byte
	taken  chan struct{} // after each packet, when it has been dealt with
	closed chan struct{}
	once   sync.Once
	first  bool

	mu      sync.Mutex
	written [][]byte
	wrote   chan struct{}
}

func newQueueDevice() *queueDevice {
	return &queueDevice{
		in: make(chan []byte), taken: make(chan struct{}), closed: make(chan struct{}), wrote: make(chan struct{}, 1),
	}
}

func (d *queueDevice) Read(b []byte) (int, error) {
	if d.first {
		select {
		case d.taken <- struct{}{}:
		case <-d.closed:
			return 0, io.ErrClosedPipe
		}
	}
	d.first = true
	select {
	case p := <-d.in:
		return copy(b, p), nil
	case <-d.closed:
		return 0, io.ErrClosedPipe
	}
}

func (d *queueDevice) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written = append(d.written, bytes.Clone(b))
	select {
	case d.wrote <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (d *queueDevice) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// put has a packet dealt with.
func (d *queueDevice) put(b []byte) {
	d.in <- b
	<-d.taken
}

// next waits for a packet that is written.
func (d *queueDevice) next() []byte {
	for {
		d.mu.Lock()
		if len(d.written) > 0 {
			b := d.written[0]
			d.written = d.written[1:]
			d.mu.Unlock()
			return b
		}
		d.mu.Unlock()
		<-d.wrote
	}
}

// startServer serves a device until the test ends. What is received is in got.
func startServer(t testing.TB, change func(*Server)) (d *queueDevice, got func() []argyle.Datagram) {
	t.Helper()
	d = newQueueDevice()
	datagrams := make(chan argyle.Datagram, 100)
	s := &Server{Device: d, MTU: 1500, Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		if call.Request().Command != argyle.Associate {
			call.Reject(argyle.ErrNotAllowed)
			return
		}
		conn, err := call.AcceptPacket()
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			err := conn.(argyle.BatchConn).ReadBatch(func(ds []argyle.Datagram) {
				for _, one := range ds {
					one.Payload = bytes.Clone(one.Payload)
					select {
					case datagrams <- one:
					default: // the test has enough
					}
				}
			})
			if err != nil {
				return
			}
		}
	})}
	if change != nil {
		change(s)
	}
	done := make(chan error)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return d, func() (all []argyle.Datagram) {
		all = append(all, <-datagrams)
		for len(datagrams) > 0 {
			all = append(all, <-datagrams)
		}
		return all
	}
}

// datagram is a packet of UDP.
func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	d := new(device)
	newTestServer(d, 0).send(src, dst, payload)
	return d.written[0]
}

// fragments cuts a packet of IPv4 in pieces of at most size bytes of data.
func fragments(b []byte, size int) (all [][]byte) {
	size &^= 7
	data := b[header.IPv4MinimumSize:]
	for at := 0; at < len(data); at += size {
		end := min(at+size, len(data))
		one := append(bytes.Clone(b[:header.IPv4MinimumSize]), data[at:end]...)
		h := header.IPv4(one)
		h.SetTotalLength(uint16(len(one)))
		h.SetID(7)
		flags := uint8(0)
		if end < len(data) {
			flags = header.IPv4FlagMoreFragments
		}
		h.SetFlagsFragmentOffset(flags, uint16(at))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		all = append(all, one)
	}
	return all
}

// A datagram in fragments is put together.
func TestFragments(t *testing.T) {
	ends := endpoints()[0]
	d, got := startServer(t, nil)
	payload := bytes.Repeat([]byte("0123456789"), 700)
	for _, one := range fragments(datagram(ends[1], ends[0], payload), 1480) {
		d.put(one)
	}
	if all := got(); len(all) != 1 || !bytes.Equal(all[0].Payload, payload) || all[0].Addr.AddrPort() != ends[0] {
		t.Errorf("%d datagrams, the first %d bytes to %v", len(all), len(all[0].Payload), all[0].Addr)
	}
}

// One packet may stand for many datagrams.
func TestSegments(t *testing.T) {
	for _, ends := range endpoints() {
		d, got := startServer(t, func(s *Server) { s.Header = 12 })
		head := make([]byte, 12)
		vnetHeader{flags: vnetNeedsChecksum, gso: vnetUDP, segment: 1000}.put(head)
		d.put(append(bytes.Clone(head), datagram(ends[1], ends[0], make([]byte, 2500))...))
		var sizes []int
		for len(sizes) < 3 {
			for _, one := range got() {
				sizes = append(sizes, len(one.Payload))
			}
		}
		if len(sizes) != 3 || sizes[0] != 1000 || sizes[1] != 1000 || sizes[2] != 500 {
			t.Errorf("datagrams of %v bytes", sizes)
		}
	}
}

// A segment whose checksum nobody vouches for is looked at.
func TestChecksum(t *testing.T) {
	for _, ends := range endpoints() {
		d, _ := startServer(t, func(s *Server) { s.Header = vnetSize })
		syn := segment(ends[1], ends[0], header.TCPFlagSyn)
		put := func(flags uint8) {
			head := make([]byte, vnetSize)
			vnetHeader{flags: flags}.put(head)
			d.put(append(bytes.Clone(head), syn...))
		}
		put(0) // dropped
		h := header.TCP(syn[ipSize(ends[0].Addr()):])
		sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, address(ends[1].Addr()), address(ends[0].Addr()), uint16(len(h)))
		h.SetSourcePort(40001)
		h.SetChecksum(^checksum.Checksum(h, sum))
		put(0) // right
		p, ok := parse(d.next()[vnetSize:], 40+ipSize(ends[0].Addr())-20)
		if !ok {
			t.Fatal("no answer to the right one")
		}
		if answer := header.TCP(p.payload); answer.DestinationPort() != 40001 || answer.Flags()&header.TCPFlagRst == 0 {
			t.Errorf("the first answer is %v to port %d", answer.Flags(), answer.DestinationPort())
		}
		h.SetSourcePort(40002)
		put(vnetNeedsChecksum) // not there, nor needed
		p, _ = parse(d.next()[vnetSize:], 40+ipSize(ends[0].Addr())-20)
		if answer := header.TCP(p.payload); answer.DestinationPort() != 40002 {
			t.Errorf("an answer to port %d", answer.DestinationPort())
		}
	}
}

// What the way has not is refused as by a closed port.
func TestRejectUDP(t *testing.T) {
	for _, ends := range endpoints() {
		d, _ := startServer(t, func(s *Server) { s.RejectUDP = true })
		question := datagram(ends[1], ends[0], []byte("hello"))
		d.put(question)
		answered(t, d.next(), question, codePort)
	}
}

// answered sees that an error is about a packet.
func answered(t *testing.T, got, about []byte, code unreachableCode) {
	t.Helper()
	p, ok := parse(got, len(got))
	if !ok || len(p.payload) < 8 {
		t.Fatalf("the answer is %x", got)
	}
	want := []byte{byte(header.ICMPv4DstUnreachable), byte(code.v4)}
	if p.src.Is6() {
		want = []byte{byte(header.ICMPv6DstUnreachable), byte(code.v6)}
	}
	if !bytes.Equal(p.payload[:2], want) || !bytes.HasPrefix(about, p.payload[8:]) {
		t.Errorf("the answer is %x, want type and code %x, about %x", p.payload, want, about)
	}
}

// echoRequest is one of ICMP or ICMPv6.
func echoRequest(src, dst netip.Addr) []byte {
	protocol, kind := header.ICMPv4ProtocolNumber, byte(header.ICMPv4Echo)
	if src.Is6() {
		protocol, kind = header.ICMPv6ProtocolNumber, byte(header.ICMPv6EchoRequest)
	}
	return append(appendIP(nil, src, dst, protocol, 12), kind, 0, 0, 0, 0, 1, 0, 2, 'p', 'i', 'n', 'g')
}

// Echo requests are answered where that has been allowed, and nowhere else.
func TestPing(t *testing.T) {
	for _, ends := range endpoints() {
		src, dst := ends[1].Addr(), ends[0].Addr()
		other := dst.Next()
		d, _ := startServer(t, func(s *Server) {
			s.Ping = func(_ context.Context, client, dest netip.Addr) bool { return client == src && dest == dst }
		})
		d.put(echoRequest(src, dst))
		reply := d.next()
		p, ok := parse(reply, len(reply))
		if !ok || p.src != dst || p.dst != src || !bytes.Equal(p.payload[4:], []byte{0, 1, 0, 2, 'p', 'i', 'n', 'g'}) {
			t.Fatalf("the answer is %x", reply)
		}
		if dst.Is4() {
			if h := header.ICMPv4(p.payload); h.Type() != header.ICMPv4EchoReply || checksum.Checksum(p.payload, 0) != 0xffff {
				t.Errorf("the answer is %x", p.payload)
			}
		} else {
			sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, address(dst), address(src), uint16(len(p.payload)))
			if h := header.ICMPv6(p.payload); h.Type() != header.ICMPv6EchoReply || checksum.Checksum(p.payload, sum) != 0xffff {
				t.Errorf("the answer is %x", p.payload)
			}
		}
		request := echoRequest(src, other)
		d.put(request)
		answered(t, d.next(), request, codeProhibited)
	}
}

// Other protocols are refused, so that nobody waits; what is for many, or is an
// error itself, gets no answer; and there is an end to errors.
func TestRefused(t *testing.T) {
	for _, ends := range endpoints() {
		src, dst := ends[1].Addr(), ends[0].Addr()
		d, _ := startServer(t, nil)
		gre := append(appendIP(nil, src, dst, 47, 8), make([]byte, 8)...)
		many := netip.MustParseAddr("224.0.0.1")
		failure := append(appendIP(nil, src, dst, header.ICMPv4ProtocolNumber, 8), 3, 1, 0, 0, 0, 0, 0, 0)
		if src.Is6() {
			many = netip.MustParseAddr("ff02::1")
			failure = append(appendIP(nil, src, dst, header.ICMPv6ProtocolNumber, 8), 1, 3, 0, 0, 0, 0, 0, 0)
		}
		d.put(append(appendIP(nil, src, many, 47, 8), make([]byte, 8)...))
		d.put(failure)
		for range 10 * errorBurst {
			d.put(gre)
		}
		answered(t, d.next(), gre, codeProhibited)
		d.mu.Lock()
		if n := len(d.written); n < errorBurst-1 || n > 5*errorBurst {
			t.Errorf("%d errors, want about %d", n, errorBurst)
		}
		d.mu.Unlock()
	}
}

// When it drains, what is new is refused.
func TestDrain(t *testing.T) {
	ends := endpoints()[0]
	var server *Server
	d, got := startServer(t, func(s *Server) { server = s })
	hello := datagram(ends[1], ends[0], []byte("hello"))
	d.put(hello)
	got()
	if err := server.Drain(); err != nil {
		t.Fatal(err)
	}
	d.put(hello) // the first one may still be taken
	d.put(hello)
	answered(t, d.next(), hello, codePort)
	syn := segment(ends[1], ends[0], header.TCPFlagSyn)
	h := header.TCP(syn[header.IPv4MinimumSize:])
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, address(ends[1].Addr()), address(ends[0].Addr()), uint16(len(h)))
	h.SetChecksum(^checksum.Checksum(h, sum))
	d.put(syn)
	for {
		b := d.next()
		if p, _ := parse(b, len(b)); p.protocol == header.TCPProtocolNumber {
			if flags := header.TCP(p.payload).Flags(); flags&header.TCPFlagRst == 0 {
				t.Errorf("a new connection is answered with %v", flags)
			}
			return
		}
	}
}

// What a packet is read to holds any, and gives it back as it was.
func TestInbound(t *testing.T) {
	in := new(inbound)
	defer in.release()
	for _, size := range []int{1, 20, 2047, 2048, 2049, 18 << 10, 40000, maxPacket} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i * 7)
		}
		rest := append([]byte("headheadhead"), want...)
		for _, part := range in.prepare(12) {
			rest = rest[copy(part, rest):]
		}
		if len(rest) > 0 || !bytes.Equal(in.flat(size, nil), want) {
			t.Errorf("%d bytes: %d are left over", size, len(rest))
		}
		b := in.take(size)
		if !bytes.Equal(b.Flatten(), want) {
			t.Errorf("%d bytes are others now", size)
		}
		b.Release()
	}
}

// Whatever comes from a device, with a header before it or without, nothing panics,
// and the next packet is read.
func FuzzReceive(f *testing.F) {
	for _, ends := range endpoints() {
		head := make([]byte, vnetSize)
		vnetHeader{flags: vnetNeedsChecksum, gso: vnetUDP, segment: 3}.put(head)
		f.Add(datagram(ends[0], ends[1], []byte("payload")), false)
		f.Add(append(bytes.Clone(head), datagram(ends[0], ends[1], []byte("payload"))...), true)
		f.Add(segment(ends[0], ends[1], header.TCPFlagSyn), false)
		f.Add(append(make([]byte, vnetSize), segment(ends[0], ends[1], header.TCPFlagAck)...), true)
		f.Add(echoRequest(ends[0].Addr(), ends[1].Addr()), false)
	}
	for _, one := range fragments(datagram(endpoints()[0][0], endpoints()[0][1], make([]byte, 100)), 64) {
		f.Add(one, false)
	}
	f.Add([]byte{}, true)
	f.Add([]byte{0x45}, false)
	ping := func(context.Context, netip.Addr, netip.Addr) bool { return true }
	plain, _ := startServer(f, func(s *Server) { s.Ping = ping })
	headed, _ := startServer(f, func(s *Server) { s.Ping, s.Header = ping, vnetSize })
	f.Fuzz(func(_ *testing.T, b []byte, header bool) {
		d := plain
		if header {
			d = headed
		}
		if len(b) == 0 {
			b = []byte{0} // a device gives no empty packet
		}
		d.put(b)
		d.mu.Lock()
		d.written = nil
		d.mu.Unlock()
	})
}
