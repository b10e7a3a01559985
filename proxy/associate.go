package proxy

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
)

// associate is UDP ASSOCIATE: answer, then carry every datagram by the route
// of its destination, until the client ends it.
func (p *Proxy) associate(ctx context.Context, s *Session) error {
	if _, err := p.route(ctx, s, s.Request()); err != nil {
		return s.reject(err)
	}
	conn, err := s.call.AcceptPacket()
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx, -1, 0)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	a := &association{
		proxy:   p,
		session: s,
		ctx:     ctx,
		client:  argyle.Batch(conn),
		routes:  make(map[argyle.Addr]*path),
		paths:   make(map[argyle.Dialer]*path),
	}
	a.run()
	return nil
}

// association is one client's datagrams. Its run is the only one to use routes
// and to write to paths.
type association struct {
	proxy   *Proxy
	session *Session
	ctx     context.Context
	client  argyle.BatchConn
	routes  map[argyle.Addr]*path // nil: refused

	mu    sync.Mutex
	paths map[argyle.Dialer]*path // open ones
	wg    sync.WaitGroup          // their readers
}

// path is one way out in use: an open socket, and the mapping that it stands for.
type path struct {
	association *association
	dialer      argyle.Dialer
	conn        argyle.BatchConn
	active      atomic.Int64 // when a datagram last passed, on our clock
	closed      atomic.Bool
}

// maxRoutes bounds the decisions that an association remembers.
const maxRoutes = 1024

var clock = time.Now()

// run carries the client's datagrams until the association ends.
func (a *association) run() {
	carry := a.carry // made a func once
	for a.client.ReadBatch(carry) == nil {
	}
	a.client.Close()
	a.closePaths()
	a.wg.Wait()
	a.session.dropped.Add(dropped(a.client))
}

// carry sends each run of datagrams with the same route in one batch.
func (a *association) carry(ds []argyle.Datagram) {
	for len(ds) > 0 {
		via := a.route(ds[0].Addr)
		n := 1
		for n < len(ds) && (ds[n].Addr == ds[0].Addr || a.route(ds[n].Addr) == via) {
			n++
		}
		if via == nil {
			a.session.dropped.Add(uint64(n))
		} else {
			via.send(ds[:n])
		}
		ds = ds[n:]
	}
}

// route returns the path to dest, nil if there is none.
func (a *association) route(dest argyle.Addr) *path {
	via, known := a.routes[dest]
	if known && (via == nil || !via.closed.Load()) {
		return via
	}
	if len(a.routes) >= maxRoutes {
		clear(a.routes)
	}
	req := *a.session.Request()
	req.Dest = dest
	dialer, err := a.proxy.route(a.ctx, a.session, &req)
	if err != nil {
		a.debug("datagrams refused", "dest", dest, "err", err)
		a.routes[dest] = nil
		return nil
	}
	if via = a.open(dialer); via != nil {
		a.routes[dest] = via
	}
	return via
}

// open returns the path by a way out, and nil if it cannot be used now.
func (a *association) open(dialer argyle.Dialer) *path {
	a.mu.Lock()
	via := a.paths[dialer]
	a.mu.Unlock()
	if via != nil && !via.closed.Load() {
		return via
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.dialTimeout())
	defer cancel()
	conn, err := dialer.ListenPacket(ctx, "udp", "")
	if err != nil {
		a.debug("datagrams have no way out", "err", err)
		return nil
	}
	via = &path{association: a, dialer: dialer, conn: argyle.Batch(conn)}
	via.touch()
	a.mu.Lock()
	a.paths[dialer] = via
	a.mu.Unlock()
	a.wg.Go(via.receive)
	return via
}

func (a *association) dialTimeout() time.Duration {
	if a.proxy.DialTimeout > 0 {
		return a.proxy.DialTimeout
	}
	return 10 * time.Second
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
		via.conn.Close()
	}
}

func (v *path) touch() { v.active.Store(int64(time.Since(clock))) }

// send sends the client's datagrams on.
func (v *path) send(ds []argyle.Datagram) {
	size := 0
	for _, d := range ds {
		size += len(d.Payload)
	}
	v.touch()
	if _, err := v.conn.WriteBatch(ds); err != nil {
		v.association.session.dropped.Add(uint64(len(ds)))
		return
	}
	v.association.session.up.Add(int64(size))
}

// receive takes what comes back to the client, until the path has been idle
// for too long or is closed.
func (v *path) receive() {
	a := v.association
	defer v.close()
	idle := a.proxy.UDPIdle
	if idle <= 0 {
		idle = 60 * time.Second
	}
	handle := v.reply
	rest := idle
	for {
		_ = v.conn.SetReadDeadline(time.Now().Add(rest))
		var err error
		for err == nil {
			err = v.conn.ReadBatch(handle)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		rest = idle - (time.Since(clock) - time.Duration(v.active.Load()))
		if rest <= 0 {
			return
		}
	}
}

// reply sends datagrams to the client.
func (v *path) reply(ds []argyle.Datagram) {
	v.touch()
	size := 0
	for _, d := range ds {
		size += len(d.Payload)
	}
	if n, err := v.association.client.WriteBatch(ds); err == nil && n == len(ds) {
		v.association.session.down.Add(int64(size))
	}
}

// close ends the mapping; the next datagram opens a new one.
func (v *path) close() {
	a := v.association
	v.closed.Store(true)
	v.conn.Close()
	a.mu.Lock()
	if a.paths[v.dialer] == v {
		delete(a.paths, v.dialer)
	}
	a.mu.Unlock()
	a.session.dropped.Add(dropped(v.conn))
}

// dropped asks a connection how many datagrams it has dropped.
func dropped(conn argyle.BatchConn) uint64 {
	if c, ok := conn.(interface{ Dropped() uint64 }); ok {
		return c.Dropped()
	}
	return 0
}
