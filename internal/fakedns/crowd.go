package fakedns

import (
	"net/netip"
	"sync"
	"time"
)

// A crowd bounds how many are there at a time, in total and of each client.
type crowd struct {
	total, each int

	mu sync.Mutex
	n  int
	by map[netip.Prefix]int
}

// enter reports false if there is no place.
func (c *crowd) enter(client netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n >= c.total || c.by[client] >= c.each {
		return false
	}
	if c.by == nil {
		c.by = map[netip.Prefix]int{}
	}
	c.n++
	c.by[client]++
	return true
}

func (c *crowd) leave(client netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.by[client]--; c.by[client] == 0 {
		delete(c.by, client)
	}
}

// A gap lets one pass in a minute.
type gap struct {
	mu   sync.Mutex
	last time.Time
}

func (g *gap) pass(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.last.IsZero() && now.Sub(g.last) < time.Minute {
		return false
	}
	g.last = now
	return true
}
