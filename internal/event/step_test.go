package event

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

type testKey struct{}

func TestStep(t *testing.T) {
	for name, wrap := range map[string]func(context.Context) context.Context{
		"plain": func(ctx context.Context) context.Context { return ctx },
		"root":  func(ctx context.Context) context.Context { return context.WithValue(NewRoot(ctx), testKey{}, "here") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(context.WithValue(t.Context(), testKey{}, "here"))
				testStep(t, wrap(parent), cancel)
			})
		})
	}
}

func testStep(t *testing.T, parent context.Context, cancel func()) {
	defer cancel()
	s := NewStep(parent, time.Now().Add(time.Minute))
	if s.Err() != nil || s.Value(testKey{}) != "here" {
		t.Errorf("%v, %v", s.Err(), s.Value(testKey{}))
	}
	derived, stop := context.WithTimeout(s, time.Hour)
	defer stop()
	if d, ok := derived.Deadline(); !ok || time.Until(d) != time.Minute {
		t.Errorf("deadline in %v, %v", time.Until(d), ok)
	}
	<-derived.Done()
	if !errors.Is(s.Err(), context.DeadlineExceeded) || !errors.Is(derived.Err(), context.DeadlineExceeded) {
		t.Errorf("%v, %v", s.Err(), derived.Err())
	}
	s.Cancel()

	for i, end := range [...]func(*Step){(*Step).Cancel, func(*Step) { cancel() }} {
		s := NewStep(parent, time.Time{})
		called := make(chan struct{})
		context.AfterFunc(s, func() { close(called) })
		kept := s.AfterFunc(func() { t.Error("called, though it was stopped") })
		if !kept() || kept() {
			t.Error(i, "stop does not say whether it did")
		}
		end(s)
		<-called
		<-s.Done()
		if !errors.Is(s.Err(), context.Canceled) {
			t.Errorf("%d: %v", i, s.Err())
		}
	}
	s = NewStep(parent, time.Time{}) // of a parent that has ended
	<-s.Done()

	// Without anybody who waits there is neither timer nor goroutine.
	s = NewStep(t.Context(), time.Now().Add(time.Second))
	<-time.After(2 * time.Second)
	if !errors.Is(s.Err(), context.DeadlineExceeded) {
		t.Errorf("late: %v", s.Err())
	}
}

// A root ends the steps that have not ended, and those alone, also where a context
// of another kind comes between.
func TestRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		defer cancel()
		root := NewRoot(parent)
		between, cancelBetween := context.WithCancel(root)
		defer cancelBetween()
		behind := NewStep(between, time.Time{})
		behind.AfterFunc(func() {})
		var steps []*Step
		told := make(chan int, 5)
		for i := range 5 {
			s := NewStep(context.WithValue(root, testKey{}, i), time.Time{})
			s.AfterFunc(func() { told <- i })
			steps = append(steps, s)
		}
		for _, i := range []int{4, 0, 2} { // the first of the list, the last, and one between
			steps[i].Cancel()
			if n := <-told; n != i {
				t.Errorf("%d has ended, not %d", n, i)
			}
		}
		cancelBetween()
		<-behind.Done()
		if steps[1].Err() != nil || steps[3].Err() != nil {
			t.Error("another has ended, too")
		}
		cancel()
		if n := <-told + <-told; n != 1+3 {
			t.Errorf("%d and others have ended", n)
		}
		if root.first != nil {
			t.Error("steps that have ended are left")
		}
	})
}
