package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

var (
	loopback4 = netip.MustParseAddrPort("127.0.0.1:0")
	loopback6 = netip.MustParseAddrPort("[::1]:0")
	anywhere  netip.AddrPort
)

// listen opens a socket for the time of the test, whose reads end at some time.
func listen(t testing.TB, local netip.AddrPort) *Conn {
	t.Helper()
	c, err := Listen(local)
	if err != nil && local.Addr().Is6() {
		t.Skipf("no IPv6: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// local is where c is reached over loopback.
func local(c *Conn) netip.AddrPort {
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// receive returns n messages, however many batches they come in.
func receive(t testing.TB, c *Conn, n int) []Message {
	t.Helper()
	var got []Message
	for len(got) < n {
		if err := c.ReadBatch(func(ms []Message) {
			if len(ms) == 0 || len(ms) > maxSegments {
				t.Errorf("a batch of %d", len(ms))
			}
			for _, m := range ms {
				got = append(got, Message{Payload: bytes.Clone(m.Payload), Addr: m.Addr})
			}
		}); err != nil {
			t.Fatalf("after %d of %d messages: %v", len(got), n, err)
		}
	}
	return got
}

// send sends ms and checks that want of them were taken.
func send(t testing.TB, c *Conn, want int, ms ...Message) {
	t.Helper()
	n, err := c.WriteBatch(ms)
	if n != want || err != nil {
		t.Fatalf("sent %d, %v; want %d of %d", n, err, want, len(ms))
	}
}

func TestBatch(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	for _, n := range []int{0, 1, batchSize - 1, batchSize, batchSize + 1, 3*batchSize + 5} {
		ms := make([]Message, n)
		for i := range ms {
			ms[i] = Message{Payload: fmt.Appendf(nil, "%d of %d", i, n), Addr: local(b)}
		}
		send(t, a, n, ms...)
		for i, m := range receive(t, b, n) {
			if want := fmt.Sprintf("%d of %d", i, n); string(m.Payload) != want || m.Addr != local(a) {
				t.Errorf("received %q from %v, want %q from %v", m.Payload, m.Addr, want, local(a))
			}
		}
	}
}

func TestHeadAndPayload(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	for _, c := range []struct{ head, payload string }{
		{"head", "payload"}, {"head", ""}, {"", "payload"}, {"", ""}, {"h", "p"},
	} {
		send(t, a, 1, Message{Head: []byte(c.head), Payload: []byte(c.payload), Addr: local(b)})
		if got := receive(t, b, 1)[0]; string(got.Payload) != c.head+c.payload || got.Head != nil {
			t.Errorf("received %q and %q, want %q", got.Head, got.Payload, c.head+c.payload)
		}
	}
	send(t, a, 1, Message{Addr: local(b)}) // nil and nil
	if got := receive(t, b, 1)[0]; len(got.Payload) != 0 {
		t.Errorf("received %q, want nothing", got.Payload)
	}
}

// The longest datagrams that there are arrive whole, and what is longer is
// refused without harm to its neighbours.
func TestLongest(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Skip("the system sends no more than 9216 bytes unless told to")
	}
	for _, c := range []struct {
		local netip.AddrPort
		most  int
	}{
		{loopback4, 65507}, {loopback6, 65527},
	} {
		t.Run(c.local.Addr().String(), func(t *testing.T) {
			a, b := listen(t, c.local), listen(t, c.local)
			data := make([]byte, c.most+1)
			for i := range data {
				data[i] = byte(i ^ i>>8)
			}
			whole := Message{Payload: data[:c.most], Addr: local(b)}
			parts := Message{Head: data[:262], Payload: data[262:c.most], Addr: local(b)}
			tooLong := Message{Payload: data, Addr: local(b)}
			tooLongParts := Message{Head: data[:10], Payload: data[10:], Addr: local(b)}
			for _, ms := range [][]Message{{whole, parts}, {tooLong, whole}, {tooLongParts, parts, tooLong}} {
				want := slices.DeleteFunc(slices.Clone(ms), func(m Message) bool { return len(m.Head)+len(m.Payload) > c.most })
				send(t, a, len(want), ms...)
				for _, got := range receive(t, b, len(want)) {
					if !bytes.Equal(got.Payload, data[:c.most]) {
						t.Errorf("%d bytes of %d came, or others", len(got.Payload), c.most)
					}
				}
			}
		})
	}
}

func TestBadDestinations(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	bad := map[string]netip.AddrPort{
		"no address":   {},
		"port 0":       netip.MustParseAddrPort("127.0.0.1:0"),
		"IPv6":         netip.MustParseAddrPort("[::1]:9"),
		"another zone": netip.MustParseAddrPort("[fe80::1%nosuchinterface]:9"),
	}
	for name, addr := range bad {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 3, 2 * batchSize} {
				for _, at := range []int{0, n / 2, n} {
					ms := make([]Message, n)
					for i := range ms {
						ms[i] = Message{Payload: []byte{byte(i)}, Addr: local(b)}
					}
					ms = slices.Insert(ms, at, Message{Payload: []byte("bad"), Addr: addr})
					send(t, a, n, ms...)
					for i, m := range receive(t, b, n) {
						if !bytes.Equal(m.Payload, []byte{byte(i)}) {
							t.Errorf("%d good ones, a bad one before %d: received %q in place %d", n, at, m.Payload, i)
						}
					}
				}
			}
		})
	}
	send(t, a, 0, Message{Payload: []byte("bad"), Addr: anywhere})
}

