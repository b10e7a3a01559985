package main

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// beProgram makes the test binary the program: started again with this variable it calls main. So the program that the
// tests talk to is the one under test, and the race detector is in it.
const beProgram = "ARGYLE_BE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(leakChecked{m}.Run())
}

// leakChecked fails a run of tests that leaves a goroutine, a file descriptor or a child behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	before := takeStock()
	if code := m.M.Run(); code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if left := before.left(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind by the tests: %q\n", left)
		return 1
	}
	return 0
}

// left waits a moment for what was not there when the stock was taken, and returns what of it stays.
func (before stock) left() []string {
	deadline := time.Now().Add(5 * time.Second)
	for {
		// The runtime keeps splice's pipes in a pool that only the collector empties.
		runtime.GC()
		left := before.missingFrom(takeStock())
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		<-time.After(20 * time.Millisecond)
	}
}
