//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	underWay     = 64  // connections at the same time
	requestSize  = 100 // what each of them asks
	responseSize = 100 // and gets

	// spread is over how many source addresses and targets connections are distributed. Between one address and
	// one port there are 28,000 ports, each in TIME_WAIT for a second at least: a fast server would run out.
	spread = 8
)

// measureConnects opens connections through s, each for one small request and response, as many at a time as
// underWay says. Clients and target share one thread.
func measureConnects(set *settings, s *server) *sample {
	out := &sample{}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := newVisitors(s, out, smallRequest)
	if err != nil {
		out.fail(err)
		return out
	}
	defer c.poll.close()

	c.callFor(set.warmUp())
	c.hangUp()
	c.took = c.took[:0]
	cpu, begin := s.cpuSeconds(), time.Now()
	c.callFor(set.time)
	rate := float64(len(c.took)) / time.Since(begin).Seconds()
	c.hangUp()
	cpu = s.cpuSeconds() - cpu

	slices.Sort(c.took)
	out.set("conn/s", rate)
	out.set("cpu µs", cpu*1e6/float64(len(c.took)))
	out.set("p50 ms", percentile(c.took, 0.50))
	out.set("p99 ms", percentile(c.took, 0.99))
	return out
}

// newVisitors returns a caller with its targets. The poller is to be closed.
func newVisitors(s *server, out *sample, requests ...request) (*caller, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	c := newCaller(poll, out)
	for i := range spread * len(requests) {
		target, err := newAnswerer(poll, loopback(0).Addr())
		if err != nil {
			poll.close()
			return nil, err
		}
		c.addRoute(s, target.addr, requests[i%len(requests)])
	}
	return c, nil
}

// A request is what a client asks of a target, which answers each with as many bytes as its first four say.
type request struct{ response int }

var smallRequest = request{responseSize}

func (r request) step() step {
	b := make([]byte, requestSize)
	binary.BigEndian.PutUint32(b, uint32(r.response))
	return step{b, func([]byte) (int, error) { return r.response, nil }}
}

// measureMix measures as measureConnects, but each tenth answer is a long one.
func measureMix(set *settings, s *server) *sample {
	out := &sample{}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	requests := slices.Repeat([]request{smallRequest}, 10)
	requests[9].response = longSize
	c, err := newVisitors(s, out, requests...)
	if err != nil {
		out.fail(err)
		return out
	}
	defer c.poll.close()
	c.callFor(set.warmUp())
	c.hangUp()
	c.took, c.long = c.took[:0], 0
	cpu, begin := s.cpuSeconds(), time.Now()
	c.callFor(set.time)
	rate := float64(len(c.took)+c.long) / time.Since(begin).Seconds()
	c.hangUp()
	cpu = s.cpuSeconds() - cpu

	slices.Sort(c.took)
	out.set("conn/s", rate)
	out.set("cpu µs", cpu*1e6/float64(len(c.took)+c.long))
	out.set("p50 ms", percentile(c.took, 0.50))
	out.set("p99 ms", percentile(c.took, 0.99))
	return out
}

// longSize is the long answer of a mix.
const longSize = 1 << 20

// A caller keeps a number of visits under way.
type caller struct {
	poll   *poller
	routes []route
	begun  int
	active int
	visits [underWay]visit
	took   []float64 // milliseconds of each visit, from connect to the response
	long   int       // visits with more of an answer, which are not in took
	slow   []*slowClient
	acted  time.Time // the slow ones, when last
	out    *sample
	rest   [64 << 10]byte // of long answers, which nobody looks at
}

// A route is a way to one target.
type route struct {
	from, to unix.Sockaddr
	steps    []step
	long     bool
}

func newCaller(poll *poller, out *sample) *caller {
	c := &caller{poll: poll, out: out, took: make([]float64, 0, 1<<17)}
	for i := range c.visits {
		c.visits[i] = visit{caller: c, fd: -1}
	}
	return c
}

