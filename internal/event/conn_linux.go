package event

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Conn is a TCP connection that a [Loop] watches. It is a net.Conn like any
// other: who waits for it is a task of the loop, or any goroutine. Once it has
// a watcher, that is told of events in their place.
type Conn struct {
	socket
	loop    atomic.Pointer[Loop] // nil on the way from one to another
	state   atomic.Uint32
	watcher Watcher // set and called in the loop's goroutine

	waiting       sync.Mutex // guards the next three
	reads, writes waiters
	timer         Timer // of the next deadline that somebody waits for

	task   *Task  // that waits unless it is detached
	ahead  []byte // read too many
	remote netip.AddrPort
	local  atomic.Pointer[netip.AddrPort] // nil: nobody has asked
}

// Watcher is told that a connection may have become readable or writable, has
// failed, or is closed.
type Watcher interface{ Ready() }

// What state tells. That a socket may be read or written is what is known: it
// turns out by trying.
const (
	mayRead  = 1 << iota
	mayWrite // after it could not
	ending   // there is an end or an error to be read, after any data
	urgent   // there is or was urgent data: reads stop before it
	failed   // the kernel has an error to tell
	closed
)

// waiters wait for one direction.
type waiters struct {
	n        int           // how many
	deadline int64         // on our clock; 0: none
	wake     chan struct{} // for goroutines
	task     *Task
}

// interest is what epoll shall tell, once each time it happens.
const interest = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET

// newConn makes a Conn of a connected, non-blocking socket, which it owns.
func newConn(l *Loop, fd int, t *Task) (*Conn, error) {
	c := &Conn{socket: socket{fd: fd}, task: t}
	c.loop.Store(l)
	if _, err := l.add(fd, c, interest); err != nil {
		closeQuickly(fd)
		return nil, err
	}
	return c, nil
}

// Loop returns the loop that watches c; nil on its way from one to another.
func (c *Conn) Loop() *Loop { return c.loop.Load() }

// Free takes c from the task that has accepted or dialled it: from now on it is
// goroutines that wait, or a watcher is told. It returns what the task has read
// too many.
func (c *Conn) Free() []byte {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	b := c.ahead
	c.task, c.ahead = nil, nil
	return b
}

// Watch has events told to w from now on. It is called in the loop's goroutine,
// and nobody may wait for c any more.
func (c *Conn) Watch(w Watcher) {
	c.disarm()
	c.watcher = w
}

// Leave ends the watch by the loop, in the loop's goroutine, for another to
// [Conn.Join].
func (c *Conn) Leave() {
	l := c.loop.Swap(nil) // from now on, no event is ours
	if fd, ok := c.acquire(); ok {
		l.unwatch(fd)
		c.release()
	}
}

// Join has l watch c, in the goroutine of l.
func (c *Conn) Join(l *Loop) error {
	c.loop.Store(l)
	return c.use("watch", func(fd int) error {
		_, err := l.add(fd, c, interest)
		if err != nil {
			c.loop.Store(nil) // it is not watched, whatever Loop says
		}
		return err
	})
}

// ready is told what epoll says.
func (c *Conn) ready(l *Loop, events uint32) {
	if c.loop.Load() != l {
		return // it has left since
	}
	var state uint32
	if events&^unix.EPOLLOUT != 0 {
		state |= mayRead
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		state |= mayWrite
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		state |= ending
	}
	if events&unix.EPOLLPRI != 0 {
		state |= urgent
	}
	if events&unix.EPOLLERR != 0 {
		state |= failed
	}
	c.state.Or(state)
	if c.watcher != nil {
		c.watcher.Ready()
		return
	}
	var read, write *Task
	c.waiting.Lock()
	if state&mayRead != 0 {
		read = c.reads.take()
	}
	if state&mayWrite != 0 {
		write = c.writes.take()
	}
	c.waiting.Unlock()
	for _, t := range [...]*Task{read, write} {
		if t != nil && t.waiting {
			t.resume()
		}
	}
}

// take wakes the goroutines that wait and returns the task that does.
func (w *waiters) take() *Task {
	if w.n == 0 {
		return nil
	}
	if w.wake != nil {
		close(w.wake)
		w.wake = nil
	}
	return w.task
}

// await returns nil when the state may have some of bits. Its errors are those
// of package net.
func (c *Conn) await(w *waiters, bits uint32) error {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	for {
		switch state := c.state.Load(); {
		case state&closed != 0:
			return net.ErrClosed
		case w.deadline != 0 && w.deadline <= now():
			return os.ErrDeadlineExceeded
		case state&bits != 0:
			return nil
		}
		c.arm(w.deadline)
		w.n++
		if t := c.task; t.inline() {
			w.task = t
			c.waiting.Unlock()
			t.park()
			c.waiting.Lock()
			w.task = nil
		} else {
			if w.wake == nil {
				w.wake = make(chan struct{})
			}
			wake := w.wake
			c.waiting.Unlock()
			<-wake
			c.waiting.Lock()
		}
		w.n--
	}
}

