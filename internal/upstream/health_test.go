package upstream

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errTest = errors.New("test")

// The time down doubles up to a minute, and is never more than a fifth less.
func TestBackoff(t *testing.T) {
	for failures, full := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 16 * time.Second, 6: 32 * time.Second,
		7: time.Minute, 8: time.Minute, 100: time.Minute, 1 << 40: time.Minute,
	} {
		different := make(map[time.Duration]bool)
		for range 200 {
			d := backoff(failures)
			if d > full || d < full*4/5 {
				t.Errorf("%d failures: %v", failures, d)
			}
			different[d] = true
		}
		if len(different) < 100 {
			t.Errorf("%d failures: %d different times of 200", failures, len(different))
		}
	}
}

// After its time one request at a time may try what is down; only its outcome counts, and a success ends it all.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(health)
		leave := func(lastResort, wantTrial, wantOK bool) {
			t.Helper()
			if trial, ok := h.begin(lastResort); trial != wantTrial || ok != wantOK {
				t.Errorf("trial %v, ok %v", trial, ok)
			}
		}
		leave(false, false, true)
		if !h.fail(time.Now(), false, false, errTest) {
			t.Error("it did not go down")
		}
		for range 100 { // all that was under way
			if h.fail(time.Now(), false, false, errTest) {
				t.Error("it went down twice")
			}
		}
		for failures := 1; failures < 10; failures++ {
			leave(false, false, false)
			leave(true, false, true)
			low := firstDown << (failures - 1) * 4 / 5
			time.Sleep(min(low, longDown*4/5) - time.Millisecond)
			leave(false, false, false)
			time.Sleep(min(low/4, longDown/5) + 2*time.Millisecond)
			leave(false, true, true)
			leave(false, false, false) // it is being tried
			time.Sleep(time.Hour)
			leave(false, false, false)
			if h.fail(time.Now(), true, false, errTest) {
				t.Error("it went down while it was down")
			}
		}
		time.Sleep(time.Minute)
		leave(false, true, true)
		h.drop() // told nothing
		leave(false, false, false)
		time.Sleep(time.Minute)
		leave(false, true, true)
		began := time.Now().Add(-time.Minute)
		if !h.succeed() || h.succeed() {
			t.Error("it comes up once")
		}
		leave(false, false, true)
		time.Sleep(time.Second)
		if h.fail(began, false, false, errTest) {
			t.Error("what began before it came up took it down")
		}
		// From the beginning.
		h.fail(time.Now(), false, false, errTest)
		time.Sleep(time.Second)
		leave(false, true, true)
	})
}

// That a server answers says nothing against a failure in use.
func TestHealthReached(t *testing.T) {
	for _, deep := range []bool{false, true} {
		h := new(health)
		h.fail(time.Now(), false, deep, errTest)
		if h.reached() == deep || (h.state() == up) == deep {
			t.Errorf("deep %v: %v", deep, h.state())
		}
	}
}
