package event

import (
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// socket is a descriptor that is not closed, and so does not become another's,
// while it is in use.
type socket struct {
	fd   int
	mu   sync.RWMutex // held for reading while fd is in use
	gone bool
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
	unix.Close(s.fd)
	return nil
}
