package users

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"net/netip"
	"sync"
	"time"
)

const (
	memoryTime = 10 * time.Minute // since the last use
	memorySize = 10_000           // of each verdict

	// maxGuesses is how many wrong passwords may be held against a remembered
	// one. A hit skips the Guard, so this is what an attacker next door can
	// try for each time that the user has waited in the Guard's queue.
	maxGuesses = 16
)

// A memory keeps the verdicts on logins, so that a client which opens a
// thousand connections a second costs one hash. It knows passwords only by
// fingerprint, under a key that lives as long as the process.
type memory struct {
	fingerprints sync.Pool // of *fingerprinter

	mu      sync.Mutex
	passed  *table[account, *pass]
	refused *table[fingerprint, struct{}]
}

// An account is a name as it is used from one prefix. What is remembered of one
// prefix says nothing to another: a correct guess from there must be hashed,
// and with that be counted, like a wrong one.
type account struct {
	from netip.Prefix
	user string
}

// A pass is what the last successful login of an account leaves behind.
type pass struct {
	fingerprint fingerprint
	guesses     int
}

// A fingerprint is a keyed hash of a login and the hash in the file that
// decides about it. Another hash there makes another fingerprint.
type fingerprint [sha256.Size]byte

type verdict int

const (
	unknown verdict = iota
	passed
	refused
)

func newMemory() *memory {
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails
	return &memory{
		fingerprints: sync.Pool{New: func() any { return &fingerprinter{mac: hmac.New(sha256.New, key)} }},
		passed:       newTable[account, *pass](memorySize, memoryTime),
		refused:      newTable[fingerprint, struct{}](memorySize, memoryTime),
	}
}

// A fingerprinter is kept for its allocations and its precomputed key.
type fingerprinter struct {
	mac  hash.Hash
	text []byte
}

// fingerprint returns the keyed hash of a login against e.
func (m *memory) fingerprint(who account, e entry, password string) (sum fingerprint) {
	f := m.fingerprints.Get().(*fingerprinter)
	defer m.fingerprints.Put(f)
	addr := who.from.Addr().As16()
	f.text = append(f.text[:0], addr[:]...)
	f.text = append(f.text, byte(who.from.Bits()))
	for _, s := range [...]string{who.user, e.text, password} {
		f.text = binary.BigEndian.AppendUint32(f.text, uint32(len(s)))
		f.text = append(f.text, s...)
	}
	f.mac.Reset()
	f.mac.Write(f.text)
	f.mac.Sum(sum[:0])
	clear(f.text)
	return sum
}

// recall returns the verdict that was given on the same login before.
func (m *memory) recall(who account, sum fingerprint) verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.passed.get(who); ok && subtle.ConstantTimeCompare(p.fingerprint[:], sum[:]) == 1 {
		return passed
	}
	if _, ok := m.refused.get(sum); ok {
		return refused
	}
	return unknown
}

// guessed counts a login with another password than the remembered one, which
// is forgotten when there are too many.
func (m *memory) guessed(who account) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.passed.get(who)
	if !ok {
		return
	}
	if p.guesses++; p.guesses >= maxGuesses {
		m.passed.delete(who)
	}
}

func (m *memory) remember(who account, sum fingerprint, v verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v == passed {
		m.passed.put(who, &pass{fingerprint: sum})
	} else {
		m.refused.put(sum, struct{}{})
	}
}
