package fakedns

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	maxJournal  = 1 << 30          // bytes
	syncEvery   = 10 * time.Second // at most
	minRewrite  = 4096             // lines that a journal may have too many
	journalMode = 0o600            // it tells who has looked for what
	maxAge      = 1 << 31          // seconds
)

// A journal is a file that is appended to. What a write has returned from
// survives the process, kill -9 included. The disk is waited for when the file
// is written anew and closed, and every ten seconds while names come: a power
// failure loses what came since, and no older line.
type journal struct {
	path    string
	file    *os.File // locked
	size    int64
	lines   int
	retry   int // lines from which to try again to write it anew
	synced  time.Time
	begun   time.Time
	begunAt int64 // begun, as lines have it
	broken  error // why no more can be written
}

// openJournal returns a nil state for a new journal.
func openJournal(path string) (*journal, *state, error) {
	file, err := openLocked(path)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	j := &journal{path: path, file: file}
	kept, err := j.load()
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("journal %s: %w", path, err)
	}
	return j, kept, nil
}

// openLocked opens the file of that name and no former one, which another
// process may have replaced and unlocked in between.
func openLocked(path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, journalMode)
		if err != nil {
			return nil, err
		}
		if err := lock(file); err != nil {
			file.Close()
			return nil, fmt.Errorf("lock %s, which another process may use: %w", path, err)
		}
		mine, err := file.Stat()
		if err != nil {
			file.Close()
			return nil, err
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(mine, named) {
			return file, nil
		}
		file.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func (j *journal) load() (*state, error) {
	info, err := j.file.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > maxJournal:
		return nil, fmt.Errorf("%d bytes are too many", info.Size())
	case info.Size() == 0:
		return nil, nil
	}
	b := make([]byte, info.Size())
	if _, err := j.file.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return parseJournal(b)
}

// append adds lines, all or none.
func (j *journal) append(b []byte, lines int) error {
	if j.broken != nil {
		return j.broken
	}
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		if undo := j.file.Truncate(j.size); undo != nil {
			j.broken = fmt.Errorf("the journal is broken: %w", errors.Join(err, undo))
		}
		return fmt.Errorf("journal: %w", err)
	}
	j.size += int64(len(b))
	j.lines += lines
	return nil
}

// due returns what puts the latest lines on the disk if it is time for that.
func (j *journal) due(now time.Time) func() {
	if now.Sub(j.synced) < syncEvery {
		return nil
	}
	j.synced = now
	file := j.file
	// It fails if the file has been replaced, which has put all on the disk.
	return func() { _ = file.Sync() }
}

// rewrite replaces the file by one with these lines.
func (j *journal) rewrite(b []byte, lines int) error {
	file, err := writeLocked(j.path+".new", b)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := os.Rename(file.Name(), j.path); err != nil {
		file.Close()
		return fmt.Errorf("journal: %w", err)
	}
	syncDir(filepath.Dir(j.path))
	j.file.Close() // it has no name, and nothing that the new one lacks
	j.file, j.size, j.lines, j.retry, j.broken = file, int64(len(b)), lines, 0, nil
	j.synced = time.Now()
	return nil
}

func writeLocked(path string, b []byte) (file *os.File, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // of a process that was ended meanwhile
	}
	if file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, journalMode); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err := lock(file); err != nil {
		return nil, err
	}
	if _, err := file.WriteAt(b, 0); err != nil {
		return nil, err
	}
	return file, file.Sync()
}

func (j *journal) close() error {
	if errors.Is(j.broken, os.ErrClosed) {
		return nil
	}
	j.broken = fmt.Errorf("journal: %w", os.ErrClosed)
	return errors.Join(j.file.Sync(), j.file.Close())
}

// begin sets what times are counted from. A device without a clock begins in
// 1970, and would next time believe its newest names to be old: time goes on
// where the journal ends.
func (j *journal) begin(newest int64) {
	j.begun = time.Now()
	j.begunAt = max(j.begun.Unix(), newest)
}

// stamp is the time of a line. The clock may have been set since begin, but
// only a later time is believed.
func (j *journal) stamp(t time.Time) int64 {
	return max(t.Unix(), j.begunAt+int64(t.Sub(j.begun)/time.Second))
}

// when is the time that a line means.
func (j *journal) when(stamp int64) time.Time {
	return j.begun.Add(-time.Duration(min(j.begunAt-stamp, maxAge)) * time.Second)
}

// record notes that old, if it is not nil, gives way to e.
func (p *Pool) record(old, e *entry) error {
	if p.journal == nil {
		return nil
	}
	var b []byte
	lines := 1
	if old != nil {
		b = record{op: opDelete, slot: old.slot}.append(b)
		lines++
	}
	b = e.record(p.journal.stamp(e.used)).append(b)
	return p.journal.append(b, lines)
}

func (e *entry) record(stamp int64) record {
	r := record{op: opAdd, slot: e.slot, time: stamp, client: e.client, name: e.name}
	if e.pinned {
		r.op = opPin
	}
	return r
}

// tidy writes the journal anew when most of it is history.
func (p *Pool) tidy() {
	j := p.journal
	if j == nil || j.lines < max(2*len(p.slots)+minRewrite, j.retry) {
		return
	}
	if err := j.rewrite(p.snapshot()); err != nil {
		j.retry = j.lines + minRewrite // the old one goes on
	}
}

// snapshot returns the journal that says what is so now. Former addresses come
// first, since a name is taken to have the last that it got.
func (p *Pool) snapshot() (b []byte, lines int) {
	b = appendHeader(nil, p.key, p.space.v4, p.space.v6)
	for _, former := range []bool{true, false} {
		for _, e := range p.slots {
			if former == (p.byName[e.name] != e) {
				b = e.record(p.journal.stamp(e.used)).append(b)
				lines++
			}
		}
	}
	return b, lines + 1
}

// restore takes over what a journal says.
func (p *Pool) restore(kept *state) error {
	all := slices.SortedFunc(maps.Values(kept.slots), func(a, b record) int { return cmp.Compare(a.time, b.time) })
	for _, r := range all {
		if r.slot >= p.space.slots {
			return fmt.Errorf("slot %d is none of %v", r.slot, p.space.v4)
		}
		used := p.journal.when(r.time)
		e := &entry{name: r.name, slot: r.slot, client: r.client, used: used, saved: used, pinned: r.op == opPin}
		p.slots[e.slot] = e
		if kept.current[e.name] == e.slot {
			p.byName[e.name] = e
		}
		if !e.pinned {
			p.enlist(e)
		}
	}
	return nil
}
