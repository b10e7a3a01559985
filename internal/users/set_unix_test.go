//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package users

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What else is in the folder after a run: nothing, whatever happened.
func TestSetLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users")
	if err := Set(path, "ann", "x"); err != nil {
		t.Fatal(err)
	}
	write(t, path, "ann:x\nann:y\n")
	_ = Set(path, "ann", "x")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestSetMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	for _, existing := range []os.FileMode{0, 0o644} {
		if existing != 0 {
			if err := os.Chmod(path, existing); err != nil {
				t.Fatal(err)
			}
		}
		if err := Set(path, "ann", "x"); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v after %v, %v", info.Mode(), existing, err)
		}
	}
}

func TestSetKeepsTheOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	path := filepath.Join(t.TempDir(), "users")
	write(t, path)
	if err := os.Chown(path, 12345, 54321); err != nil {
		t.Fatal(err)
	}
	if err := Set(path, "ann", "x"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 12345 || stat.Gid != 54321 {
		t.Errorf("owner %d:%d", stat.Uid, stat.Gid)
	}
}

func TestSetFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "real", "users"), filepath.Join(dir, "users")
	if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("real", "users"), link); err != nil {
		t.Fatal(err)
	}
	if err := Set(link, "ann", "x"); err == nil || !strings.Contains(err.Error(), "the symbolic link leads nowhere") {
		t.Errorf("Set of a link to nothing: %v", err)
	}
	write(t, target, "bob:"+cheap("b"))
	if err := Set(link, "ann", "x"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(target)
	if err != nil || strings.Count(string(data), "\n") != 2 || !strings.HasPrefix(string(data), "bob:") {
		t.Errorf("the target became %q, %v", data, err)
	}
}

// A lock file that a killed run left behind keeps nobody out.
func TestSetWithAStaleLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path+".lock")
	if err := Set(path, "ann", "x"); err != nil {
		t.Error(err)
	}
}
