package event

import (
	"container/heap"
	"time"
)

// clock is what timers are set by: monotonic nanoseconds since the start, more than 0.
var clock = time.Now().Add(-time.Nanosecond)

func now() int64 { return int64(time.Since(clock)) }

// onClock returns a time on our clock. t may be one of the system's clock only, which may have been set since the start.
func onClock(t time.Time) int64 {
	at := time.Now()
	return int64(at.Sub(clock) + t.Sub(at))
}

// A Timer calls a function in the goroutine of its loop. It is made by [Loop.NewTimer].
type Timer struct {
	loop  *Loop
	of    expirer
	when  int64
	index int // in the heap, from 1; 0: it is not set
}

// expirer is told that a time has come.
type expirer interface{ expire() }

type callback func()

func (f callback) expire() { f() }

// NewTimer returns a timer for f that is not set.
func (l *Loop) NewTimer(f func()) *Timer { return &Timer{loop: l, of: callback(f)} }

// Reset sets the timer, to call its function after d. It reports whether it was set.
func (t *Timer) Reset(d time.Duration) bool {
	return t.set(now() + int64(min(d, maxDelay)))
}

// maxDelay keeps sums of times from overflowing.
const maxDelay = 100 * 365 * 24 * time.Hour

// set sets the timer to a time on our clock.
func (t *Timer) set(when int64) bool {
	l := t.loop
	l.mu.Lock()
	was := t.index > 0
	t.when = when
	if was {
		heap.Fix(&l.timers, t.index-1)
	} else {
		heap.Push(&l.timers, t)
	}
	if t.index == 1 {
		l.ring()
	}
	l.mu.Unlock()
	return was
}

// Stop takes the setting back. It reports whether the timer was set.
func (t *Timer) Stop() bool {
	l := t.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.index == 0 {
		return false
	}
	l.timers.remove(t)
	return true
}

// pending reports whether the timer is set.
func (t *Timer) pending() bool {
	t.loop.mu.Lock()
	defer t.loop.mu.Unlock()
	return t.index > 0
}

// timers is a heap, the next to come first.
type timers []*Timer

func (h *timers) remove(t *Timer) { heap.Remove(h, t.index-1) }

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].when < h[j].when }

func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *timers) Push(x any) {
	t := x.(*Timer)
	*h = append(*h, t)
	t.index = len(*h)
}

func (h *timers) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = 0
	return t
}
