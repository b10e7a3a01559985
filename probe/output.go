package probe

import (
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// WriteText writes the report as a table for people, in colour if colour is
// true, with what was sent and came back if there is any.
func (r *Report) WriteText(w io.Writer, colour bool) error {
	var b strings.Builder
	width := 0
	for _, row := range r.Rows {
		width = max(width, len(row.ID))
	}
	for _, row := range r.Rows {
		mark := map[Status]string{Pass: "ok  ", Fail: "FAIL", Unsupported: "none", Skipped: "skip"}[row.Status]
		if row.Status == Fail && row.Level != Must {
			mark = "bad "
		}
		fmt.Fprintf(&b, "%s  %-*s  %-6s  %s", paint(mark, row, colour), width, row.ID, row.Level, row.Title)
		if row.Detail != "" {
			fmt.Fprintf(&b, ": %s", printable(row.Detail))
		}
		if row.Status != Pass || len(row.Trace) > 0 {
			fmt.Fprintf(&b, " (%s)", row.Section)
		}
		b.WriteByte('\n')
		for _, sent := range row.Trace {
			fmt.Fprintf(&b, "        %s %s", sent.Way, spaced(sent.Bytes))
			if sent.Len > len(sent.Bytes)/2 {
				fmt.Fprintf(&b, " … %d bytes", sent.Len)
			}
			b.WriteByte('\n')
		}
	}
	for _, f := range r.Figures {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.text())
	}
	fmt.Fprintf(&b, "%s: %s, in %v\n", r.Proxy, r.Summary(), r.Took.Round(100*time.Millisecond))
	_, err := io.WriteString(w, b.String())
	return err
}

// text writes three decimals of what is small and none of what is large.
func (f Figure) text() string {
	decimals := 1000.0
	if f.Value >= 100 {
		decimals = 1
	}
	value := strconv.FormatFloat(math.Round(f.Value*decimals)/decimals, 'f', -1, 64)
	return strings.TrimSpace(value + " " + f.Unit)
}

// Summary counts the rows.
func (r *Report) Summary() string {
	count := make(map[string]int)
	for _, row := range r.Rows {
		key := string(row.Status)
		if row.Status == Fail && row.Level == Must {
			key = "MUST"
		}
		count[key]++
	}
	return fmt.Sprintf("%d right, %d broken MUST, %d other faults, %d not supported, %d skipped",
		count["pass"], count["MUST"], count["fail"], count["unsupported"], count["skipped"])
}

// paint colours a word as a row deserves.
func paint(mark string, row Row, colour bool) string {
	code := map[Status]string{Pass: "32", Fail: "33", Unsupported: "2", Skipped: "2"}[row.Status]
	if row.Status == Fail && row.Level == Must {
		code = "31;1"
	}
	if !colour {
		return mark
	}
	return "\x1b[" + code + "m" + mark + "\x1b[0m"
}

// printable is text that a terminal may have: a proxy says what it likes.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// spaced puts a space between bytes.
func spaced(text string) string {
	b, err := hex.DecodeString(text)
	if err != nil {
		return text
	}
	return fmt.Sprintf("% x", b)
}

// WriteMarkdown writes the reports of several proxies as one table, a column
// each.
func WriteMarkdown(w io.Writer, reports ...*Report) error {
	var b strings.Builder
	b.WriteString("| row | | |")
	for _, r := range reports {
		fmt.Fprintf(&b, " %s |", cell(r.Proxy))
	}
	b.WriteString("\n|---|---|---|" + strings.Repeat("---|", len(reports)) + "\n")
	if len(reports) > 0 {
		for i, row := range reports[0].Rows {
			fmt.Fprintf(&b, "| %s | %s | %s (%s) |", row.ID, row.Level, cell(row.Title), cell(row.Section))
			for _, r := range reports {
				fmt.Fprintf(&b, " %s |", mark(r.Rows[i]))
			}
			b.WriteByte('\n')
		}
		for i, f := range reports[0].Figures {
			fmt.Fprintf(&b, "| | | %s |", cell(f.Name))
			for _, r := range reports {
				text := ""
				for _, other := range r.Figures {
					if other.Name == reports[0].Figures[i].Name {
						text = other.text()
					}
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// mark is a row in one column.
func mark(row Row) string {
	switch row.Status {
	case Pass:
		if row.Level == Told || row.Detail != "" {
			return strings.TrimSpace("yes " + short(row.Detail))
		}
		return "yes"
	case Fail:
		return "**no** " + short(row.Detail)
	case Unsupported:
		return "none"
	}
	return "–"
}

// short is a detail that fits into a cell.
func short(s string) string {
	s = marks.Replace(printable(s))
	if utf8.RuneCountInString(s) > 60 {
		s = string([]rune(s)[:60]) + "…"
	}
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

// marks keeps what a proxy says from being Markdown.
var marks = strings.NewReplacer(`\`, `\\`, "|", `\|`, "<", `\<`, "[", `\[`, "`", "\\`", "*", `\*`, "_", `\_`)

func cell(s string) string { return strings.ReplaceAll(printable(s), "|", `\|`) }
