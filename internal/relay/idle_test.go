package relay

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inMemory runs a test in a bubble, over connections in memory, and says how
// long after the start Done was called.
func inMemory(t *testing.T, idle time.Duration, test func(t *testing.T, j *joined)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		j := new(joined)
		client, near := memoryPair()
		upstream, far := memoryPair()
		j.client, j.upstream = client, upstream
		j.start(t, &Pair{Client: near, Upstream: far, Idle: idle})
		test(t, j)
	})
}

// ended wants the pair to end at a time after begin, with an error.
func (j *joined) ended(t *testing.T, begin time.Time, after time.Duration, want error) {
	t.Helper()
	<-j.done
	if j.err != want {
		t.Errorf("Done got %v, want %v", j.err, want)
	}
	if d := time.Since(begin); d != after {
		t.Errorf("ended after %v, want %v", d, after)
	}
}

func TestIdleTime(t *testing.T) {
	for _, idle := range []time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour} {
		inMemory(t, idle, func(t *testing.T, j *joined) {
			j.ended(t, time.Now(), idle, ErrIdle)
			together(t,
				func() error { return receive(j.client, nil) },
				func() error { return receive(j.upstream, nil) },
			)
		})
	}
}

// One direction is silent by nature in many protocols.
func TestOneDirectionIsNotIdle(t *testing.T) {
	for _, fromClient := range []bool{true, false} {
		inMemory(t, time.Minute, func(t *testing.T, j *joined) {
			begin := time.Now()
			from, to, _ := j.ends(fromClient)
			const pause = 59 * time.Second
			for range 100 {
				<-time.After(pause)
				if _, err := from.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			j.ended(t, begin, 100*pause+time.Minute, ErrIdle)
			up, down := j.Bytes()
			if up+down != 100 {
				t.Errorf("%d bytes up, %d down", up, down)
			}
		})
	}
}

// Nor is a session idle of which one direction has ended.
func TestHalfClosedIsNotIdle(t *testing.T) {
	inMemory(t, time.Minute, func(t *testing.T, j *joined) {
		begin := time.Now()
		together(t, j.client.CloseWrite, func() error { return receive(j.upstream, nil) })
		for range 10 {
			<-time.After(50 * time.Second)
			together(t,
				func() error { _, err := j.upstream.Write([]byte("x")); return err },
				func() error { _, err := io.ReadFull(j.client, make([]byte, 1)); return err },
			)
		}
		j.ended(t, begin, 500*time.Second+time.Minute, ErrIdle)
	})
}

// Both sides write and neither reads: no byte moves. What is left over is
// lost, so the end must not look like one in order.
func TestStuckIsIdle(t *testing.T) {
	inMemory(t, time.Minute, func(t *testing.T, j *joined) {
		begin := time.Now()
		var writers sync.WaitGroup
		for _, c := range []conn{j.client, j.upstream} {
			writers.Go(func() { c.Write(make([]byte, 1<<20)) })
		}
		j.ended(t, begin, time.Minute, ErrIdle)
		writers.Wait()
		for _, c := range []conn{j.client, j.upstream} {
			if n, err := io.Copy(io.Discard, c); !reset(err) {
				t.Errorf("%d bytes and then %v, want a reset", n, err)
			}
		}
	})
}

func TestNeverIdle(t *testing.T) {
	for _, idle := range []time.Duration{0, -1} {
		inMemory(t, idle, func(t *testing.T, j *joined) {
			<-time.After(1000 * time.Hour)
			b := noise(1000)
			together(t,
				func() error { return send(j.client, b) },
				func() error { return receive(j.upstream, b) },
				j.upstream.CloseWrite,
				func() error { return receive(j.client, nil) },
			)
			if <-j.done; j.err != nil {
				t.Errorf("Done got %v", j.err)
			}
		})
	}
}

// A side that breaks off ends the session soon, though the other reads nothing
// and is itself stuck in a write. What still moves is not cut short.
func TestResetWhileStuck(t *testing.T) {
	for _, idle := range []time.Duration{0, time.Hour, time.Second} {
		limit := brokenTime
		if idle == time.Second {
			limit = idle
		}
		inMemory(t, idle, func(t *testing.T, j *joined) {
			var writers sync.WaitGroup
			writers.Go(func() { j.client.Write(make([]byte, 1<<20)) })
			const rest = 2 * memoryBuffer // there, but in the way of nothing
			if _, err := j.upstream.Write(make([]byte, rest)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			breakOff(j.upstream)
			begin := time.Now()
			pause := limit - time.Millisecond
			for range rest / bufferSize {
				<-time.After(pause)
				if _, err := io.CopyN(io.Discard, j.client, bufferSize); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := io.Copy(io.Discard, j.client); n != 0 || !reset(err) {
				t.Errorf("%d bytes too many, %v", n, err)
			}
			writers.Wait()
			<-j.done
			if !reset(j.err) || time.Since(begin) > 5*limit {
				t.Errorf("Done got %v after %v", j.err, time.Since(begin))
			}
		})
		inMemory(t, idle, func(t *testing.T, j *joined) {
			var writers sync.WaitGroup
			for _, c := range []conn{j.client, j.upstream} {
				writers.Go(func() { c.Write(make([]byte, 1<<20)) })
			}
			synctest.Wait()
			begin := time.Now()
			breakOff(j.upstream)
			writers.Wait()
			<-j.done
			if d := time.Since(begin); !reset(j.err) || d > limit {
				t.Errorf("Done got %v after %v", j.err, d)
			}
		})
	}
}
