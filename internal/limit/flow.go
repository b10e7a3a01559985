package limit

import (
	"container/heap"
	"errors"
	"slices"
)

// errCut ends a wait. The session knows better why.
var errCut = errors.New("session cut while it waited to send")

// A flow is the part of a key in a bucket.
type flow struct {
	bucket  *bucket
	served  int64 // bytes, on the bucket's clock
	waiting []*waiter
	tag     int64 // with waiters: what served will be after the first
	index   int   // in the queue
}

type waiter struct {
	n      int
	passed chan struct{} // closed when n bytes may pass
}

// start is where the next piece of f begins on the bucket's clock. A flow that
// wanted less than its part for a while may catch up by a chunk, no more.
func (f *flow) start() int64 {
	b := f.bucket
	behind := clampChunk(float64(b.rate.Load()) * piece)
	return max(f.served, b.clock-int64(behind))
}

// wait returns nil when n bytes may pass.
func (f *flow) wait(n int, cut <-chan struct{}) error {
	if f.bucket.rate.Load() == 0 {
		return nil
	}
	w := f.enter(n)
	if w == nil {
		return nil
	}
	select {
	case <-w.passed:
		return nil
	case <-cut:
		f.leave(w)
		return errCut
	}
}

// enter returns nil if n bytes may pass at once.
func (f *flow) enter(n int) *waiter {
	b := f.bucket
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	if len(b.queue) == 0 && b.due(n) <= 0 {
		b.take(f, f.start(), n)
		return nil
	}
	w := &waiter{n: n, passed: make(chan struct{})}
	f.waiting = append(f.waiting, w)
	if len(f.waiting) == 1 {
		f.tag = f.start() + int64(n)
		heap.Push(&b.queue, f)
	}
	b.serve()
	return w
}

// leave takes back a wait, and what it was given if it was its turn meanwhile.
func (f *flow) leave(w *waiter) {
	b := f.bucket
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	if i := slices.Index(f.waiting, w); i >= 0 {
		f.remove(i)
	} else {
		f.putBack(w.n)
	}
	b.serve()
}

// remove takes the waiter i out of the queue.
func (f *flow) remove(i int) {
	f.waiting = slices.Delete(f.waiting, i, i+1)
	switch {
	case len(f.waiting) == 0:
		heap.Remove(&f.bucket.queue, f.index)
	case i == 0:
		f.tag = f.start() + int64(f.waiting[0].n)
		heap.Fix(&f.bucket.queue, f.index)
	}
}

// allow reports whether n bytes may pass at once, and takes them. A flow that
// would be ahead of those who wait is refused, or datagrams, which are small,
// would always find room where streams do not.
func (f *flow) allow(n int) bool {
	b := f.bucket
	if b.rate.Load() == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	start := f.start()
	if b.due(n) > 0 || len(b.queue) > 0 && start+int64(n) > b.queue[0].tag {
		return false
	}
	b.take(f, start, n)
	return true
}

// refund takes back what allow or wait has let pass.
func (f *flow) refund(n int) {
	b := f.bucket
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	f.putBack(n)
	b.serve()
}

func (f *flow) putBack(n int) {
	b := f.bucket
	b.debt = max(0, b.debt-b.cost(n))
	f.served -= int64(n)
}

// flowHeap has the flow whose turn it is first.
type flowHeap []*flow

func (h flowHeap) Len() int           { return len(h) }
func (h flowHeap) Less(i, j int) bool { return h[i].tag < h[j].tag }

func (h flowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

func (h *flowHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}
