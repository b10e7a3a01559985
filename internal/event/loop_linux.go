package event

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Loop serves sockets in one goroutine, which waits for all of them at once.
// It runs while it has any.
type Loop struct {
	epoll, bell int // bell: an eventfd
	sleep       sleep

	mu      sync.Mutex
	running bool
	polling bool     // or about to be: posting must ring
	users   int      // sockets
	slots   []slot   // by descriptor
	serial  uint32   // of the last slot taken
	posted  []func() // to be called in the goroutine
	free    []func() // room for the next
	timers  timers

	crowd atomic.Int32 // sockets with events now
	heavy atomic.Int32 // relays of bulk

	// Of the goroutine.
	yielded int64    // when others last had their turn, on our clock
	brisk   bool     // the last wait was short
	later   []Worker // in turn
	spare   []*Task
	scratch [scratchSize]byte
}

// slot is the place of a socket. What epoll tells of a descriptor may be about
// one that has been closed since: the serial number tells.
type slot struct {
	watched watched
	serial  uint32
}

// watched is told in the goroutine of the loop what epoll says of it.
type watched interface{ ready(l *Loop, events uint32) }

// A Worker has work that may take a while, of which it does a part each time that it
// is its turn.
type Worker interface{ Work(l *Loop) }

// Later has w do a part of its work, once, after what is ready now: then what has
// become ready meanwhile comes before the next part of anybody's. It is called in the
// goroutine of the loop.
func (l *Loop) Later(w Worker) { l.later = append(l.later, w) }

// work has the first in turn do a part.
func (l *Loop) work() {
	if len(l.later) == 0 {
		return
	}
	w := l.later[0]
	n := copy(l.later, l.later[1:])
	l.later[n] = nil
	l.later = l.later[:n]
	w.Work(l)
}

const (
	scratchSize = 512 // what is read at once in a handshake
	batch       = 128
	maxSpare    = 64
)

// loops are those of this process, as many as processors.
var loops struct {
	once sync.Once
	all  []*Loop
}

func allLoops() []*Loop {
	loops.once.Do(func() {
		for range runtime.GOMAXPROCS(0) {
			loops.all = append(loops.all, &Loop{})
		}
	})
	return loops.all
}

// add begins to watch a descriptor.
func (l *Loop) add(fd int, w watched, events uint32) (serial uint32, err error) {
	l.mu.Lock()
	if !l.running {
		if err := l.start(); err != nil {
			l.mu.Unlock()
			return 0, err
		}
	}
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, max(64, fd+1-len(l.slots)))...)
	}
	l.serial++
	serial = l.serial
	l.slots[fd] = slot{w, serial}
	l.users++
	l.mu.Unlock()
	event := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(serial)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	if errno != 0 {
		l.remove(fd)
		return 0, fmt.Errorf("watch socket: %w", errno)
	}
	return serial, nil
}

// remove forgets a descriptor, which must still be open. Closing it ends the watch.
func (l *Loop) remove(fd int) {
	l.mu.Lock()
	l.slots[fd].watched = nil
	l.leave()
	l.mu.Unlock()
}

// unwatch is remove for a descriptor that is not the last of its socket.
func (l *Loop) unwatch(fd int) {
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, fd, nil)
	l.remove(fd)
}

// start is called with l.mu held.
func (l *Loop) start() (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(l.epoll)
		return fmt.Errorf("eventfd: %w", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.bell)}
	err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.bell, &event)
	if err == nil {
		err = l.sleep.open(l.epoll)
	}
	if err != nil {
		unix.Close(l.epoll)
		unix.Close(l.bell)
		return fmt.Errorf("epoll: %w", err)
	}
	l.running = true
	go l.run()
	return nil
}

// Post has f called in the goroutine of the loop.
func (l *Loop) Post(f func()) {
	l.mu.Lock()
	l.posted = append(l.posted, f)
	l.ring()
	l.mu.Unlock()
}

// Wake has the loop run, so that what is posted will be called, until [Loop.Sleep].
func (l *Loop) Wake() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		if err := l.start(); err != nil {
			return err
		}
	}
	l.users++
	return nil
}

// Sleep takes back a Wake.
func (l *Loop) Sleep() {
	l.mu.Lock()
	l.leave()
	l.mu.Unlock()
}

// leave counts a user out. l.mu is held.
func (l *Loop) leave() {
	if l.users--; l.users == 0 {
		l.ring()
	}
}

