package upstream

import (
	"sync"
	"time"
)

// deadline is a point in time that can be moved while others wait for it. The
// zero deadline never comes.
type deadline struct {
	mu     sync.Mutex
	passed chan struct{} // closed when the time has come
	over   bool          // passed is closed
	moves  int           // tells the timers apart
	timer  *time.Timer
}

// wait returns a channel that is closed when the time has come.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

// channel makes what wait returns. d.mu is held.
func (d *deadline) channel() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// set moves the deadline to t; the zero time is never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moves++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.over {
		d.passed, d.over = nil, false
	}
	if t.IsZero() {
		return
	}
	rest := time.Until(t)
	if rest <= 0 {
		d.come()
		return
	}
	move := d.moves
	d.timer = time.AfterFunc(rest, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.moves == move {
			d.come()
		}
	})
}

// come lets the time have come. d.mu is held.
func (d *deadline) come() {
	d.over = true
	close(d.channel())
}

// isPast reports whether the time has come.
func (d *deadline) isPast() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}
