package main

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// stuckWriter writes nothing before it is released.
type stuckWriter struct {
	bytes.Buffer
	released chan struct{}
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	<-w.released
	return w.Buffer.Write(b)
}

// Who logs does not wait for a reader, and no line is lost or torn.
func TestLogWriter(t *testing.T) {
	to := &stuckWriter{released: make(chan struct{})}
	l := newLogWriter(to)
	var writers sync.WaitGroup
	const lines = 2000
	for i := range 8 {
		writers.Go(func() {
			for j := range lines {
				fmt.Fprintf(l, "%d %d\n", i, j)
			}
		})
	}
	writers.Wait() // though nothing is written
	close(to.released)
	l.Close()
	fmt.Fprintln(l, "afterwards")
	var next [8]int
	for line := range bytes.Lines(to.Bytes()) {
		var i, j int
		if _, err := fmt.Sscanf(string(line), "%d %d\n", &i, &j); err != nil {
			if string(line) != "afterwards\n" {
				t.Fatalf("%q", line)
			}
			continue
		}
		if next[i] != j {
			t.Fatalf("line %d of %d where %d was due", j, i, next[i])
		}
		next[i]++
	}
	for i, n := range next {
		if n != lines {
			t.Errorf("%d lines of %d", n, i)
		}
	}
}

// What nobody reads has a bound, and holds up nobody: it is told how much is lost.
func TestLogNobodyReads(t *testing.T) {
	to := &stuckWriter{released: make(chan struct{})}
	l := newLogWriter(to)
	lost := make(chan int, 1)
	l.lost = func(lines int) { lost <- lines }
	line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
	const lines = maxLog>>20 + 10
	for range lines {
		if n, err := l.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	close(to.released)
	missed := <-lost
	l.Close()
	if written := to.Len() / len(line); missed == 0 || written+missed != lines {
		t.Errorf("%d lines are written and %d lost, of %d", written, missed, lines)
	}
}
