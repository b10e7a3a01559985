// Package relay joins two connections: it copies in both directions, passes on
// the end of each direction and a reset, counts, and ends what is idle.
//
// [Pair] is all that others see of how bytes move.
package relay

import (
	"errors"
	"math"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrIdle is given to Done when no byte has moved for the time Idle.
var ErrIdle = errors.New("idle for too long")

// ErrCut is given to Done after Close.
var ErrCut = errors.New("session closed")

// A Pair is two joined connections. Set its fields, then call Start once.
type Pair struct {
	Client, Upstream net.Conn

	// Idle is how long neither direction may move a byte. 0 means for ever.
	Idle time.Duration

	// Done, if not nil, is called once, when both connections are closed:
	// with nil if each side has ended its direction in order.
	Done func(err error)

	up, down half
	watchdog *time.Timer
	lasting  atomic.Bool           // the session has its keepalives
	active   atomic.Int64          // when a byte last moved, on our clock
	running  atomic.Int32          // directions that have not ended
	cause    atomic.Pointer[error] // why the session ends other than in order
	reset    atomic.Bool           // a side broke off: so shall the other
}

// Start begins to copy and returns. The connections belong to the Pair, which
// closes them.
func (p *Pair) Start() {
	client, early := unwrap(p.Client)
	upstream, late := unwrap(p.Upstream)
	p.up = half{pair: p, src: client, dst: upstream, unread: early}
	p.down = half{pair: p, src: upstream, dst: client, unread: late}
	p.touch()
	p.running.Store(2)
	p.watchdog = time.AfterFunc(math.MaxInt64, p.watch)
	p.watchdog.Reset(p.wait(firstWait)) // only now may watch find the field
	// Two new goroutines, so that the one that went through the handshake
	// can end and give its grown stack back.
	go p.up.run()
	go p.down.run()
}

// firstWait is when a session counts as one that lasts. Most never do, and so
// are spared the system calls that set up keepalives.
const firstWait = time.Second

// wait returns d, or the idle time if that is shorter.
func (p *Pair) wait(d time.Duration) time.Duration {
	if p.Idle > 0 {
		return min(d, p.Idle)
	}
	return d
}

// watch looks at the session from time to time. One timer a session serves
// readers and writers alike, and leaves the path of the bytes alone.
func (p *Pair) watch() {
	if p.running.Load() == 0 {
		return
	}
	if !p.lasting.Swap(true) {
		keepAlive(p.up.src)
		keepAlive(p.down.src)
	}
	if p.Idle <= 0 {
		return
	}
	rest := p.Idle - (time.Since(clock) - time.Duration(p.active.Load()))
	if rest <= 0 {
		p.stop(ErrIdle)
		return
	}
	p.watchdog.Reset(rest)
}

// Bytes says how many bytes have reached the upstream and the client so far.
func (p *Pair) Bytes() (up, down int64) { return p.up.bytes.Load(), p.down.bytes.Load() }

// Close cuts the session: both sides see a reset.
func (p *Pair) Close() { p.stop(ErrCut) }

// stop makes both directions end soon, for the reason err.
func (p *Pair) stop(err error) {
	p.fail(err)
	past := time.Unix(1, 0)
	_ = p.Client.SetDeadline(past)
	_ = p.Upstream.SetDeadline(past)
}

// fail records why the session ends other than in order; the first reason stays.
func (p *Pair) fail(err error) {
	p.cause.CompareAndSwap(nil, &err)
	if !errors.Is(err, ErrIdle) {
		p.reset.Store(true)
	}
}

func (p *Pair) err() error {
	if err := p.cause.Load(); err != nil {
		return *err
	}
	return nil
}

// clock is what touch reads: monotonic, and cheaper than a time.Time to store.
var clock = time.Now()

func (p *Pair) touch() { p.active.Store(int64(time.Since(clock))) }

// end closes both connections once both directions have ended.
func (p *Pair) end() {
	if p.running.Add(-1) > 0 {
		return
	}
	p.watchdog.Stop()
	if p.reset.Load() {
		abort(p.up.src)
		abort(p.down.src)
	}
	p.Client.Close()
	p.Upstream.Close()
	if p.Done != nil {
		p.Done(p.err())
	}
}

// half is one direction.
type half struct {
	pair     *Pair
	src, dst net.Conn
	unread   []byte // read of src before
	bytes    atomic.Int64
	pump     pump
}

func (h *half) run() {
	defer h.pair.end()
	err := h.write(h.unread)
	h.unread = nil
	if err == nil {
		err = h.copy()
	}
	h.finish(err)
}

// finish passes on how src ended.
func (h *half) finish(err error) {
	var w *writeError
	switch {
	case err == nil:
		closeWrite(h.dst)
	case errors.As(err, &w) && isReset(err):
		// dst has gone, and what it sent before it went is still to be
		// read: its own direction ends by itself, and soon.
		h.pair.fail(err)
	default:
		h.pair.stop(err)
	}
}

// closeWrite tells dst that no more will come. What has no such end is closed
// whole. An error means that dst is gone, which its own direction will meet.
func closeWrite(dst net.Conn) {
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
		return
	}
	dst.Close()
}

// write writes b to dst and counts it.
func (h *half) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := h.dst.Write(b)
	h.moved(n)
	if err != nil {
		return &writeError{err}
	}
	return nil
}

// writeError is an error of dst, where others are of src.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (h *half) moved(n int) {
	h.bytes.Add(int64(n))
	h.pair.touch()
}

func keepAlive(conn net.Conn) {
	if tcp, ok := bare(conn).(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 30 * time.Second})
	}
}

// abort makes the coming Close send a reset, after what was written has gone.
func abort(conn net.Conn) {
	if tcp, ok := bare(conn).(*net.TCPConn); ok {
		flush(tcp)
		_ = tcp.SetLinger(0)
	}
}

// bare returns the connection below TLS.
func bare(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return conn
}

// unwrap takes off what a handshake has put around a connection, and returns
// the bytes that it has read too many.
func unwrap(conn net.Conn) (net.Conn, []byte) {
	var unread []byte
	for {
		w, ok := conn.(interface {
			Unwrap() (net.Conn, []byte)
		})
		if !ok {
			return conn, unread
		}
		inner, b := w.Unwrap()
		conn, unread = inner, append(unread, b...)
	}
}
