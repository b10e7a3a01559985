package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Pos is a place in a configuration.
type Pos struct {
	File         string // or the flag that says it
	Line, Column int    // from 1; 0 for the file as a whole
}

// String writes p as compilers do: argyle.yaml:12:5.
func (p Pos) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	if p.Line > 0 && p.Column > 0 {
		s += ":" + strconv.Itoa(p.Column)
	}
	return s
}

// source is where the values of a File come from.
type source struct {
	name     string // of the file, "" if there is none
	text     string
	root     *node
	origins  map[string]string // flags by the paths that they set
	inserted []string          // what came from the environment and from files
}

// pos returns the place of the value at path, or of the nearest one around it.
func (s *source) pos(path string) Pos {
	for p := path; p != ""; p = parent(p) {
		if flag, ok := s.origins[p]; ok {
			return Pos{File: flag}
		}
	}
	if s.root == nil {
		return Pos{File: s.name}
	}
	at, _ := s.root.locate(path)
	return s.at(at)
}

func (s *source) at(m mark) Pos { return Pos{File: s.name, Line: m.line, Column: m.column} }

// has reports whether path is in the file, as it is written.
func (s *source) has(path string) bool {
	if s.root == nil {
		return false
	}
	_, exact := s.root.locate(path)
	return exact
}

// parent takes the last part off a path: rules[3].via, rules[3], rules.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// Path returns the path of a file that the configuration names: relative to
// the directory of the configuration.
func (f *File) Path(name string) string {
	if f.source == nil {
		return name
	}
	return f.source.path(name)
}

func (s *source) path(name string) string {
	if name == "" || s.name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(s.name), name)
}

// SetOrigin notes that the value at path, and what is below it, come from a
// flag and not from the file. At and errors then name the flag.
func (f *File) SetOrigin(path, flag string) {
	if f.source == nil {
		f.source = new(source)
	}
	if f.source.origins == nil {
		f.source.origins = make(map[string]string)
	}
	f.source.origins[path] = flag
}

// At says where the value at a path such as rules[3].via or
// upstreams.gw.chain[1] stands: argyle.yaml:12:5, or the flag it comes from.
// For what is not in the file it is the nearest value around it; without a
// file it is "".
func (f *File) At(path string) string { return f.pos(path).String() }

// Line is At without the column.
func (f *File) Line(path string) string {
	pos := f.pos(path)
	pos.Column = 0
	return pos.String()
}

func (f *File) pos(path string) Pos {
	if f.source == nil {
		return Pos{}
	}
	return f.source.pos(path)
}

// Errorf returns an error about the value at path. It is an [*Error].
func (f *File) Errorf(path, format string, args ...any) error {
	s := f.source
	if s == nil {
		s = new(source)
	}
	return s.newError(s.pos(path), fmt.Errorf(format, args...))
}
