package udp

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Pair is two sockets that serve as one, each with a local address of its own:
// Four speaks with IPv4 destinations, Conn with those of IPv6.
type Pair struct {
	*Conn
	Four *Conn

	unread     rest
	once       sync.Once
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	arrivals   chan arrival
	taken      chan struct{}
	generation atomic.Uint64 // of the read deadline
}

// arrival is what one of the sockets has read.
type arrival struct {
	ms         []Message
	err        error
	generation uint64
}

// NewPair joins two sockets, which it owns.
func NewPair(six, four *Conn) *Pair {
	p := &Pair{Conn: six, Four: four, arrivals: make(chan arrival), taken: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Sent says how many bytes of payload both have sent.
func (p *Pair) Sent() int64 { return p.Conn.Sent() + p.Four.Sent() }

// ReadBatch hands over what the one or the other has read.
func (p *Pair) ReadBatch(handle func([]Message)) error {
	p.once.Do(func() {
		go p.read(p.Conn)
		go p.read(p.Four)
	})
	if ms := p.unread.take(); len(ms) > 0 {
		handle(ms)
		return nil
	}
	for {
		select {
		case a := <-p.arrivals:
			if a.err == nil {
				handle(a.ms)
			}
			p.taken <- struct{}{}
			switch {
			case a.err == nil:
				return nil
			case errors.Is(a.err, os.ErrDeadlineExceeded) && a.generation != p.generation.Load():
				// That deadline is history.
			default:
				return a.err
			}
		case <-p.ctx.Done():
			return net.ErrClosed
		}
	}
}

// read waits for datagrams and for somebody to take them.
func (p *Pair) read(c *Conn) {
	offer := func(a arrival) {
		select {
		case p.arrivals <- a:
			<-p.taken
		case <-p.ctx.Done():
		}
	}
	for p.ctx.Err() == nil {
		generation := p.generation.Load()
		err := c.ReadBatch(func(ms []Message) { offer(arrival{ms: ms}) })
		if err != nil {
			offer(arrival{err: err, generation: generation})
		}
	}
}

// ReadFrom reads one datagram.
func (p *Pair) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	return p.unread.readFrom(p.ReadBatch, b)
}

// WriteBatch sends each datagram by the socket of its family.
func (p *Pair) WriteBatch(ms []Message) (sent int, err error) {
	for len(ms) > 0 && err == nil {
		n := 1
		for n < len(ms) && is4(ms[n]) == is4(ms[0]) {
			n++
		}
		c := p.Conn
		if is4(ms[0]) {
			c = p.Four
		}
		var done int
		done, err = c.WriteBatch(ms[:n])
		sent += done
		ms = ms[n:]
	}
	return sent, err
}

func is4(m Message) bool { return m.Addr.Addr().Unmap().Is4() }

// SetReadDeadline bounds the reads of both.
func (p *Pair) SetReadDeadline(t time.Time) error {
	p.generation.Add(1)
	return errors.Join(p.Conn.SetReadDeadline(t), p.Four.SetReadDeadline(t))
}

// SetDeadline bounds reads; writes do not wait.
func (p *Pair) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// Close closes both.
func (p *Pair) Close() error {
	p.cancel()
	return errors.Join(p.Conn.Close(), p.Four.Close())
}