// arm has the timer fire by deadline. c.waiting is held.
func (c *Conn) arm(deadline int64) {
	switch {
	case deadline == 0:
		return
	case c.timer.loop == nil:
		c.timer.loop, c.timer.of = c.Loop(), c
	case c.timer.pending() && c.timer.when <= deadline:
		return
	}
	c.timer.set(deadline)
}

// disarm stops the timer. It reports whether somebody waits.
func (c *Conn) disarm() (waited bool) {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	if c.timer.loop != nil {
		c.timer.Stop()
		c.timer.loop = nil
	}
	return c.reads.n+c.writes.n > 0
}

// expire wakes who has waited too long.
func (c *Conn) expire() {
	at := now()
	var tasks [2]*Task
	c.waiting.Lock()
	for i, w := range [...]*waiters{&c.reads, &c.writes} {
		switch {
		case w.n == 0 || w.deadline == 0:
		case w.deadline <= at:
			tasks[i] = w.take()
		default:
			c.arm(w.deadline)
		}
	}
	c.waiting.Unlock()
	for _, t := range tasks {
		if t != nil && t.waiting {
			t.resume()
		}
	}
}

// rouse wakes everybody, from any goroutine.
func (c *Conn) rouse() {
	c.waiting.Lock()
	tasks := [...]*Task{c.reads.take(), c.writes.take()}
	c.waiting.Unlock()
	for _, t := range tasks {
		if t != nil {
			c.Loop().Post(func() {
				if t.waiting {
					t.resume()
				}
			})
		}
	}
}

// Acquire returns the descriptor for use until [Conn.Release]; false if c is closed.
func (c *Conn) Acquire() (fd int, ok bool) { return c.acquire() }

// Release ends the use of the descriptor.
func (c *Conn) Release() { c.release() }

// MayRead reports whether there may be something to be read, or an end.
func (c *Conn) MayRead() bool { return c.state.Load()&mayRead != 0 }

// MayWrite reports whether c takes bytes, as far as is known.
func (c *Conn) MayWrite() bool { return c.state.Load()&mayWrite != 0 }

// Failed reports whether the kernel has told of an error.
func (c *Conn) Failed() bool { return c.state.Load()&failed != 0 }

// Urgent reports whether there has been urgent data: reads stop before it.
func (c *Conn) Urgent() bool { return c.state.Load()&urgent != 0 }

// Reading is called before an attempt to read.
func (c *Conn) Reading() { c.state.And(^uint32(mayRead)) }

// HasRead is called after a read that got something: if all of a buffer was filled, there may
// be more; if not, there is nothing until epoll tells, but for an end, and for
// urgent data.
func (c *Conn) HasRead(all bool) {
	if all || c.state.Load()&(ending|urgent) != 0 {
		c.state.Or(mayRead)
	}
}

// Writing is called before an attempt to write.
func (c *Conn) Writing() { c.state.And(^uint32(mayWrite)) }

// Read reads, and waits for something to read.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(b, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	if len(b) == 0 {
		return 0, nil
	}
	for {
		if err := c.await(&c.reads, mayRead); err != nil {
			return 0, c.opError("read", err)
		}
		n, err := c.readOnce(b)
		switch {
		case err == unix.EAGAIN:
		case err != nil:
			return 0, c.opError("read", os.NewSyscallError("read", err))
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// readOnce reads what is there. A task reads more than it is asked for: in a
// handshake messages are read in pieces, and this saves to ask for each.
func (c *Conn) readOnce(b []byte) (int, error) {
	fd, ok := c.Acquire()
	if !ok {
		return 0, net.ErrClosed
	}
	defer c.Release()
	into := b
	if len(b) < scratchSize && c.task.inline() {
		into = c.Loop().scratch[:]
	}
	c.Reading()
	n, err := Read(fd, into)
	if err != nil {
		return n, err
	}
	c.HasRead(n == len(into) || n == 0)
	if len(into) == len(b) {
		return n, nil
	}
	used := copy(b, into[:n])
	if used < n {
		c.ahead = append([]byte(nil), into[used:n]...)
	}
	return used, nil
}

// Write writes all of b.
func (c *Conn) Write(b []byte) (written int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		if c.writes.late(c) {
			return written, c.opError("write", os.ErrDeadlineExceeded)
		}
		n, err := c.writeOnce(b[written:])
		if n > 0 {
			if written += n; written == len(b) {
				return written, nil
			}
			continue
		}
		switch err {
		case unix.EAGAIN:
			if err := c.await(&c.writes, mayWrite); err != nil {
				return written, c.opError("write", err)
			}
		case net.ErrClosed:
			return written, c.opError("write", err)
		default:
			return written, c.opError("write", os.NewSyscallError("write", err))
		}
	}
}

func (w *waiters) late(c *Conn) bool {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	return w.deadline != 0 && w.deadline <= now()
}

func (c *Conn) writeOnce(b []byte) (int, error) {
	fd, ok := c.Acquire()
	if !ok {
		return 0, net.ErrClosed
	}
	defer c.Release()
	c.Writing()
	return Write(fd, b)
}

// Close closes the socket. Who waits for it gets [net.ErrClosed].
func (c *Conn) Close() error {
	err := c.close(func(fd int) {
		c.state.Or(closed | mayRead | mayWrite) // who tries hears of it
		if c.disarm() {
			c.rouse() // while the loop has a socket, or it may have ended
		}
		if l := c.Loop(); l != nil {
			l.remove(fd)
		}
	})
	if err != nil {
		return c.opError("close", err)
	}
	return nil
}

// use calls f with the descriptor.
func (c *Conn) use(op string, f func(fd int) error) error {
	fd, ok := c.Acquire()
	if !ok {
		return c.opError(op, net.ErrClosed)
	}
	defer c.Release()
	if err := f(fd); err != nil {
		return c.opError(op, err)
	}
	return nil
}

// CloseWrite ends the direction to the other side.
func (c *Conn) CloseWrite() error {
	fd, ok := c.Acquire()
	if !ok {
		return c.opError("close", net.ErrClosed)
	}
	defer c.Release()
	if _, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); errno != 0 {
		return c.opError("close", os.NewSyscallError("shutdown", errno))
	}
	return nil
}

