package relay

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// T39: a reader that stops stops the writer, and no memory grows. What the
// kernel holds is bounded by its buffers.
func TestBackPressure(t *testing.T) {
	const limit = 64 << 20
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	piece := make([]byte, 64<<10)
	before := heap()
	var all []*joined
	for _, p := range pairings {
		all = append(all, join(t, p, nil))
	}
	deadline := time.Now().Add(500 * time.Millisecond)
	var writers sync.WaitGroup
	for i, p := range pairings {
		for _, c := range []conn{all[i].client, all[i].upstream} {
			c.SetWriteDeadline(deadline)
			writers.Go(func() {
				var n int
				var err error
				for err == nil && n < limit {
					var m int
					m, err = c.Write(piece)
					n += m
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%v: %d bytes were written though nobody read, and then %v", p, n, err)
				}
			})
		}
	}
	writers.Wait()
	if grown := int64(heap() - before); grown > 4<<20 {
		t.Errorf("%d pairs and their ends have grown by %d bytes", len(all), grown)
	}
	for _, j := range all {
		j.Close() // all at once: each sees to it that what was written arrives
	}
}

// Sessions come and go at the same time.
func TestManyPairs(t *testing.T) {
	b := noise(30_000)
	var ended atomic.Int32
	for _, p := range pairings {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			for range 10 {
				j := join(t, p, nil)
				together(t,
					func() error { return send(j.client, b) },
					func() error { return send(j.upstream, b) },
					func() error { return receive(j.client, b) },
					func() error { return receive(j.upstream, b) },
				)
				if err := j.wait(t); err != nil {
					t.Errorf("Done got %v", err)
				}
				ended.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		if n, want := int(ended.Load()), 10*len(pairings); n != want {
			t.Errorf("%d sessions ended, want %d", n, want)
		}
	})
}
