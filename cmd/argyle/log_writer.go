package main

import (
	"io"
	"sync"
	"time"
)

// logWriter writes what it is given in a goroutine of its own, much of it at once,
// so that whoever logs does not wait: not for a system call, and not for a
// terminal or a pipe that nobody reads. What is too much is lost, and told of then.
type logWriter struct {
	w    io.Writer
	lost func(lines int) // logs it; nil: nobody wants to know

	mu      sync.Mutex
	changed sync.Cond
	waiting []byte
	missed  int // lines that had no room
	writing bool
	closed  bool
	ended   sync.WaitGroup
}

const (
	logDelay = 20 * time.Millisecond // between two writes, for more to come
	logTime  = 2 * time.Second       // that the last lines have
	maxLog   = 64 << 20              // of what waits
)

func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{w: w}
	l.changed.L = &l.mu
	l.ended.Go(l.run)
	return l
}

// Write takes b.
func (l *logWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.w.Write(b) // the last words of what has not ended yet
	}
	if len(l.waiting) > maxLog {
		l.missed++
		return len(b), nil
	}
	if len(l.waiting) == 0 && !l.writing {
		l.changed.Broadcast()
	}
	l.waiting = append(l.waiting, b...)
	return len(b), nil
}

func (l *logWriter) run() {
	var spare []byte
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.waiting) == 0 && !l.closed {
			l.changed.Wait()
		}
		l.writing = true
		b := l.waiting
		l.waiting = spare[:0]
		l.mu.Unlock()
		_, _ = l.w.Write(b) // nowhere is left to tell of an error
		time.Sleep(logDelay)
		l.mu.Lock()
		if missed := l.missed; missed > 0 && l.lost != nil {
			l.missed = 0
			l.mu.Unlock()
			l.lost(missed)
			l.mu.Lock()
		}
		if spare = b; cap(spare) > 64<<10 {
			spare = nil
		}
		l.writing = false
		l.changed.Broadcast()
		if l.closed && len(l.waiting) == 0 {
			return
		}
	}
}

// Close writes what waits, unless nobody takes it.
func (l *logWriter) Close() error {
	l.mu.Lock()
	l.closed = true
	l.changed.Broadcast()
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		l.ended.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(logTime):
	}
	return nil
}
