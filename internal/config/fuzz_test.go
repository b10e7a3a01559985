package config

import (
	"encoding"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzParse: no text makes it panic, and all that is wrong is somewhere in the
// text.
func FuzzParse(f *testing.F) {
	for _, file := range append(examples(f, "good/*.yaml"), examples(f, "bad/*.yaml")...) {
		f.Add(readExample(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &Loader{
			LookupEnv: func(name string) (string, bool) { return "value of " + name, len(name) > 2 },
			ReadFile:  func(path string) ([]byte, error) { return nil, errors.New(path) },
		}
		file, err := l.Parse("argyle.yaml", data)
		if (file == nil) != (err != nil) {
			t.Fatalf("%v, %v", file, err)
		}
		if err == nil {
			checkPositions(t, file)
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("%T: %v", err, err)
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, e := range errs {
			if e.Pos.Line > lines || e.Pos.Line < 0 || e.Pos.Column < 0 || e.Message == "" {
				t.Errorf("%+v in %d lines", e.Pos, lines)
			}
			if n := strings.Count(e.Error(), "\n"); n != 0 {
				t.Errorf("an error of %d lines: %v", n+1, e)
			}
			if n := strings.Count(e.Annotated(), "\n"); n != 0 && n != 2 {
				t.Errorf("%q", e.Annotated())
			}
		}
	})
}

// checkPositions asks where all keys are.
func checkPositions(t *testing.T, f *File) {
	for _, key := range Keys() {
		path := strings.ReplaceAll(strings.ReplaceAll(key.Path, "[]", "[0]"), "NAME", "a")
		if at := f.At(path); !strings.HasPrefix(at, "argyle.yaml") {
			t.Errorf("%s is at %s", path, at)
		}
	}
}

// FuzzSecrets puts a password where passwords may be, and anything before and
// after it: no error may show it.
func FuzzSecrets(f *testing.F) {
	f.Add("lisen: x\n", "\nmode: y\n", uint8(0))
	f.Add("upstreams:\n  a:\n", "\n    mode: strct\n", uint8(1))
	f.Add("  b: {", ", mode: x}", uint8(2))
	f.Add("", "\n\t", uint8(3))
	f.Add("rules: [", "]", uint8(4))
	f.Add("a: &x\n ", "\n*x", uint8(5))
	f.Add("proxy: [", ", gw, {}]", uint8(6))
	const word = "hUnTeR2"
	forms := []string{
		"    password: " + word,
		"    password: \"" + word + " x\"",
		"    password: |\n      " + word + "\n      " + word,
		"    chain: socks5h://ann:" + word + "@gw.example",
		"    - \"ann:" + word + "@gw\"",
		"    password:\n      '" + word + "'",
		"    state: ${X}\n    via: ${X}\n    idle: ${X}\n    to: \"a b ${X}\"\n    chain: 'a:${X}@${X}'",
		"    {pasword: " + word + ", chain: x}",
		"    password: 'a''" + word + "'",
		"    password: \"a\"" + word,
		"    \"password\" : &p " + word,
		"    ? password\n    : " + word,
	}
	f.Fuzz(func(t *testing.T, before, after string, form uint8) {
		if strings.Contains(strings.ToLower(before+after), strings.ToLower(word)) {
			t.Skip()
		}
		l := &Loader{
			LookupEnv: func(string) (string, bool) { return word, true },
			ReadFile:  func(path string) ([]byte, error) { return []byte(word), nil },
		}
		secret := forms[int(form)%len(forms)]
		if strings.Contains(secret, "\n") {
			before += "\n" // its lines are indented as they are, whatever is before
		}
		text := before + secret + after
		_, err := l.Parse("argyle.yaml", []byte(text))
		var errs Errors
		if err != nil && !errors.As(err, &errs) {
			t.Fatal(err)
		}
		for _, e := range errs {
			if strings.Contains(e.Annotated(), word) {
				t.Errorf("in\n%s\nan error shows it:\n%s", text, e.Annotated())
			}
		}
	})
}

// FuzzScalars: what a type reads, it also writes, and reads again.
func FuzzScalars(f *testing.F) {
	types := []reflect.Type{
		reflect.TypeFor[Network](), reflect.TypeFor[Duration](), reflect.TypeFor[Bandwidth](), reflect.TypeFor[Rate](),
		reflect.TypeFor[Quota](), reflect.TypeFor[Ports](), reflect.TypeFor[Days](), reflect.TypeFor[Span](),
		reflect.TypeFor[FileMode](), reflect.TypeFor[ForwardSpec](), reflect.TypeFor[Moment](), reflect.TypeFor[Pick](), reflect.TypeFor[ProxyURL](),
	}
	for _, text := range []string{
		"10.0.0.0/8", "2001:db8::1", "1h30m", "7d", "off", "10Mbit/s", "1.5MiB/s", "10/s", "5/10s", "10GB/day", "80-90", "fri-mon",
		"22:00-06:00", "0660", "2026-11-23 09:30", "sticky-user", "socks5h://ann:pw@gw",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, typ := range types {
			v, again := reflect.New(typ), reflect.New(typ)
			if v.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)) != nil {
				if !v.Elem().IsZero() {
					t.Errorf("%v %q is wrong, and leaves %v", typ, text, v.Elem())
				}
				continue
			}
			written := fmt.Sprint(v.Elem().Interface())
			if typ == reflect.TypeFor[ProxyURL]() {
				continue // written without its password
			}
			if err := again.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(written)); err != nil || fmt.Sprint(again.Elem().Interface()) != written {
				t.Errorf("%v %q is written %q and comes back as %v, %v", typ, text, written, again.Elem().Interface(), err)
			}
		}
	})
}

// TestExamplesAreComplete: each golden file has its example.
func TestExamplesAreComplete(t *testing.T) {
	for _, file := range examples(t, "bad/*.golden") {
		if matches, _ := filepath.Glob(strings.TrimSuffix(file, ".golden") + ".yaml"); len(matches) != 1 {
			t.Errorf("%s has no example", file)
		}
	}
}
