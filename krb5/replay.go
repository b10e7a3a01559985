package krb5

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Replays remembers the authenticators that were accepted, so that none is
// accepted twice (RFC 4120, section 3.2.3). The zero value is ready; acceptors
// may share one, and should if one takes over from another.
//
// What was accepted before it began, when its first acceptor was asked to Check or
// Accept, it does not know. Contexts without mutual authentication, which can be sent
// again whole, are therefore refused if they were made before.
type Replays struct {
	mu       sync.Mutex
	began    time.Time
	now, old map[[16]byte]struct{}
	turned   time.Time
}

// begin notes the time if it is the first.
func (r *Replays) begin(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.began.IsZero() {
		r.began = at
	}
}

// since returns when it began.
func (r *Replays) since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began
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
