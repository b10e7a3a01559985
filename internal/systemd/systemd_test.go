//go:build linux

package systemd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// hear opens a socket as systemd has it, and returns what reads the next message.
func hear(t *testing.T, name string) func() string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return func() string {
		t.Helper()
		buf := make([]byte, 1000)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@argyle-test-" + strconv.Itoa(os.Getpid())} {
		next := hear(t, name)
		for _, c := range []struct {
			say  func() error
			want string
		}{
			{Ready, `^READY=1$`},
			{Reloading, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$`},
			{Stopping, `^STOPPING=1$`},
		} {
			if err := c.say(); err != nil {
				t.Fatal(err)
			}
			if got := next(); !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("%q, want %s", got, c.want)
			}
		}
	}
}

// Without a socket nothing happens, and with one that is gone there is an error.
func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if Ready() == nil {
		t.Error("no error")
	}
}

func TestWatchdog(t *testing.T) {
	next := hear(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	asked := 0
	go func() {
		defer close(done)
		RunWatchdog(ctx, func() bool { asked++; return asked != 2 })
	}()
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("%q", got)
		}
	}
	cancel()
	<-done
	if asked < 4 {
		t.Errorf("asked %d times for three signs of life, of which one was no", asked)
	}

	for usec, pid := range map[string]string{"": "", "0": "", "x": "", "20000": "1"} {
		t.Setenv("WATCHDOG_USEC", usec)
		t.Setenv("WATCHDOG_PID", pid)
		RunWatchdog(t.Context(), func() bool { t.Error("asked"); return true }) // returns at once
	}
}
