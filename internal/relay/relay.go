// Package relay joins two connections: it copies in both directions, passes on
// the end of each direction and a reset, counts, and ends what is idle.
//
// [Pair] is all that others see of how bytes move.
package relay

import (
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrIdle is given to Done when no byte has moved for the time Idle.
var ErrIdle = errors.New("idle for too long")

// ErrCut is the reason of a session that is cut without another.
var ErrCut = errors.New("session closed")

// A Pair is two joined connections. Set its fields, then call Start once.
type Pair struct {
	Client, Upstream net.Conn

	// Idle is how long neither direction may move a byte. 0 means for ever.
	Idle time.Duration

	// UpGate and DownGate hold back the bytes of a direction; nil lets them
	// pass.
	UpGate, DownGate Gate

	// Done, if not nil, is called once, when both connections are closed:
	// with nil if each side has ended its direction in order.
	Done func(err error)

	up, down half
	watchdog alarm
	loop     looped
	lasting  atomic.Bool   // the session has its keepalives
	active   atomic.Int64  // when a byte last moved, on our clock
	running  atomic.Int32  // directions that have not ended
	cut      chan struct{} // closed by stop; nil without gates
	cutOnce  sync.Once
	cause    atomic.Pointer[error] // why the session ends other than in order
	reset    atomic.Bool           // a side broke off: so shall the other
}

// A Gate holds back bytes on their way.
type Gate interface {
	// Try lets n more bytes pass if they may at once, and returns nil then;
	// else what they have still to wait for.
	Try(n int) Gate

	// Wait returns when n more bytes may pass. An error says that they must
	// not, or that cut was closed meanwhile; it ends the session.
	Wait(n int, cut <-chan struct{}) error

	// Chunk is how many bytes should pass in one piece; 0 means no bound.
	Chunk() int
}

// Start begins to copy and returns. The connections belong to the Pair, which
// closes them.
func (p *Pair) Start() {
	client, early := free(unwrap(p.Client))
	upstream, late := free(unwrap(p.Upstream))
	p.up = half{pair: p, src: client, dst: upstream, unread: early, gate: p.UpGate}
	p.down = half{pair: p, src: upstream, dst: client, unread: late, gate: p.DownGate}
	if p.UpGate != nil || p.DownGate != nil {
		p.cut = make(chan struct{})
	}
	p.touch()
	p.running.Store(2)
	if p.startLoop() {
		return
	}
	p.watchdog = time.AfterFunc(math.MaxInt64, p.watch)
	p.watchdog.Reset(p.wait(firstWait)) // only now may watch find the field
	// Two new goroutines, so that the one that went through the handshake
	// can end and give its grown stack back.
	go p.up.run()
	go p.down.run()
}

// alarm is a timer, of the system's or of a loop.
type alarm interface {
	Reset(d time.Duration) bool
	Stop() bool
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
	if p.up.stuck() || p.down.stuck() {
		p.reset.Store(true)
		p.stop(syscall.ECONNRESET)
		return
	}
	if p.limit() == 0 {
		p.watchdog.Reset(lookInterval)
	}
	for limit := p.limit(); limit > 0; {
		rest := limit - (time.Since(clock) - time.Duration(p.active.Load()))
		if rest <= 0 {
			p.stop(ErrIdle)
			return
		}
		p.watchdog.Reset(min(rest, lookInterval))
		before := limit
		if limit = p.limit(); limit == before {
			return
		}
	}
}

// lookInterval is how often a session is looked at in any case.
const lookInterval = 30 * time.Second

// stuck reports whether a write waits for dst while src, which nobody reads
// meanwhile, has broken off: what was read of it has nowhere to go.
func (h *half) stuck() bool { return h.writing.Load() && gone(h.src) }

// brokenTime is how long the rest of a session may move no byte after a side
// has broken off: what that side sent before it went is still on its way.
const brokenTime = 5 * time.Second

// limit is how long the session may move no byte; 0 is for ever.
func (p *Pair) limit() time.Duration {
	if p.reset.Load() && (p.Idle <= 0 || p.Idle > brokenTime) {
		return brokenTime
	}
	return p.Idle
}

// Bytes says how many bytes have reached the upstream and the client so far.
func (p *Pair) Bytes() (up, down int64) { return p.up.bytes.Load(), p.down.bytes.Load() }

// Close cuts the session: both sides see a reset, and Done gets the reason.
func (p *Pair) Close(reason error) {
	p.inLoop(func() {
		p.reset.Store(true)
		p.stop(reason)
	})
}

// stop makes both directions end soon, for the reason err if there is none yet.
func (p *Pair) stop(err error) {
	p.fail(err)
	if p.cut != nil {
		p.cutOnce.Do(func() { close(p.cut) })
	}
	if p.loop.on() {
		p.quit()
		return
	}
	past := time.Unix(1, 0)
	for _, conn := range []net.Conn{p.Client, p.Upstream} {
		if conn.SetDeadline(past) != nil {
			conn.Close() // it has no deadlines, as an SSH channel
		}
	}
}

// fail makes err the reason why the session ends if there is none yet.
func (p *Pair) fail(err error) { p.cause.CompareAndSwap(nil, &err) }

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
	if p.loop.on() && p.reset.Load() && !(flushed(p.up.src) && flushed(p.down.src)) {
		go p.close() // which waits
		return
	}
	p.close()
}

