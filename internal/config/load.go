package config

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Loader reads configurations. The zero Loader is ready to use.
type Loader struct {
	// LookupEnv is asked for ${NAME}; nil is os.LookupEnv.
	LookupEnv func(name string) (string, bool)

	// ReadFile is asked for ${file:path}; nil reads files of up to 64 KiB.
	ReadFile func(path string) ([]byte, error)

	// ProxyURL, if not nil, says what is wrong with a proxy URL, so that this
	// is told with all other mistakes.
	ProxyURL func(url string) error

	// Flags, if not nil, enters what the command line says before the
	// configuration is checked as a whole.
	Flags func(*File) error

	// Further, if not nil, says what else is wrong with a File that has
	// mistakes; what could not be read is missing in it.
	Further func(*File) error
}

// Load reads a configuration file. What is wrong with its content is [Errors].
func Load(path string) (*File, error) { return new(Loader).Load(path) }

// Parse reads a configuration; name is what errors call it, and says which
// directory the files in it are relative to. Its error is [Errors].
func Parse(name string, data []byte) (*File, error) { return new(Loader).Parse(name, data) }

// Load is like the function Load.
func (l *Loader) Load(path string) (*File, error) {
	data, err := readFile(path, maxSize+1)
	if err != nil {
		return nil, err
	}
	return l.Parse(path, data)
}

// Parse is like the function Parse.
func (l *Loader) Parse(name string, data []byte) (*File, error) {
	s := &source{name: name}
	root, errs := s.parse(data)
	if root == nil {
		return nil, sorted(errs)
	}
	s.root = root
	f := &File{source: s}
	d := decoder{loader: l, source: s, errs: errs, broken: make(map[string]bool), fields: make(map[reflect.Type][]field)}
	d.value(reflect.ValueOf(f).Elem(), root, "")
	if l.Flags != nil {
		if err := l.Flags(f); err != nil {
			return nil, err
		}
	}
	c := checker{f: f, broken: d.broken, errs: d.errs, proxyURL: l.ProxyURL}
	c.file()
	err := sorted(c.errs)
	switch {
	case err == nil:
		return f, nil
	case l.Further != nil:
		err = errors.Join(err, l.Further(f))
	}
	return nil, err
}

// readFile reads a file that is not larger than most.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// maxInserted is how much of a file can be put into a value.
const maxInserted = 64 << 10

// reference is ${…}, or the $$ that stands for a dollar.
var reference = regexp.MustCompile(`\$\$|\$\{([^}]*)\}?`)

// variable is what may stand in it, if not file:.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces the references in a text, and returns also what it has put
// in. In URLs that is escaped, unless it is all there is. A secret may also be
// written as file:path.
func (l *Loader) expand(s *source, text string, isURL, isSecret bool) (out string, inserted []string, err error) {
	if path, ok := strings.CutPrefix(text, "file:"); ok && isSecret {
		if path, inserted, err = l.expand(s, path, false, false); err != nil {
			return "", nil, err
		}
		content, err := l.lookup(s, "file:"+path)
		return content, append(inserted, content), err
	}
	var b strings.Builder
	last := 0
	for _, m := range reference.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(text[last:m[0]])
		last = m[1]
		if m[2] < 0 {
			b.WriteByte('$')
			continue
		}
		if text[m[1]-1] != '}' {
			return "", nil, errors.New("${ without }")
		}
		content, err := l.lookup(s, text[m[2]:m[3]])
		if err != nil {
			return "", nil, err
		}
		inserted = append(inserted, content)
		if isURL && m[1]-m[0] < len(text) {
			content = escape(content, !strings.Contains(text[m[1]:], "@"))
			inserted = append(inserted, content)
		}
		b.WriteString(content)
	}
	b.WriteString(text[last:])
	return b.String(), inserted, nil
}

// lookup returns what a reference stands for.
func (l *Loader) lookup(s *source, name string) (string, error) {
	if path, ok := strings.CutPrefix(name, "file:"); ok {
		read := l.ReadFile
		if read == nil {
			read = func(path string) ([]byte, error) { return readFile(path, maxInserted+1) }
		}
		content, err := read(s.path(path))
		if err == nil && len(content) > maxInserted {
			err = fmt.Errorf("%s is larger than %d KiB", s.path(path), maxInserted>>10)
		}
		text := strings.TrimSuffix(string(content), "\n")
		return strings.TrimSuffix(text, "\r"), err
	}
	if !variable.MatchString(name) {
		return "", errors.New("want ${NAME} or ${file:path}; a dollar alone is written $$")
	}
	lookup := l.LookupEnv
	if lookup == nil {
		lookup = os.LookupEnv
	}
	value, ok := lookup(name)
	if !ok {
		return "", fmt.Errorf("the environment variable %s is not set", name)
	}
	return value, nil
}

// escape writes a text so that it means itself in a URL. Behind user name and
// password, where afterAt holds, it may be a host with its port.
func escape(s string, afterAt bool) string {
	s = strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	if afterAt {
		s = strings.NewReplacer("%3A", ":", "%5B", "[", "%5D", "]").Replace(s)
	}
	return s
}

// hide notes what was put into values. Words of three letters are not
// noted: too much of the errors would be hidden.
func (s *source) hide(inserted []string) {
	for _, text := range inserted {
		quoted := strconv.Quote(text)
		for _, form := range []string{text, quoted[1 : len(quoted)-1]} {
			if len(form) > 3 && !slices.Contains(s.inserted, form) {
				s.inserted = append(s.inserted, form)
			}
		}
	}
	// Longer ones first: they may contain others.
	slices.SortFunc(s.inserted, func(a, b string) int { return len(b) - len(a) })
}
