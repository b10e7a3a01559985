package relay

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
)

// looped is a Pair's place in an event loop. All of a Pair on a loop happens in
// the loop's goroutine: its directions have none of their own, and neither
// buffer nor pipe while nothing comes.
type looped struct {
	at               atomic.Pointer[event.Loop] // nil: there are goroutines
	client, upstream *event.Conn
	waits            bool // for its turn to Work
}

func (l *looped) on() bool { return l.at.Load() != nil }

// turn is how much a direction may move before others have theirs: little, for all
// that a loop serves wait for it.
const turn = 256 << 10

// startLoop begins to relay on a loop. It reports false if the connections are
// not both on the same.
func (p *Pair) startLoop() bool {
	client, ok := p.up.src.(*event.Conn)
	if !ok {
		return false
	}
	upstream, ok := p.down.src.(*event.Conn)
	if !ok || client.Loop() != upstream.Loop() || max(len(p.up.unread), len(p.down.unread)) > bufferSize {
		return false
	}
	p.up.hold()
	p.down.hold()
	p.loop.client, p.loop.upstream = client, upstream
	p.loop.at.Store(client.Loop())
	client.Loop().Post(p.begin)
	return true
}

// begin begins on the first loop, in its goroutine.
func (p *Pair) begin() {
	p.loop.client.Watch(p)
	p.loop.upstream.Watch(p)
	p.settle(p.wait(firstWait))
}

// settle begins on a loop, in its goroutine.
func (p *Pair) settle(look time.Duration) {
	p.watchdog = p.loop.at.Load().NewTimer(p.watch)
	p.watchdog.Reset(look)
	p.Ready()
}

// inLoop calls f where the Pair may be changed.
func (p *Pair) inLoop(f func()) {
	l := p.loop.at.Load()
	if l == nil {
		f()
		return
	}
	l.Post(func() {
		if p.loop.at.Load() == l {
			f()
		} else {
			p.inLoop(f)
		}
	})
}

// move moves the Pair to another loop, as the last that is done with it on the one
// where it is.
func (p *Pair) move(to *event.Loop) bool {
	from := p.loop.at.Load()
	if to == from || to.Wake() != nil {
		return false
	}
	p.watchdog.Stop()
	p.loop.client.Leave()
	p.loop.upstream.Leave()
	for _, h := range [...]*half{&p.up, &p.down} {
		if h.heavy {
			from.Heavy(-1)
			to.Heavy(1)
		}
	}
	p.loop.waits = false
	p.loop.at.Store(to)
	to.Post(func() {
		err := errors.Join(p.loop.client.Join(to), p.loop.upstream.Join(to))
		to.Sleep()
		look := p.wait(lookInterval)
		if limit := p.limit(); limit > 0 {
			look = min(look, limit) // a side has broken off
		}
		p.settle(look)
		if err != nil {
			p.stop(err)
		}
	})
	return true
}

// hold makes what was read before what is to be written next.
func (h *half) hold() {
	if len(h.unread) > 0 {
		h.pump.buf = buffers.Get().(*[bufferSize]byte)
		h.pump.n = copy(h.pump.buf[:], h.unread)
		h.unread = nil
	}
}

// Ready is told that a connection may be readable or writable, or gone. What that
// means for bulk waits for its turn.
func (p *Pair) Ready() {
	if p.up.heavy || p.down.heavy {
		p.later()
		return
	}
	p.step()
}

// later has the Pair Work when it is its turn.
func (p *Pair) later() {
	if !p.loop.waits {
		p.loop.waits = true
		p.loop.at.Load().Later(p)
	}
}

// Work does what can be done of bulk in a turn.
func (p *Pair) Work(l *event.Loop) {
	if p.loop.at.Load() != l {
		return // it has moved
	}
	p.loop.waits = false
	p.step()
}

// step does what can be done.
func (p *Pair) step() {
	if !p.up.step(p.loop.client, p.loop.upstream) || !p.down.step(p.loop.upstream, p.loop.client) {
		return
	}
	p.up.mourn(p.loop.client)
	p.down.mourn(p.loop.upstream)
	if p.lasting.Load() && p.running.Load() > 0 {
		p.move(p.loop.at.Load().Rather(false))
	}
}

