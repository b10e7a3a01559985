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
