package limit

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if any test has left a goroutine. As the child of
// TestKilled it counts instead, until it is killed.
func TestMain(m *testing.M) {
	if path := os.Getenv(childLedger); path != "" {
		countForEver(path)
	}
	goleak.VerifyTestMain(m)
}
