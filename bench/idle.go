//go:build linux

package main

import "time"

// measureIdle opens sessions, waits until all is quiet, and looks at how much memory was added.
//
// User-space memory is that of the server's processes. Kernel memory cannot be told apart by process, so it is what
// the whole machine gained, less the generator's own part: first as many sessions are opened straight to the target,
// whose two sockets each are exactly those that the generator and the target also have in a session through the
// server. They stay open meanwhile, so that the kernel does not serve the second lot from what the first gave back;
// and an equal number before them fills what earlier work gave back.
//
// What a server has once allocated it may keep. So a server that bench has started is started anew for every round,
// and any other is measured in the first round only.
func measureIdle(set *settings, s *server) *sample {
	out := &sample{}
	if err := s.restart(); err != nil {
		out.fail(err)
		return out
	}
	filler, err := openSessions(noProxy(), set.idle, out)
	if err != nil {
		return out
	}
	defer closeAll(filler)
	own, err := holdIdle(set, noProxy(), out)
	if err != nil {
		return out
	}
	defer closeAll(own.sessions)
	if s.direct() {
		out.set("kernel KiB", own.kernelKiB)
		return out
	}
	through, err := holdIdle(set, s, out)
	if err != nil {
		return out
	}
	defer closeAll(through.sessions)
	out.set("user KiB", through.userKiB)
	out.set("kernel KiB", through.kernelKiB-own.kernelKiB)
	return out
}

// idleSessions are sessions with what each of them added.
type idleSessions struct {
	sessions           []session
	userKiB, kernelKiB float64
}

func holdIdle(set *settings, s *server, out *sample) (*idleSessions, error) {
	userBefore, kernelBefore, err := s.quietMemory()
	if err != nil {
		out.fail(err)
		return nil, err
	}
	sessions, err := openSessions(s, set.idle, out)
	if err != nil {
		return nil, err
	}
	user, kernel, err := s.quietMemory()
	if err != nil {
		out.fail(err)
		closeAll(sessions)
		return nil, err
	}
	each := 1024 * float64(len(sessions))
	return &idleSessions{sessions, float64(user-userBefore) / each, float64(kernel-kernelBefore) / each}, nil
}

// quietMemory returns user-space and kernel memory once the server rests. The kernel frees some things only after a
// grace period, and brings its counters together once a second.
func (s *server) quietMemory() (user, kernel int64, err error) {
	pause(time.Second)
	s.settle(500*time.Millisecond, 5*time.Second)
	if len(s.pids) > 0 {
		if user, err = userMemory(s.pids); err != nil {
			return 0, 0, err
		}
	}
	kernel, err = kernelMemory()
	return user, kernel, err
}
