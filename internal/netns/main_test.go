//go:build linux

package netns

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// roles are what the test binary can be started as, by its first argument.
func roles() map[string]func(args []string) error {
	return map[string]func(args []string) error{
		"wrap": wrap, "tcp": roleTCP, "udp": roleUDP, "serve": roleServe, "unix": roleUnix,
	}
}

// TestMain fails if any test has left a goroutine or a descriptor.
func TestMain(m *testing.M) {
	if IsChild() {
		RunChild(testHook)
	}
	if len(os.Args) > 1 && roles()[os.Args[1]] != nil {
		if err := roles()[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	before := openFiles()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if !poll(func() bool { return openFiles() <= before }) {
			fmt.Fprintf(os.Stderr, "%d descriptors are open, %d were at the start\n", openFiles(), before)
			code = 1
		}
	}
	os.Exit(code)
}

// openFiles returns the number of sockets and files that are open. What the
// runtime keeps for itself does not count.
func openFiles() (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			n++
		}
	}
	return n
}

// poll waits until cond holds. It reports false if it never does.
func poll(cond func() bool) bool {
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}
