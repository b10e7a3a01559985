package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// ends returns the sides of a pair with the one that a test is about first.
func (j *joined) ends(fromClient bool) (from, to conn, moved func(t testing.TB, n int64)) {
	if fromClient {
		return j.client, j.upstream, func(t testing.TB, n int64) { t.Helper(); j.moved(t, n, 0) }
	}
	return j.upstream, j.client, func(t testing.TB, n int64) { t.Helper(); j.moved(t, 0, n) }
}

// overBoth runs a test over every pairing twice: the client begins, the
// upstream begins.
func overBoth(t *testing.T, set func(*Pair), test func(t *testing.T, from, to kind, j *joined, fromClient bool)) {
	for name, fromClient := range map[string]bool{"client": true, "upstream": false} {
		t.Run(name, func(t *testing.T) {
			over(t, set, func(t *testing.T, p pairing, j *joined) {
				from, to := p.client, p.upstream
				if !fromClient {
					from, to = to, from
				}
				test(t, from, to, j, fromClient)
			})
		})
	}
}

// wantReset wants the bytes b and then a reset; from a side that has none, the end.
func wantReset(t *testing.T, k kind, c conn, b []byte) {
	t.Helper()
	switch err := receive(c, b); {
	case k.resets && !reset(err):
		t.Errorf("%v, want a reset after %d bytes", err, len(b))
	case !k.resets && err != nil && !reset(err):
		t.Error(err)
	}
}

// T34: a reset is a reset on the other side, and what was written before it
// arrives, though nobody reads while it comes.
func TestReset(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		c, other, moved := j.ends(fromClient)
		_, _, movedBack := j.ends(!fromClient)
		before := noise(20_000)
		if _, err := c.Write(before); err != nil {
			t.Fatal(err)
		}
		moved(t, int64(len(before)))
		// Something that is left unread makes the end of a unix socket a reset.
		if _, err := other.Write([]byte("unread")); err != nil {
			t.Fatal(err)
		}
		movedBack(t, 6)
		breakOff(c)
		if to.name == "memory" {
			// Its flush is that of nobody: its buffer is the reader's.
			wantReset(t, to, other, before)
		}
		if err := j.wait(t); !reset(err) {
			t.Errorf("Done got %v", err)
		}
		if to.name != "memory" {
			wantReset(t, to, other, before)
		}
	})
}

// The same in the midst of bulk, with a reader that reads all the while.
func TestResetAfterBulk(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		if !from.resets {
			return // what it wrote would be in order
		}
		c, other, moved := j.ends(fromClient)
		before := noise(4 << 20)
		var reader sync.WaitGroup
		reader.Go(func() { wantReset(t, to, other, before) })
		if _, err := c.Write(before); err != nil {
			t.Fatal(err)
		}
		moved(t, int64(len(before)))
		breakOff(c)
		reader.Wait()
		if err := j.wait(t); !reset(err) {
			t.Errorf("Done got %v", err)
		}
	})
}

// A reset after the other direction has ended.
func TestResetAfterHalfClose(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		if !from.resets {
			return
		}
		c, other, moved := j.ends(fromClient)
		together(t, other.CloseWrite, func() error { return receive(c, nil) })
		before := noise(10)
		if _, err := c.Write(before); err != nil {
			t.Fatal(err)
		}
		moved(t, int64(len(before)))
		breakOff(c)
		wantReset(t, to, other, before)
		if err := j.wait(t); !reset(err) {
			t.Errorf("Done got %v", err)
		}
	})
}

// A reset while both sides send: whichever direction meets it first, the other
// side must not see an end in order, which would make a broken upload whole.
func TestResetInTraffic(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		if !from.resets || !to.resets {
			return
		}
		for range 5 {
			resetInTraffic(t, j, fromClient)
			if t.Failed() {
				return
			}
			// The next with the same kinds.
			j = join(t, pairing{from, to}, nil)
			fromClient = true
		}
	})
}

func resetInTraffic(t *testing.T, j *joined, fromClient bool) {
	c, other, moved := j.ends(fromClient)
	var wg sync.WaitGroup
	flood := func(c conn) (err error) {
		for b := noise(10_000); err == nil; {
			_, err = c.Write(b)
		}
		return err
	}
	var read, write error
	wg.Go(func() { flood(c) })
	wg.Go(func() { io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, make([]byte, 10_000)) })
	wg.Go(func() { write = flood(other) })
	wg.Go(func() { _, read = io.CopyBuffer(io.Discard, struct{ io.Reader }{other}, make([]byte, 10_000)) })
	moved(t, 100_000)
	breakOff(c)
	wg.Wait()
	// The kernel tells of a reset once, to the first who asks. EPIPE alone
	// would mean that an end in order had come before.
	if !reset(read) && !reset(write) {
		t.Errorf("read %v, write %v: no reset", read, write)
	}
	if err := j.wait(t); err == nil {
		t.Error("Done got no error")
	}
}

