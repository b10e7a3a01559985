package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// passingErrnos are the errors of accepting and watching that may pass: of what the
// system has too little of, and of the network, which accept tells of a connection.
var passingErrnos = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ENOSPC,
	syscall.ECONNABORTED, syscall.EINTR, syscall.EPERM, syscall.EPROTO, syscall.ETIMEDOUT,
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
}

// passing reports whether accepting may succeed later: the process or the
// system is out of descriptors or memory, or a client was gone too soon.
func passing(err error) bool {
	for _, errno := range passingErrnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// backoff waits between failed accepts, from 5 ms doubling to one second, and
// tells the operator once per spell.
type backoff struct {
	log   *slog.Logger
	delay atomic.Int64 // a time.Duration; 0: accepting goes well
}

func (b *backoff) reset() {
	if b.delay.Load() > 0 && b.delay.Swap(0) > 0 && b.log != nil {
		b.log.Info("accepting connections again")
	}
}

// wait reports false if ctx ended.
func (b *backoff) wait(ctx context.Context, err error) bool {
	delay := time.Duration(b.delay.Load())
	if delay == 0 {
		delay = 5 * time.Millisecond
		if b.log != nil {
			b.log.Warn("cannot accept connections for now", "err", err)
		}
	} else {
		delay = min(2*delay, time.Second)
	}
	b.delay.Store(int64(delay))
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
		return true
	}
}
