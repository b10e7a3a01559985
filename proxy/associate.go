package proxy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/relay"
)

// associate is UDP ASSOCIATE: answer, then carry every datagram by the route
// of its destination, until the client ends it.
func (p *Proxy) associate(ctx context.Context, s *Session) error {
	ctx = argyle.WithRequest(ctx, s.Request())
	step := s.bound(ctx, s.start, p.DialTimeout, dialTimeout)
	route, err := s.decide(step, s.Request())
	step.Cancel()
	if err == nil {
		err = s.take(route)
	}
	if err != nil {
		return s.reject(err)
	}
	conn, err := s.call.AcceptPacket()
	if err != nil {
		return err
	}
	step = s.bound(ctx, time.Now(), -1, 0)
	defer step.Cancel()
	stop := context.AfterFunc(step, func() { conn.Close() })
	defer stop()
	a := &association{
		proxy:   p,
		session: s,
		ctx:     step,
		cancel:  step.Cancel,
		client:  argyle.Batch(conn),
		dests:   make(map[argyle.Addr]*destination),
		paths:   make(map[argyle.Dialer]*path),
	}
	return a.run()
}

// association is one client's datagrams.
type association struct {
	proxy   *Proxy
	session *Session
	ctx     context.Context // ends the association
	cancel  context.CancelFunc
	client  argyle.BatchConn
	out     []argyle.Datagram // of carry, reused
	down    meter

	table    sync.Mutex // held while the client's datagrams are carried
	dests    map[argyle.Addr]*destination
	deciding int // names about which the policy is being asked
	size     int // bytes that wait for that

	replies atomic.Pointer[replies] // nil: every reply passes

	mu    sync.Mutex
	paths map[argyle.Dialer]*path // those that are not closed
	wg    sync.WaitGroup          // their goroutines
}

// path is one way out in use: an open socket, and the mapping that it stands for.
type path struct {
	association *association
	dialer      argyle.Dialer
	idle        time.Duration
	dialTimeout time.Duration
	active      atomic.Int64 // when a datagram last passed, on our clock
	closed      atomic.Bool

	mu      sync.Mutex
	conn    argyle.BatchConn  // nil until it is open; set with association.mu held too
	failed  bool              // to open
	waiting []argyle.Datagram // for conn, in order
	size    int               // of what waits

	up meter
}

// Bounds on what an association keeps.
const (
	maxRoutes  = 1024             // decisions that it remembers
	routeTime  = 10 * time.Second // and for how long: the rules may change, and what names mean
	maxNames   = 32               // names about which the policy is being asked
	maxWaiting = 64 << 10         // bytes that wait for a decision, and for a way out to open
	maxQueued  = 256              // datagrams that wait for a way out
	retryTime  = time.Second      // until a way out that did not open is tried again
)

var clock = time.Now()

// run carries the client's datagrams until the association ends. An error says
// that it was cut.
func (a *association) run() (err error) {
	carry := a.carry // made a func once
	for a.client.ReadBatch(carry) == nil {
	}
	if a.ctx.Err() != nil {
		err = relay.ErrCut
	}
	a.cancel()
	a.client.Close()
	a.closePaths()
	a.wg.Wait()
	a.session.dropped.Add(dropped(a.client))
	return err
}

// carry sends each run of datagrams with the same path in one batch.
func (a *association) carry(ds []argyle.Datagram) {
	a.table.Lock()
	defer a.table.Unlock()
	var via *path
	for _, d := range ds {
		dest := a.dest(d.Addr)
		switch {
		case dest.undecided():
			a.wait(dest, d)
		case !dest.passes(d):
			a.session.dropped.Add(1)
		default:
			if dest.via != via {
				a.flush(via)
				via = dest.via
			}
			a.out = append(a.out, argyle.Datagram{Addr: dest.to, Payload: d.Payload})
		}
	}
	a.flush(via)
}

// flush sends what carry has gathered.
func (a *association) flush(via *path) {
	if len(a.out) > 0 {
		via.send(a.out)
	}
	clear(a.out)
	a.out = a.out[:0]
}

// path returns the path by a way out, which may have to be opened first: the
// other ways do not wait for that.
func (a *association) path(dialer argyle.Dialer, times Timeouts) *path {
	a.mu.Lock()
	defer a.mu.Unlock()
	via := a.paths[dialer]
	if via == nil {
		via = &path{association: a, dialer: dialer, idle: times.UDPIdle, dialTimeout: times.DialTimeout}
		if via.idle <= 0 {
			via.idle = udpIdle
		}
		a.paths[dialer] = via
		a.wg.Go(via.run)
	}
	return via
}

