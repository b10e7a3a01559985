package users

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestSet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	for _, step := range []struct{ name, password string }{
		{"ann", "one"}, {"bob", "two"}, {"ann", "three"}, {"a#b c", "pass:word "},
	} {
		if err := Set(path, step.name, step.password); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), step.name, step.password); err != nil {
			t.Errorf("%s, %s: %v", step.name, step.password, err)
		}
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), "ann", "one"); !errors.Is(err, ErrDenied) {
		t.Errorf("the old password: %v", err)
	}
	if err := s.Verify(t.Context(), "bob", "two"); err != nil {
		t.Errorf("the other user: %v", err)
	}
}

func TestEdit(t *testing.T) {
	for _, test := range []struct{ data, want string }{
		{"", "ann:NEW\n"},
		{"bob:x\n", "bob:x\nann:NEW\n"},
		{"bob:x", "bob:x\nann:NEW\n"},
		{"bob:x\r\n", "bob:x\r\nann:NEW\r\n"},
		{"ann:x\n", "ann:NEW\n"},
		{"ann:x", "ann:NEW"},
		{"ann:x\r\n\r\n# bye", "ann:NEW\r\n\r\n# bye"},
		{"# top \n\n  \nann:x:y \n\tbad line\nanna:z\n#ann:w\n", "# top \n\n  \nann:NEW\n\tbad line\nanna:z\n#ann:w\n"},
	} {
		got, err := edit("users", []byte(test.data), "ann", "ann:NEW")
		if err != nil || string(got) != test.want {
			t.Errorf("edit(%q) = %q, %v, want %q", test.data, got, err, test.want)
		}
	}
	want := "users:3:1: the name is already on line 1: remove one"
	if _, err := edit("users", []byte("ann:x\n\nann:y\n"), "ann", "ann:NEW"); err == nil || err.Error() != want {
		t.Errorf("two lines: %v, want %s", err, want)
	}
}

func FuzzEdit(f *testing.F) {
	f.Add([]byte("# users\r\nann:x\r\n\nbob:y"))
	f.Add([]byte("ann:x"))
	f.Add([]byte("bob"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := edit("users", data, "ann", "ann:NEW")
		if err != nil {
			return
		}
		if !slices.Equal(others(got), others(data)) {
			t.Errorf("%q became %q", data, got)
		}
		again, err := edit("users", got, "ann", "ann:NEW")
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("once %q, twice %q, %v", got, again, err)
		}
	})
}

// others returns the lines that are not ann's. The last one may have got the
// end that it lacked.
func others(data []byte) []string {
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return line == "" || strings.HasPrefix(line, "ann:") })
}

func TestSetRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	for _, test := range []struct{ name, password, want string }{
		{"", "x", "the name is empty"},
		{"a:b", "x", "the name has a colon, which separates name and hash"},
		{"a\nb", "x", "the name has a control character"},
		{"#ann", "x", "the name begins with #, which begins a comment"},
		{" ann", "x", "the name begins or ends with a space"},
		{"ann ", "x", "the name begins or ends with a space"},
		{strings.Repeat("n", 256), "x", "the name is longer than 255 bytes, which SOCKS cannot carry"},
		{"ann", "", "the password is empty"},
		{"ann", "a\tb", "the password has a control character"},
		{"ann", strings.Repeat("q", 256), "the password is longer than 255 bytes, which SOCKS cannot carry"},
	} {
		if err := Set(path, test.name, test.password); err == nil || err.Error() != test.want {
			t.Errorf("Set(%.9q, %.9q): %v, want %s", test.name, test.password, err, test.want)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file was made")
	}
}

func TestSetFailures(t *testing.T) {
	dir := t.TempDir()
	if err := Set(dir, "ann", "x"); err == nil {
		t.Error("a folder was set")
	}
	if err := Set(filepath.Join(dir, "absent", "users"), "ann", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in an absent folder: %v", err)
	}
	path := filepath.Join(dir, "users")
	before := "ann:x\nann:y\n"
	write(t, path, before)
	if err := Set(path, "ann", "x"); err == nil {
		t.Error("a file with two lines of the user was set")
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != before {
		t.Errorf("the file became %q, %v", after, err)
	}
}

// Runs at the same time lose no user.
func TestSetConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	var wg sync.WaitGroup
	const n = 8
	for i := range n {
		wg.Go(func() {
			if err := Set(path, fmt.Sprint("user", i), "x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(s.file.Load().entries); got != n {
		t.Errorf("%d users, want %d", got, n)
	}
}
