package limit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// users makes one flow a user, and as many workers on it as counts say.
func users(b *bucket, counts ...int) (all []*worker, byUser func() []int64) {
	var groups [][]*worker
	for _, n := range counts {
		f := newFlow(b)
		var group []*worker
		for range n {
			group = append(group, &worker{flow: f})
		}
		groups = append(groups, group)
		all = append(all, group...)
	}
	return all, func() []int64 {
		sums := make([]int64, len(groups))
		for i, group := range groups {
			for _, w := range group {
				sums[i] += w.bytes
			}
		}
		return sums
	}
}

func TestFairBetweenUsers(t *testing.T) {
	for _, pause := range []time.Duration{0, 50 * time.Microsecond, 2 * time.Millisecond, 10 * time.Millisecond} {
		t.Run(fmt.Sprint(pause), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBucket(30 * mbit)
				workers, sums := users(b, 1, 4, 16)
				for _, w := range workers {
					w.pause = pause
				}
				work(b, 10*time.Second, workers...)
				for i, got := range sums() {
					near(t, fmt.Sprintf("user %d", i), got, 100*mbit, 0.10)
				}
				near(t, "together", sums()[0]+sums()[1]+sums()[2], 300*mbit, 0.02)
			})
		})
	}
}

func TestFairWithinUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(30 * mbit)
		workers, _ := users(b, 1, 4)
		work(b, 10*time.Second, workers...)
		for i, w := range workers[1:] {
			near(t, fmt.Sprintf("session %d of 4", i), w.bytes, 150*mbit/4, 0.10)
		}
	})
}

// What a flow gets does not depend on how large its pieces are.
func TestFairWithMixedPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(40 * mbit)
		var workers []*worker
		for _, size := range []int{512, 4 << 10, 75_000, 256 << 10, 1 << 20} {
			workers = append(workers, &worker{flow: newFlow(b), piece: size})
		}
		work(b, 20*time.Second, workers...)
		for _, w := range workers {
			near(t, fmt.Sprintf("pieces of %d", w.piece), w.bytes, 160*mbit, 0.10)
		}
	})
}

func TestFairWithRandomPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const seed = 7
		random := rand.New(rand.NewPCG(seed, seed))
		b := newBucket(80 * mbit)
		var workers []*worker
		for range 50 {
			w := &worker{flow: newFlow(b), piece: 1 + random.IntN(60_000), pause: time.Duration(random.IntN(1000)) * time.Microsecond}
			workers = append(workers, w)
		}
		work(b, 60*time.Second, workers...)
		for _, w := range workers {
			near(t, fmt.Sprintf("pieces of %d after %v", w.piece, w.pause), w.bytes, 60*80*mbit/50, 0.10)
		}
	})
}

// What one does not take, the others get.
func TestWorkConservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(30 * mbit)
		slow := &worker{flow: newFlow(b), piece: 1250, pause: 10 * time.Millisecond} // 1 Mbit/s if it never waited
		fast, other := &worker{flow: newFlow(b)}, &worker{flow: newFlow(b)}
		work(b, 10*time.Second, slow, fast, other)
		near(t, "all", slow.bytes+fast.bytes+other.bytes, 300*mbit, 0.02)
		near(t, "fast", fast.bytes, other.bytes, 0.02)
		if slow.bytes < 3*mbit {
			t.Errorf("slow one got %d bytes of the 1250000 it could have sent, though it wants little", slow.bytes)
		}

		before := fast.bytes
		work(b, 10*time.Second, fast)
		near(t, "the one that is left", fast.bytes-before, 300*mbit, 0.02)
	})
}

// Flows that are new each time do not push back one that waits.
func TestNoStarvation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(10 * mbit)
		cut := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for newFlow(b).wait(1000, cut) == nil {
				}
			})
		}
		old := &worker{flow: newFlow(b), piece: 1000}
		work(b, 9*time.Second, old)
		close(cut)
		wg.Wait()
		near(t, "the old one among eight that are always new", old.bytes, 10*mbit, 0.10)
	})
}

func TestCancelledWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(mbit)
		f, other := newFlow(b), newFlow(b)
		_ = f.wait(mbit, nil) // a debt of one second
		cut := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := f.wait(10*mbit, cut); err != errCut {
					t.Errorf("cut waiter got %v", err)
				}
			})
		}
		began := time.Now()
		wg.Go(func() { _ = other.wait(mbit/10, nil) })
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		close(cut)
		wg.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("one behind cut waiters passed after %v, want when the debt is paid after 1 s", took)
		}
		b.mu.Lock() // the bucket's timer may be at work
		// Had a cut waiter taken anything, the flow would pay for it now.
		if debt := other.served - f.served; debt > 0 && f.served > 2*mbit {
			t.Errorf("served %d and %d", f.served, other.served)
		}
		if len(b.queue) != 0 || len(f.waiting) != 0 || len(other.waiting) != 0 {
			t.Error("somebody is still in the queue")
		}
		b.mu.Unlock()
		work(b, 10*time.Second, &worker{flow: f})
	})
}

// A waiter whose turn comes as it is cut gives back what it got.
func TestCutAtItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(mbit)
		f := newFlow(b)
		_ = f.wait(mbit, nil)
		w := f.enter(mbit)
		time.Sleep(2 * time.Second)
		<-w.passed
		served := f.served
		b.mu.Lock()
		b.settle()
		debt := b.debt
		b.mu.Unlock()
		f.leave(w)
		if f.served != served-mbit || b.debt > max(0, debt-1)+1e-9 {
			t.Errorf("after leaving: served %d, debt %v s; before %d and %v s", f.served, b.debt, served, debt)
		}
	})
}

func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []int64{1, 1000, mbit, 1000 * mbit} {
			if f := newFlow(newBucket(rate)); !f.allow(65_507) {
				t.Errorf("the largest datagram does not pass a rested bucket of %d B/s", rate)
			}
		}
		b := newBucket(mbit)
		f := newFlow(b)
		var passed int64
		for range 20_000 { // 22 Mbit/s for 10 s
			if f.allow(1400) {
				passed += 1400
			}
			time.Sleep(500 * time.Microsecond)
		}
		near(t, "datagrams in 10 s", passed, 10*mbit, 0.02)
		b.set(0)
		for range 1000 {
			if !f.allow(65_507) {
				t.Fatal("refused without a rate")
			}
		}
	})
}

// Datagrams and streams share as two flows do, and also within one flow
// neither shuts the other out.
func TestAllowAmongWaiters(t *testing.T) {
	for _, same := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBucket(10 * mbit)
			stream := &worker{flow: newFlow(b)}
			f := stream.flow
			if !same {
				f = newFlow(b)
			}
			var datagrams int64
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(200 * time.Microsecond): // 56 Mbit/s
						if f.allow(1400) {
							datagrams += 1400
						}
					}
				}
			})
			work(b, 10*time.Second, stream)
			close(done)
			wg.Wait()
			near(t, "together", stream.bytes+datagrams, 100*mbit, 0.03)
			near(t, fmt.Sprintf("datagrams (same flow: %v)", same), datagrams, 50*mbit, 0.15)
		})
	}
}
