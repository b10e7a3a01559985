package limit

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// burst is how much of the rate may pass at once after a rest.
	burst = 0.050 // seconds

	// grace is how late a timer may be before bytes are lost by it.
	grace = 0.010 // seconds

	// piece is how much of the rate one chunk takes, and round how much all
	// the keys that wait take together until it is the first one's turn again.
	piece, round = 0.020, 0.100 // seconds

	minChunk, maxChunk = 2 << 10, 256 << 10
)

// A bucket lets bytes pass at a rate, and shares the rate fairly between the
// flows that want more of it. The zero value has no rate: all may pass.
//
// What has passed too early is a debt, counted in seconds of the rate, that
// time pays off. Timers only say when to look, so that their lateness adds up
// to nothing.
//
// The flows take turns by self-clocked fair queueing: each has a tag, which is
// the bytes that it has been served, and the smallest goes next. Unlike deficit
// round robin this works by bytes even for a flow that has one small piece
// waiting at a time, as a single session does, and has nothing in the queue
// while that is on its way.
type bucket struct {
	rate atomic.Int64 // bytes per second; 0 means no bound. Written under mu

	mu    sync.Mutex
	debt  float64   // seconds of the rate
	last  time.Time // when debt was right
	clock int64     // the largest tag that has been served
	queue flowHeap  // flows with waiters
	timer *time.Timer
}

// join adds a flow. It has neither credit nor debt.
func (b *bucket) join(f *flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.bucket, f.served = b, b.clock
}

// set changes the rate, also for those who wait.
func (b *bucket) set(rate int64) {
	rate = max(rate, 0)
	if rate == b.rate.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	b.rate.Store(rate)
	// A large piece may have taken minutes of a slow rate.
	b.debt = min(b.debt, burst)
	if rate == 0 {
		b.debt = 0
	}
	b.serve()
}

// rested reports whether nothing of the past is left.
func (b *bucket) rested() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	return b.debt == 0
}

// chunk is how much should pass in one piece; 0 means no bound.
func (b *bucket) chunk() int {
	rate := b.rate.Load()
	if rate == 0 {
		return 0
	}
	b.mu.Lock()
	keys := len(b.queue)
	b.mu.Unlock()
	return clampChunk(float64(rate) * min(piece, round/float64(keys+1)))
}

func clampChunk(n float64) int { return int(max(minChunk, min(n, maxChunk))) }

// settle pays off the debt by the time that has passed. mu is held, as in all
// that follows.
func (b *bucket) settle() {
	now := time.Now()
	b.debt = max(0, b.debt-now.Sub(b.last).Seconds())
	b.last = now
}

// cost is how much of the rate n bytes take, in seconds.
func (b *bucket) cost(n int) float64 {
	rate := b.rate.Load()
	if rate == 0 {
		return 0
	}
	return float64(n) / float64(rate)
}

// due is how long n bytes have to wait, in seconds. More than fit into the
// burst pass when there is next to no debt, and leave one.
func (b *bucket) due(n int) float64 {
	return b.debt - max(burst-b.cost(n), grace)
}

// take lets a piece of n bytes of f pass that begins at start.
func (b *bucket) take(f *flow, start int64, n int) {
	b.debt += b.cost(n)
	b.clock = max(b.clock, start+int64(n))
	f.served = max(f.served, start) + int64(n)
}

// serve lets all pass that may, in turn, and sets the timer for the next.
func (b *bucket) serve() {
	for len(b.queue) > 0 {
		f := b.queue[0]
		w := f.waiting[0]
		if late := b.due(w.n); late > 0 {
			b.wakeIn(time.Duration(late*1e9) + 1) // a nanosecond, or it may be due a trifle early
			return
		}
		b.take(f, f.tag-int64(w.n), w.n)
		close(w.passed)
		f.remove(0)
	}
	if b.timer != nil {
		b.timer.Stop()
	}
}

func (b *bucket) wakeIn(d time.Duration) {
	if b.timer == nil {
		b.timer = time.AfterFunc(d, b.wake)
		return
	}
	b.timer.Reset(d)
}

func (b *bucket) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	b.serve()
}
