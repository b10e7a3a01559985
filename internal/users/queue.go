package users

import (
	"cmp"
	"slices"
)

// maxWaiting bounds the logins of one prefix that wait for their turn.
const maxWaiting = 64

// A queue is where the logins of one prefix wait, in a lane for each user
// name. The lane that was served least goes first, so that whoever hammers at
// one name is in nobody's way but that name's: the next turn is somebody
// else's. It is fair by the names as sent, whether they exist or not.
type queue struct {
	lanes []*lane // the oldest first, none empty
	size  int
}

type lane struct {
	user   string
	turns  []*Turn // the oldest first
	served int
}

// push adds t, and reports what must leave for it: nobody, the last of the
// longest lane, or t itself when there is no longer lane than its own.
func (q *queue) push(t *Turn) (dropped *Turn) {
	own := q.lane(t.user)
	if q.size == maxWaiting {
		longest := slices.MaxFunc(q.lanes, func(a, b *lane) int { return cmp.Compare(len(a.turns), len(b.turns)) })
		if own != nil && len(own.turns) >= len(longest.turns)-1 || len(longest.turns) == 1 {
			return t
		}
		dropped = longest.turns[len(longest.turns)-1]
		q.remove(dropped)
	}
	if own == nil {
		own = &lane{user: t.user}
		q.lanes = append(q.lanes, own)
	}
	own.turns = append(own.turns, t)
	q.size++
	return dropped
}

// pop removes the turn that is next, and returns nil if there is none.
func (q *queue) pop() *Turn {
	if q.size == 0 {
		return nil
	}
	next := slices.MinFunc(q.lanes, func(a, b *lane) int { return cmp.Compare(a.served, b.served) })
	next.served++
	t := next.turns[0]
	q.remove(t)
	return t
}

// remove takes t out, and reports whether it was waiting.
func (q *queue) remove(t *Turn) bool {
	l := q.lane(t.user)
	if l == nil {
		return false
	}
	i := slices.Index(l.turns, t)
	if i < 0 {
		return false
	}
	l.turns = slices.Delete(l.turns, i, i+1)
	q.size--
	if len(l.turns) == 0 {
		q.lanes = slices.DeleteFunc(q.lanes, func(other *lane) bool { return other == l })
	}
	return true
}

func (q *queue) lane(user string) *lane {
	if i := slices.IndexFunc(q.lanes, func(l *lane) bool { return l.user == user }); i >= 0 {
		return q.lanes[i]
	}
	return nil
}
