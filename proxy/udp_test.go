package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// byPort is a policy whose ways out are known by the destination's port; the
// association itself is allowed.
func byPort(ways map[uint16]argyle.Dialer) proxy.Policy {
	return proxy.PolicyFunc(func(_ context.Context, req *argyle.Request) (argyle.Dialer, error) {
		if d := ways[req.Dest.Port]; d != nil || req.Dest.IsZero() {
			return d, nil
		}
		return nil, argyle.ErrNotAllowed
	})
}

// expectPacket wants a datagram to come out of m.
func expectPacket(t *testing.T, m *memPacket, want string) {
	t.Helper()
	if d := <-m.out; string(d.Payload) != want {
		t.Errorf("%q, want %q", d.Payload, want)
	}
}

// T29: a way out that takes its time to open holds up no other, and what is
// sent by it meanwhile waits, in order, within a bound.
func TestSlowWayOutHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, slow, fast := newMemPacket(), newOutbound(), newOutbound()
		opened := make(chan struct{})
		open := slow.listen
		slow.listen = func(ctx context.Context) (net.PacketConn, error) {
			<-opened
			return open(ctx)
		}
		var session *proxy.Session
		p := &proxy.Proxy{
			Policy:    byPort(map[uint16]argyle.Dialer{1: slow, 2: fast}),
			OnSession: func(s *proxy.Session) { session = s },
		}
		wait := begin(t, p, client)
		const waiting = 64 << 10
		big := make([]byte, waiting/4)
		for i := range 6 { // two too many
			big[0] = byte(i)
			client.in <- argyle.Datagram{Addr: to(1, "").Addr, Payload: big}
			client.in <- to(2, fmt.Sprint(i))
		}
		other := <-fast.opened
		for i := range 6 {
			expectPacket(t, other, fmt.Sprint(i))
		}
		clear(big) // a reader reuses its buffer
		close(opened)
		late := <-slow.opened
		synctest.Wait()
		client.in <- to(1, "afterwards")
		for i := range 4 {
			if d := <-late.out; len(d.Payload) != len(big) || d.Payload[0] != byte(i) {
				t.Errorf("%d bytes of datagram %d, want number %d", len(d.Payload), d.Payload[0], i)
			}
		}
		expectPacket(t, late, "afterwards")
		client.Close()
		wait()
		if n := session.Dropped(); n != 2+3 { // the fakes claim one each
			t.Errorf("%d dropped", n)
		}
		if up, _ := session.Bytes(); up != waiting+6+int64(len("afterwards")) {
			t.Errorf("%d bytes up", up)
		}
	})
}

// A way out that never opens is given up in time, and does not outlive its
// association.
func TestWayOutThatNeverOpens(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: 10 * time.Second, 3 * time.Second: 3 * time.Second, -1: 0} {
		synctest.Test(t, func(t *testing.T) {
			client, out := newMemPacket(), newOutbound()
			gaveUp := make(chan time.Time, 10)
			out.listen = func(ctx context.Context) (net.PacketConn, error) {
				<-ctx.Done()
				gaveUp <- time.Now()
				return nil, ctx.Err()
			}
			wait := begin(t, &proxy.Proxy{Policy: via(out), Timeouts: proxy.Timeouts{DialTimeout: timeout}}, client)
			began := time.Now()
			client.in <- to(53, "lost")
			if want > 0 {
				if d := (<-gaveUp).Sub(began); d != want {
					t.Errorf("DialTimeout %v: gave up after %v", timeout, d)
				}
				<-time.After(time.Hour)
				client.in <- to(53, "lost again")
			} else {
				<-time.After(time.Hour)
				if len(gaveUp) != 0 {
					t.Errorf("DialTimeout %v: gave up", timeout)
				}
			}
			synctest.Wait()
			client.Close()
			wait()
			if len(gaveUp) != 1 {
				t.Errorf("DialTimeout %v: %d ways out were not given up with the association", timeout, 1-len(gaveUp))
			}
		})
	}
}

// A way out that cannot be opened is not tried for every datagram.
func TestBrokenWayOutIsNotTriedAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		tried := 0
		out.listen = func(context.Context) (net.PacketConn, error) {
			tried++
			return nil, errors.New("connection refused")
		}
		var session *proxy.Session
		p := &proxy.Proxy{Policy: via(out), OnSession: func(s *proxy.Session) { session = s }}
		wait := begin(t, p, client)
		const seconds, each = 10, 100
		for range seconds * each {
			client.in <- to(53, "lost")
			<-time.After(time.Second / each)
		}
		client.Close()
		wait()
		if tried < 2 || tried > seconds {
			t.Errorf("tried %d times in %d seconds", tried, seconds)
		}
		if n := session.Dropped(); n != seconds*each+1 {
			t.Errorf("%d dropped", n)
		}
	})
}