// SetLinger is that of [net.TCPConn].
func (c *Conn) SetLinger(sec int) error {
	linger := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		linger.Onoff = 1
	}
	return c.use("set", func(fd int) error {
		c.lingers.Store(sec > 0)
		return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger))
	})
}

// KeepAlive sets up keepalives, at intervals of whole seconds.
func (c *Conn) KeepAlive(every time.Duration) error {
	seconds := max(int(every/time.Second), 1)
	return errors.Join(
		c.setInt(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		c.setInt(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds),
		c.setInt(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds),
	)
}

// SetReadBuffer is that of [net.TCPConn].
func (c *Conn) SetReadBuffer(bytes int) error {
	return c.setInt(unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// SetWriteBuffer is that of [net.TCPConn].
func (c *Conn) SetWriteBuffer(bytes int) error {
	return c.setInt(unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
}

func (c *Conn) setInt(level, option, value int) error {
	return c.use("set", func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
	})
}

// LocalAddr returns the address of this side.
func (c *Conn) LocalAddr() net.Addr {
	if c.local.Load() == nil {
		_ = c.use("name", func(fd int) error {
			local := localAddr(fd)
			c.local.Store(&local)
			return nil
		})
	}
	return c.localAddr()
}

// localAddr returns the address if it is known.
func (c *Conn) localAddr() net.Addr {
	if local := c.local.Load(); local != nil {
		return net.TCPAddrFromAddrPort(*local)
	}
	return nil
}

// RemoteAddr returns the address of the other side.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// RemoteAddrPort is RemoteAddr without an allocation.
func (c *Conn) RemoteAddrPort() netip.AddrPort { return c.remote }

// SetDeadline is that of [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadline(t, &c.reads, &c.writes) }

// SetReadDeadline is that of [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, &c.reads) }

// SetWriteDeadline is that of [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.writes) }

func (c *Conn) setDeadline(t time.Time, sides ...*waiters) error {
	if c.state.Load()&closed != 0 {
		return c.opError("set", net.ErrClosed)
	}
	deadline := int64(0)
	if !t.IsZero() {
		deadline = max(onClock(t), 1)
	}
	late := false
	c.waiting.Lock()
	for _, w := range sides {
		w.deadline = deadline
		if w.n > 0 {
			late = late || deadline != 0 && deadline <= now()
			c.arm(deadline)
		}
	}
	c.waiting.Unlock()
	if late {
		c.rouse()
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.localAddr(), Addr: c.RemoteAddr(), Err: err}
}

// SyscallConn gives the descriptor to functions, as that of [net.TCPConn].
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

// rawConn is the descriptor of a Conn, for functions.
type rawConn struct{ c *Conn }

func (r rawConn) Control(f func(fd uintptr)) error {
	fd, ok := r.c.Acquire()
	if !ok {
		return r.c.opError("raw-control", net.ErrClosed)
	}
	defer r.c.Release()
	f(uintptr(fd))
	return nil
}

func (r rawConn) Read(f func(fd uintptr) bool) error {
	return r.until("raw-read", &r.c.reads, mayRead, f)
}

func (r rawConn) Write(f func(fd uintptr) bool) error {
	return r.until("raw-write", &r.c.writes, mayWrite, f)
}

// until calls f each time that bit may hold, until f is content.
func (r rawConn) until(op string, w *waiters, bit uint32, f func(fd uintptr) bool) error {
	for {
		if w.late(r.c) {
			return r.c.opError(op, os.ErrDeadlineExceeded)
		}
		fd, ok := r.c.Acquire()
		if !ok {
			return r.c.opError(op, net.ErrClosed)
		}
		r.c.state.And(^bit)
		done := f(uintptr(fd))
		if done {
			r.c.state.Or(bit) // nothing is known
		}
		r.c.Release()
		if done {
			return nil
		}
		if err := r.c.await(w, bit); err != nil {
			return r.c.opError(op, err)
		}
	}
}
