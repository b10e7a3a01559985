package transparent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/udp"
)

// servePackets runs s on a socket of loopback, and returns its address.
func servePackets(t *testing.T, s *PacketServer) string {
	t.Helper()
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(sock) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; err != ErrServerClosed {
			t.Errorf("server ended: %v", err)
		}
	})
	return sock.LocalAddr().String()
}

func dialUDP(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// ask sends a datagram and returns the answer.
func ask(t *testing.T, conn net.Conn, msg string) string {
	t.Helper()
	b := make([]byte, 100)
	if _, err := conn.Write([]byte(msg)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// A port that stands for one destination: each client has a call, and hears
// nobody else.
func TestFixedPackets(t *testing.T) {
	dest := argyle.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 53}
	addr := servePackets(t, &PacketServer{Dest: dest, Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		conn, _ := call.AcceptPacket()
		defer conn.Close()
		b := make([]byte, 100)
		for {
			n, to, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if to != net.Addr(dest) {
				t.Errorf("a datagram to %v", to)
			}
			conn.WriteTo([]byte("from a stranger"), argyle.Addr{IP: dest.IP, Port: 54})
			conn.WriteTo(append(b[:n], " for "+call.Request().Client.String()...), to)
		}
	})})
	for range 3 {
		conn := dialUDP(t, addr)
		for _, msg := range []string{"one", "two"} {
			if got, want := ask(t, conn, msg), msg+" for "+conn.LocalAddr().String(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
}

// Datagrams that come while a handler is busy wait, in order, within bounds.
func TestQueueOfFlow(t *testing.T) {
	s := &PacketServer{Dest: argyle.Addr{Name: "a.test", Port: 1}}
	f := newFlow(s, flowKey{})
	defer f.idle.Stop()
	for i := range maxFlowPackets + 5 {
		if ok := f.put(packet{payload: fmt.Append(nil, i)}, argyle.Addr{Name: "a.test", Port: uint16(i)}); ok != (i < maxFlowPackets) {
			t.Fatalf("datagram %d: %v", i, ok)
		}
	}
	b := make([]byte, 10)
	next := 0
	check := func(payload []byte, addr net.Addr) {
		if string(payload) != fmt.Sprint(next) || addr != net.Addr(argyle.Addr{Name: "a.test", Port: uint16(next)}) {
			t.Fatalf("datagram %d: %q to %v", next, payload, addr)
		}
		next++
	}
	for range 3 {
		n, addr, err := f.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		check(b[:n], addr)
	}
	f.ReadBatch(func(ds []argyle.Datagram) {
		for _, d := range ds {
			check(d.Payload, d.Addr)
		}
	})
	if next != maxFlowPackets || s.queued.Load() != 0 {
		t.Errorf("read %d, %d bytes still wait", next, s.queued.Load())
	}
	for range maxFlowQueue / 60000 {
		if !f.put(packet{payload: make([]byte, 60000)}, argyle.Addr{}) {
			t.Error("no room")
		}
	}
	if f.put(packet{payload: make([]byte, 60000)}, argyle.Addr{}) {
		t.Error("room without end")
	}
}

func TestFlowDeadline(t *testing.T) {
	s := new(PacketServer)
	f := newFlow(s, flowKey{})
	defer f.idle.Stop()
	f.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, _, err := f.ReadFrom(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	f.SetReadDeadline(time.Time{})
	ended := make(chan error, 1)
	go func() {
		_, _, err := f.ReadFrom(nil)
		ended <- err
	}()
	f.SetDeadline(time.Unix(1, 0))
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

// The client that has been silent for longest makes room, but one address does
// not drive out the others.
func TestMakeRoom(t *testing.T) {
	s := &PacketServer{MaxClients: 4, Handler: argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		call.AcceptPacket()
		<-ctx.Done()
	})}
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	s.begin(sock)
	defer s.end()
	for _, client := range []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:2", "10.0.0.1:1", "10.0.0.2:3", "10.0.0.2:4", "10.0.0.2:5", "10.0.0.3:1"} {
		s.deal(packet{src: netip.MustParseAddrPort(client), dst: netip.MustParseAddrPort("192.0.2.1:1"), payload: []byte("x")},
			nil, argyle.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 1})
	}
	var left string
	for e := s.recent.Front(); e != nil; e = e.Next() {
		left += e.Value.(*flow).key.client.String() + " "
	}
	// 10.0.0.2 has had three of four, and has paid for its fourth itself; then
	// the oldest of all goes for a newcomer.
	if want := "10.0.0.3:1 10.0.0.2:5 10.0.0.2:4 10.0.0.2:3 "; left != want {
		t.Errorf("%s, want %s", left, want)
	}
	if len(s.flows) != 4 || len(s.clients) != 2 {
		t.Errorf("%d flows of %d clients", len(s.flows), len(s.clients))
	}
}

// A call that is rejected is not made again for every datagram.
func TestRejectedPackets(t *testing.T) {
	calls := make(chan struct{}, 100)
	s := &PacketServer{Dest: argyle.Addr{Name: "a.test", Port: 1}, Handler: argyle.HandlerFunc(func(context.Context, argyle.Call) {
		calls <- struct{}{}
	})}
	conn := dialUDP(t, servePackets(t, s))
	for range 10 {
		conn.Write([]byte("x"))
	}
	<-calls
	start := time.Now()
	for len(calls) == 0 {
		conn.Write([]byte("x"))
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(start); took < refusedTime/2 {
		t.Errorf("a second call after %v", took)
	}
}

// Nothing is allocated for a datagram.
func TestPacketAllocs(t *testing.T) {
	s := &PacketServer{Name: func(netip.Addr) (string, bool) { return "a.test", true }}
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	ready := make(chan *flow, 1)
	s.Reply = func(netip.AddrPort) (*net.UDPConn, error) {
		return net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}
	s.Handler = argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		conn, _ := call.AcceptPacket()
		ready <- conn.(*flow)
		<-ctx.Done()
	})
	s.begin(sock)
	defer s.end()
	ps := make([]packet, 16)
	for i := range ps {
		ps[i] = packet{
			src: netip.MustParseAddrPort(sock.LocalAddr().String()), dst: netip.MustParseAddrPort("198.18.0.1:443"), payload: make([]byte, 1200),
		}
	}
	s.received(ps)
	f := <-ready
	reply := func(ds []argyle.Datagram) { f.WriteBatch(ds) }
	n := testing.AllocsPerRun(200, func() {
		s.received(ps)
		f.ReadBatch(reply)
	})
	if n >= 4 && !raced { // of 16 datagrams; pools may lose things to the collector
		t.Errorf("%v allocations for %d datagrams", n, len(ps))
	}
}

