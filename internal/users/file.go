package users

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile bounds what is read into memory: about 100,000 users.
const maxFile = 16 << 20

// maxErrors is how many errors of one file are told apart. A binary file read
// by mistake has one for each of its lines.
const maxErrors = 100

// A File is a parsed users file. It does not change.
type File struct {
	entries []entry        // in the order of the file
	byName  map[string]int // index into entries
}

// An entry is one user's line.
type entry struct {
	text string // the hash as written: another text is another password
	hash passwordHash
	line int
}

// Parse reads the users file data; path is only for errors, which begin with
// path:line:column. It reports every error, joined.
func Parse(path string, data []byte) (*File, error) {
	f := &File{byName: make(map[string]int)}
	var errs []error
	number := 0
	for line := range bytes.Lines(data) {
		number++
		column, err := f.add(strings.TrimRight(string(line), "\r\n"), number)
		if err == nil {
			continue
		}
		if len(errs) == maxErrors {
			errs = append(errs, fmt.Errorf("%s:%d:%d: too many errors", path, number, column))
			break
		}
		errs = append(errs, fmt.Errorf("%s:%d:%d: %w", path, number, column, err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return f, nil
}

// add takes one line. An error comes with the column that it is about.
func (f *File) add(line string, number int) (column int, err error) {
	if trimmed := strings.TrimLeft(line, " \t"); trimmed == "" || trimmed[0] == '#' {
		return 0, nil
	}
	name, text, found := strings.Cut(line, ":")
	if !found {
		return 1, errors.New("no colon: a line is name:hash")
	}
	if err := checkName(name); err != nil {
		return 1, err
	}
	hash, err := parseHash(text)
	if err != nil {
		return len(name) + 2, err
	}
	if first, ok := f.byName[name]; ok {
		return 1, fmt.Errorf("the name is already on line %d", f.entries[first].line)
	}
	f.byName[name] = len(f.entries)
	f.entries = append(f.entries, entry{text: text, hash: hash, line: number})
	return 0, nil
}

// readFile returns the content of path and what it was at that time.
func readFile(path string) ([]byte, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, info, err
	}
	if len(data) > maxFile {
		return nil, info, fmt.Errorf("%s: larger than %d MiB", path, maxFile>>20)
	}
	return data, info, nil
}