// One socket speaks to both families, from one port, and sees true addresses.
func TestBothFamilies(t *testing.T) {
	a, b4, b6 := listen(t, anywhere), listen(t, loopback4), listen(t, loopback6)
	send(t, a, 3,
		Message{Payload: []byte("4"), Addr: local(b4)},
		Message{Payload: []byte("6"), Addr: local(b6)},
		Message{Payload: []byte("mapped"), Addr: netip.AddrPortFrom(netip.AddrFrom16(local(b4).Addr().As16()), local(b4).Port())},
	)
	port := local(a).Port()
	for _, m := range append(receive(t, b4, 2), receive(t, b6, 1)...) {
		if !m.Addr.Addr().IsLoopback() || m.Addr.Port() != port {
			t.Errorf("%q comes from %v, want port %d", m.Payload, m.Addr, port)
		}
	}
	for _, b := range []*Conn{b4, b6} {
		send(t, b, 1, Message{Payload: []byte("back"), Addr: netip.AddrPortFrom(local(b).Addr(), port)})
		if got := receive(t, a, 1)[0]; got.Addr != local(b) {
			t.Errorf("received from %v, want %v", got.Addr, local(b))
		}
	}
}

// A socket of one family takes the IPv4-mapped form of its own.
func TestMappedOnIPv4(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(local(b).Addr().As16()), local(b).Port())
	send(t, a, 1, Message{Payload: []byte("mapped"), Addr: mapped})
	receive(t, b, 1)
}

func TestClosed(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	done := make(chan error, 1)
	go func() {
		done <- a.ReadBatch(func(ms []Message) { t.Errorf("%d messages on a closed socket", len(ms)) })
	}()
	a.Close() // perhaps before the read, perhaps in it: both end alike
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch: %v, want net.ErrClosed", err)
	}
	ms := []Message{{Payload: []byte("x"), Addr: local(b)}}
	if n, err := a.WriteBatch(ms); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteBatch: %d, %v, want net.ErrClosed", n, err)
	}
	if err := a.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
}

// A reader whose time is over is told, and the socket is as good as before.
func TestDeadline(t *testing.T) {
	a, b := listen(t, loopback4), listen(t, loopback4)
	none := func(ms []Message) { t.Errorf("%d messages from nowhere", len(ms)) }
	for _, at := range []time.Time{time.Unix(1, 0), time.Now().Add(time.Millisecond)} {
		b.SetReadDeadline(at)
		if err := b.ReadBatch(none); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ReadBatch: %v, want os.ErrDeadlineExceeded", err)
		}
	}
	a.SetWriteDeadline(time.Unix(1, 0))
	if n, err := a.WriteBatch([]Message{{Addr: local(b)}}); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("WriteBatch: %d, %v, want os.ErrDeadlineExceeded", n, err)
	}
	a.SetWriteDeadline(time.Time{})
	b.SetReadDeadline(time.Now().Add(10 * time.Second))
	send(t, a, 1, Message{Payload: []byte("after"), Addr: local(b)})
	receive(t, b, 1)
}

