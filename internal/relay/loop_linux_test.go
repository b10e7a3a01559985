package relay

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
)

// other returns a loop that is not the pair's, nil if there is none.
func (j *joined) other() *event.Loop {
	at := j.loop.at.Load()
	at.Heavy(1000)
	defer at.Heavy(-1000)
	if to := at.Rather(true); to != at {
		return to
	}
	return nil
}

// A pair may move from one loop to another at any time, with whatever is on its
// way, and while others close it.
func TestMove(t *testing.T) {
	for _, size := range []int{1 << 10, 32 << 20} {
		j := join(t, pairing{onLoop, onLoop}, smallBuffers)
		if !j.loop.on() {
			t.Fatal("the pair is on no loop")
		}
		if j.other() == nil {
			return // one processor, one loop
		}
		moves, first := 0, make(chan struct{})
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				moved := make(chan bool, 1)
				j.inLoop(func() { moved <- j.running.Load() > 0 && j.move(j.other()) })
				select {
				case ok := <-moved:
					if ok {
						if moves++; moves == 1 {
							close(first)
						}
					}
				case <-j.done:
					return
				case <-stop:
					return
				}
			}
		}()
		select {
		case <-first:
		case <-time.After(10 * time.Second):
			t.Fatal("it does not move")
		}
		up, down := noise(size), noise(size)
		together(t,
			func() error { return send(j.client, up) },
			func() error { return send(j.upstream, down) },
			func() error { return receive(j.upstream, up) },
			func() error { return receive(j.client, down) },
		)
		if err := j.wait(t); err != nil {
			t.Error(err)
		}
		close(stop)
		<-stopped
		j.counted(t, int64(size), int64(size))
		t.Logf("%d moves", moves)
	}
}

// What holds back bytes does not keep a pair from a loop.
func TestGateOnLoop(t *testing.T) {
	j := join(t, pairing{onLoop, onLoop}, func(pair *Pair) { pair.UpGate = new(toll) })
	if !j.loop.on() {
		t.Error("the pair is on no loop")
	}
	j.Close()
	if err := j.wait(t); err != ErrCut {
		t.Errorf("it ended with %v", err)
	}
}

func TestMoveAndClose(t *testing.T) {
	for range 50 {
		j := join(t, pairing{onLoop, onLoop}, nil)
		to := j.other()
		if to == nil {
			return
		}
		sent := []byte("before")
		j.client.Write(sent)
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(j.upstream, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatal(err)
		}
		go j.inLoop(func() { j.move(to) })
		j.Close()
		if err := j.wait(t); err != ErrCut {
			t.Errorf("it ended with %v", err)
		}
	}
}
