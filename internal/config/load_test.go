package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	l := loader()
	s := &source{name: "/etc/argyle/argyle.yaml"}
	tests := []struct {
		text, want    string
		isURL, secret bool
	}{
		{text: "plain", want: "plain"},
		{text: "$", want: "$"},
		{text: "$x $$ $${PORT} $$$", want: "$x $ ${PORT} $$"},
		{text: "127.0.0.1:${PORT}", want: "127.0.0.1:1080"},
		{text: "${PORT}${PORT}", want: "10801080"},
		{text: "${file:/run/user}!", want: "ann!"},
		{text: "file:/run/user", want: "file:/run/user"},
		{text: "file:/run/user", want: "ann", secret: true},
		{text: "file:${STATE}/b", want: "s3cret", secret: true}, // without CR, LF
		{text: "x file:/run/user", want: "x file:/run/user", secret: true},
		{text: "${PASSWORD}", want: "hunter2@/x: y", secret: true},
		{text: "socks5h://ann:${PASSWORD}@gw", want: "socks5h://ann:hunter2%40%2Fx%3A%20y@gw", isURL: true},
		{text: "socks5h://ann:pw@${GATEWAY}", want: "socks5h://ann:pw@[2001:db8::1]:1080", isURL: true},
		{text: "ann:pw@${PASSWORD}", want: "ann:pw@hunter2%40%2Fx:%20y", isURL: true}, // cannot become user name and password
		{text: "${URL}", want: "socks5h://bob:pw@gw.example", isURL: true},
	}
	for _, tt := range tests {
		if got, _, err := l.expand(s, tt.text, tt.isURL, tt.secret); err != nil || got != tt.want {
			t.Errorf("%q = %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
	for text, want := range map[string]string{
		"${NOPE}":          "the environment variable NOPE is not set",
		"${PORT":           "${ without }",
		"${}":              "want ${NAME} or ${file:path}; a dollar alone is written $$",
		"${A B}":           "want ${NAME} or ${file:path}; a dollar alone is written $$",
		"${file:nope}":     "open /etc/argyle/nope: file does not exist",
		"a${PORT}${NOPE}b": "the environment variable NOPE is not set",
	} {
		if got, _, err := l.expand(s, text, false, false); err == nil || err.Error() != want || got != "" {
			t.Errorf("%q = %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestReferences looks at a file as a whole: structure stays what it is,
// whatever is in the variables.
func TestReferences(t *testing.T) {
	f, err := loader().Load("testdata/good/references.yaml")
	if err != nil {
		t.Fatal(err)
	}
	a, b := f.Upstreams["a"], f.Upstreams["b"]
	if string(a.Chain[0]) != "socks5h://ann:hunter2%40%2Fx%3A%20y@[2001:db8::1]:1080" || a.User != "ann" || a.Password != "$hunter2@/x: y" {
		t.Errorf("a: %q %q %q", string(a.Chain[0]), a.User, string(a.Password))
	}
	if string(b.Chain[0]) != "socks5h://bob:pw@gw.example" || b.Password != "s3cret" {
		t.Errorf("b: %q %q", string(b.Chain[0]), string(b.Password))
	}
	r := f.Rules[0]
	if !f.Open || f.Upstreams["c"].Direct.Mark != 7 || r.Via != "c" || r.Port[0] != (Ports{7, 7}) || r.To[0] != "$x.example" || r.SendProxy != 1 {
		t.Errorf("%+v", f)
	}
	l := &Loader{LookupEnv: func(string) (string, bool) { return "x]\nopen: true\n- {a: b}", true }}
	if f, err = l.Parse("argyle.yaml", []byte("state: ${X}\nsets: {a: ['${X}']}\n")); err != nil || f.Open || len(f.Sets["a"].Entries) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestEnvironmentAndFiles(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("ARGYLE_TEST_VARIABLE", "value")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("secret", "s3cret\n")
	write("large", strings.Repeat("x", maxInserted+1))
	path := write("argyle.yaml", "state: ${ARGYLE_TEST_VARIABLE}\nupstreams: {a: {chain: \"socks5://gw\", user: u, password: file:secret}}\n")
	f, err := Load(path)
	if err != nil || f.State != "value" || f.Upstreams["a"].Password != "s3cret" {
		t.Errorf("%+v, %v", f, err)
	}
	if f.Path(f.State) != filepath.Join(dir, "value") {
		t.Errorf("state is %s", f.Path(f.State))
	}
	path = write("argyle.yaml", "state: ${file:large}\n")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "argyle.yaml:1:8: ") || !strings.Contains(err.Error(), "larger than 64 KiB") {
		t.Errorf("%v", err)
	}
	if _, err := Load(filepath.Join(dir, "nothing.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestFlags: what flags say counts before the file is checked.
func TestFlags(t *testing.T) {
	const text = "listen: {address: :1080, auth: password}\n"
	if _, err := Parse("argyle.yaml", []byte(text)); err == nil {
		t.Error("nobody has a password")
	}
	l := &Loader{Flags: func(f *File) error {
		f.Users = &Users{File: "users"}
		f.SetOrigin("users.file", "--users")
		return nil
	}}
	if f, err := l.Parse("argyle.yaml", []byte(text)); err != nil || f.At("users.file") != "--users" {
		t.Errorf("%v", err)
	}
	want := errors.New("--users: no")
	l.Flags = func(*File) error { return want }
	if _, err := l.Parse("argyle.yaml", []byte(text)); err != want {
		t.Errorf("%v", err)
	}
}

// Two rules of one name would share what they count.
func TestRuleNames(t *testing.T) {
	_, err := Parse("a.yaml", []byte("rules:\n  - {name: web, action: allow}\n  - {action: deny}\n  - {action: deny}\n  - {name: web, action: deny}\n"))
	if err == nil || err.Error() != "a.yaml:5:12: the rule at a.yaml:2 has this name, too" {
		t.Errorf("%v", err)
	}
}

// What the caller knows of proxy URLs is told with all else.
func TestProxyURLs(t *testing.T) {
	l := Loader{ProxyURL: func(url string) error {
		if url == "bad://gw" {
			return errors.New("unknown scheme")
		}
		return nil
	}}
	_, err := l.Parse("a.yaml", []byte("upstreams:\n  gw: bad://gw\n  two: [gw, bad://gw]\n  pool: {group: [good://gw, bad://gw]}\nproxy: bad://gw\n"))
	var at Errors
	if !errors.As(err, &at) || len(at) != 4 || at[1].Error() != "a.yaml:3:13: unknown scheme" {
		t.Errorf("%v", err)
	}
}
