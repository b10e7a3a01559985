//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// pingSize is a keystroke, a game's move, a small query.
const pingSize = 64

// measurePingPong sends a small message to and fro through one session. Both ends block in the kernel on a thread of
// their own, so that no scheduler but the system's adds to the figures.
func measurePingPong(set *settings, s *server) *sample {
	out := &sample{}
	sessions, err := openSessions(s, 1, out)
	if err != nil {
		return out
	}
	client, err := blocking(sessions[0].client)
	if err != nil {
		out.fail(err)
		return out
	}
	defer client.Close()
	target, err := blocking(sessions[0].target)
	if err != nil {
		out.fail(err)
		return out
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		defer target.Close()
		echo(int(target.Fd()))
	}()

	if _, err := pingFor(set.warmUp(), int(client.Fd())); err != nil {
		out.fail(err)
	}
	cpu := s.cpuSeconds()
	trips, err := pingFor(set.time, int(client.Fd()))
	if err != nil {
		out.fail(err)
	}
	cpu = s.cpuSeconds() - cpu
	_ = unix.Shutdown(int(client.Fd()), unix.SHUT_WR)
	<-echoed

	slices.Sort(trips)
	out.set("p50 µs", percentile(trips, 0.50))
	out.set("p99 µs", percentile(trips, 0.99))
	out.set("cpu µs", cpu*1e6/float64(len(trips)))
	return out
}

// blocking takes the connection out of Go's poller. Its reads give up after a while instead of blocking for good.
func blocking(conn *net.TCPConn) (*os.File, error) {
	defer conn.Close()
	file, err := conn.File()
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(int(file.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// pingFor makes trips for the given time and returns how many microseconds each took.
func pingFor(d time.Duration, fd int) ([]float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	message := make([]byte, pingSize)
	trips := make([]float64, 0, 1<<17)
	begin := time.Now()
	for last := begin; last.Sub(begin) < d; {
		if _, err := unix.Write(fd, message); err != nil {
			return trips, err
		}
		if err := readFull(fd, message); err != nil {
			return trips, err
		}
		now := time.Now()
		trips = append(trips, float64(now.Sub(last).Nanoseconds())/1e3)
		last = now
	}
	return trips, nil
}

// echo returns every message until the stream ends.
func echo(fd int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	message := make([]byte, pingSize)
	for readFull(fd, message) == nil {
		if _, err := unix.Write(fd, message); err != nil {
			return
		}
	}
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait for the message: %w", err)
		case n == 0:
			return fmt.Errorf("wait for the message: the stream ended")
		}
		b = b[n:]
	}
	return nil
}