func (p *Pair) close() {
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
	gate     Gate   // nil: nothing holds the bytes back
	bytes    atomic.Int64
	writing  atomic.Bool // a write to dst is under way
	broken   atomic.Bool // a write found that dst has broken off
	ended    bool        // on a loop
	heavy    bool        // on a loop: counted as bulk
	held     bool        // on a loop: a goroutine waits at the gate
	passed   bool        // on a loop: what was read has gone through the gate
	over     atomic.Bool // src was closed whole for the other direction's end
	pump     pump
}

// back is the other direction.
func (h *half) back() *half {
	if h == &h.pair.up {
		return &h.pair.down
	}
	return &h.pair.up
}

func (h *half) run() {
	defer h.pair.end()
	err := h.pass(len(h.unread))
	if err == nil {
		err = h.write(h.unread)
	}
	h.unread = nil
	if err == nil {
		err = h.copy()
	}
	h.finish(err)
}

// finish passes on how src ended.
func (h *half) finish(err error) {
	p := h.pair
	writing := isWrite(err)
	if !writing && h.over.Load() {
		err = nil
	}
	switch {
	case err == nil:
		// If this direction is the last, closing says as much.
		if last := p.running.Load() == 1 && p.loop.on(); !last && !h.brokenSource() {
			h.closeWrite()
		}
	case writing && isReset(err):
		// dst has gone, and what it sent before it went is still to be
		// read: its own direction ends by itself, and soon.
		p.reset.Store(true)
		p.fail(err)
		p.watchdog.Reset(p.limit())
	default:
		// An idle session ends in order unless bytes are left over.
		if writing || !errors.Is(p.err(), ErrIdle) {
			p.reset.Store(true)
		}
		p.stop(err)
	}
}

// brokenSource reports whether src, which seems to have ended in order, has
// broken off: the kernel tells of a reset once, and a write may have been the
// first to hear. One that is under way gets a moment to tell.
func (h *half) brokenSource() bool {
	back := h.back()
	for range 10 {
		if !back.writing.Load() || h.pair.loop.on() {
			break
		}
		<-time.After(2 * time.Millisecond)
	}
	return back.broken.Load()
}

// closeWrite tells dst that no more will come. What has no such end is closed
// whole. An error means that dst is gone, which its own direction will meet.
func (h *half) closeWrite() {
	if w, ok := h.dst.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
		return
	}
	h.back().over.Store(true)
	h.dst.Close()
}

// pass waits until n bytes that have been read may go.
func (h *half) pass(n int) error {
	if h.gate == nil || n == 0 {
		return nil
	}
	return h.gate.Wait(n, h.pair.cut)
}

// chunk is how much may be read at once, of at most size.
func (h *half) chunk(size int) int {
	if h.gate == nil {
		return size
	}
	if n := h.gate.Chunk(); n > 0 {
		return min(n, size)
	}
	return size
}

// write writes b to dst and counts it.
func (h *half) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	h.writing.Store(true)
	n, err := h.dst.Write(b)
	h.moved(n)
	h.wrote(err)
	if err != nil {
		return &writeError{err}
	}
	return nil
}

// wrote notes that a write has ended, and how.
func (h *half) wrote(err error) {
	if err != nil && errors.Is(err, syscall.ECONNRESET) {
		h.broken.Store(true)
	}
	h.writing.Store(false)
}

// writeError is an error of dst, where others are of src.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

func isWrite(err error) bool {
	if err == nil {
		return false // without an allocation for the pointer
	}
	var w *writeError
	return errors.As(err, &w)
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (h *half) moved(n int) {
	h.bytes.Add(int64(n))
	h.pair.touch()
}

// aliveTime is how often a side that says nothing is asked whether it is there.
const aliveTime = 30 * time.Second

func keepAlive(conn net.Conn) {
	switch tcp := bare(conn).(type) {
	case *net.TCPConn:
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: aliveTime, Interval: aliveTime})
	case interface{ KeepAlive(time.Duration) error }: // of a loop
		_ = tcp.KeepAlive(aliveTime)
	}
}

// abort closes conn with a reset, after what was written has gone.
func abort(conn net.Conn) {
	inner := bare(conn)
	flush(inner)
	if l, ok := inner.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
		inner.Close() // before TLS can say that this is an end in order
	}
}

// bare returns the connection below TLS and what a handshake has put around it.
func bare(conn net.Conn) net.Conn {
	for {
		conn, _ = unwrap(conn)
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = t.NetConn()
	}
}

// free takes a connection from what it was accepted or dialled by, and adds to
// unread what that has read too many.
func free(conn net.Conn, unread []byte) (net.Conn, []byte) {
	if c, ok := conn.(interface{ Free() []byte }); ok {
		unread = append(unread, c.Free()...)
	}
	return conn, unread
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
