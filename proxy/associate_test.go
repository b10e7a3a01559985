package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// memPacket is a packet connection in memory: what is put into in is read,
// what is written comes out of out.
type memPacket struct {
	in, out chan argyle.Datagram

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed when the deadline changes
	closed   chan struct{}
	once     sync.Once
}

func newMemPacket() *memPacket {
	return &memPacket{
		in: make(chan argyle.Datagram), out: make(chan argyle.Datagram, 100),
		changed: make(chan struct{}), closed: make(chan struct{}),
	}
}

func (m *memPacket) ReadBatch(handle func([]argyle.Datagram)) error {
	for {
		m.mu.Lock()
		deadline, changed := m.deadline, m.changed
		m.mu.Unlock()
		var timeout <-chan time.Time
		if !deadline.IsZero() {
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case d := <-m.in:
			handle([]argyle.Datagram{d})
			return nil
		case <-timeout:
			return os.ErrDeadlineExceeded
		case <-m.closed:
			return net.ErrClosed
		case <-changed:
		}
	}
}

func (m *memPacket) WriteBatch(ds []argyle.Datagram) (int, error) {
	select {
	case <-m.closed:
		return 0, net.ErrClosed
	default:
	}
	for _, d := range ds {
		m.out <- argyle.Datagram{Addr: d.Addr, Payload: append([]byte(nil), d.Payload...)}
	}
	return len(ds), nil
}

func (m *memPacket) SetReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deadline = t
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *memPacket) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (*memPacket) Dropped() uint64                        { return 1 }
func (*memPacket) ReadFrom([]byte) (int, net.Addr, error) { panic("batches only") }
func (*memPacket) WriteTo([]byte, net.Addr) (int, error)  { panic("batches only") }
func (*memPacket) LocalAddr() net.Addr                    { return nil }
func (m *memPacket) SetDeadline(t time.Time) error        { return m.SetReadDeadline(t) }
func (*memPacket) SetWriteDeadline(time.Time) error       { return nil }

// outbound is a dialer whose sockets the test holds.
type outbound struct {
	fakeDialer
	opened chan *memPacket
}

func newOutbound() *outbound {
	o := &outbound{opened: make(chan *memPacket, 100)}
	o.listen = func(context.Context) (net.PacketConn, error) {
		m := newMemPacket()
		o.opened <- m
		return m, nil
	}
	return o
}

func to(port uint16, payload string) argyle.Datagram {
	return argyle.Datagram{Addr: argyle.AddrFrom(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)), Payload: []byte(payload)}
}

// begin serves an association of client until it is closed.
func begin(t *testing.T, p *proxy.Proxy, client *memPacket) (wait func()) {
	call := newCall(argyle.Associate)
	call.request.Dest = argyle.Addr{}
	call.packet = client
	done := make(chan struct{})
	go func() { p.ServeCall(t.Context(), call); close(done) }()
	return func() { <-done }
}

// T32: a mapping ends when it has been idle, in both directions, and not
// before; the next datagram opens another, and the association stays.
func TestUDPIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		p := &proxy.Proxy{Policy: via(out)}
		wait := begin(t, p, client)
		client.in <- to(53, "one")
		first := <-out.opened
		if d := <-first.out; string(d.Payload) != "one" {
			t.Errorf("%q", d.Payload)
		}
		time.Sleep(50 * time.Second)
		client.in <- to(53, "keeps it")
		<-first.out
		time.Sleep(50 * time.Second)
		first.in <- to(53, "so does an answer")
		<-client.out
		time.Sleep(59 * time.Second)
		client.in <- to(53, "just in time")
		<-first.out
		time.Sleep(61 * time.Second)
		synctest.Wait()
		select {
		case <-first.closed:
		default:
			t.Error("an idle mapping is still open")
		}
		client.in <- to(53, "anew")
		second := <-out.opened
		if d := <-second.out; string(d.Payload) != "anew" {
			t.Errorf("%q", d.Payload)
		}
		client.Close()
		wait()
		<-second.closed
	})
}

// Every destination goes its own way, is asked about once, and what is
// refused is dropped and counted.
func TestUDPRoutes(t *testing.T) {
	client, even, odd := newMemPacket(), newOutbound(), newOutbound()
	var mu sync.Mutex
	asked := make(map[argyle.Addr]int)
	var session *proxy.Session
	p := &proxy.Proxy{
		OnSession: func(s *proxy.Session) { session = s },
		Policy: proxy.PolicyFunc(func(_ context.Context, req *argyle.Request) (argyle.Dialer, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[req.Dest]++
			switch port := req.Dest.Port; {
			case port == 666:
				return nil, argyle.ErrNotAllowed
			case port%2 == 0:
				return even, nil
			}
			return odd, nil
		}),
	}
	wait := begin(t, p, client)
	for i, port := range []uint16{1, 2, 3, 666, 2, 1, 666} {
		client.in <- to(port, fmt.Sprint(i))
	}
	evens, odds := <-even.opened, <-odd.opened
	for _, want := range []string{"1", "4"} {
		if d := <-evens.out; string(d.Payload) != want {
			t.Errorf("even: %q, want %q", d.Payload, want)
		}
	}
	for _, want := range []string{"0", "2", "5"} {
		if d := <-odds.out; string(d.Payload) != want {
			t.Errorf("odd: %q, want %q", d.Payload, want)
		}
	}
	odds.in <- to(7, "answer")
	if d := <-client.out; d.Addr.Port != 7 || string(d.Payload) != "answer" {
		t.Errorf("%v %q", d.Addr, d.Payload)
	}
	client.Close()
	wait()
	for dest, n := range asked {
		if n != 1 {
			t.Errorf("asked %d times about %v", n, dest)
		}
	}
	// Two were refused; the fakes claim one each.
	if n := session.Dropped(); n != 2+3 {
		t.Errorf("%d dropped", n)
	}
	if up, down := session.Bytes(); up != 5 || down != 6 {
		t.Errorf("up %d, down %d", up, down)
	}
}

// An association ends with its client, by Close of its session, and at Close
// of the proxy; nothing of it is left.
func TestAssociationEnds(t *testing.T) {
	for name, end := range map[string]func(*proxy.Proxy, *memPacket){
		"client": func(_ *proxy.Proxy, client *memPacket) { client.Close() },
		"session": func(p *proxy.Proxy, _ *memPacket) {
			for s := range p.Sessions() {
				s.Close()
			}
		},
		"proxy": func(p *proxy.Proxy, _ *memPacket) { p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			client, out := newMemPacket(), newOutbound()
			p := &proxy.Proxy{Policy: via(out)}
			wait := begin(t, p, client)
			client.in <- to(53, "one")
			m := <-out.opened
			end(p, client)
			wait()
			<-m.closed
			<-client.closed
		})
	}
}

// A way out that cannot be opened costs its datagrams, and is tried again after
// a while.
func TestNoWayOutForDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, out := newMemPacket(), newOutbound()
		open := out.listen
		out.listen = func(context.Context) (net.PacketConn, error) {
			out.listen = open
			return nil, errors.New("no descriptors")
		}
		p := &proxy.Proxy{Policy: via(out)}
		wait := begin(t, p, client)
		client.in <- to(53, "lost")
		<-time.After(2 * time.Second)
		client.in <- to(53, "sent")
		if d := <-(<-out.opened).out; string(d.Payload) != "sent" {
			t.Errorf("%q", d.Payload)
		}
		client.Close()
		wait()
	})
}
