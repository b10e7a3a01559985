package users

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash/maphash"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrDenied is the answer to a wrong name and to a wrong password.
var ErrDenied = errors.New("wrong user name or password")

// maxHashing bounds how many hashes are computed at a time, and with that the
// memory: 19 MiB each with our own hashes, 128 MiB with the most expensive ones
// that a file may have.
const maxHashing = 8

// A Store is a users file that may change while it is in use.
type Store struct {
	path  string
	file  atomic.Pointer[File]
	seed  maphash.Seed  // for the choice of decoys
	slots chan struct{} // one element for each hash being computed

	mu   sync.Mutex // one reload at a time
	seen glance

	hashed func(passwordHash) // for tests: called for each hash computed
}

// A glance is what a reload saw of the file, good or bad.
type glance struct {
	info   os.FileInfo // nil if there was none
	at     time.Time
	digest [sha256.Size]byte // zero if it could not be read
}

// Open reads the users file path. A file with errors is refused with all of
// them.
func Open(path string) (*Store, error) {
	s := &Store{
		path:  path,
		seed:  maphash.MakeSeed(),
		slots: make(chan struct{}, min(runtime.GOMAXPROCS(0), maxHashing)),
	}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the file again. If it cannot be read or has errors, the users
// stay as they were.
func (s *Store) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reload()
}

func (s *Store) reload() error {
	s.seen = glance{at: time.Now()}
	data, info, err := readFile(s.path)
	s.seen.info = info
	if err != nil {
		return err
	}
	s.seen.digest = sha256.Sum256(data)
	file, err := Parse(s.path, data)
	if err != nil {
		return err
	}
	s.file.Store(file)
	return nil
}

// Names returns the names of the users, sorted.
func (s *Store) Names() []string {
	return slices.Sorted(maps.Keys(s.file.Load().byName))
}

// Has reports whether there is a user of that name.
func (s *Store) Has(name string) bool {
	_, known := s.file.Load().byName[name]
	return known
}

// Verify reports whether password is user's: nil, or ErrDenied, or why the
// context ended before it could be seen. It always computes a hash, for an
// unknown user too; servers want [Gate.Login].
func (s *Store) Verify(ctx context.Context, user, password string) error {
	if !plausible(user, password) {
		return ErrDenied
	}
	e, known := s.lookup(user)
	return s.check(ctx, e, known, password)
}

// plausible reports whether there can be such a user with such a password.
// Whoever sends something else knows that himself, so he may be told faster.
func plausible(user, password string) bool {
	return user != "" && len(user) <= maxField && password != "" && len(password) <= maxField
}

// lookup returns user's entry. For an unknown user it is somebody else's,
// always the same one, so that hashing costs what it costs for the known: in a
// file with hashes of several kinds, no kind gives the strangers away.
func (s *Store) lookup(user string) (e entry, known bool) {
	file := s.file.Load()
	stranger := maphash.String(s.seed, user)
	if i, ok := file.byName[user]; ok {
		return file.entries[i], true
	}
	if len(file.entries) == 0 {
		return entry{hash: decoy}, false
	}
	e = file.entries[stranger%uint64(len(file.entries))]
	e.text = "" // not the hash that decides
	return e, false
}

// decoy is what costs in place of a hash where there is no user at all.
var decoy = argon2id{
	memory: argon2Memory, passes: argon2Passes, threads: argon2Threads,
	salt: make([]byte, argon2Salt), key: make([]byte, argon2Key),
}

// check compares password with e. The context bounds the wait for a processor;
// a hash that was begun is finished, for its verdict counts.
func (s *Store) check(ctx context.Context, e entry, known bool, password string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.hashed != nil {
		s.hashed(e.hash)
	}
	if match := e.hash.matches(password); match && known {
		return nil
	}
	return ErrDenied
}
