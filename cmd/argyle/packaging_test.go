//go:build linux

package main

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The unit is as tight as it says, and systemd finds nothing wrong with it.
func TestUnit(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err) // no program that we speak with
	}
	out, err := exec.Command(analyze, "security", "--offline=true", "../../packaging/argyle.service").CombinedOutput()
	exposure := regexp.MustCompile(`Overall exposure level for argyle.service: ([0-9.]+)`).FindSubmatch(out)
	if err != nil || exposure == nil {
		t.Skipf("this systemd-analyze cannot: %v: %s", err, out)
	}
	if level, err := strconv.ParseFloat(string(exposure[1]), 64); err != nil || level > 1.5 {
		t.Errorf("exposure %s, want 1.5 at most\n%s", exposure[1], out)
	}
	// /usr/bin/argyle is not installed where the tests run.
	out, _ = exec.Command(analyze, "verify", "../../packaging/argyle.service", "../../packaging/argyle.socket").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "packaging/argyle.") && !strings.Contains(line, "is not executable") {
			t.Error(line)
		}
	}
}
