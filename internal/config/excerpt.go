package config

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxExcerpt is how many characters of a line are shown.
const maxExcerpt = 100

// excerpt returns the line with index i as it may be shown, and where in it the
// character with index column has come to stand.
//
// The text may be no YAML at all, so that secrets are looked for in the text:
// values of keys that sound like a password, also if they go over several
// lines, and what stands before an @.
func excerpt(lines []string, i, column int) (shown string, caret int) {
	if i >= len(lines) {
		return "", 0
	}
	line := lines[i]
	hide := make([]bool, len(line))
	if continuesSecret(lines, i) {
		hideRange(hide, indentOf(line), len(line))
	}
	for _, v := range secretValues(line) {
		hideRange(hide, v.from, v.to)
	}
	hideRange(hide, userinfo(line), strings.LastIndexByte(line, '@'))
	var b []rune
	n := 0
	for at, r := range line {
		if n == column {
			caret = len(b)
		}
		n++
		switch {
		case !hide[at]:
			b = append(b, printable(r))
		case at == 0 || !hide[at-1]:
			b = append(b, '…')
		case n == column+1:
			caret-- // inside of what is hidden
		}
	}
	if column >= n {
		caret = len(b)
	}
	return window(b, caret)
}

func hideRange(hide []bool, from, to int) {
	for i := from; i < to; i++ {
		hide[i] = true
	}
}

// window cuts a long line to what is around the caret.
func window(line []rune, caret int) (string, int) {
	from := max(0, min(caret-maxExcerpt/2, len(line)-maxExcerpt))
	to := min(len(line), from+maxExcerpt)
	shown := string(line[from:to])
	if from > 0 {
		shown = "… " + shown
		caret += utf8.RuneCountInString("… ")
	}
	if to < len(line) {
		shown += " …"
	}
	return shown, caret - from
}

// keyPattern is a key as it may be written in a mapping.
var keyPattern = regexp.MustCompile(`["']?([\p{L}\p{N}_-]+)["']?[ \t]*:[ \t]*(?:[&!]\S+[ \t]+)*`)

// secretValue is a value of a key that sounds like a password.
type secretValue struct {
	from, to int  // where the value begins and ends on this line
	open     byte // the quote that is not closed on this line, or a space if the value has not begun
}

// secretValues returns the values on a line that must not be shown.
func secretValues(line string) (all []secretValue) {
	for _, m := range keyPattern.FindAllStringSubmatchIndex(line, -1) {
		if !soundsSecret(line[m[2]:m[3]]) {
			continue
		}
		length, open := valueLength(line[m[1]:], strings.ContainsAny(line[:m[0]], "{["))
		all = append(all, secretValue{from: m[1], to: m[1] + length, open: open})
	}
	if s := strings.TrimLeft(line, " -"); strings.HasPrefix(s, ":") {
		all = append(all, secretValue{from: len(line) - len(s) + 1, to: len(line)}) // of "? password"
	}
	return all
}

// valueLength returns how far a value goes on its line. In [] and {}, where
// inFlow holds, one without quotes ends at a comma or bracket.
func valueLength(s string, inFlow bool) (length int, open byte) {
	switch {
	case s == "" || s[0] == '|' || s[0] == '>':
		return len(s), ' '
	case s[0] == '"' || s[0] == '\'':
		return quotedLength(s)
	case inFlow && strings.ContainsAny(s, ",}]"):
		return strings.IndexAny(s, ",}]"), 0
	}
	return len(s), 0
}

// quotedLength is valueLength for a value in quotes. What follows them belongs
// to it, too, where nothing should follow.
func quotedLength(s string) (length int, open byte) {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] == '"', s[0] == '\'' && strings.HasPrefix(s[i:], "''"):
			i++
		case s[i] == s[0]:
			rest := strings.TrimLeft(s[i+1:], " ")
			if rest == "" || strings.IndexByte(",]}#", rest[0]) >= 0 {
				return i + 1, 0
			}
			return len(s), 0
		}
	}
	return len(s), s[0]
}

// soundsSecret reports whether a key may be password or something like it,
// perhaps misspelled.
func soundsSecret(key string) bool {
	key = strings.ToLower(key)
	for _, part := range []string{"pass", "pwd", "secret", "token", "credential"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	return distance(key, "password") <= 3
}

// continuesSecret reports whether a line may belong to a secret value that
// begins on a line before it: it is indented more, or in its quotes.
func continuesSecret(lines []string, i int) bool {
	indent := indentOf(lines[i])
	quotes, isNext := "", true // what the lines between have
	for j := i - 1; j >= 0; j-- {
		line := lines[j]
		if strings.TrimSpace(line) == "" {
			continue
		}
		for _, v := range secretValues(line) {
			switch {
			case indent > indentOf(line), v.open == ' ' && isNext:
				return true
			case v.open != 0 && v.open != ' ' && strings.IndexByte(quotes, v.open) < 0:
				return true
			}
		}
		indent = min(indent, indentOf(line))
		for _, q := range []string{`"`, `'`} {
			if strings.Contains(line, q) && !strings.Contains(quotes, q) {
				quotes += q
			}
		}
		isNext = false
	}
	return false
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// userinfo returns where on a line with an @ the password of a URL may begin:
// at the first colon that can neither follow a key nor the scheme. It would
// rather hide too much.
func userinfo(line string) int {
	at := strings.LastIndexByte(line, '@')
	quoted := false
	for i := range max(0, at) {
		switch {
		case line[i] == '"' || line[i] == '\'':
			quoted = true
		case line[i] == ':' && !strings.HasPrefix(line[i:], "://") && (quoted || !strings.HasPrefix(line[i:], ": ")):
			return i + 1
		}
	}
	return len(line)
}
