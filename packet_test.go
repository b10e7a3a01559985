package argyle

import (
	"bytes"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// listenUDP opens a plain socket of package net on loopback.
func listenUDP(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil && address == "[::1]:0" {
		t.Skipf("no IPv6: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.UDPConn)
}

// readFrom reads one datagram as text.
func readFrom(t testing.TB, c net.PacketConn) (string, Addr) {
	t.Helper()
	b := make([]byte, 1<<16)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), AddrOf(from)
}

// readBatch reads one batch.
func readBatch(t testing.TB, c BatchConn) (ds []Datagram) {
	t.Helper()
	for len(ds) == 0 {
		if err := c.ReadBatch(func(batch []Datagram) {
			for _, d := range batch {
				ds = append(ds, Datagram{Addr: d.Addr, Payload: bytes.Clone(d.Payload)})
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	return ds
}

func TestBatchOfBatchConn(t *testing.T) {
	conn, err := new(Direct).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if Batch(conn) != conn {
		t.Error("a BatchConn was wrapped")
	}
}

// The most ordinary packet connection of all takes *net.UDPAddr and no other.
func TestBatchOfUDPConn(t *testing.T) {
	a, b := Batch(listenUDP(t, "127.0.0.1:0")), Batch(listenUDP(t, "127.0.0.1:0"))
	ds := []Datagram{{AddrOf(b.LocalAddr()), []byte("one")}, {AddrOf(b.LocalAddr()), []byte("two")}}
	if n, err := a.WriteBatch(ds); n != 2 || err != nil {
		t.Fatalf("sent %d, %v", n, err)
	}
	for _, d := range ds {
		got := readBatch(t, b)
		if len(got) != 1 || !bytes.Equal(got[0].Payload, d.Payload) || got[0].Addr != AddrOf(a.LocalAddr()) {
			t.Errorf("received %+v, want %q from %v", got, d.Payload, a.LocalAddr())
		}
	}
}

// scripted is a packet connection that reads and fails as it is told.
type scripted struct {
	net.PacketConn
	in     []byte
	from   net.Addr
	errs   []error // of WriteTo, in order
	addrs  []net.Addr
	writes []string
}

func (s *scripted) ReadFrom(b []byte) (int, net.Addr, error) {
	if s.in == nil {
		return 0, nil, os.ErrDeadlineExceeded
	}
	return copy(b, s.in), s.from, nil
}

func (s *scripted) WriteTo(b []byte, addr net.Addr) (int, error) {
	err := s.errs[0]
	s.errs = s.errs[1:]
	s.addrs = append(s.addrs, addr)
	s.writes = append(s.writes, string(b))
	return len(b), err
}

func TestBatchReads(t *testing.T) {
	// Over IPv6 a datagram may be longer than MaxDatagram.
	for _, size := range []int{0, 1, MaxDatagram, 65527} {
		s := &scripted{in: make([]byte, size), from: name("example.com", 53)}
		called := 0
		err := Batch(s).ReadBatch(func(ds []Datagram) {
			called++
			if len(ds) != 1 || ds[0].Addr != name("example.com", 53) || len(ds[0].Payload) != size {
				t.Errorf("read %d datagrams, the first %d bytes from %v", len(ds), len(ds[0].Payload), ds[0].Addr)
			}
		})
		if err != nil || called != 1 {
			t.Errorf("called %d times, %v", called, err)
		}
	}
	err := Batch(new(scripted)).ReadBatch(func([]Datagram) { t.Error("called without a datagram") })
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestBatchWrites(t *testing.T) {
	ds := []Datagram{
		{literal("192.0.2.1", 53), []byte("a")},
		{name("example.com", 53), []byte("b")},
		{literal("2001:db8::1", 53), []byte("c")},
	}
	for _, c := range []struct {
		errs  []error
		sent  int
		tried int
		err   error
	}{
		{[]error{nil, nil, nil}, 3, 3, nil},
		{[]error{syscall.EMSGSIZE, nil, syscall.EINVAL}, 1, 3, nil},
		{[]error{nil, &net.OpError{Op: "write", Err: net.ErrClosed}, nil}, 1, 2, net.ErrClosed},
	} {
		s := &scripted{errs: c.errs}
		n, err := Batch(s).WriteBatch(ds)
		if n != c.sent || !errors.Is(err, c.err) || len(s.writes) != c.tried {
			t.Errorf("%v: sent %d of %d tried, %v", c.errs, n, len(s.writes), err)
		}
		for i, addr := range s.addrs {
			if AddrOf(addr) != ds[i].Addr || s.writes[i] != string(ds[i].Payload) {
				t.Errorf("%q went to %v, want %q to %v", s.writes[i], addr, ds[i].Payload, ds[i].Addr)
			}
		}
	}
}