// ring wakes the goroutine if it would not see a change of its own accord. l.mu is
// held, or the bell might be gone.
func (l *Loop) ring() {
	if l.polling {
		l.polling = false
		_, _ = unix.Write(l.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// run is the goroutine.
func (l *Loop) run() {
	events := make([]unix.EpollEvent, batch)
	sockets := make([]watched, batch)
	for {
		l.crowd.Store(0)
		until, ok := l.prepare()
		if !ok {
			return
		}
		n := l.wait(events, until)
		l.crowd.Store(int32(n))
		for i, s := range l.find(events[:n], sockets) {
			if s != nil {
				s.ready(l, events[i].Events)
			}
			sockets[i] = nil
		}
		l.work()
	}
}

const (
	// turnTime is for how long a loop with much to do keeps its processor at most.
	// Other goroutines that are ready wait for it only where no processor is idle.
	// To yield wakes an idle one up each time, so it is not done more often.
	turnTime = 5 * time.Millisecond

	// briskWait is how soon the last event must have come for a loop to wait as long
	// for the next one without giving its processor away.
	briskWait = 200 * time.Microsecond
)

// wait returns how many events there are, after waiting for one until then.
func (l *Loop) wait(events []unix.EpollEvent, until int64) int {
	began := now()
	if began-l.yielded > int64(turnTime) {
		runtime.Gosched()
		l.yielded = began
	}
	// A loop with much to do finds some without waiting.
	n := poll(l.epoll, events)
	if n == 0 && until != dontWait && l.brisk {
		n = pollBriskly(l.epoll, events)
	}
	if n > 0 || until == dontWait {
		return n
	}
	l.sleep.until(l.epoll, until)
	l.yielded = now()
	l.brisk = l.yielded-began < int64(briskWait)
	return poll(l.epoll, events)
}

// find looks up what epoll has told of.
func (l *Loop) find(events []unix.EpollEvent, sockets []watched) []watched {
	rung := false
	l.mu.Lock()
	l.polling = false
	for i := range events {
		fd := int(events[i].Fd)
		switch {
		case fd == l.bell:
			rung = true
		case l.slots[fd].serial == uint32(events[i].Pad):
			sockets[i] = l.slots[fd].watched
		}
	}
	l.mu.Unlock()
	if rung {
		var b [8]byte
		_, _ = unix.Read(l.bell, b[:])
	}
	return sockets[:len(events)]
}

// What prepare returns where it is no time.
const (
	forEver  = 0
	dontWait = -1
)

// prepare calls what is due and returns until when to wait then, on our clock. It
// reports false if the loop has ended.
func (l *Loop) prepare() (until int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.callPosted()
	l.callTimers()
	until = forEver
	switch {
	case len(l.posted) > 0 || len(l.later) > 0:
		until = dontWait // sockets have their turn before
	case l.users == 0:
		l.end()
		return 0, false
	case len(l.timers) > 0:
		until = l.timers[0].when
	}
	l.polling = until != dontWait
	return until, true
}

// callPosted calls what is posted, without l.mu, which is held.
func (l *Loop) callPosted() {
	if len(l.posted) == 0 {
		return
	}
	posted := l.posted
	l.posted, l.free = l.free[:0], nil
	l.mu.Unlock()
	for i, f := range posted {
		f()
		posted[i] = nil
	}
	l.mu.Lock()
	l.free = posted[:0]
}

// callTimers calls those that are due, without l.mu, which is held.
func (l *Loop) callTimers() {
	if len(l.timers) == 0 {
		return
	}
	for at := now(); len(l.timers) > 0 && l.timers[0].when <= at; {
		t := l.timers[0]
		l.timers.remove(t)
		l.mu.Unlock()
		t.of.expire()
		l.mu.Lock()
	}
}

// end frees what a loop without sockets has. l.mu is held.
func (l *Loop) end() {
	l.sleep.close()
	unix.Close(l.epoll)
	unix.Close(l.bell)
	l.running, l.polling = false, false
	l.slots = nil
	for _, t := range l.spare {
		t.stop()
	}
	l.spare = nil
}

// A loop that is told of as many sockets at once is crowded, and gives new ones
// to others.
const crowded = batch

// lighter returns the loop that should have the next socket: l itself unless it
// is crowded and another is less so.
func (l *Loop) lighter() *Loop {
	best := l
	if crowd := l.crowd.Load(); crowd >= crowded {
		for _, other := range allLoops() {
			if n := other.crowd.Load(); n < crowd/2 {
				best, crowd = other, n
			}
		}
	}
	return best
}

// Rather returns the loop that should have a relay that lasts, or that is bulk.
func (l *Loop) Rather(bulk bool) *Loop {
	if !bulk {
		return l.lighter()
	}
	best, heavy := l, l.heavy.Load()-1
	for _, other := range allLoops() {
		if n := other.heavy.Load(); n < heavy {
			best, heavy = other, n
		}
	}
	return best
}

// Heavy counts a relay of bulk in or out.
func (l *Loop) Heavy(n int) { l.heavy.Add(int32(n)) }

// spawn runs f as a task, in the goroutine of the loop, until it waits.
func (l *Loop) spawn(f func(*Task)) {
	var t *Task
	if n := len(l.spare); n > 0 {
		t = l.spare[n-1]
		l.spare = l.spare[:n-1]
	} else {
		t = newTask(l)
	}
	t.job, t.done = f, false
	t.resume()
}

// retire keeps a task for another job.
func (l *Loop) retire(t *Task) {
	if len(l.spare) >= maxSpare {
		t.stop()
		return
	}
	l.spare = append(l.spare, t)
}
