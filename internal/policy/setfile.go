package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"
)

// fileContent is what was read from the file of a set.
type fileContent struct {
	glance  glance
	digest  [sha256.Size]byte
	entries []pattern
}

// maxSetFile bounds what is read into memory: some ten million names.
const maxSetFile = 256 << 20

// readSetFile reads the file of a set.
func readSetFile(name string) (*fileContent, error) {
	text, seen, err := look(name)
	if err != nil {
		return new(fileContent), err
	}
	entries, err := parseSet(name, text)
	return &fileContent{seen, sha256.Sum256(text), entries}, err
}

// A glance is what was seen of a file.
type glance struct {
	info os.FileInfo // nil: nothing
	at   time.Time
}

// look reads a file.
func look(name string) ([]byte, glance, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, glance{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, glance{}, err
	}
	if info.Size() > maxSetFile {
		return nil, glance{}, fmt.Errorf("%s has more than %d bytes", name, maxSetFile)
	}
	seen := glance{info, time.Now()}
	text, err := io.ReadAll(io.LimitReader(f, maxSetFile))
	return text, seen, err
}

// coarse is longer than any file system's clock ticks: a file that changed less
// than this before it was read may change again and look the same.
const coarse = 2 * time.Second

// same reports whether the file is certainly as it was seen.
func (g glance) same(info os.FileInfo) bool {
	return g.info != nil && os.SameFile(g.info, info) && g.info.Size() == info.Size() &&
		g.info.ModTime().Equal(info.ModTime()) && g.at.Sub(info.ModTime()) >= coarse
}

// source is a set in use. engine.mu guards it.
type source struct {
	set     *Set
	current *fileContent
	seen    glance // the last look, at good or bad
	err     error  // what came of it
}

// entries calls yield with all that is in the set.
func (s *source) entries(yield func(pattern) bool) {
	for _, p := range s.set.inline {
		if !yield(p) {
			return
		}
	}
	for _, p := range s.current.entries {
		if !yield(p) {
			return
		}
	}
}

// refresh reads the file again unless it is as it was. What is broken leaves
// the old content.
func (s *source) refresh() (changed bool, err error) {
	if s.set.File == "" {
		return false, nil
	}
	info, err := os.Stat(s.set.File)
	if err == nil && s.seen.same(info) {
		return false, s.err
	}
	var text []byte
	if err == nil {
		text, s.seen, err = look(s.set.File)
	}
	if err != nil {
		s.seen, s.err = glance{}, err
		return false, err
	}
	digest := sha256.Sum256(text)
	if digest == s.current.digest {
		s.err = nil
		return false, nil
	}
	var entries []pattern
	if entries, s.err = parseSet(s.set.File, text); s.err != nil {
		return false, s.err
	}
	s.current = &fileContent{s.seen, digest, entries}
	return true, nil
}

// Refresh reads the files of sets that have changed, and reports whether the
// rules are others now. A file that is broken or gone leaves its set as it was,
// which the error tells each time.
func (p *Policy) Refresh() (changed bool, err error) {
	e := p.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(e.sources)) {
		newer, err := e.sources[name].refresh()
		changed = changed || newer
		if err != nil {
			errs = append(errs, fmt.Errorf("set %q: %w", name, err))
		}
	}
	if changed {
		e.index.Store(e.compile())
	}
	return changed, errors.Join(errs...)
}

// Watch calls Refresh at an interval, a second if it is zero. It calls report
// with nil when the rules have changed, and with an error when that is another
// one than before. It returns when ctx ends, with its error.
func (p *Policy) Watch(ctx context.Context, interval time.Duration, report func(error)) error {
	if interval <= 0 {
		interval = time.Second
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for told := ""; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		changed, err := p.Refresh()
		if changed {
			report(nil)
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != told && err != nil {
			report(err)
		}
		told = text
	}
}
