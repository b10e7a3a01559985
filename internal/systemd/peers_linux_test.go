package systemd

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The time of a reload is by the clock that systemd compares it with, which goes
// on since the host was started, and is not that of the wall.
func TestReloadingTime(t *testing.T) {
	next := hear(t, filepath.Join(t.TempDir(), "notify"))
	var last int64
	for range 3 {
		before := monotonic().Microseconds()
		if err := Reloading(); err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(next(), "MONOTONIC_USEC=")
		usec, err := strconv.ParseInt(text, 10, 64)
		if after := monotonic().Microseconds(); err != nil || usec < before || usec > after || usec < last {
			t.Errorf("%s is not between %d and %d: %v", text, before, after, err)
		}
		last = usec
	}
	if time.Duration(last)*time.Microsecond > time.Since(time.Unix(0, 0))/2 {
		t.Errorf("%d is the time of day", last)
	}
}

// systemd's own program says the same bytes.
func TestSystemdNotify(t *testing.T) {
	program, err := exec.LookPath("systemd-notify")
	if err != nil {
		t.Skip(err)
	}
	next := hear(t, filepath.Join(t.TempDir(), "notify"))
	for _, c := range []struct {
		argument string
		say      func() error
	}{{"READY=1", Ready}, {"STOPPING=1", Stopping}} {
		if out, err := exec.Command(program, "--no-block", c.argument).CombinedOutput(); err != nil {
			t.Skipf("%v: %s", err, out)
		}
		theirs := strings.TrimSpace(next())
		if err := c.say(); err != nil {
			t.Fatal(err)
		}
		if ours := next(); ours != theirs {
			t.Errorf("%q, where systemd-notify says %q", ours, theirs)
		}
	}
}