// addRoute adds a way through s, from an address on loopback that no other route has.
func (c *caller) addRoute(s *server, target netip.AddrPort, r request) {
	to := s.addr
	if s.direct() {
		to = target
	}
	c.routes = append(c.routes, route{
		from:  &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + len(c.routes))}},
		to:    &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())},
		steps: append(s.steps(commandConnect, target), r.step()),
		long:  r.response > responseSize,
	})
}

// callFor begins a visit whenever one is over, for d.
func (c *caller) callFor(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); c.turn() {
		for i := range c.visits {
			if c.visits[i].fd < 0 {
				c.visits[i].begin()
			}
		}
	}
}

// hangUp lets the visits under way end, and the server close what belonged to them.
func (c *caller) hangUp() {
	for c.active > 0 {
		c.turn()
	}
	for end := time.Now().Add(time.Second); c.poll.open > len(c.routes) && time.Now().Before(end); {
		c.turn()
	}
}

// turn waits for events, and gives up on visits that take too long.
func (c *caller) turn() {
	if err := c.poll.wait(10 * time.Millisecond); err != nil {
		c.out.fail(err)
	}
	now := time.Now()
	if now.Sub(c.acted) > slowStep {
		c.acted = now
		for _, s := range c.slow {
			s.act(now)
		}
	}
	tooOld := now.Add(-patience)
	for i := range c.visits {
		if v := &c.visits[i]; v.fd >= 0 && v.began.Before(tooOld) {
			v.end(errors.New("no answer in time"))
		}
	}
}

// A visit is one connection of a caller, from connect to close.
type visit struct {
	caller *caller
	route  *route
	fd     int // -1 between visits
	began  time.Time
	step   int
	sent   bool // the step's message; now its reply is awaited
	reply  [300]byte
	n      int // bytes of the reply
}

// begin begins the next visit, by the next route.
func (v *visit) begin() {
	c := v.caller
	v.route = &c.routes[c.begun%len(c.routes)]
	v.began, v.step, v.sent, v.n = time.Now(), 0, false, 0
	c.begun++
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.out.fail(err)
		return
	}
	if err := v.connect(fd); err != nil {
		c.out.fail(err)
		unix.Close(fd)
		return
	}
	v.fd = fd
	c.active++
}

func (v *visit) connect(fd int) error {
	if err := connectFrom(fd, v.route.from, v.route.to); err != nil {
		return err
	}
	return v.caller.poll.add(fd, v)
}

func connectFrom(fd int, from, to unix.Sockaddr) error {
	// The port is to be chosen by connect, which needs it unique only between the two addresses.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, from); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		return err
	}
	return nil
}

// ready goes as far through the steps as it can without waiting.
func (v *visit) ready() {
	if v.sent && !v.receive() {
		return
	}
	if v.step == len(v.route.steps) {
		v.end(nil)
		return
	}
	_, err := unix.Write(v.fd, v.route.steps[v.step].send)
	switch err {
	case nil:
		v.sent = true // the reply will be the next edge
	case unix.EAGAIN: // not connected yet
	default:
		v.end(err)
	}
}

// receive reads what there is of a reply and reports whether it is whole; then the next step is due.
func (v *visit) receive() bool {
	for {
		into := v.caller.rest[:]
		if v.n < len(v.reply) {
			into = v.reply[v.n:]
		}
		n, err := unix.Read(v.fd, into)
		if err == unix.EAGAIN {
			return false
		}
		if err == nil && n == 0 {
			err = errors.New("the stream ended early")
		}
		if err != nil {
			v.end(err)
			return false
		}
		v.n += n
		need, err := v.route.steps[v.step].replyLen(v.reply[:min(v.n, len(v.reply))])
		if err != nil {
			v.end(err)
			return false
		}
		if v.n >= need {
			v.step, v.sent, v.n = v.step+1, false, 0
			return true
		}
	}
}

func (v *visit) end(err error) {
	switch {
	case err != nil:
		v.caller.out.fail(err)
	case v.route.long:
		v.caller.long++
	default:
		v.caller.took = append(v.caller.took, time.Since(v.began).Seconds()*1e3)
	}
	v.caller.poll.remove(v.fd)
	v.fd = -1
	v.caller.active--
}
