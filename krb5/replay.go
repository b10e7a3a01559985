package krb5

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Replays remembers the authenticators that were accepted, so that none is
// accepted twice (RFC 4120, section 3.2.3). The zero value is ready; acceptors
// may share one, and should if one takes over from another. What was accepted
// before there was one it does not know: a client that proves no more than its
// token does, since it wants no mutual authentication, must have made the token
// later.
type Replays struct {
	mu       sync.Mutex
	begun    time.Time
	now, old map[[16]byte]struct{}
	turned   time.Time
}

// begin notes when r begins to remember.
func (r *Replays) begin(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun.IsZero() {
		r.begun = at
	}
}

// cover reports whether an authenticator cannot have been accepted before r
// began. It was made at that time by a clock that may be ahead by skew.
func (r *Replays) cover(made time.Time, skew time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.begun.IsZero() && made.After(r.begun.Add(skew))
}

// first reports whether an authenticator comes for the first time within the
// time in which it is good. Two generations are kept, each for that long.
func (r *Replays) first(authenticator []byte, at time.Time, good time.Duration) bool {
	sum := sha256.Sum256(authenticator)
	id := [16]byte(sum[:])
	r.mu.Lock()
	defer r.mu.Unlock()
	switch age := at.Sub(r.turned); {
	case r.now == nil || age >= 2*good || age < -good: // or the clock was set
		r.now, r.old, r.turned = make(map[[16]byte]struct{}), r.now, at
		if age >= 2*good {
			r.old = nil
		}
	case age >= good:
		r.now, r.old, r.turned = make(map[[16]byte]struct{}), r.now, at
	}
	if _, seen := r.now[id]; seen {
		return false
	}
	if _, seen := r.old[id]; seen {
		return false
	}
	r.now[id] = struct{}{}
	return true
}