// The reset of a side to which nothing can be written any more.
func TestResetOfReader(t *testing.T) {
	overBoth(t, nil, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		if !from.resets {
			return
		}
		c, other, _ := j.ends(fromClient)
		breakOff(c)
		var err error
		for err == nil {
			_, err = other.Write(make([]byte, 1000))
		}
		if !errors.Is(err, net.ErrClosed) && !reset(err) && !brokenPipe(err) {
			t.Errorf("write: %v", err)
		}
		if err := j.wait(t); !reset(err) && !brokenPipe(err) {
			t.Errorf("Done got %v", err)
		}
	})
}

// Close resets both sides, whatever they are doing.
func TestClose(t *testing.T) {
	over(t, nil, func(t *testing.T, p pairing, j *joined) {
		j.Close()
		j.Close()
		wantReset(t, p.client, j.client, nil)
		wantReset(t, p.upstream, j.upstream, nil)
		if err := j.wait(t); err != ErrCut {
			t.Errorf("Done got %v", err)
		}
		j.Close()
	})
}

func TestCloseWhileStuck(t *testing.T) {
	var writers sync.WaitGroup
	var all []*joined
	for _, p := range pairings {
		j := join(t, p, smallBuffers)
		all = append(all, j)
		for _, c := range []conn{j.client, j.upstream} {
			writers.Go(func() {
				if _, err := c.Write(make([]byte, 32<<20)); err == nil {
					t.Errorf("%v: 32 MiB were written though nobody read", p)
				}
			})
		}
	}
	for _, j := range all {
		j.moved(t, 1, 1)
		j.Close()
	}
	writers.Wait()
	for _, j := range all {
		if err := j.wait(t); err != ErrCut {
			t.Errorf("Done got %v", err)
		}
	}
}

func TestCloseBeforeStart(t *testing.T) {
	for _, p := range pairings {
		far, near := p.client.open(t)
		far2, near2 := p.upstream.open(t)
		pair := &Pair{Client: near, Upstream: near2}
		pair.Close(ErrCut)
		j := &joined{client: far, upstream: far2}
		j.start(t, pair)
		if err := j.wait(t); err != ErrCut {
			t.Errorf("%v: Done got %v", p, err)
		}
	}
}

func TestCloseAfterEnd(t *testing.T) {
	over(t, nil, func(t *testing.T, p pairing, j *joined) {
		together(t, j.client.CloseWrite, j.upstream.CloseWrite,
			func() error { return receive(j.client, nil) },
			func() error { return receive(j.upstream, nil) },
		)
		if err := j.wait(t); err != nil {
			t.Errorf("Done got %v", err)
		}
		j.Close()
	})
}

// An idle session ends in order: nothing is lost.
func TestIdle(t *testing.T) {
	over(t, func(p *Pair) { p.Idle = 100 * time.Millisecond }, func(t *testing.T, p pairing, j *joined) {
		together(t,
			func() error { return receive(j.client, nil) },
			func() error { return receive(j.upstream, nil) },
		)
		if err := j.wait(t); err != ErrIdle {
			t.Errorf("Done got %v", err)
		}
	})
}

// plain is a connection that has only what net.Conn asks for.
type plain struct{ net.Conn }

// undying is one whose deadlines do nothing, as those of SSH channels.
type undying struct{ net.Conn }

func (undying) SetDeadline(time.Time) error { return errors.New("deadline not supported") }

func TestCloseWithoutDeadlines(t *testing.T) {
	over(t, func(p *Pair) { p.Client, p.Upstream = undying{p.Client}, undying{p.Upstream} }, func(t *testing.T, p pairing, j *joined) {
		j.Close()
		if err := j.wait(t); err != ErrCut {
			t.Errorf("Done got %v", err)
		}
	})
}

// A connection that cannot be closed by halves is closed whole, and that is an
// end in order.
func TestNoHalfClose(t *testing.T) {
	over(t, func(p *Pair) { p.Upstream = plain{p.Upstream} }, func(t *testing.T, p pairing, j *joined) {
		up, down := noise(100_000), noise(100_000)
		together(t,
			func() error { _, err := j.upstream.Write(down); return err },
			func() error { _, err := io.ReadFull(j.client, make([]byte, len(down))); return err },
		)
		together(t,
			func() error { return send(j.client, up) },
			func() error { return receive(j.upstream, up) },
			func() error { return receive(j.client, nil) },
		)
		if err := j.wait(t); err != nil {
			t.Errorf("Done got %v", err)
		}
	})
}
