package users

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newStore(t, "ann:"+cheap("a"))
		ctx, cancel := context.WithCancel(t.Context())
		news := make(chan error, 10)
		ended := make(chan error)
		go func() { ended <- s.Watch(ctx, 0, func(err error) { news <- err }) }()

		// step lets a few intervals pass and returns what was reported.
		step := func() (got []error) {
			elapse(3500 * time.Millisecond)
			for len(news) > 0 {
				got = append(got, <-news)
			}
			return got
		}
		if got := step(); len(got) != 0 {
			t.Errorf("no change: %v", got)
		}
		write(t, path, "bob:"+cheap("b"))
		if got := step(); len(got) != 1 || got[0] != nil {
			t.Errorf("changed in place: %v", got)
		}
		if err := s.Verify(ctx, "bob", "b"); err != nil {
			t.Errorf("after the change: %v", err)
		}
		write(t, path+".new", "bob:"+cheap("c"))
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		if got := step(); len(got) != 1 || got[0] != nil {
			t.Errorf("replaced: %v", got)
		}
		write(t, path, "bob:secret")
		if got := step(); len(got) != 1 || got[0] == nil {
			t.Errorf("bad: %v", got)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if got := step(); len(got) != 1 || !errors.Is(got[0], os.ErrNotExist) {
			t.Errorf("removed: %v", got)
		}
		if err := s.Verify(ctx, "bob", "c"); err != nil {
			t.Errorf("after bad files: %v", err)
		}
		write(t, path, "bob:"+cheap("c"))
		if got := step(); len(got) != 1 || got[0] != nil {
			t.Errorf("back again: %v", got)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	})
}

// A file that changes twice in one tick of the file system's clock looks the
// same after the second time, unless it is read again.
func TestWatchSeesASecondChangeInOneTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newStore(t, "ann:"+cheap("a"))
		tick := time.Now()
		for _, password := range []string{"b", "c"} {
			write(t, path, "ann:"+cheap(password))
			if err := os.Chtimes(path, tick, tick); err != nil {
				t.Fatal(err)
			}
			if changed, err := s.poll(); !changed || err != nil {
				t.Errorf("poll: %v, %v", changed, err)
			}
		}
		elapse(2 * coarse)
		if changed, err := s.poll(); changed || err != nil {
			t.Errorf("poll of the same content: %v, %v", changed, err)
		}
		if info, err := os.Stat(path); err != nil || !s.seen.same(info) {
			t.Error("an old file is not trusted to be the same")
		}
	})
}

// elapse lets d pass in a synctest bubble, and all that happens in it.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
