package krb5

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A profile is what krb5.conf has: sections, by name, of relations, in their
// order. A section that comes again goes on.
type profile map[string][]relation

// A relation is a line "key = value", or "key = {", with what is within.
type relation struct {
	key, value string
	within     []relation // nil for a value
	at         string     // file and line
}

// maxIncludes is how deep files may include others, and maxDepth sections others.
const maxIncludes, maxDepth = 10, 10

// profileReader reads krb5.conf, as MIT's library does.
type profileReader struct {
	into    profile
	section string
	open    []*[]relation // the subsections that the next line is in
	began   []relation    // how they begin
}

// loadProfile reads files, which may be several with colons between. Those that
// are not there are left out.
func loadProfile(paths string) (profile, error) {
	r := profileReader{into: make(profile)}
	for path := range strings.SplitSeq(paths, ":") {
		if err := r.file(path, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return r.into, nil
}

func (r *profileReader) file(path string, depth int) error {
	if depth > maxIncludes {
		return fmt.Errorf("%s: more than %d files include one another", path, maxIncludes)
	}
	b, _, err := readFile(path)
	if err != nil {
		return err
	}
	r.section = ""
	return r.text(path, string(b), depth)
}

func (r *profileReader) text(path, text string, depth int) error {
	number := 0
	for line := range strings.Lines(text) {
		number++
		at := fmt.Sprintf("%s:%d", path, number)
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch word {
		case "include", "includedir":
			err = r.include(word, strings.TrimSpace(rest), depth+1)
		default:
			err = r.line(strings.TrimSpace(line), at)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if n := len(r.began); n > 0 {
		return fmt.Errorf("%s: %s = { has no end, want a line with }", r.began[n-1].at, r.began[n-1].key)
	}
	return nil
}

// included are the files of a directory that count.
var included = regexp.MustCompile(`^([A-Za-z0-9_-]+|[^.].*\.conf)$`)

func (r *profileReader) include(word, path string, depth int) error {
	if len(r.open) > 0 {
		return fmt.Errorf("%s within { }, want it between sections", word)
	}
	if word == "include" {
		return r.file(path, depth)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !included.MatchString(entry.Name()) {
			continue
		}
		if err := r.file(filepath.Join(path, entry.Name()), depth); err != nil {
			return err
		}
	}
	return nil
}

// line takes one line that is not about other files.
func (r *profileReader) line(text, at string) error {
	switch {
	case text == "" || text[0] == '#' || text[0] == ';':
		return nil
	case text[0] == '[' && len(r.open) == 0:
		name, rest, found := strings.Cut(text[1:], "]")
		if rest = strings.TrimSpace(strings.TrimPrefix(rest, "*")); !found || !isComment(rest) {
			return fmt.Errorf("%q, want [SECTION]", text)
		}
		r.section = strings.TrimSpace(name)
		return nil
	case text[0] == '}':
		return r.end(text)
	case r.section == "":
		if strings.HasPrefix(text, "module ") {
			return nil // of MIT's library
		}
		return fmt.Errorf("%q before any [SECTION]", text)
	}
	return r.relation(text, at)
}

func isComment(text string) bool { return text == "" || text[0] == '#' || text[0] == ';' }

func (r *profileReader) relation(text, at string) error {
	key, value, found := strings.Cut(text, "=")
	key, value = strings.TrimSuffix(strings.TrimSpace(key), "*"), strings.TrimSpace(value)
	if !found || key == "" {
		return fmt.Errorf("%q, want KEY = VALUE", text)
	}
	inner, isSection := strings.CutPrefix(value, "{")
	if !isSection {
		r.add(relation{key: key, value: unquote(value), at: at})
		return nil
	}
	if len(r.open) >= maxDepth {
		return fmt.Errorf("more than %d sections within one another", maxDepth)
	}
	r.began = append(r.began, relation{key: key, at: at})
	r.open = append(r.open, &[]relation{})
	inner = strings.TrimSpace(inner)
	if isComment(inner) {
		return nil
	}
	// All of it in one line.
	inner, isClosed := strings.CutSuffix(strings.TrimSpace(strings.TrimSuffix(inner, "*")), "}")
	if !isClosed {
		return fmt.Errorf("%q, want a new line after {", text)
	}
	if inner = strings.TrimSpace(inner); inner != "" {
		if err := r.relation(inner, at); err != nil {
			return err
		}
	}
	return r.end("}")
}

// end ends the innermost subsection.
func (r *profileReader) end(text string) error {
	n := len(r.open) - 1
	if rest := strings.TrimSpace(strings.TrimPrefix(text[1:], "*")); n < 0 || !isComment(rest) {
		return fmt.Errorf("%q, want } by itself, after a {", text)
	}
	done := r.began[n]
	done.within = *r.open[n]
	if done.within == nil {
		done.within = []relation{}
	}
	r.open, r.began = r.open[:n], r.began[:n]
	r.add(done)
	return nil
}

func (r *profileReader) add(one relation) {
	if n := len(r.open); n > 0 {
		*r.open[n-1] = append(*r.open[n-1], one)
		return
	}
	r.into[r.section] = append(r.into[r.section], one)
}

// unquote takes the quotes off a value that has them.
func unquote(value string) string {
	if len(value) < 2 || value[0] != '"' {
		return value
	}
	var b strings.Builder
	for i := 1; i < len(value) && value[i] != '"'; i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
			switch value[i] {
			case 'n':
				b.WriteByte('\n')
				continue
			case 't':
				b.WriteByte('\t')
				continue
			}
		}
		b.WriteByte(value[i])
	}
	return b.String()
}
