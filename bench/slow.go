//go:build linux

package main

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	slowClients = 2000
	slowPause   = time.Second          // between two bytes of one
	slowStep    = 5 * time.Millisecond // between two looks at them
)

// measureSlow measures good clients, those of measureConnects, by themselves and beside many that send a byte of their
// handshake a second, and begin anew when that is done or they are cut.
func measureSlow(set *settings, s *server) *sample {
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
	alone := c.rate(set.time)
	slices.Sort(c.took)
	aloneP99 := percentile(c.took, 0.99)

	for i := range slowClients {
		// Not all at once: the first bytes are spread over a pause.
		c.slow = append(c.slow, &slowClient{caller: c, fd: -1, next: time.Now().Add(slowPause * time.Duration(i) / slowClients)})
	}
	c.callFor(max(2*slowPause, set.warmUp()))
	cpu := s.cpuSeconds()
	beside := c.rate(set.time)
	cpu = s.cpuSeconds() - cpu
	slices.Sort(c.took)
	out.set("alone conn/s", alone)
	out.set("conn/s", beside)
	out.set("kept %", 100*beside/alone)
	out.set("cpu µs", cpu*1e6/float64(len(c.took)))
	p99 := percentile(c.took, 0.99)
	out.set("alone p99 ms", aloneP99)
	out.set("p99 ms", p99)
	out.set("p99 ratio", p99/aloneP99)
	held := 0
	for _, slow := range c.slow {
		if slow.fd >= 0 {
			held++
		}
		slow.end()
	}
	out.set("held", float64(held))
	c.slow = nil
	c.hangUp()
	return out
}

// rate is how many visits end in a second.
func (c *caller) rate(d time.Duration) float64 {
	c.took = c.took[:0]
	begin := time.Now()
	c.callFor(d)
	return float64(len(c.took)) / time.Since(begin).Seconds()
}

// A slowClient sends a handshake byte by byte.
type slowClient struct {
	caller *caller
	fd     int // -1: not connected
	next   time.Time
	rest   []byte
}

// act sends the next byte if it is time for it. Whatever comes back is not read; an error begins anew.
func (s *slowClient) act(now time.Time) {
	if now.Before(s.next) {
		return
	}
	s.next = now.Add(slowPause)
	if len(s.rest) == 0 {
		s.end()
	}
	if s.fd < 0 {
		s.begin()
		return
	}
	if _, err := unix.Write(s.fd, s.rest[:1]); err == nil {
		s.rest = s.rest[1:]
	} else if err != unix.EAGAIN {
		s.end()
	}
}

// begin connects from an address that no good client has, by the first route.
func (s *slowClient) begin() {
	r := s.caller.routes[0]
	s.rest = nil
	for _, step := range r.steps[:len(r.steps)-1] { // all but the request to the target
		s.rest = append(s.rest, step.send...)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s.caller.out.fail(err)
		return
	}
	err = connectFrom(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, 1}}, r.to)
	if err == nil {
		err = s.caller.poll.add(fd, s)
	}
	if err != nil {
		s.caller.out.fail(err)
		unix.Close(fd)
		return
	}
	s.fd = fd
}

// ready sees whether the server has ended it.
func (s *slowClient) ready() {
	if s.fd < 0 {
		return
	}
	var b [300]byte
	for {
		n, err := unix.Read(s.fd, b[:])
		switch {
		case err == unix.EAGAIN:
			return
		case err != nil || n == 0:
			s.end()
			return
		}
	}
}

func (s *slowClient) end() {
	if s.fd >= 0 {
		s.caller.poll.remove(s.fd)
		s.fd = -1
	}
}
