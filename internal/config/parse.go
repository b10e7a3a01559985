package config

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
)

// maxSize bounds the text: goccy's lexer and parser need some hundred times its
// size.
const maxSize = 4 << 20

// parse makes nodes of the text.
func (s *source) parse(data []byte) (*node, []*Error) {
	if len(data) > maxSize {
		return nil, s.failure(mark{}, "the file is larger than %d MiB; long lists belong into files of sets", maxSize>>20)
	}
	if err := s.readText(data); err != nil {
		return nil, err
	}
	file, err := s.syntax()
	if err != nil {
		return nil, []*Error{err}
	}
	b := builder{source: s, anchors: make(map[string]*node)}
	root := b.document(file)
	return root, b.errs
}

func (s *source) failure(at mark, format string, args ...any) []*Error {
	return []*Error{s.newError(s.at(at), fmt.Errorf(format, args...))}
}

// readText takes the text if it is one.
func (s *source) readText(data []byte) []*Error {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return s.failure(mark{}, "the file is UTF-16; save it as UTF-8")
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // from editors on Windows
	s.text = strings.ReplaceAll(text, "\r\n", "\n")
	number := 0
	for line := range strings.Lines(s.text) {
		number++
		if i, wrong := wrongRune(line); wrong != "" {
			return s.failure(mark{number, utf8.RuneCountInString(line[:i]) + 1}, "%s", wrong)
		}
	}
	s.text = strings.ReplaceAll(s.text, "\t", " ") // goccy takes no tab before a comment
	return nil
}

// wrongRune says what on a line is no text for YAML, and where.
func wrongRune(line string) (at int, wrong string) {
	for i, r := range line {
		switch {
		case r == '\n' || r == '\t':
		case r == utf8.RuneError && !strings.HasPrefix(line[i:], string(utf8.RuneError)):
			return i, fmt.Sprintf("byte %#02x is no UTF-8", line[i])
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == '\ufeff':
			return i, fmt.Sprintf("control character %U", r)
		}
	}
	if i := wrongTab(line); i >= 0 {
		return i, `a tab: YAML wants spaces here (in double quotes, \t is a tab)`
	}
	return 0, ""
}

// wrongTab returns where on a line the first tab is that is not in a comment,
// before one, or at the end; -1 if there is none. More are refused than in
// YAML: goccy's lexer loses tabs in values.
func wrongTab(line string) int {
	tab := -1
	var quote byte
	for i := 0; i < len(line); i++ {
		begins := i == 0 || strings.IndexByte(" \t[{,:", line[i-1]) >= 0
		switch c := line[i]; {
		case c == '\t' && quote != 0:
			return i
		case c == '\t' && tab < 0:
			tab = i
		case c == ' ' || c == '\t' || c == '\n':
		case c == '#' && quote == 0 && begins:
			return -1
		case tab >= 0:
			return tab
		case c == '\\' && quote == '"' && !strings.HasPrefix(line[i+1:], "\t"):
			i++
		case c == quote:
			quote = 0
		case quote == 0 && begins && (c == '"' || c == '\''):
			quote = c
		}
	}
	return -1
}

// syntax parses the text. goccy's parser is kept from what it cannot take; if
// it panics all the same, that is an error about the file.
func (s *source) syntax() (file *ast.File, e *Error) {
	defer func() {
		if p := recover(); p != nil {
			file, e = nil, s.newError(s.at(mark{}), fmt.Errorf("not understood as YAML: %v", p))
		}
	}()
	tokens := joinColons(lexer.Tokenize(s.text))
	if at, err := tooMuch(tokens); err != nil {
		return nil, s.newError(s.at(at), err)
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // we tell them, all
	if err == nil {
		return file, nil
	}
	var syntax yaml.Error
	if !errors.As(err, &syntax) {
		return nil, s.newError(s.at(mark{}), err)
	}
	at := markOf(syntax.GetToken())
	return nil, s.newError(s.at(at), errors.New(quoted.ReplaceAllString(syntax.GetMessage(), hidden)+s.hint(at)))
}

// quoted is what goccy's messages repeat of the text: it may be anything.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// addressPort is an IPv6 address with a port.
var addressPort = regexp.MustCompile(`:[0-9a-fA-F]*\]:[0-9]`)

// hint says what is often wrong where goccy only says that something is.
func (s *source) hint(at mark) string {
	lines := strings.Split(s.text, "\n")
	if at.line < 1 || at.line > len(lines) {
		return ""
	}
	switch line := lines[at.line-1]; {
	case strings.Contains(line, "${"):
		return "; inside of [] and {}, a value with ${…} needs quotes"
	case addressPort.MatchString(line):
		return "; an address such as [::1]:1080 needs quotes"
	}
	return ""
}
