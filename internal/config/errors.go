package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Error is what is wrong at one place of a configuration. No secret is in it.
type Error struct {
	Pos     Pos
	Message string

	cause  error
	source *source
}

// newError makes an Error of err, whose text it rids of secrets.
func (s *source) newError(at Pos, err error) *Error {
	return &Error{Pos: at, Message: s.clean(err.Error()), cause: err, source: s}
}

// Error returns the error as one line: argyle.yaml:12:5: unknown key "lisen".
func (e *Error) Error() string {
	if e.Pos == (Pos{}) {
		return e.Message
	}
	return e.Pos.String() + ": " + e.Message
}

// Unwrap returns what Errorf was given for %w.
func (e *Error) Unwrap() error { return e.cause }

// Annotated returns the error with the line of the file that it is about, and
// a mark below the place. What may be a secret is left out of the line.
func (e *Error) Annotated() string {
	if e.Pos.Line == 0 || e.source == nil {
		return e.Error()
	}
	number := strconv.Itoa(e.Pos.Line)
	line, caret := excerpt(strings.Split(e.source.text, "\n"), e.Pos.Line-1, e.Pos.Column-1)
	return fmt.Sprintf("%s\n  %s | %s\n  %s | %s^", e.Error(), number, line,
		strings.Repeat(" ", len(number)), strings.Repeat(" ", caret))
}

// Errors are several errors, in the order of their places.
type Errors []*Error

// Error returns the errors, a line each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap is for errors.As, and for those who want them one by one.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// maxErrors is how many errors are told of a file that is something else.
const maxErrors = 100

// sorted returns what of errs is worth telling; nil if that is nothing.
func sorted(errs []*Error) error {
	if len(errs) == 0 {
		return nil
	}
	slices.SortStableFunc(errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
	// What is used by several aliases is wrong in each of them.
	errs = slices.CompactFunc(errs, func(a, b *Error) bool { return a.Pos == b.Pos && a.Message == b.Message })
	if more := len(errs) - maxErrors; more > 0 {
		last := errs[maxErrors]
		last.Message = fmt.Sprintf("and %d more errors from here on", more)
		errs = errs[:maxErrors+1]
	}
	return Errors(errs)
}

// withUserinfo is a word that may have a password before an @.
var withUserinfo = regexp.MustCompile(`\S*:\S*@`)

// clean makes a text one line without secrets.
func (s *source) clean(text string) string {
	for _, secret := range s.inserted {
		text = strings.ReplaceAll(text, secret, hidden)
	}
	text = withUserinfo.ReplaceAllStringFunc(text, hideUserinfo)
	return strings.Map(printable, text)
}

// printable stands in for what a terminal might take for a command.
func printable(r rune) rune {
	switch {
	case r == '\t' || r == '\n':
		return ' '
	case !unicode.IsPrint(r):
		return '?'
	}
	return r
}
