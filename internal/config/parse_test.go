package config

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

var update = flag.Bool("update", false, "write the golden files")

// loader knows some variables and files, and nothing of the machine.
func loader() *Loader {
	env := map[string]string{
		"STATE": "/var/lib/argyle", "PASSWORD": "hunter2@/x: y", "GATEWAY": "[2001:db8::1]:1080", "MARK": "7",
		"URL": "socks5h://bob:pw@gw.example", "OPEN": "true", "UPSTREAM": "c", "PORT": "1080", "VERSION": "1",
		"FAR_PASSWORD": "p@/w",
	}
	files := map[string]string{
		"/run/user": "ann\n", "/var/lib/argyle/b": "s3cret\r\n", "testdata/good/secret": "s3cret",
	}
	return &Loader{
		LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		ReadFile: func(path string) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		},
	}
}

// examples returns the files of testdata that match.
func examples(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files (%v)", pattern, err)
	}
	return files
}

func readExample(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestGood(t *testing.T) {
	for _, file := range examples(t, "good/*.yaml") {
		if _, err := loader().Load(file); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// TestBad compares all that is said about wrong files. go test -update writes
// it anew; then read it.
func TestBad(t *testing.T) {
	for _, file := range examples(t, "bad/*.yaml") {
		name := filepath.Base(file)
		f, err := loader().Parse(name, readExample(t, file))
		var errs Errors
		if f != nil || !errors.As(err, &errs) {
			t.Errorf("%s: %v, %v", name, f, err)
			continue
		}
		var b strings.Builder
		for _, e := range errs {
			b.WriteString(e.Annotated() + "\n")
		}
		golden := strings.TrimSuffix(file, ".yaml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := string(readExample(t, golden)); b.String() != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, b.String(), want)
		}
		if strings.Contains(b.String(), "hunter2") {
			t.Errorf("%s: a secret is shown:\n%s", name, b.String())
		}
	}
}

// TestGoccyStops is why there is a decoder here: goccy's own tells one mistake
// of a file and no more.
func TestGoccyStops(t *testing.T) {
	var v struct{ A, B int }
	err := yaml.Unmarshal([]byte("a: x\nb: y\n"), &v)
	if err == nil || strings.Count(err.Error(), "cannot unmarshal") > 1 {
		t.Errorf("goccy has learned to go on: %v", err)
	}
}

func TestBounds(t *testing.T) {
	const deep = "nested more than 100 deep"
	tests := []struct{ name, text, want string }{
		{"flow list", strings.Repeat("[", 1<<16), "argyle.yaml:1:101: " + deep},
		{"flow mapping", strings.Repeat("{a: ", 1<<14), deep},
		{"block list", strings.Repeat("- ", 1<<15), deep},
		{"questions", strings.Repeat("? ", 1<<15), deep},
		{"tags", strings.Repeat("!a ", 1<<14), deep},
		{"anchors", strings.Repeat("&a ", 1<<14), deep},
		{"flow tags", "[" + strings.Repeat("!a ", 1<<14), deep},
		{"keys in a line", strings.Repeat("a: ", 1<<14), deep},
		{"commas", "[" + strings.Repeat(",", 1<<16), "expected sequence element"},
		{"size", strings.Repeat("# a comment\n", 1<<20), "argyle.yaml: the file is larger than 4 MiB"},
		{"keys", "names:\n  hosts:\n" + strings.Repeat("    a: 10.0.0.1\n", maxKeys+1), "a mapping with more than 10000 keys"},
		{
			"aliases",
			"sets:\n  a: &a [" + strings.Repeat("x,", 1000) + "]\nrules:\n" + strings.Repeat("- {to: *a, action: allow}\n", 500),
			"the aliases stand for more than 100000 values",
		},
		{"errors", "allow:\n" + strings.Repeat("- x\n", 20_000), "and 19900 more errors from here on"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("argyle.yaml", []byte(tt.text))
			var errs Errors
			if !errors.As(err, &errs) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%.300v, want %s", err, tt.want)
			}
			if shown := errs[len(errs)-1].Annotated(); len(shown) > 1000 {
				t.Errorf("%d bytes are shown: %.300s", len(shown), shown)
			}
		})
	}
}

func TestLarge(t *testing.T) {
	var b strings.Builder
	b.WriteString("names:\n  hosts:\n")
	for i := range maxKeys {
		fmt.Fprintf(&b, "    host-%d.example: 10.%d.%d.1\n", i, i>>8, i&255)
	}
	b.WriteString("rules:\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "- {to: [host-%d.example, 10.0.0.0/8], port: [25, 465-587], action: deny}\n", i)
	}
	start := time.Now()
	f, err := Parse("argyle.yaml", []byte(b.String()))
	if err != nil || len(f.Rules) != 5000 || len(f.Names.Hosts) != maxKeys {
		t.Fatal(err)
	}
	if got := f.At("rules[4999].port[1]"); got != "argyle.yaml:15003:52" {
		t.Errorf("the last rule is at %s", got)
	}
	t.Logf("%d KiB in %v", b.Len()>>10, time.Since(start))
}

func TestEncodings(t *testing.T) {
	for name, text := range map[string]string{
		"BOM": "\ufeffopen: true\n", "CRLF": "open: true\r\nallow: 10.0.0.0/8\r\n", "no newline": "open: true",
		"tabs": "open: true\t# it's a\tcomment\t\n\t# comment\t\"\t.\n\t\nstate: 'a'\t# b\t\nallow: 10.0.0.0/8\t\n",
	} {
		if f, err := Parse(name, []byte(text)); err != nil || !f.Open {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := Parse("crlf.yaml", []byte("open: true\r\nallow: x\r\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "crlf.yaml:2:8: ") {
		t.Errorf("CRLF: %v", err)
	}
}