// An association remembers 1024 decisions, and forgets rather than grows.
func TestRoutesAreBounded(t *testing.T) {
	const limit = 1024
	client, out := newMemPacket(), newOutbound()
	asked := 0
	p := &proxy.Proxy{Policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) {
		asked++
		return out, nil
	})}
	wait := begin(t, p, client)
	send := func(port uint16) {
		client.in <- to(port, "x")
	}
	send(1)
	only := <-out.opened
	<-only.out
	for port := uint16(2); port <= limit; port++ {
		send(port)
		<-only.out
	}
	send(1) // still known
	<-only.out
	if asked != 1+limit {
		t.Errorf("asked %d times about %d destinations", asked, limit)
	}
	send(limit + 1) // one too many: all are forgotten
	<-only.out
	send(1)
	<-only.out
	if asked != 1+limit+2 {
		t.Errorf("asked %d times, want %d", asked, 1+limit+2)
	}
	client.Close()
	wait()
	if len(out.opened) != 0 {
		t.Error("a decision that was forgotten opened another socket")
	}
}

// One way out is one socket, whatever is sent to: the mapping does not depend
// on the destination (T28). A mapping that is gone is opened anew.
func TestOneSocketForEachWayOut(t *testing.T) {
	client, one, two := newMemPacket(), newOutbound(), newOutbound()
	wait := begin(t, &proxy.Proxy{Policy: byPort(map[uint16]argyle.Dialer{1: one, 2: one, 3: two, 4: two})}, client)
	for port := range uint16(8) {
		client.in <- to(1+port%4, fmt.Sprint(port))
	}
	first, second := <-one.opened, <-two.opened
	for _, want := range []string{"0", "1", "4", "5"} {
		expectPacket(t, first, want)
	}
	for _, want := range []string{"2", "3", "6", "7"} {
		expectPacket(t, second, want)
	}
	// Both may speak to the client at the same time.
	for i := range 50 {
		go func() { first.in <- to(1, fmt.Sprint(i)) }()
		second.in <- to(3, fmt.Sprint(i))
	}
	for range 100 {
		<-client.out
	}
	first.Close() // an upstream that ended its association
	<-first.closed
	var again *memPacket
	for again == nil {
		client.in <- to(1, "again") // the first may be lost with the old socket
		select {
		case again = <-one.opened:
		case <-time.After(time.Millisecond):
		}
	}
	expectPacket(t, again, "again")
	client.in <- to(3, "as before")
	expectPacket(t, second, "as before")
	client.Close()
	wait()
	if len(one.opened)+len(two.opened) != 0 {
		t.Error("too many sockets")
	}
}

// What did not go out is not counted as bytes, and is counted as dropped.
func TestBytesOfDatagrams(t *testing.T) {
	client, out := newMemPacket(), newOutbound()
	open := out.listen
	out.listen = func(ctx context.Context) (net.PacketConn, error) {
		conn, err := open(ctx)
		return &refusing{conn.(*memPacket)}, err
	}
	var session *proxy.Session
	p := &proxy.Proxy{Policy: via(out), OnSession: func(s *proxy.Session) { session = s }}
	wait := begin(t, p, client)
	client.in <- to(1, "12345")
	only := <-out.opened
	expectPacket(t, only, "12345")
	client.in <- to(666, "refused")
	client.in <- to(1, "")
	expectPacket(t, only, "")
	only.in <- to(1, "1234567")
	expectPacket(t, client, "1234567")
	client.Close()
	wait()
	if up, down := session.Bytes(); up != 5 || down != 7 {
		t.Errorf("%d up, %d down", up, down)
	}
}

// refusing takes no datagrams for port 666, as a Direct with a Check may.
type refusing struct{ *memPacket }

func (r *refusing) WriteBatch(ds []argyle.Datagram) (n int, err error) {
	for _, d := range ds {
		if d.Addr.Port == 666 {
			continue
		}
		if _, err := r.memPacket.WriteBatch([]argyle.Datagram{d}); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// A packet connection of somebody else, without batches, and with addresses as
// package net has them.
func TestForeignPacketConn(t *testing.T) {
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	out := &fakeDialer{listen: func(context.Context) (net.PacketConn, error) {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		return struct{ net.PacketConn }{onlyUDPAddr{conn}}, err
	}}
	client := newMemPacket()
	wait := begin(t, &proxy.Proxy{Policy: via(out)}, client)
	dest := argyle.AddrOf(far.LocalAddr())
	for i := range 3 {
		client.in <- argyle.Datagram{Addr: dest, Payload: []byte{byte(i)}}
		b := make([]byte, 10)
		far.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, from, err := far.ReadFrom(b)
		if err != nil || n != 1 || b[0] != byte(i) {
			t.Fatalf("% x, %v", b[:n], err)
		}
		far.WriteTo([]byte("answer"), from)
		if d := <-client.out; d.Addr != dest || string(d.Payload) != "answer" {
			t.Errorf("%v %q", d.Addr, d.Payload)
		}
	}
	client.Close()
	wait()
}

// onlyUDPAddr turns the addresses that package net does not know.
type onlyUDPAddr struct{ net.PacketConn }

func (c onlyUDPAddr) WriteTo(b []byte, addr net.Addr) (int, error) {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, err
	}
	return c.PacketConn.WriteTo(b, net.UDPAddrFromAddrPort(ap))
}
