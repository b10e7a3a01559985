package names

import (
	"container/list"
	"net/netip"
	"time"
)

const (
	cacheSize      = 10_000
	minTTL         = time.Second
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute  // RFC 2308, section 5, allows hours
	failureTTL     = 2 * time.Second  // RFC 9520, section 3.2: one second at least
	partialTTL     = 5 * time.Second  // of an answer that lacks a family
	systemTTL      = 10 * time.Second // the system does not tell
)

// A key is what answers are kept under.
type key struct {
	name string
	want families
}

// An answer is what callers get: addresses or an error. Its ttl has its bounds.
type answer struct {
	addrs []netip.Addr
	err   *lookupError
	ttl   time.Duration
}

// A cache keeps answers for their time to live. The one that was not wanted
// for longest makes room.
type cache struct {
	limit   int
	entries map[key]*list.Element
	recent  list.List // of *entry, the last used in front
}

type entry struct {
	key     key
	answer  answer
	expires time.Time
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: map[key]*list.Element{}}
}

func (c *cache) get(k key, now time.Time) (answer, bool) {
	element, ok := c.entries[k]
	if !ok {
		return answer{}, false
	}
	kept := element.Value.(*entry)
	if !now.Before(kept.expires) {
		c.remove(element)
		return answer{}, false
	}
	c.recent.MoveToFront(element)
	return kept.answer, true
}

func (c *cache) put(k key, a answer, now time.Time) {
	if c.limit < 0 {
		return
	}
	if old, ok := c.entries[k]; ok {
		c.remove(old)
	}
	if len(c.entries) >= c.limit {
		c.remove(c.recent.Back())
	}
	c.entries[k] = c.recent.PushFront(&entry{key: k, answer: a, expires: now.Add(a.ttl)})
}

func (c *cache) remove(element *list.Element) {
	kept := c.recent.Remove(element).(*entry)
	delete(c.entries, kept.key)
}
