package limit

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const mbit = 1_000_000 / 8

// A worker is a session that always has more to send.
type worker struct {
	flow  *flow
	piece int           // 0: what chunk says
	pause time.Duration // between two pieces, as the network takes
	bytes int64
}

// work lets the workers send for d, and counts what passed.
func work(b *bucket, d time.Duration, workers ...*worker) {
	cut := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(cut) })
	defer timer.Stop()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() {
			for {
				select {
				case <-cut: // who never has to wait would not see it
					return
				default:
				}
				n := w.piece
				if n == 0 {
					n = b.chunk()
				}
				if w.flow.wait(n, cut) != nil {
					return
				}
				w.bytes += int64(n)
				time.Sleep(w.pause)
			}
		})
	}
	wg.Wait()
}

func newFlow(b *bucket) *flow {
	f := new(flow)
	b.join(f)
	return f
}

func newBucket(rate int64) *bucket {
	b := new(bucket)
	b.set(rate)
	return b
}

// near fails unless got is within part of want.
func near(t *testing.T, what string, got, want int64, part float64) {
	t.Helper()
	if math.Abs(float64(got-want)) > part*float64(want) {
		t.Errorf("%s: %d, want %d within %.0f %%", what, got, want, part*100)
	}
}

func TestRate(t *testing.T) {
	for _, rate := range []int64{1000, 64_000 / 8, mbit, 10 * mbit, 1000 * mbit, 10_000 * mbit} {
		synctest.Test(t, func(t *testing.T) {
			b := newBucket(rate)
			w := &worker{flow: newFlow(b)}
			const seconds = 50
			work(b, seconds*time.Second, w)
			// The burst, and a piece that has just begun.
			if most := rate*seconds + rate/20 + int64(b.chunk()); w.bytes > most {
				t.Errorf("%d B/s: %d bytes in %d s, want at most %d", rate, w.bytes, seconds, most)
			}
			if least := rate*seconds - int64(b.chunk()); w.bytes < least {
				t.Errorf("%d B/s: %d bytes in %d s, want at least %d", rate, w.bytes, seconds, least)
			}
		})
	}
}

func TestTenMegabitForTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(10 * mbit)
		w := &worker{flow: newFlow(b)}
		work(b, 2*time.Second, w)
		near(t, "2 s of 10 Mbit/s", w.bytes, 20*mbit, 0.05)
	})
}

// A timer may be late every time: the rate holds all the same.
func TestLateTimers(t *testing.T) {
	for _, size := range []int{2 << 10, 25_000, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			b := newBucket(10 * mbit)
			f := newFlow(b)
			began := time.Now()
			var bytes int64
			for time.Since(began) < 20*time.Second {
				if w := f.enter(size); w != nil {
					b.timer.Stop()
					b.mu.Lock()
					b.settle()
					due := b.due(size)
					b.mu.Unlock()
					time.Sleep(time.Duration(due*1e9) + 9*time.Millisecond)
					b.wake()
					<-w.passed
				}
				bytes += int64(size)
			}
			got := float64(bytes-int64(size)) / time.Since(began).Seconds()
			near(t, "rate with late timers", int64(got), 10*mbit, 0.01)
		})
	}
}

func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(mbit)
		f := newFlow(b)
		if !b.rested() {
			t.Error("a new bucket is not at rest")
		}
		// After a rest, however long, 50 ms of the rate pass at once.
		time.Sleep(time.Hour)
		passed := 0
		for f.enter(125) == nil {
			passed += 125
		}
		// A debt is counted in fractions of seconds, which may cost one piece.
		if want := mbit / 20; passed < want-125 || passed > want {
			t.Errorf("%d bytes passed at once, want %d", passed, want)
		}
		if b.rested() {
			t.Error("a bucket with debt and a waiter is at rest")
		}
		time.Sleep(time.Second)
		if !b.rested() {
			t.Error("a bucket that nobody used for a second is not at rest")
		}
	})
}

func TestRateChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(1000)
		f := newFlow(b)
		if err := f.wait(1_000_000, nil); err != nil { // 1000 s of the rate
			t.Fatal(err)
		}
		began := time.Now()
		time.AfterFunc(time.Second, func() { b.set(1_000_000) })
		if err := f.wait(1000, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < time.Second || took > time.Second+60*time.Millisecond {
			t.Errorf("passed after %v, want when the rate rises after 1s", took)
		}

		b.set(1000)
		_ = f.wait(10_000, nil)
		began = time.Now()
		time.AfterFunc(time.Second, func() { b.set(0) })
		_ = f.wait(10_000, nil)
		if took := time.Since(began); took != time.Second {
			t.Errorf("passed after %v, want when the rate is gone after 1s", took)
		}
		if b.chunk() != 0 {
			t.Errorf("chunk is %d without a rate", b.chunk())
		}
	})
}

func TestRateAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(0)
		w := &worker{flow: newFlow(b), piece: 1000, pause: time.Millisecond}
		time.AfterFunc(time.Second, func() { b.set(100_000) })
		work(b, 11*time.Second, w)
		near(t, "1 s without a rate, 10 s at 100 kB/s", w.bytes, 1_000_000+1_000_000, 0.02)
	})
}

func TestChunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for rate, want := range map[int64]int{0: 0, 1: 2 << 10, 10 * mbit: 25_000, 10_000 * mbit: 256 << 10, math.MaxInt64: 256 << 10} {
			if got := newBucket(rate).chunk(); got != want {
				t.Errorf("chunk at %d B/s is %d, want %d", rate, got, want)
			}
		}
		b := newBucket(10 * mbit)
		_ = newFlow(b).wait(10*mbit, nil)
		cut := make(chan struct{})
		var wg sync.WaitGroup
		for range 99 {
			f := newFlow(b)
			wg.Go(func() { _ = f.wait(1000, cut) })
		}
		synctest.Wait()
		if got := b.chunk(); got != 2<<10 {
			t.Errorf("chunk with 99 waiting is %d, want 2 KiB", got)
		}
		close(cut)
		wg.Wait()
		if got := b.chunk(); got != 25_000 {
			t.Errorf("chunk when they have gone is %d, want 25000", got)
		}
	})
}
