package event

import (
	"context"
	"sync"
	"time"
)

// A Step is a context for one step of a session, with a deadline. It costs next
// to nothing as long as nobody waits for it to be done, which in a loop nobody does.
type Step struct {
	context.Context
	deadline time.Time // zero: that of the parent, if any

	mu     sync.Mutex
	err    error
	done   chan struct{}
	funcs  map[*func()]struct{}
	timer  *time.Timer
	unlink func() bool // from the parent
}

type stepKey struct{}

// NewStep returns a context that ends at deadline; the zero time means none. It is
// to be ended by [Step.Cancel].
func NewStep(parent context.Context, deadline time.Time) *Step {
	if d, ok := parent.Deadline(); ok && (deadline.IsZero() || d.Before(deadline)) {
		deadline = d
	}
	return &Step{Context: parent, deadline: deadline}
}

// Cancel ends the step.
func (s *Step) Cancel() { s.end(context.Canceled) }

func (s *Step) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.unlink != nil {
		s.unlink()
	}
	if s.done != nil {
		close(s.done)
	}
	for f := range s.funcs {
		go (*f)()
	}
	s.funcs = nil
}

// Deadline is that of [context.Context].
func (s *Step) Deadline() (time.Time, bool) { return s.deadline, !s.deadline.IsZero() }

// Done is that of [context.Context].
func (s *Step) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.err != nil {
			close(s.done)
		}
		s.link()
		if !s.deadline.IsZero() && s.err == nil {
			s.timer = time.AfterFunc(time.Until(s.deadline), func() { s.end(context.DeadlineExceeded) })
		}
	}
	return s.done
}

// link has the step end with its parent. s.mu is held.
func (s *Step) link() {
	if s.unlink == nil && s.err == nil {
		s.unlink = context.AfterFunc(s.Context, func() { s.end(s.Context.Err()) })
	}
}

// Err is that of [context.Context].
func (s *Step) Err() error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		return context.DeadlineExceeded
	}
	return s.Context.Err()
}

// Value is that of [context.Context].
func (s *Step) Value(key any) any {
	if key == (stepKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// AfterFunc has f called in a goroutine of its own when the step is done;
// [context.AfterFunc] and its like call it after Done.
func (s *Step) AfterFunc(f func()) (stop func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		go f()
		return func() bool { return false }
	}
	s.link()
	if s.funcs == nil {
		s.funcs = make(map[*func()]struct{})
	}
	key := &f
	s.funcs[key] = struct{}{}
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, waits := s.funcs[key]
		delete(s.funcs, key)
		return waits
	}
}

// onCancel has f called when ctx is done otherwise than by its deadline, which the
// caller looks at.
func onCancel(ctx context.Context, t *Task, f func()) (stop func() bool) {
	if s, ok := ctx.Value(stepKey{}).(*Step); ok && t.inline() {
		return s.AfterFunc(f) // which does not set a timer
	}
	return context.AfterFunc(ctx, f)
}
