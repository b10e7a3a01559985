package event

import (
	"context"
	"iter"
)

// A Task is a function that runs in the goroutine of a [Loop], as a coroutine:
// where it waits for a [Conn] of the loop, the loop goes on with others. No
// other goroutine has to be woken for it.
//
// Whatever else it waits for would hold up the loop, so it must [Detach] before.
type Task struct {
	loop *Loop
	job  func(*Task)

	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool

	// Of the loop's goroutine, but for a task that is detached.
	waiting  bool // for a Conn
	done     bool // with its job
	detached bool
}

// newTask returns a task without a job.
func newTask(l *Loop) *Task {
	t := &Task{loop: l}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		for {
			t.job(t)
			t.job, t.done = nil, true
			if t.detached || !yield(struct{}{}) {
				return
			}
		}
	})
	return t
}

// resume runs the task until it waits, is done, or detaches.
func (t *Task) resume() {
	t.waiting = false
	t.next()
	switch {
	case t.done:
		t.loop.retire(t)
	case t.detached:
		go t.next() // which ends with the job
	}
}

// park gives way to the loop until it resumes the task.
func (t *Task) park() {
	t.waiting = true
	t.yield(struct{}{})
}

// inline reports whether t runs in its loop's goroutine.
func (t *Task) inline() bool { return t != nil && !t.detached }

type taskKey struct{}

// WithTask returns a context for what t does.
func WithTask(ctx context.Context, t *Task) context.Context {
	return context.WithValue(ctx, taskKey{}, t)
}

// taskOf returns the task whose context ctx is, nil if it is no task's.
func taskOf(ctx context.Context) *Task {
	t, _ := ctx.Value(taskKey{}).(*Task)
	return t
}

// Detach moves the task whose context ctx is into a goroutine of its own, where
// it may wait for anything. It does nothing for what has one already.
func Detach(ctx context.Context) {
	if t := taskOf(ctx); t.inline() {
		t.detached = true
		t.yield(struct{}{})
	}
}

// Aware is implemented by what a task may call without [Detach]: it calls that
// itself before it waits for something other than a [Conn].
type Aware interface{ DetachesItself() }

// DetachUnless calls [Detach] if v is not [Aware].
func DetachUnless(ctx context.Context, v any) {
	if _, ok := v.(Aware); !ok {
		Detach(ctx)
	}
}
