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
	funcs  []func()  // to be called at the end; nil: stopped
	room   [1]func() // for funcs: there is seldom more than one
	timer  *time.Timer
	root   *Root       // that it is linked to, or
	unlink func() bool // from the parent

	prev, next *Step // of root's, guarded by its mu
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
	switch {
	case s.root != nil:
		s.root.remove(s)
	case s.unlink != nil:
		s.unlink()
	}
	if s.done != nil {
		close(s.done)
	}
	for _, f := range s.funcs {
		if f != nil {
			go f()
		}
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
	if s.root != nil || s.unlink != nil || s.err != nil {
		return
	}
	if r, ok := s.Context.Value(rootKey{}).(*Root); ok && r.Done() == s.Context.Done() && r.add(s) {
		s.root = r
		return
	}
	s.unlink = context.AfterFunc(s.Context, func() { s.end(s.Context.Err()) })
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
		s.funcs = s.room[:0]
	}
	i := len(s.funcs)
	s.funcs = append(s.funcs, f)
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i >= len(s.funcs) || s.funcs[i] == nil {
			return false
		}
		s.funcs[i] = nil
		return true
	}
}

// A Root is a context that the steps of many sessions end with. Of its own it is what
// its parent is; a step costs it no more than a place in a list, where package context
// allocates.
type Root struct {
	context.Context

	mu    sync.Mutex
	ended bool
	first *Step
}

type rootKey struct{}

// NewRoot returns a context for steps that ends with its parent.
func NewRoot(parent context.Context) *Root {
	r := &Root{Context: parent}
	context.AfterFunc(parent, r.end)
	return r
}

func (r *Root) end() {
	r.mu.Lock()
	r.ended = true
	var steps []*Step
	for s := r.first; s != nil; s = s.next {
		steps = append(steps, s)
	}
	r.mu.Unlock() // which they take after their own
	for _, s := range steps {
		s.end(r.Err())
	}
}

// add has s end with r. It reports false if r has ended.
func (r *Root) add(s *Step) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	if s.next = r.first; s.next != nil {
		s.next.prev = s
	}
	r.first = s
	return true
}

func (r *Root) remove(s *Step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		r.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
}

// Value is that of [context.Context].
func (r *Root) Value(key any) any {
	if key == (rootKey{}) {
		return r
	}
	return r.Context.Value(key)
}

// onCancel has f called when ctx is done otherwise than by its deadline, which the
// caller looks at.
func onCancel(ctx context.Context, t *Task, f func()) (stop func() bool) {
	if s, ok := ctx.Value(stepKey{}).(*Step); ok && t.inline() {
		return s.AfterFunc(f) // which does not set a timer
	}
	return context.AfterFunc(ctx, f)
}
