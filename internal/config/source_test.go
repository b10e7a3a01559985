package config

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

const positioned = `# a comment
listen: 127.0.0.1:1080
upstreams:
  gw: socks5h://gw.example
  far.away:
    chain:
      - gw
      - "http://x.example"
    check: {every: 5s, target: "a:1"}
  far: {group: [gw, direct]}
names:
  split:
    corp.example: [10.0.0.53, 10.0.0.54]
rules:
  - name: first
    to: &corp [.corp.example, 10.0.0.0/8]
    via: gw
  -
    action: deny
    port:
      - 25
      - 465-587
  - {to: *corp, action: deny, port: 80}
timeouts:
  idle: 5m
drain: 5s
tests: {connect: "a:1", expect: deny}
`

func TestAt(t *testing.T) {
	f, err := Parse("dir/argyle.yaml", []byte(positioned))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, want string }{
		{"listen", "2:9"},
		{"listen[0]", "2:9"},         // one stands for a list of one
		{"listen[0].address", "2:9"}, // and for a mapping
		{"listen[0].name", "2:9"},    // absent: the nearest around it
		{"listen[1]", "2:9"},
		{"upstreams", "3:1"}, // a block: the key
		{"upstreams.gw", "4:7"},
		{"upstreams.gw.chain[0]", "4:7"},
		{"upstreams.far.away", "5:3"},
		{"upstreams.far.away.chain", "6:5"},
		{"upstreams.far.away.chain[1]", "8:9"},
		{"upstreams.far.away.chain[2]", "6:5"},
		{"upstreams.far.away.check", "9:12"},
		{"upstreams.far.away.check.target", "9:32"},
		{"upstreams.far.away.check.timeout", "9:12"},
		{"upstreams.far", "10:8"},
		{"upstreams.far.group[1]", "10:21"},
		{"upstreams.near", "3:1"},
		{"names.split.corp.example[1]", "13:31"},
		{"names.hosts.corp.example", "11:1"},
		{"rules[0]", "15:5"},
		{"rules[0].to[1]", "16:31"},
		{"rules[0].limits.rate", "15:5"},
		{"rules[1]", "19:5"},
		{"rules[1].port[1]", "22:9"},
		{"rules[2]", "23:5"},
		{"rules[2].to", "23:10"},    // the alias
		{"rules[2].to[1]", "16:31"}, // what it stands for
		{"rules[2].port[0]", "23:37"},
		{"rules[3]", "14:1"},
		{"rules[x]", "14:1"},
		{"rules[-1]", "14:1"},
		{"timeouts.idle", "25:9"},
		{"drain", "26:8"},
		{"tests[0].connect", "27:18"},
	}
	for _, tt := range tests {
		if got := f.At(tt.path); got != "dir/argyle.yaml:"+tt.want {
			t.Errorf("%s is at %s, want %s", tt.path, got, tt.want)
		}
	}
	for _, path := range []string{"", "state", "nothing[3].at.all", "[0]", ".", "..", "rules.", "]"} {
		if got := f.At(path); got != "dir/argyle.yaml" && got != "dir/argyle.yaml:14:1" {
			t.Errorf("%q is at %s", path, got)
		}
	}
	if got := f.Line("rules[1].port[1]"); got != "dir/argyle.yaml:22" {
		t.Errorf("Line = %s", got)
	}
}

func TestOrigin(t *testing.T) {
	f, err := Parse("argyle.yaml", []byte(positioned))
	if err != nil {
		t.Fatal(err)
	}
	f.SetOrigin("listen", "--listen :1081")
	f.SetOrigin("users.file", "--users")
	for path, want := range map[string]string{
		"listen": "--listen :1081", "listen[0].address": "--listen :1081", "users.file": "--users", "users": "argyle.yaml",
		"users.groups.staff": "argyle.yaml", "drain": "argyle.yaml:26:8",
	} {
		if got := f.At(path); got != want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
	var e *Error
	if err := f.Errorf("listen[0]", "in use"); !errors.As(err, &e) || e.Error() != "--listen :1081: in use" || e.Annotated() != e.Error() {
		t.Errorf("%v", err)
	}
}

func TestNoFile(t *testing.T) {
	f := new(File)
	if got := f.At("listen[0]") + f.Line("rules") + f.Path(""); got != "" {
		t.Errorf("what is in no file is at %q", got)
	}
	if got := f.Path("users"); got != "users" {
		t.Errorf("path is %s", got)
	}
	if err := f.Errorf("rules", "wrong"); err.Error() != "wrong" {
		t.Errorf("%v", err)
	}
	f.SetOrigin("listen[0]", "--listen :1")
	if got := f.Line("listen[0].address"); got != "--listen :1" {
		t.Errorf("a flag is at %q", got)
	}
}

func TestErrorf(t *testing.T) {
	f, err := Parse("argyle.yaml", []byte(positioned))
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if err := f.Errorf("rules[0].via", "open it: %w", fs.ErrNotExist); !errors.As(err, &e) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	if e.Pos != (Pos{"argyle.yaml", 17, 10}) || e.Message != "open it: file does not exist" {
		t.Errorf("%+v", e)
	}
	const want = "argyle.yaml:17:10: open it: file does not exist\n  17 |     via: gw\n     |          ^"
	if got := e.Annotated(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := f.Errorf("rules", "dial socks5://ann:hunter2@gw:\n\x1b[31mrefused"); err.Error() != "argyle.yaml:14:1: dial socks5://ann:…@gw: ?[31mrefused" {
		t.Errorf("%q", err)
	}
}

func TestPath(t *testing.T) {
	dir := t.TempDir()
	f, err := Parse(filepath.Join(dir, "argyle.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Path("users"); got != filepath.Join(dir, "users") {
		t.Errorf("a relative path: %s", got)
	}
	abs := filepath.Join(dir, "x", "users")
	if got := f.Path(abs); got != abs {
		t.Errorf("an absolute path: %s", got)
	}
	if got := f.Path(""); got != "" {
		t.Errorf("no path: %s", got)
	}
}
