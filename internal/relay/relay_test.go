package relay

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/argyle-socks/argyle/internal/serve"
)

// noise is n bytes that no pattern repeats.
func noise(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	rand.NewChaCha8(seed).Read(b)
	return b
}

// send writes b in pieces of random sizes and then the end.
func send(c conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 1+rand.IntN(1<<(1+rand.IntN(20))))
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return c.CloseWrite()
}

// receive wants b, and then the end.
func receive(c conn, b []byte) error {
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{c}, make([]byte, 64<<10))
	switch {
	case err != nil:
		return fmt.Errorf("after %d of %d bytes: %w", n, len(b), err)
	case n != int64(len(b)):
		return fmt.Errorf("%d bytes, want %d", n, len(b))
	case [32]byte(sum.Sum(nil)) != sha256.Sum256(b):
		return fmt.Errorf("%d bytes, but others", n)
	}
	return nil
}

// together runs what must not fail at the same time.
func together(t testing.TB, steps ...func() error) {
	t.Helper()
	errs := make(chan error)
	for _, step := range steps {
		go func() { errs <- step() }()
	}
	for range steps {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// Exact bytes both ways, at the same time, and exact counters.
func TestBytes(t *testing.T) {
	sizes := []int{0, 1, 2, 1000, bufferSize - 1, bufferSize, bufferSize + 1, 1 << 17, 8 << 20}
	over(t, nil, func(t *testing.T, p pairing, first *joined) {
		for i, size := range sizes {
			j := first
			if i > 0 {
				j = join(t, p, nil)
			}
			up, down := noise(size), noise(sizes[rand.IntN(len(sizes)-1)]+rand.IntN(1<<12))
			together(t,
				func() error { return send(j.client, up) },
				func() error { return send(j.upstream, down) },
				func() error { return receive(j.upstream, up) },
				func() error { return receive(j.client, down) },
			)
			if err := j.wait(t); err != nil {
				t.Errorf("Done got %v", err)
			}
			j.counted(t, int64(len(up)), int64(len(down)))
		}
	})
}

// T33: one direction ends, the other goes on.
func TestHalfClose(t *testing.T) {
	over(t, nil, func(t *testing.T, p pairing, j *joined) {
		up, down := noise(8<<20), noise(1<<20)
		together(t,
			func() error { return send(j.client, up) },
			func() error { return receive(j.upstream, up) },
		)
		together(t,
			func() error { return send(j.upstream, down) },
			func() error { return receive(j.client, down) },
		)
		if err := j.wait(t); err != nil {
			t.Errorf("Done got %v", err)
		}
		j.counted(t, int64(len(up)), int64(len(down)))
	})
}

// The same, where the upstream is the first to end.
func TestHalfCloseUpstream(t *testing.T) {
	over(t, nil, func(t *testing.T, p pairing, j *joined) {
		up, down := noise(1<<20), noise(4<<20)
		together(t,
			func() error { return send(j.upstream, down) },
			func() error { return receive(j.client, down) },
		)
		together(t,
			func() error { return send(j.client, up) },
			func() error { return receive(j.upstream, up) },
		)
		if err := j.wait(t); err != nil {
			t.Errorf("Done got %v", err)
		}
		j.counted(t, int64(len(up)), int64(len(down)))
	})
}

// What a handshake has put back comes first, and is counted.
func TestUnread(t *testing.T) {
	early, late := noise(70_000), noise(5)
	set := func(p *Pair) {
		// Twice on one side: a SOCKS handshake inside another.
		p.Client = serve.Unread(serve.Unread(p.Client, early[100:]), early[:100])
		p.Upstream = serve.Unread(p.Upstream, late)
	}
	over(t, set, func(t *testing.T, p pairing, j *joined) {
		up, down := noise(3<<20), noise(100)
		together(t,
			func() error { return send(j.client, up) },
			func() error { return send(j.upstream, down) },
			func() error { return receive(j.upstream, append(bytes.Clone(early), up...)) },
			func() error { return receive(j.client, append(bytes.Clone(late), down...)) },
		)
		if err := j.wait(t); err != nil {
			t.Errorf("Done got %v", err)
		}
		j.counted(t, int64(len(early)+len(up)), int64(len(late)+len(down)))
	})
}

// What was put back need not wait for anything else.
func TestUnreadAlone(t *testing.T) {
	set := func(p *Pair) { p.Client = serve.Unread(p.Client, []byte("first")) }
	over(t, set, func(t *testing.T, p pairing, j *joined) {
		b := make([]byte, 5)
		if _, err := io.ReadFull(j.upstream, b); err != nil || string(b) != "first" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// A message goes on at once, whatever came before, and the counters know it.
func TestCountersAreLive(t *testing.T) {
	over(t, nil, func(t *testing.T, p pairing, j *joined) {
		var up, down int64
		for i, size := range []int{1, 100, 1 << 20, 1, bufferSize, 1} {
			from, to, n := j.client, j.upstream, &up
			if i%2 == 1 {
				from, to, n = j.upstream, j.client, &down
			}
			b := noise(size)
			together(t,
				func() error { _, err := from.Write(b); return err },
				func() error { _, err := io.ReadFull(to, make([]byte, size)); return err },
			)
			*n += int64(size)
			j.moved(t, up, down)
			j.counted(t, up, down)
		}
	})
}

// A reader that takes a little at a time sees the counter, and the time of the
// last byte, move with every piece: a slow transfer is not an idle one.
func TestSlowReaderIsSeen(t *testing.T) {
	over(t, smallBuffers, func(t *testing.T, p pairing, j *joined) {
		const step, steps = 300 << 10, 10
		smallBuffer(j.client)
		go func() {
			j.upstream.Write(noise(2 * step * steps))
			j.upstream.CloseWrite()
		}()
		for i := range int64(steps) {
			before := j.active.Load()
			if _, err := io.CopyN(io.Discard, j.client, step); err != nil {
				t.Fatal(err)
			}
			j.moved(t, 0, (i+1)*step)
			if !poll(func() bool { return j.active.Load() > before }) {
				t.Fatalf("after %d bytes: no byte has moved, it seems", (i+1)*step)
			}
		}
	})
}

// smallBuffers makes kernel buffers small, so that a big piece goes out in many.
func smallBuffers(p *Pair) {
	smallBuffer(p.Client)
	smallBuffer(p.Upstream)
}

func smallBuffer(c net.Conn) {
	if s, ok := bare(c).(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		s.SetReadBuffer(32 << 10)
		s.SetWriteBuffer(32 << 10)
	}
}
