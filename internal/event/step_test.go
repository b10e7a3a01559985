package event

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "here"))
		defer cancel()
		s := NewStep(parent, time.Now().Add(time.Minute))
		if s.Err() != nil || s.Value(key{}) != "here" {
			t.Errorf("%v, %v", s.Err(), s.Value(key{}))
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
		// Without anybody who waits there is neither timer nor goroutine.
		s = NewStep(t.Context(), time.Now().Add(time.Second))
		<-time.After(2 * time.Second)
		if !errors.Is(s.Err(), context.DeadlineExceeded) {
			t.Errorf("late: %v", s.Err())
		}
	})
}
