//go:build linux

package main

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A bulk is the workload that sends as much as goes, one way.
type bulk struct {
	streams int
	down    bool // from the target to the client
	pace    int  // bits per second of each stream; 0: as much as goes
}

// measure lets the streams run, and looks at what arrived and at the server's clock at both ends of the window.
func (b bulk) measure(set *settings, s *server) *sample {
	out := &sample{}
	sessions, err := openSessions(s, b.streams, out)
	if err != nil {
		return out
	}
	var received atomic.Int64
	var stopping atomic.Bool
	var streams sync.WaitGroup
	ended := make(chan error, len(sessions))
	for _, sess := range sessions {
		from, to := sess.client, sess.target
		if b.down {
			from, to = to, from
		}
		streams.Go(func() { send(from, b.pace) })
		streams.Go(func() {
			if err := discard(to, &received); !stopping.Load() {
				ended <- err
			}
		})
	}

	pause(set.warmUp())
	begin, cpu, bytes := time.Now(), s.cpuSeconds(), received.Load()
	pause(set.time)
	bytes, cpu = received.Load()-bytes, s.cpuSeconds()-cpu
	elapsed := time.Since(begin).Seconds()

	stopping.Store(true)
	closeAll(sessions)
	streams.Wait()
	close(ended)
	for err := range ended {
		out.fail(err)
	}
	out.set("gbit/s", float64(bytes)*8/1e9/elapsed)
	out.set("cpu s/GiB", cpu/(float64(bytes)/(1<<30)))
	return out
}

// paceSteps is how often in a second a stream with a pace sends.
const paceSteps = 50

// send writes until the connection is closed, at a pace if that is not 0. The buffer is small enough to stay in the
// processor's cache.
func send(conn *net.TCPConn, pace int) {
	buf := make([]byte, 128<<10)
	if pace > 0 {
		buf = buf[:min(pace/8/paceSteps, len(buf))]
	}
	for due := time.Now(); ; due = due.Add(time.Second / paceSteps) {
		if pace > 0 {
			pause(time.Until(due))
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// discard receives and counts until the stream ends, and returns why it did. With MSG_TRUNC the kernel drops the
// bytes instead of copying them.
func discard(conn *net.TCPConn, count *atomic.Int64) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20) // never touched
	var n int
	var recvErr error
	recv := func(fd uintptr) bool {
		n, _, recvErr = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
		return recvErr != unix.EAGAIN
	}
	for {
		if err := raw.Read(recv); err != nil {
			return err
		}
		switch {
		case recvErr == unix.EINTR:
		case recvErr != nil:
			return recvErr
		case n == 0:
			return errors.New("the stream ended early")
		}
		count.Add(int64(n))
	}
}
