package relay

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// toll is a Gate that notes what passes, and may stop it.
type toll struct {
	chunk  int
	passed atomic.Int64
	most   atomic.Int64
	tries  atomic.Int64
	until  int64 // 0: for ever; else what is beyond waits to be cut
	err    error // 0: waits; else what is beyond ends the session
}

func (g *toll) Chunk() int { return g.chunk }

func (g *toll) Try(n int) Gate {
	if g.tries.Add(1)%3 == 0 || g.until > 0 { // every third has to wait
		return g
	}
	_ = g.Wait(n, nil)
	return nil
}

func (g *toll) Wait(n int, cut <-chan struct{}) error {
	if g.most.Load() < int64(n) {
		g.most.Store(int64(n))
	}
	if g.until > 0 && g.passed.Load()+int64(n) > g.until {
		if g.err != nil {
			return g.err
		}
		<-cut
		return errors.New("cut while waiting")
	}
	g.passed.Add(int64(n))
	return nil
}

// Every byte passes its gate, in pieces no bigger than the gate wants, and the
// kernel still splices.
func TestGate(t *testing.T) {
	up, down := &toll{chunk: 20 << 10}, &toll{chunk: 3000}
	over(t, nil, func(t *testing.T, p pairing, _ *joined) {
		up, down := &toll{chunk: up.chunk}, &toll{chunk: down.chunk}
		j := join(t, p, func(pair *Pair) { pair.UpGate, pair.DownGate = up, down })
		data := noise(1 << 20)
		var all sync.WaitGroup
		defer all.Wait()
		all.Go(func() {
			j.client.Write(data)
			j.client.CloseWrite()
		})
		all.Go(func() {
			j.upstream.Write(data)
			j.upstream.CloseWrite()
		})
		all.Go(func() {
			if got, err := io.ReadAll(j.client); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the client has %d bytes, %v", len(got), err)
			}
		})
		if got, err := io.ReadAll(j.upstream); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the upstream has %d bytes, %v", len(got), err)
		}
		if err := j.wait(t); err != nil {
			t.Error(err)
		}
		for _, g := range []*toll{up, down} {
			if g.passed.Load() != int64(len(data)) || g.most.Load() > int64(g.chunk) {
				t.Errorf("%d bytes have passed, at most %d of %d at once", g.passed.Load(), g.most.Load(), g.chunk)
			}
		}
	})
}

// A gate that says no ends the session with its reason, and one that waits is
// left when the session is cut.
func TestGateEnds(t *testing.T) {
	spent := errors.New("quota is used up")
	for _, g := range []*toll{{until: 100000, err: spent}, {until: 100000}} {
		over(t, nil, func(t *testing.T, p pairing, _ *joined) {
			g := &toll{until: g.until, err: g.err}
			j := join(t, p, func(pair *Pair) { pair.UpGate = g })
			var all sync.WaitGroup
			defer all.Wait()
			all.Go(func() { j.client.Write(make([]byte, 1<<20)) })
			all.Go(func() { io.Copy(io.Discard, j.upstream) })
			want := spent
			if g.err == nil {
				want = ErrCut
				time.Sleep(50 * time.Millisecond) // it should wait by now; if not, the test is weaker
				j.Close()
			}
			if err := j.wait(t); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			if up, _ := j.Bytes(); up > g.until {
				t.Errorf("%d bytes have passed", up)
			}
			j.client.Close()
			j.upstream.Close()
		})
	}
}
