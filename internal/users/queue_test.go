package users

import (
	"fmt"
	"slices"
	"testing"
)

// order pops everything and returns the names.
func order(q *queue) (users []string) {
	for t := q.pop(); t != nil; t = q.pop() {
		users = append(users, t.user)
	}
	return users
}

func TestQueueServesNamesInTurn(t *testing.T) {
	var q queue
	for _, user := range []string{"a", "a", "a", "b", "b", "c"} {
		if dropped := q.push(&Turn{user: user}); dropped != nil {
			t.Errorf("dropped %s", dropped.user)
		}
	}
	want := []string{"a", "b", "c", "a", "b", "a"}
	if got := order(&q); !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
	if q.size != 0 || len(q.lanes) != 0 {
		t.Errorf("%d and %d lanes are left", q.size, len(q.lanes))
	}
}

func TestQueueServesTheNewBeforeTheServed(t *testing.T) {
	var q queue
	q.push(&Turn{user: "a"})
	q.push(&Turn{user: "a"})
	q.pop()
	q.push(&Turn{user: "b"})
	if got := order(&q); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("served %v", got)
	}
}

func TestQueueKeepsTheOrderOfAName(t *testing.T) {
	var q queue
	turns := []*Turn{{user: "a"}, {user: "a"}, {user: "a"}}
	for _, turn := range turns {
		q.push(turn)
	}
	if !q.remove(turns[1]) || q.remove(turns[1]) || q.remove(&Turn{user: "a"}) || q.remove(&Turn{user: "b"}) {
		t.Error("remove does not tell who is waiting")
	}
	if q.pop() != turns[0] || q.pop() != turns[2] || q.pop() != nil {
		t.Error("not in the order of arrival")
	}
}

func TestFullQueue(t *testing.T) {
	var q queue
	var last *Turn
	for range maxWaiting {
		last = &Turn{user: "a"}
		q.push(last)
	}
	if again := (&Turn{user: "a"}); q.push(again) != again {
		t.Error("a name with everything got more")
	}
	if dropped := q.push(&Turn{user: "b"}); dropped != last {
		t.Error("another name did not get the place of the last one")
	}
	if q.size != maxWaiting {
		t.Errorf("%d wait", q.size)
	}
	q.pop()
	if q.pop().user != "b" {
		t.Error("another name was not served second")
	}
}

// Whoever floods with names gets no more than one place for each.
func TestFullQueueOfNames(t *testing.T) {
	var q queue
	for i := range maxWaiting - 1 {
		q.push(&Turn{user: fmt.Sprint("n", i)})
	}
	q.push(&Turn{user: "n0"})
	for _, user := range []string{"n0", "n1"} {
		if turn := (&Turn{user: user}); q.push(turn) != turn {
			t.Errorf("%s got a second place", user)
		}
	}
	if dropped := q.push(&Turn{user: "x"}); dropped == nil || dropped.user != "n0" {
		t.Error("a new name did not get the place of the longest lane's last")
	}
	if turn := (&Turn{user: "y"}); q.push(turn) != turn {
		t.Error("a new name got a place where each name has one")
	}
}
