package users

import (
	"container/list"
	"time"
)

// A table is a map that forgets: rows that nobody asked for since ttl, and the
// longest unused when there are more than limit. It is not safe for concurrent
// use.
type table[K comparable, V any] struct {
	limit int
	ttl   time.Duration
	order list.List // of *row[K, V], the last used in front
	rows  map[K]*list.Element
}

type row[K comparable, V any] struct {
	key   K
	value V
	used  time.Time
}

func newTable[K comparable, V any](limit int, ttl time.Duration) *table[K, V] {
	return &table[K, V]{limit: limit, ttl: ttl, rows: make(map[K]*list.Element)}
}

// get returns key's value, which counts as using it.
func (t *table[K, V]) get(key K) (value V, ok bool) {
	now := time.Now()
	t.expire(now)
	e, ok := t.rows[key]
	if !ok {
		return value, false
	}
	r := e.Value.(*row[K, V])
	r.used = now
	t.order.MoveToFront(e)
	return r.value, true
}

// put sets key's value.
func (t *table[K, V]) put(key K, value V) {
	t.delete(key)
	now := time.Now()
	t.rows[key] = t.order.PushFront(&row[K, V]{key: key, value: value, used: now})
	t.expire(now)
}

func (t *table[K, V]) delete(key K) {
	if e, ok := t.rows[key]; ok {
		t.order.Remove(e)
		delete(t.rows, key)
	}
}

// expire removes what is too old or too much. Each row is removed once, so
// that it costs little however often it is called.
func (t *table[K, V]) expire(now time.Time) {
	for e := t.order.Back(); e != nil; e = t.order.Back() {
		r := e.Value.(*row[K, V])
		if len(t.rows) <= t.limit && now.Sub(r.used) < t.ttl {
			return
		}
		t.delete(r.key)
	}
}
