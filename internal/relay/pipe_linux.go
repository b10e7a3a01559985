package relay

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is the kernel's buffer between two sockets.
type pipe struct{ r, w int }

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipePool keeps empty pipes for the next who needs one, but not for long.
type pipePool struct {
	mu   sync.Mutex
	free []*pipe
	used bool // since the timer last fired
	idle *time.Timer
}

var pipes pipePool

const (
	maxFreePipes = 64
	pipeTime     = 500 * time.Millisecond // how long an unused pool keeps its pipes
)

// get returns an empty pipe, or nil if the system has none to give.
func (pp *pipePool) get() *pipe {
	pp.mu.Lock()
	pp.used = true
	if n := len(pp.free); n > 0 {
		p := pp.free[n-1]
		pp.free = pp.free[:n-1]
		pp.mu.Unlock()
		return p
	}
	pp.mu.Unlock()
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	// Above the user's limit the default size, 64 KiB, must do.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, spliceSize)
	return &pipe{r: fds[0], w: fds[1]}
}

// put takes back a pipe, which must be empty.
func (pp *pipePool) put(p *pipe) {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	if len(pp.free) >= maxFreePipes {
		p.close()
		return
	}
	pp.free = append(pp.free, p)
	pp.used = true
	if pp.idle == nil {
		pp.idle = time.AfterFunc(pipeTime, pp.expire)
	}
}

// expire closes the pipes of a pool that nobody has used for a while.
func (pp *pipePool) expire() {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	if pp.used {
		pp.used = false
		pp.idle.Reset(pipeTime)
		return
	}
	for _, p := range pp.free {
		p.close()
	}
	pp.free, pp.idle = nil, nil
}
