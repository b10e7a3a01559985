package fakedns

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// The test binary, run again with one of these, is a process of a test.
const (
	envJournal = "FAKEDNS_TEST_JOURNAL"
	envWorld   = "FAKEDNS_TEST_WORLD"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(envJournal) != "":
		fillJournal(os.Getenv(envJournal))
	case os.Getenv(envWorld) != "":
		worldMain()
	default:
		goleak.VerifyTestMain(m)
	}
}
