// Package systemd tells systemd how the service is: sd_notify(3), without its
// library. Where nobody wants to know, nothing happens.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// patience is how long systemd may take to listen: a service can live without it.
const patience = time.Second

// notify sends states, one a line, to $NOTIFY_SOCKET, if that is set.
func notify(states string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	// A name that begins with @ is in the abstract namespace, which the net
	// package writes the same way.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(patience)) // its queue may be full
	if _, err := conn.Write([]byte(states)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// Ready says that the service has started, or has reloaded.
func Ready() error { return notify("READY=1") }

// Reloading says that the service reads its configuration again.
func Reloading() error {
	return notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds()))
}

// Stopping says that the service ends.
func Stopping() error { return notify("STOPPING=1") }

// watchdogTime is how often systemd wants to hear that the service lives, 0 if
// it does not.
func watchdogTime() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// RunWatchdog tells systemd that the service lives, twice as often as it wants
// to hear it, for as long as alive says so, until ctx ends.
func RunWatchdog(ctx context.Context, alive func() bool) {
	every := watchdogTime() / 2
	if every == 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if alive() {
			_ = notify("WATCHDOG=1") // systemd acts on what it does not hear
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
