// Package packaging has no code: it holds what distributors install, and the
// tests of that.
package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// setting is one line of a unit.
type setting struct{ section, key, value string }

// unit reads a unit's settings.
func unit(t *testing.T, name string) (all []setting) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			section = strings.Trim(line, "[]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section == "" {
			t.Fatalf("%s: %q is no setting", name, line)
		}
		all = append(all, setting{section, key, value})
	}
	return all
}

// What the service must say, whatever else changes.
func TestService(t *testing.T) {
	all := unit(t, "argyle.service")
	for _, want := range []setting{
		{"Service", "Type", "notify"},
		{"Service", "ExecStart", "/usr/bin/argyle serve -c /etc/argyle/argyle.yaml"},
		{"Service", "ExecReload", "/bin/kill -HUP $MAINPID"},
		{"Service", "StateDirectory", "argyle"},
		{"Service", "DynamicUser", "yes"},
		{"Service", "NoNewPrivileges", "yes"},
		{"Service", "CapabilityBoundingSet", ""},
		{"Service", "ProtectSystem", "strict"},
		{"Install", "WantedBy", "multi-user.target"},
	} {
		if !slices.Contains(all, want) {
			t.Errorf("there is no %s=%s in [%s]", want.key, want.value, want.section)
		}
	}
	for _, never := range []string{"PrivateUsers", "ProcSubset", "PrivateNetwork"} {
		if slices.ContainsFunc(all, func(s setting) bool { return s.key == never }) {
			t.Errorf("%s= breaks the service", never)
		}
	}
}

// The name of the sockets is that in the documents.
func TestSocket(t *testing.T) {
	all := unit(t, "argyle.socket")
	if !slices.Contains(all, setting{"Socket", "FileDescriptorName", "socks"}) {
		t.Error("the sockets are not called socks")
	}
	for _, s := range all {
		if s.key == "ListenStream" && !strings.HasPrefix(s.value, "127.0.0.1:") && !strings.HasPrefix(s.value, "[::1]:") {
			t.Errorf("it listens on %s, which is for everybody", s.value)
		}
	}
}

// systemd itself knows every key, and has little to say against the service: 1.3
// in version 252, of which others look for more. Without systemd there is nobody
// to ask.
func TestAnalyze(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	service := installed(t)
	for _, args := range [][]string{
		{"verify", service, filepath.Join(filepath.Dir(service), "argyle.socket")},
		{"security", "--offline=yes", "--no-pager", "--threshold=20", service},
	} {
		out, err := exec.Command(program, args...).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("Unknown")) {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

// installed copies the units to where their program can be found: it is this one.
func installed(t *testing.T) (service string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"argyle.service", "argyle.socket"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte("=/usr/bin/argyle"), []byte("="+self))
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "argyle.service")
}