// mourn sees whether src has broken off after its end in order, which only the
// other direction is left to be told of.
func (h *half) mourn(src *event.Conn) {
	if !h.ended || h.pair.running.Load() == 0 || !src.Failed() {
		return
	}
	fd, ok := src.Acquire()
	if !ok {
		return
	}
	broken := isClosed(uintptr(fd))
	src.Release()
	if broken {
		h.pair.reset.Store(true)
		h.pair.stop(syscall.ECONNRESET)
	}
}

// step moves what can be moved. It reports false if the Pair has left the loop.
func (h *half) step(src, dst *event.Conn) bool {
	for begin := h.bytes.Load(); h.bytes.Load()-begin < turn; {
		if h.ended || h.held || h.pump.n == 0 && !h.take(src) {
			return true
		}
		if h.pump.n > 0 && !(h.allowed() && h.give(src, dst)) {
			return true
		}
		if h.weigh() && h.pair.move(h.pair.loop.at.Load().Rather(true)) {
			return false
		}
	}
	h.pair.later()
	return true
}

// weigh counts a direction of bulk with its loop, and reports whether it has just
// become one.
func (h *half) weigh() bool {
	bulk := h.pump.bulk && !h.ended
	if bulk == h.heavy {
		return false
	}
	h.heavy = bulk
	n := 1
	if !bulk {
		n = -1
	}
	h.pair.loop.at.Load().Heavy(n)
	return bulk
}

// take reads a piece, or finds the end. It reports false if nothing is there.
func (h *half) take(src *event.Conn) bool {
	p := &h.pump
	if !src.MayRead() {
		return false
	}
	fd, ok := src.Acquire()
	if !ok {
		h.conclude(net.ErrClosed) // by somebody else, before
		return false
	}
	src.Reading()
	p.size = h.chunk(spliceSize)
	p.told = !src.Urgent()
	got := p.fill(uintptr(fd))
	if got {
		src.HasRead(p.buf == nil || p.n == min(p.size, bufferSize))
	}
	src.Release()
	if got && p.n <= 0 {
		h.conclude(p.err)
	}
	return got
}

// allowed reports whether what was read may go. If it may not yet, the Pair will
// be Ready when it may: only then is there a goroutine, which waits.
func (h *half) allowed() bool {
	if h.gate == nil || h.passed {
		return true
	}
	n := h.pump.n
	rest := h.gate.Try(n)
	if rest == nil {
		h.passed = true
		return true
	}
	h.held = true
	go func() {
		err := rest.Wait(n, h.pair.cut)
		h.pair.inLoop(func() { h.release(err) })
	}()
	return false
}

// release goes on after a gate.
func (h *half) release(err error) {
	h.held = false
	switch {
	case h.ended: // meanwhile
		h.leave()
	case err != nil:
		h.conclude(err)
	default:
		h.passed = true
		h.pair.Ready()
	}
}

// give writes what was read. It reports false if dst does not take all of it.
func (h *half) give(src, dst *event.Conn) bool {
	if h.writing.Load() {
		if src.Failed() && gone(src) {
			h.pair.reset.Store(true)
			h.pair.stop(syscall.ECONNRESET)
			return false
		}
		if !dst.MayWrite() {
			return false
		}
	}
	fd, ok := dst.Acquire()
	if !ok {
		h.conclude(&writeError{net.ErrClosed})
		return false
	}
	h.writing.Store(true)
	dst.Writing()
	p := &h.pump
	done := h.empty(uintptr(fd))
	dst.Release()
	if !done {
		return false
	}
	h.wrote(p.err)
	if p.err != nil {
		h.conclude(&writeError{p.err})
		return false
	}
	p.choose()
	p.n, p.written, h.passed = 0, 0, false
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
	return true
}

// conclude ends this direction.
func (h *half) conclude(err error) {
	h.ended = true
	h.weigh()
	h.finish(err)
	h.leave()
}

// leave is the last of a direction.
func (h *half) leave() {
	h.pump.release()
	h.pair.end()
}

// quit ends what has not ended.
func (p *Pair) quit() {
	for _, h := range [...]*half{&p.up, &p.down} {
		if h.ended {
			continue
		}
		h.ended = true
		h.weigh()
		if h.pump.n > 0 || !errors.Is(p.err(), ErrIdle) {
			p.reset.Store(true) // bytes are left over, or this is no end in order
		}
		if !h.held { // else it will have to come back from there
			h.leave()
		}
	}
}
