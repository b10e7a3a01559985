package upstream

import (
	"math/rand/v2"
	"sync"
	"time"
)

// health is whether something may be used, by what has come of it before. The
// zero health is good.
//
// What fails is down for a time that doubles with every failure. Then one
// request may try it.
type health struct {
	mu       sync.Mutex
	failures int       // that count, since it was last good; 0: it is up
	since    time.Time // when it went up or down; zero: it was never down
	retry    time.Time // when it may be tried
	trying   bool      // by somebody who holds the trial
	deep     bool      // it was reached, and failed in use
	err      error     // of the last failure
}

// Times that something is down.
const (
	firstDown = time.Second
	longDown  = time.Minute
)

// backoff returns how long something is down after so many failures: up to a
// fifth less than it could be, lest all try at once.
func backoff(failures int) time.Duration {
	d := longDown
	if failures <= 6 {
		d = firstDown << (failures - 1)
	}
	return d - rand.N(d/5)
}

// A state is what a health says now.
type state int

const (
	up   state = iota
	due        // down, and to be tried by one request
	down       // down, or being tried
)

func (h *health) state() state {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now()
}

// now is the state. h.mu is held.
func (h *health) now() state {
	switch {
	case h.failures == 0:
		return up
	case h.trying || time.Now().Before(h.retry):
		return down
	}
	return due
}

// begin asks for leave to use it, which only a last resort has when it is down.
// Who gets the trial has to say how it ended: succeed, fail or drop.
func (h *health) begin(lastResort bool) (trial, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.now() {
	case up:
		return false, true
	case due:
		h.trying = true
		return true, true
	}
	return false, lastResort
}

// succeed notes that it has worked, and reports whether it was down.
func (h *health) succeed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	wasDown := h.failures > 0
	if wasDown {
		h.since = time.Now()
	}
	h.failures, h.trying, h.deep, h.err = 0, false, false, nil
	return wasDown
}

// fail notes that a use which began at a time has failed, and reports whether it
// was up. Many that fail at once count once; so does what fails while it is down
// anyway, unless it was the trial.
func (h *health) fail(began time.Time, trial, deep bool, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures == 0 && began.Before(h.since) {
		return false // it is good again since
	}
	h.err = err
	if trial {
		h.trying = false
	}
	if h.failures > 0 && !trial {
		return false
	}
	h.deep = deep
	h.failures++
	h.retry = time.Now().Add(backoff(h.failures))
	if h.failures > 1 {
		return false
	}
	h.since = time.Now()
	return true
}

// drop gives a trial back that has told nothing.
func (h *health) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trying = false
	if h.failures > 0 {
		h.retry = time.Now().Add(backoff(h.failures))
	}
}

// reached notes that the server answers. That ends a time down only if it was
// for not answering.
func (h *health) reached() bool {
	h.mu.Lock()
	deep := h.deep
	h.mu.Unlock()
	return !deep && h.succeed()
}

// next returns when it may be tried.
func (h *health) next() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.retry
}