func TestReplySockets(t *testing.T) {
	opened := 0
	r := &replies{open: func(src netip.AddrPort) (*net.UDPConn, error) {
		opened++
		if src.Port() == 7 {
			return nil, errors.New("of the test")
		}
		return net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}}
	to := dialUDP(t, "127.0.0.1:9").LocalAddr().(*net.UDPAddr).AddrPort()
	send := func(port uint16) int {
		return r.send(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), []udp.Message{{Payload: []byte("x"), Addr: to}})
	}
	for range 3 {
		if send(1) != 1 || send(7) != 0 {
			t.Error("wrong number sent")
		}
	}
	if opened != 2 {
		t.Errorf("opened %d", opened)
	}
	for port := range uint16(maxReplySockets + 10) {
		send(1000 + port)
	}
	if n := len(r.socks); n != maxReplySockets || r.recent.Len() != n {
		t.Errorf("%d sockets", n)
	}
	// Those that were not used for long go.
	keep := r.recent.Front()
	for e := r.recent.Back(); e != keep; e = e.Prev() {
		e.Value.(*replySocket).used = time.Now().Add(-replyIdle)
	}
	r.sweep()
	if len(r.socks) != 1 {
		t.Errorf("%d sockets after the sweep", len(r.socks))
	}
	r.close()
	if send(1) != 0 || len(r.socks) != 0 {
		t.Error("sent after the end")
	}
}
