package relay

import (
	"bytes"
	"io"
	"net"
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

// Who breaks off after an end in order is not waited for until the other side writes.
func TestResetAfterEnd(t *testing.T) {
	j := join(t, pairing{onLoop, onLoop}, nil)
	if err := j.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := receive(j.upstream, nil); err != nil {
		t.Fatal(err)
	}
	breakOff(j.client)
	if err := j.wait(t); !isReset(err) {
		t.Errorf("it ended with %v", err)
	}
}

// A connection may have been closed before, as a handshake is that has to make room.
func TestClosedBefore(t *testing.T) {
	over(t, nil, func(t *testing.T, p pairing, _ *joined) {
		for _, side := range []func(*Pair) net.Conn{
			func(pair *Pair) net.Conn { return pair.Client }, func(pair *Pair) net.Conn { return pair.Upstream },
		} {
			j := join(t, p, func(pair *Pair) { side(pair).Close() })
			if err := j.wait(t); err == nil {
				t.Error("it ended in order")
			}
		}
	})
}

// What has been read of both sides is relayed, however much it is.
func TestMuchUnread(t *testing.T) {
	early, late := noise(100), noise(bufferSize+1)
	j := join(t, pairing{onLoop, onLoop}, func(pair *Pair) {
		pair.Client, pair.Upstream = &ahead{pair.Client, early}, &ahead{pair.Upstream, late}
	})
	together(t,
		func() error { return send(j.client, nil) },
		func() error { return send(j.upstream, nil) },
		func() error { return receive(j.upstream, early) },
		func() error { return receive(j.client, late) },
	)
	if err := j.wait(t); err != nil {
		t.Error(err)
	}
}

// ahead is a connection of which something has been read.
type ahead struct {
	net.Conn
	read []byte
}

func (a *ahead) Unwrap() (net.Conn, []byte) { return a.Conn, a.read }
