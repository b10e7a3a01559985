package limit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// flushEvery is how often counts are written: what a crash loses at most, with
// the time that writing takes.
const flushEvery = 2 * time.Second

// A Ledger counts bytes against quotas. The zero value does so in memory, one
// from [OpenLedger] in a file too, which belongs to one process at a time.
type Ledger struct {
	// OnError is told why counts could not be written. They are kept, and
	// written later; it is not told again before that has worked. nil
	// discards.
	OnError func(error)

	path    string
	db      *sql.DB    // nil: only in memory
	writing sync.Mutex // one flush at a time
	failing bool       // OnError knows
	purged  time.Time  // when old periods were last deleted

	mu     sync.Mutex
	meters map[meterKey]*meter
	sweep  sweep
}

const schema = `
create table if not exists quota (
	kind   text    not null,
	name   text    not null,
	period text    not null,
	begins integer not null, -- seconds since 1970
	ends   integer not null,
	bytes  integer not null,
	primary key (kind, name, period)
) without rowid, strict`

// OpenLedger opens an SQLite file, or makes it, and reads the counts of the
// current periods.
func OpenLedger(path string) (*Ledger, error) {
	g := &Ledger{path: path}
	if err := g.open(); err != nil {
		if g.db != nil {
			g.db.Close()
		}
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	return g, nil
}

func (g *Ledger) open() error {
	// SQLite would make a file that all can read, and it names users.
	file, err := os.OpenFile(g.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return errors.Unwrap(err) // which leaves out the path
	}
	file.Close()
	name, err := dataSource(g.path)
	if err != nil {
		return err
	}
	if g.db, err = sql.Open("sqlite", name); err != nil {
		return err
	}
	g.db.SetMaxOpenConns(1)
	var verdict string
	if err := g.db.QueryRow("pragma quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return errors.New("the file is damaged: " + verdict)
	}
	if _, err := g.db.Exec(schema); err != nil {
		return err
	}
	return g.load()
}

// dataSource is path as a URL, so that a ? or % in it is no option of SQLite.
func dataSource(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/…
	}
	options := url.Values{
		"_pragma": {"busy_timeout(1000)", "journal_mode(wal)", "synchronous(normal)"},
		"_txlock": {"immediate"},
	}
	source := url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}
	return source.String(), nil
}

func (g *Ledger) load() error {
	now := time.Now()
	rows, err := g.db.Query("select kind, name, period, begins, ends, bytes from quota")
	if err != nil {
		return err
	}
	defer rows.Close()
	g.meters = make(map[meterKey]*meter)
	for rows.Next() {
		m := new(meter)
		t := new(tally)
		key := &m.key
		if err := rows.Scan(&key.subject.kind, &key.subject.name, &key.period, &t.start, &t.end, &t.saved); err != nil {
			return err
		}
		t.bytes.Store(t.saved)
		m.current.Store(t)
		if !m.over(now) {
			g.meters[m.key] = m
		}
	}
	g.sweep.done(len(g.meters))
	return rows.Err()
}

// meter returns the meter of key for one more limit.
func (g *Ledger) meter(key meterKey) *meter {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.meters[key]
	if m == nil {
		m = &meter{key: key}
		g.add(m)
	}
	m.limits++
	return m
}

// release gives back a meter.
func (g *Ledger) release(m *meter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.limits--
}

// add first drops the meters that nobody needs, if there are many.
func (g *Ledger) add(m *meter) {
	if g.meters == nil {
		g.meters = make(map[meterKey]*meter)
	}
	if g.sweep.due(len(g.meters)) {
		now := time.Now()
		for key, old := range g.meters {
			if old.limits == 0 && old.over(now) {
				delete(g.meters, key)
			}
		}
		g.sweep.done(len(g.meters))
	}
	g.meters[m.key] = m
}

// Run writes what was counted every two seconds until ctx ends, and then once
// more. It returns the error of this last time.
func (g *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.report(g.flush())
		case <-ctx.Done():
			return g.flush()
		}
	}
}

// Close writes what is left and closes the file.
func (g *Ledger) Close() error {
	if g.db == nil {
		return nil
	}
	return errors.Join(g.flush(), g.db.Close())
}

func (g *Ledger) report(err error) {
	if err != nil && !g.failing && g.OnError != nil {
		g.OnError(err)
	}
	g.failing = err != nil
}

// An entry is a count as it is to be in the file.
type entry struct {
	key   meterKey
	tally *tally
	bytes int64
}

// flush writes the counts that have changed.
func (g *Ledger) flush() error {
	if g.db == nil {
		return nil
	}
	g.writing.Lock()
	defer g.writing.Unlock()
	changed := g.changed()
	if len(changed) == 0 {
		return nil
	}
	if err := g.write(changed); err != nil {
		return fmt.Errorf("write ledger %s: %w", g.path, err)
	}
	for _, e := range changed {
		e.tally.saved = e.bytes
	}
	return nil
}

func (g *Ledger) changed() (changed []entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, m := range g.meters {
		t := m.current.Load()
		if t == nil {
			continue
		}
		if n := t.bytes.Load(); n != t.saved {
			changed = append(changed, entry{key, t, n})
		}
	}
	return changed
}

// A row of a subject and period is replaced by that of the next; the rows of
// those who do not come again are deleted.
const (
	upsert = `insert or replace into quota (kind, name, period, begins, ends, bytes) values (?, ?, ?, ?, ?, ?)`
	purge  = `delete from quota where ends <= ?`
)

func (g *Ledger) write(entries []entry) error {
	tx, err := g.db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	stmt, err := tx.Prepare(upsert)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for _, e := range entries {
		who := e.key.subject
		if _, err := stmt.Exec(who.kind, who.name, string(e.key.period), e.tally.start, e.tally.end, e.bytes); err != nil {
			return err
		}
	}
	now := time.Now()
	purging := now.Sub(g.purged) >= time.Hour // no period is shorter
	if purging {
		if _, err := tx.Exec(purge, now.Unix()); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if purging {
		g.purged = now
	}
	return nil
}