// Writers share a socket; none gets hold of another's messages.
func TestConcurrentWriters(t *testing.T) {
	a := listen(t, anywhere)
	var wg sync.WaitGroup
	for w := range 4 {
		b := listen(t, loopback4)
		wg.Go(func() {
			for round := range 50 {
				ms := make([]Message, batchSize+3)
				for i := range ms {
					ms[i] = Message{Head: []byte{byte(w)}, Payload: []byte{byte(round), byte(i)}, Addr: local(b)}
				}
				if n, err := a.WriteBatch(ms); n != len(ms) || err != nil {
					t.Errorf("writer %d sent %d, %v", w, n, err)
					return
				}
				seen := 0
				for seen < len(ms) {
					if err := b.ReadBatch(func(got []Message) {
						for _, m := range got {
							if want := []byte{byte(w), byte(round), byte(seen)}; !bytes.Equal(m.Payload, want) {
								t.Errorf("received %v, want %v", m.Payload, want)
							}
							seen++
						}
					}); err != nil {
						t.Errorf("writer %d, round %d: %v", w, round, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// A socket that waits holds no buffer, not even the one that it last looked
// into: memory is for datagrams, not for associations.
func TestIdleHoldsNoBuffer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("one buffer per reader on this system")
	}
	const sockets = 32
	sender := listen(t, loopback4)
	before := live()
	var wg sync.WaitGroup
	defer wg.Wait()
	for range sockets {
		c := listen(t, loopback4)
		c.SetReadDeadline(time.Time{})
		defer c.Close()
		got := make(chan struct{})
		wg.Go(func() {
			for c.ReadBatch(func([]Message) { close(got) }) == nil {
			}
		})
		send(t, sender, 1, Message{Payload: []byte("x"), Addr: local(c)})
		<-got
		live() // what the pool holds is dropped, what the socket holds is not
	}
	// The last readers may still be about to wait.
	deadline := time.Now().Add(10 * time.Second)
	for {
		grown := live() - before
		if grown < sockets*batchSize*maxMessage/8 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d idle sockets hold %d KiB each", sockets, grown/sockets>>10)
		}
	}
}

// live returns the bytes in use, those of the pools dropped.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAllocs(t *testing.T) {
	if raced || runtime.GOOS != "linux" {
		t.Skip("needs a sync.Pool that keeps what it is given, and batches")
	}
	a, b := listen(t, anywhere), listen(t, loopback4)
	ms := make([]Message, batchSize+1)
	for i := range ms {
		ms[i] = Message{Head: []byte("head"), Payload: make([]byte, 1200), Addr: local(b)}
	}
	seen := 0
	handle := func(got []Message) { seen += len(got) }
	round := func() {
		seen = 0
		if n, err := a.WriteBatch(ms); n != len(ms) || err != nil {
			t.Fatal(n, err)
		}
		for seen < len(ms) {
			if err := b.ReadBatch(handle); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations for %d datagrams", n, len(ms))
	}
}

func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{64, 1200, 8192} {
		for _, n := range []int{1, batchSize} {
			b.Run(fmt.Sprintf("%dx%d", n, size), func(b *testing.B) {
				from, to := listen(b, anywhere), listen(b, loopback4)
				ms := make([]Message, n)
				for i := range ms {
					ms[i] = Message{Head: make([]byte, 10), Payload: make([]byte, size-10), Addr: local(to)}
				}
				seen := 0
				handle := func(got []Message) { seen += len(got) }
				to.SetReadDeadline(time.Now().Add(time.Minute))
				b.SetBytes(int64(n * size))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := from.WriteBatch(ms); err != nil {
						b.Fatal(err)
					}
					for seen = 0; seen < n; {
						if err := to.ReadBatch(handle); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// One that is read by itself leaves the others for the next.
func TestReadFromAfterBatch(t *testing.T) {
	from, to := listen(t, loopback4), listen(t, loopback4)
	send(t, from, 1, Message{Payload: []byte("first"), Addr: local(to)})
	receive(t, to, 1) // from now on, the system may join
	var ms []Message
	for i := range 5 {
		ms = append(ms, Message{Payload: []byte{byte(i)}, Addr: local(to)})
	}
	for range 2 {
		send(t, from, len(ms), ms...)
		b := make([]byte, 10)
		for i := range 3 {
			if n, addr, err := to.ReadFrom(b); err != nil || n != 1 || b[0] != byte(i) || addr.String() != local(from).String() {
				t.Errorf("%v came from %v, want %d: %v", b[:n], addr, i, err)
			}
		}
		for i, m := range receive(t, to, 2) {
			if len(m.Payload) != 1 || m.Payload[0] != byte(3+i) {
				t.Errorf("%v is left, want %d", m.Payload, 3+i)
			}
		}
	}
}