func (a *association) debug(msg string, args ...any) {
	if a.proxy.Log != nil {
		a.proxy.Log.Debug(msg, append(args, "session", a.session.id)...)
	}
}

func (a *association) closePaths() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, via := range a.paths {
		if via.conn != nil {
			via.conn.Close()
		}
	}
}

func (v *path) touch() { v.active.Store(int64(time.Since(clock))) }

// run is the life of a path: it opens, receives until it is idle, and closes.
func (v *path) run() {
	defer v.close()
	if v.open() {
		v.receive()
		return
	}
	select {
	case <-time.After(retryTime):
	case <-v.association.ctx.Done():
	}
}

// open opens the way out and sends what waits for it. It reports false if it
// cannot be used now.
func (v *path) open() bool {
	a := v.association
	step := limit(a.ctx, time.Now(), v.dialTimeout, dialTimeout)
	defer step.Cancel()
	conn, err := v.dialer.ListenPacket(step, "udp", "")
	v.mu.Lock()
	defer v.mu.Unlock()
	ds := v.waiting
	v.waiting = nil
	if err != nil {
		a.debug("datagrams have no way out", "err", err)
		v.failed = true
		a.session.dropped.Add(uint64(len(ds)))
		return false
	}
	a.mu.Lock()
	v.conn = argyle.Batch(conn)
	a.mu.Unlock()
	v.touch()
	v.write(ds)
	return a.ctx.Err() == nil // else closePaths may have come too early
}

// send sends the client's datagrams on, now or when the way is open.
func (v *path) send(ds []argyle.Datagram) {
	v.touch()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.conn != nil:
		v.write(ds)
	case v.failed:
		v.association.session.dropped.Add(uint64(len(ds)))
	default:
		v.wait(ds)
	}
}

// wait keeps datagrams until the way is open, within bounds. v.mu is held.
func (v *path) wait(ds []argyle.Datagram) {
	for _, d := range ds {
		if len(v.waiting) >= maxQueued || v.size+len(d.Payload) > maxWaiting {
			v.association.session.dropped.Add(1)
			continue
		}
		v.size += len(d.Payload)
		v.waiting = append(v.waiting, argyle.Datagram{Addr: d.Addr, Payload: bytes.Clone(d.Payload)})
	}
}

// write sends datagrams by the open way. v.mu is held.
func (v *path) write(ds []argyle.Datagram) {
	session := v.association.session
	n, err := v.conn.WriteBatch(ds)
	if err != nil {
		session.dropped.Add(uint64(len(ds) - n))
	}
	v.up.count(v.conn, ds, n, &session.up)
}

// meter adds to a session's bytes what a connection has sent.
type meter struct{ seen atomic.Int64 }

// count is called after ds were written, of which the connection took n. Those
// that waited for a name are counted when they have gone.
func (m *meter) count(conn argyle.BatchConn, ds []argyle.Datagram, n int, total *atomic.Int64) {
	if c, ok := conn.(interface{ Sent() int64 }); ok {
		now := c.Sent()
		total.Add(now - m.seen.Swap(now))
		return
	}
	for _, d := range ds[:n] {
		total.Add(int64(len(d.Payload)))
	}
}

// receive takes what comes back to the client, until the path has been idle
// for too long or is closed.
func (v *path) receive() {
	handle := v.reply
	rest := v.idle
	for {
		_ = v.conn.SetReadDeadline(time.Now().Add(rest))
		var err error
		for err == nil {
			err = v.conn.ReadBatch(handle)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		rest = v.idle - (time.Since(clock) - time.Duration(v.active.Load()))
		if rest <= 0 {
			return
		}
	}
}

// reply sends datagrams to the client.
func (v *path) reply(ds []argyle.Datagram) {
	v.touch()
	a := v.association
	if r := a.replies.Load(); r != nil {
		ds = r.filter(v, ds)
	}
	n, _ := a.client.WriteBatch(ds) // an error ends the reader, too
	a.down.count(a.client, ds, n, &a.session.down)
}

// close ends the mapping; the next datagram opens a new one.
func (v *path) close() {
	a := v.association
	a.mu.Lock()
	delete(a.paths, v.dialer)
	a.mu.Unlock()
	v.closed.Store(true)
	if v.conn != nil {
		v.conn.Close()
		v.up.count(v.conn, nil, 0, &a.session.up)
		a.session.dropped.Add(dropped(v.conn))
	}
}

// dropped asks a connection how many datagrams it has dropped.
func dropped(conn argyle.BatchConn) uint64 {
	if c, ok := conn.(interface{ Dropped() uint64 }); ok {
		return c.Dropped()
	}
	return 0
}
