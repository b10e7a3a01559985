package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// passing reports whether accepting may succeed later: the process or the
// system is out of descriptors or memory, or a client was gone too soon.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOMEM, syscall.EINTR} {
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
	delay time.Duration
}

func (b *backoff) reset() {
	if b.delay > 0 && b.log != nil {
		b.log.Info("accepting connections again")
	}
	b.delay = 0
}

// wait reports false if ctx ended.
func (b *backoff) wait(ctx context.Context, err error) bool {
	if b.delay == 0 {
		b.delay = 5 * time.Millisecond
		if b.log != nil {
			b.log.Warn("cannot accept connections for now", "err", err)
		}
	} else {
		b.delay = min(2*b.delay, time.Second)
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(b.delay):
		return true
	}
}
