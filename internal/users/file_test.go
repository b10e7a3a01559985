package users

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// cheap returns a hash of password that costs next to nothing.
func cheap(password string) string {
	h := argon2id{memory: 8, passes: 1, threads: 1, salt: []byte("saltsalt")}
	h.key = h.derive(password, 16)
	return h.String()
}

func TestParse(t *testing.T) {
	ann, bob := cheap("a"), cheap("b")
	for _, test := range []struct {
		data  string
		names []string
	}{
		{"", nil},
		{"\n\n# nobody\n \t\n  # indented\n", nil},
		{"ann:" + ann, []string{"ann"}},
		{"# users\nann:" + ann + "\n\nbob:" + bob + "\n", []string{"ann", "bob"}},
		{"# users\r\nann:" + ann + "\r\n\r\nbob:" + bob + "\r\n", []string{"ann", "bob"}},
		{"an n:" + ann + "\nan#n:" + bob, []string{"an n", "an#n"}},
		{"änn@example:" + ann + "\n\xff\xfe:" + bob, []string{"änn@example", "\xff\xfe"}},
		{strings.Repeat("n", 255) + ":" + ann, []string{strings.Repeat("n", 255)}},
	} {
		f, err := Parse("users", []byte(test.data))
		if err != nil {
			t.Errorf("Parse(%q): %v", test.data, err)
			continue
		}
		if len(f.entries) != len(test.names) {
			t.Errorf("Parse(%q) has %d users, want %d", test.data, len(f.entries), len(test.names))
		}
		for _, name := range test.names {
			if _, ok := f.byName[name]; !ok {
				t.Errorf("Parse(%q) lacks %q", test.data, name)
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	hash := cheap("a")
	for _, test := range []struct{ data, want string }{
		{"ann", "users:1:1: no colon: a line is name:hash"},
		{"\n\n:" + hash, "users:3:1: the name is empty"},
		{"ann:" + hash + "\nbob:", "users:2:5: the hash is missing: " + wantHash},
		{"# a\nbob:hunter2", "users:2:5: " + errClearText.Error()},
		{"bob:hunter2\r\n", "users:1:5: " + errClearText.Error()},
		{"bob:{SHA}EfatjsUqKYSrqv18O1FlA3hcIHI=", "users:1:5: " + errWeakHash.Error()},
		{strings.Repeat("n", 256) + ":" + hash, "users:1:1: the name is longer than 255 bytes, which SOCKS cannot carry"},
		{" ann:" + hash, "users:1:1: the name begins or ends with a space"},
		{"ann :" + hash, "users:1:1: the name begins or ends with a space"},
		{"\tann:" + hash, "users:1:1: the name has a control character"},
		{"a\x7fnn:" + hash, "users:1:1: the name has a control character"},
		{"\ufeffann:" + hash, "users:1:1: the name begins with a byte order mark: save the file without it"},
		{"ann:" + hash + " ", "users:1:5: " + errArgon2Form.Error()},
		{"ann:" + hash + "\nbob:" + hash + "\nann:" + hash, "users:3:1: the name is already on line 1"},
		{"ann\n#\nbob:x\n", "users:1:1: no colon: a line is name:hash\nusers:3:5: " + errClearText.Error()},
	} {
		f, err := Parse("users", []byte(test.data))
		if err == nil || err.Error() != test.want || f != nil {
			t.Errorf("Parse(%q)\n got %v, %v\nwant %s", test.data, f, err, test.want)
		}
	}
}

func TestParseManyErrors(t *testing.T) {
	_, err := Parse("users", []byte(strings.Repeat("x\n", 1000)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxErrors+1 || lines[maxErrors] != "users:101:1: too many errors" {
		t.Errorf("%d errors, the last: %s", len(lines), lines[len(lines)-1])
	}
}

func TestReadFileTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxFile+1); err != nil {
		t.Fatal(err)
	}
	want := path + ": larger than 16 MiB"
	if _, err := Open(path); err == nil || err.Error() != want {
		t.Errorf("Open: %v, want %s", err, want)
	}
}

// messages are all that Parse may say: no text of the file is among it.
func messages() map[string]bool {
	all := map[string]bool{
		"no colon: a line is name:hash":                                            true,
		"the name is already on line N":                                            true,
		"too many errors":                                                          true,
		"argon2id t is out of range: want N to N":                                  true,
		"argon2id p is out of range: want N to N":                                  true,
		"argon2id m is out of range: want N times p to N (KiB)":                    true,
		"argon2id m times t is out of range: want at most N":                       true,
		"argon2id salt or hash of odd length: want N to N and N to N bytes":        true,
		"malformed bcrypt hash: want $2y$, two digits of cost, $ and N characters": true,
		"bcrypt cost is out of range: want N to N":                                 true,
		"SHA-crypt rounds are out of range: want N to N":                           true,
	}
	for _, err := range []error{errClearText, errWeakHash, errYescrypt, errArgon2, errNoHash, errArgon2Form, errSHACryptForm} {
		all[digits.ReplaceAllString(err.Error(), "N")] = true
	}
	for _, name := range []string{"", strings.Repeat("n", 256), "a\x00", "#", " a", "\ufeff"} {
		all[digits.ReplaceAllString(checkName(name).Error(), "N")] = true
	}
	return all
}

// digits are numbers that stand alone, as argon2id's 2 does not.
var digits = regexp.MustCompile(`\b[0-9]+\b`)

func FuzzParse(f *testing.F) {
	for _, test := range hashes {
		f.Add([]byte("ann:" + test.hash + "\n"))
	}
	hash := cheap("a")
	f.Add([]byte("# users\r\n\r\nann:" + hash + "\r\nbob:" + hash))
	f.Add([]byte("ann:" + hash + "\nann:" + hash))
	f.Add([]byte("ann\nbob:\n:x\nann:secret\nann:{SHA}x\n"))
	f.Add([]byte("ann:$argon2id$v=19$m=99999999999999999999,t=2,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA"))
	f.Add([]byte("ann:$6$rounds=999999999$salt$" + strings.Repeat("a", 86)))
	f.Add([]byte("ann:$2y$31$" + strings.Repeat("a", 53)))
	f.Add([]byte("\ufeff ann:\x00"))

	position := regexp.MustCompile(`^users:[0-9]+:[0-9]+: `)
	known := messages()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("users", data)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				where := position.FindString(line)
				if where == "" || !known[digits.ReplaceAllString(line[len(where):], "N")] {
					t.Errorf("unexpected error %q", line)
				}
			}
			return
		}
		for name, i := range file.byName {
			if err := errors.Join(checkName(name), checkBounds(file.entries[i].hash)); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
		again, err := Parse("users", []byte(strings.ReplaceAll(string(data), "\n", "\r\n")))
		if err != nil || len(again.entries) != len(file.entries) {
			t.Errorf("with CRLF: %v", err)
		}
	})
}

// checkBounds says what h would cost too much of.
func checkBounds(h passwordHash) error {
	ok := false
	switch h := h.(type) {
	case argon2id:
		ok = h.memory <= 128<<10 && uint64(h.memory)*uint64(h.passes) <= 512<<10 && h.threads >= 1 && h.threads <= 16
	case bcryptHash:
		ok = h[4:7] >= "04$" && h[4:7] <= "14$"
	case shaCrypt:
		ok = h.rounds >= 1000 && h.rounds <= 1_000_000
	}
	if !ok {
		return fmt.Errorf("%T out of bounds", h)
	}
	return nil
}
