package event

import (
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// socket is a descriptor that is not closed, and so does not become another's,
// while it is in use.
type socket struct {
	fd   int
	mu   sync.RWMutex // held for reading while fd is in use
	gone bool

	lingers atomic.Bool // closing it may wait
}

// acquire returns the descriptor for use until release; false if it is closed.
func (s *socket) acquire() (fd int, ok bool) {
	s.mu.RLock()
	if s.gone {
		s.mu.RUnlock()
		return 0, false
	}
	return s.fd, true
}

func (s *socket) release() { s.mu.RUnlock() }

// close closes the descriptor, after a call of before with it. The error is
// [net.ErrClosed] if that has happened already.
func (s *socket) close(before func(fd int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return net.ErrClosed
	}
	s.gone = true
	before(s.fd)
	if s.lingers.Load() {
		unix.Close(s.fd)
	} else {
		closeQuickly(s.fd)
	}
	return nil
}

// closeQuickly is close(2) of what does not wait then, so that the scheduler need not
// hear of it.
func closeQuickly(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }
