//go:build linux

package seccomp

import (
	"context"
	"sync"

	"github.com/argyle-socks/argyle/internal/process"
)

// A Process is a running program and all that it has started.
type Process struct {
	pid     int
	all     bool // Wait waits for everybody
	signals *process.Signals
	cancel  context.CancelFunc
	super   *supervisor
	done    chan struct{} // closed when no task is left, or when it was closed
	once    sync.Once
}

// supervise begins to answer.
func (p *Process) supervise(ctx context.Context, config *Config, l *listener) {
	ctx, p.cancel = context.WithCancel(ctx)
	p.super = newSupervisor(ctx, config, l)
	p.done = make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = l.close() })
	go func() {
		defer close(p.done)
		p.super.run()
		if stop() {
			_ = l.close()
		}
	}()
}

// PID returns the number of the program's process.
func (p *Process) PID() int { return p.pid }

// Done returns a channel that is closed when neither the program nor anything
// that it started is left.
func (p *Process) Done() <-chan struct{} { return p.done }

// Close stops answering: connections that stand go on, and whatever is left of
// the program makes no new ones (its connect fails with ENOSYS). It waits for
// the calls of Connect and Packet.
func (p *Process) Close() error {
	p.once.Do(func() {
		p.cancel()
		<-p.done
		p.super.wait()
	})
	return nil
}

// Wait waits for the program's end, and for all that it leaves behind if
// Config.WaitAll is set. Meanwhile signals that come to us go to the program, and
// we stop when it stops. It may be called once.
func (p *Process) Wait() (process.Status, error) {
	defer p.signals.Stop()
	return p.signals.Wait(p.pid, p.all)
}
