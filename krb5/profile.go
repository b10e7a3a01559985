package krb5

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// relation is a value in a krb5.conf.
type relation struct {
	path  []string // its section, subsections, and its own name
	value string
	at    string // file and line
}

// maxIncludes is how deep files may include others.
const maxIncludes = 10

// errInclude is in errors about files that another includes.
var errInclude = errors.New("cannot include")

// readProfile returns what is in a file and in those that it includes.
func readProfile(path string, depth int) ([]relation, error) {
	if depth > maxIncludes {
		return nil, fmt.Errorf("%s: more than %d files include one another", path, maxIncludes)
	}
	b, _, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseProfile(path, string(b), func(path string, isDir bool) ([]relation, error) {
		if isDir {
			return readProfiles(path, depth+1)
		}
		return readProfile(path, depth+1)
	})
}

// included are the files of a directory that count, as MIT's library has it.
var included = regexp.MustCompile(`^([A-Za-z0-9_-]+|[^.].*\.conf)$`)

func readProfiles(dir string, depth int) (all []relation, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !included.MatchString(entry.Name()) {
			continue
		}
		more, err := readProfile(filepath.Join(dir, entry.Name()), depth)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// profile is a file that is being read.
type profile struct {
	path   []string // the section and subsections that are open
	opened string   // the name of a subsection whose brace is to come
	at     string
	all    []relation
}

// parseProfile reads the text of a krb5.conf. include reads another file, whose
// sections are its own.
func parseProfile(name, text string, include func(path string, isDir bool) ([]relation, error)) ([]relation, error) {
	p := new(profile)
	number := 0
	for line := range strings.Lines(text) {
		number++
		p.at = fmt.Sprintf("%s:%d", name, number)
		line = uncomment(line)
		var err error
		switch word, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " "); {
		case line == "" || word == "module":
		case word == "include" || word == "includedir":
			more, failed := include(strings.TrimSpace(rest), word == "includedir")
			if failed != nil {
				err = fmt.Errorf("%w: %w", errInclude, failed)
			}
			p.all = append(p.all, more...)
		case line[0] == '[':
			err = p.section(line)
		default:
			err = p.line(line)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.at, err)
		}
	}
	if len(p.path) > 1 || p.opened != "" {
		return nil, fmt.Errorf("%s: the file ends inside of %s, want }", p.at, strings.Join(p.path, ", "))
	}
	return p.all, nil
}

// uncomment returns a line without what is said about it.
func uncomment(line string) string {
	line = strings.TrimSpace(line)
	for i, c := range line {
		if (c == '#' || c == ';') && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}

// section begins a section. The asterisk makes it final.
func (p *profile) section(line string) error {
	if len(p.path) > 1 || p.opened != "" {
		return fmt.Errorf("section %s inside of %s, want }", line, strings.Join(p.path, ", "))
	}
	name, closed := strings.CutSuffix(strings.TrimSuffix(line, "*"), "]")
	if name = strings.TrimSpace(name[1:]); !closed || name == "" {
		return fmt.Errorf("section %s, want [name]", line)
	}
	p.path = []string{name}
	return nil
}

// line reads a line of a section.
func (p *profile) line(line string) error {
	if len(p.path) == 0 {
		return fmt.Errorf("%q before the first section, want [name]", line)
	}
	if p.opened != "" {
		rest, opens := strings.CutPrefix(line, "{")
		if !opens {
			return fmt.Errorf("%q after %s =, want {", line, p.opened)
		}
		return p.subsection(rest)
	}
	if line == "}" || line == "}*" {
		if len(p.path) < 2 {
			return errors.New("a } without its {")
		}
		p.path = p.path[:len(p.path)-1]
		return nil
	}
	key, value, found := strings.Cut(line, "=")
	key, value = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(key), "*")), strings.TrimSpace(value)
	if !found || key == "" {
		return fmt.Errorf("%q, want name = value", line)
	}
	if rest, opens := strings.CutPrefix(value, "{"); opens {
		p.opened = key
		return p.subsection(rest)
	}
	if value == "" {
		p.opened = key
		return nil
	}
	p.all = append(p.all, relation{append(slices.Clone(p.path), key), unquote(value), p.at})
	return nil
}

// maxSubsections is how deep subsections may be.
const maxSubsections = 20

// subsection begins one, which may end on the line that it begins on.
func (p *profile) subsection(rest string) error {
	if len(p.path) > maxSubsections {
		return fmt.Errorf("more than %d subsections in one another", maxSubsections)
	}
	p.path, p.opened = append(p.path, p.opened), ""
	rest = strings.TrimSpace(rest)
	if strings.HasSuffix(rest, "}*") {
		rest = rest[:len(rest)-1]
	}
	rest, closed := strings.CutSuffix(rest, "}")
	if rest = strings.TrimSpace(rest); rest != "" {
		if err := p.line(rest); err != nil {
			return err
		}
	}
	if closed {
		return p.line("}")
	}
	return nil
}

// unquote returns a value without quotation marks.
func unquote(value string) string {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return value
	}
	return strings.NewReplacer(`\n`, " ", `\t`, " ", `\b`, " ", `\\`, `\`, `\"`, `"`).Replace(value[1 : len(value)-1])
}
