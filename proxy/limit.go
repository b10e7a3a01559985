package proxy

import (
	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/relay"
)

// A Limit is something that sessions count against: a user's, a network's, a
// rule's. A Limit must be comparable; pointers are.
type Limit interface {
	// Begin counts a session in, or refuses it with an error. The session
	// calls End of the Share once.
	Begin(req *argyle.Request) (Share, error)
}

// A Share is one session's part in a [Limit].
type Share struct {
	Up, Down Gate   // nil: nothing holds the bytes back
	End      func() // may be nil
}

// A Gate holds bytes back. Its methods may be called from several goroutines.
type Gate interface {
	// Wait returns when n more bytes may pass. An error says that they must
	// not, or that cut was closed meanwhile; it ends the session.
	Wait(n int, cut <-chan struct{}) error

	// Allow reports whether n more bytes may pass at once, and counts them
	// if so. What else has to Wait is dropped if it is a datagram.
	Allow(n int) bool

	// Chunk is how many bytes should pass in one piece; 0 means no bound.
	Chunk() int
}

// gates are passed one after the other.
type gates []Gate

// Try lets n bytes pass those gates that let them at once, and returns the rest.
func (all gates) Try(n int) relay.Gate {
	for i, g := range all {
		if !g.Allow(n) {
			return all[i:]
		}
	}
	return nil
}

func (all gates) Wait(n int, cut <-chan struct{}) error {
	for _, g := range all {
		if err := g.Wait(n, cut); err != nil {
			return err
		}
	}
	return nil
}

func (all gates) Allow(n int) bool {
	for _, g := range all {
		if !g.Allow(n) {
			return false
		}
	}
	return true
}

func (all gates) Chunk() (smallest int) {
	for _, g := range all {
		if n := g.Chunk(); n > 0 && (smallest == 0 || n < smallest) {
			smallest = n
		}
	}
	return smallest
}
