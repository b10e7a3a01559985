//go:build linux

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// crowdFactor is how many times more sessions a crowd has than the idle workload.
const crowdFactor = 10

// measureCrowd opens very many sessions, lets them rest, and looks at what the server uses for them: memory, and
// processor time while nothing happens.
//
// It looks at the server's own memory only: so it needs two descriptors a session here and as many there, where the idle
// workload needs three times that.
func measureCrowd(set *settings, s *server) *sample {
	out := &sample{}
	if err := s.restart(); err != nil {
		out.fail(err)
		return out
	}
	before, err := userMemory(s.pids)
	if err != nil {
		out.fail(err)
		return out
	}
	n, err := sessionsAllowed(crowdFactor * set.idle)
	if err != nil {
		out.fail(err)
		return out
	}
	sessions, err := openSessions(s, n, out)
	if err != nil {
		return out
	}
	defer closeAll(sessions)

	s.settle(500*time.Millisecond, 2*set.time)
	cpu, begin := s.cpuSeconds(), time.Now()
	pause(2 * set.time)
	cpu = (s.cpuSeconds() - cpu) / time.Since(begin).Seconds()
	after, err := userMemory(s.pids)
	if err != nil {
		out.fail(err)
		return out
	}
	out.set("held", float64(len(sessions)))
	out.set("user KiB", float64(after-before)/1024/float64(len(sessions)))
	out.set("cpu ms/s", cpu*1e3)
	return out
}

// sessionsAllowed returns how many of n sessions the limit on open files allows: both ends of each are here, and started
// servers have the same limit and as many descriptors.
func sessionsAllowed(n int) (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	const others = 200 // of the runtime, listeners, logs
	if limit.Cur < uint64(2*n+others) {
		n = max(int(limit.Cur)-others, 2) / 2
	}
	return n, nil
}
