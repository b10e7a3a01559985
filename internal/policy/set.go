package policy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// A Set is a named list of destinations, or of networks of clients. It does not
// change: what is in its file now is known to the policies that use it.
type Set struct {
	// Entries are as in Rule.Dests, but for "set:".
	Entries []string

	// File has further entries, one a line; "" is none. A # begins a
	// comment. A line of a hosts file, "0.0.0.0 ads.example", stands for
	// its names, whatever the address; those without a dot, and addresses,
	// are the host's own and left out.
	File string

	inline []pattern
	first  *fileContent // what was in File when the set was read
}

// NewSet makes a set of entries and of what is in a file, "" for none. The
// error tells all mistakes, those in the file as "file:line:column".
func NewSet(entries []string, file string) (*Set, error) {
	return (&Set{Entries: entries, File: file}).read()
}

// read returns a copy of s that is complete.
func (s *Set) read() (*Set, error) {
	if s.first != nil {
		return s, nil
	}
	made := &Set{Entries: s.Entries, File: s.File}
	var errs []error
	for _, text := range s.Entries {
		p, err := parseEntry(text)
		if err != nil {
			errs = append(errs, err)
		}
		made.inline = append(made.inline, p)
	}
	made.first = new(fileContent)
	if s.File != "" {
		var err error
		if made.first, err = readSetFile(s.File); err != nil {
			errs = append(errs, err)
		}
	}
	return made, errors.Join(errs...)
}

// parseEntry reads one entry of a set.
func parseEntry(text string) (pattern, error) {
	p, err := parsePattern(text)
	if err == nil && p.kind == setPattern {
		return pattern{}, fmt.Errorf("%q: a set in a set", text)
	}
	return p, err
}

// A SetError is a mistake in the file of a set.
type SetError struct {
	File         string
	Line, Column int // from 1, in bytes
	Err          error
}

func (e *SetError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %v", e.File, e.Line, e.Column, e.Err)
}

// Unwrap returns Err.
func (e *SetError) Unwrap() error { return e.Err }

// maxSetErrors is how many errors of one file are told.
const maxSetErrors = 100

// parseSet reads the entries in the text of a file.
func parseSet(file string, text []byte) ([]pattern, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	var all []pattern
	var errs []error
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		var column int
		var err error
		if all, column, err = appendLine(all, line); err == nil {
			continue
		}
		if len(errs) == maxSetErrors {
			err = errors.New("too many errors")
		}
		errs = append(errs, &SetError{file, number, column, err})
		if len(errs) > maxSetErrors {
			break
		}
	}
	return all, errors.Join(errs...)
}

// appendLine appends the entries of one line. An error comes with the column
// that it is about.
func appendLine(all []pattern, line string) (_ []pattern, column int, err error) {
	first, rest := nextField(line)
	if first == "" {
		return all, 0, nil
	}
	next, after := nextField(rest)
	if next == "" {
		p, err := parseEntry(first)
		return append(all, p), columnOf(line, first, rest), err
	}
	if _, err := netip.ParseAddr(first); err != nil {
		return all, columnOf(line, next, after), fmt.Errorf("%q: one entry a line", next)
	}
	for ; next != ""; next, after = nextField(after) {
		if ownName(next) {
			continue
		}
		p, err := parseEntry(next)
		if err != nil || p.kind != exactName {
			return all, columnOf(line, next, after), fmt.Errorf("%q is not a host name", next)
		}
		all = append(all, p)
	}
	return all, 0, nil
}

// nextField returns the next word of a line and what follows it; "" if there
// is none, or a comment.
func nextField(line string) (field, rest string) {
	line = strings.TrimLeft(line, " \t\r\n")
	if strings.HasPrefix(line, "#") {
		return "", ""
	}
	end := strings.IndexAny(line, " \t\r\n#")
	if end < 0 {
		return line, ""
	}
	return line[:end], line[end:]
}

// columnOf is where a field is in its line, given what follows it.
func columnOf(line, field, rest string) int { return len(line) - len(rest) - len(field) + 1 }

// ownName reports whether a word of a hosts file is what a host calls itself
// and its like, not something that lists name.
func ownName(word string) bool {
	if _, err := netip.ParseAddr(word); err == nil {
		return true
	}
	return !strings.Contains(word, ".") || word == "localhost.localdomain"
}
