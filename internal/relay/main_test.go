package relay

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain fails if any test has left a goroutine or a descriptor.
func TestMain(m *testing.M) {
	before := openFiles("")
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		if !poll(func() bool { return openFiles("") <= before }) {
			fmt.Fprintf(os.Stderr, "%d descriptors are open, %d were at the start\n", openFiles(""), before)
			code = 1
		}
	}
	os.Exit(code)
}

// poll waits until cond holds. It reports false if it never does.
func poll(cond func() bool) bool {
	deadline := time.Now().Add(10 * time.Second)
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
