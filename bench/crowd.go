//go:build linux

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	crowdFactor   = 10               // how many times more sessions a crowd has than the idle workload
	crowdPatience = 30 * time.Second // for which they are opened: some servers take the longer for each the more they have
)

// measureCrowd opens very many sessions, lets them rest, and looks at what the server uses for them: memory, and
// processor time while nothing happens.
//
// It looks at the server's own memory only: so it needs two descriptors a session here, where the idle workload needs
// three times that. A server needs as many, or six where each session keeps pipes.
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
	sessions := gather(s, n, out)
	defer closeAll(sessions)
	if len(sessions) == 0 {
		return out
	}

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

// gather opens n sessions, or as many as it can until one fails or patience is over.
func gather(s *server, n int, out *sample) []session {
	var all []session
	for giveUp := time.Now().Add(crowdPatience); len(all) < n && out.Failed == 0 && time.Now().Before(giveUp); {
		more, err := openSessions(s, min(n-len(all), 100), out)
		if err != nil {
			break // and the sample says why
		}
		all = append(all, more...)
	}
	return all
}

// sessionsAllowed returns how many of n sessions the limit on open files allows: both ends of each are here.
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
