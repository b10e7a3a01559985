package upstream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
)

// A Pick is how a [Group] chooses among the members that work.
type Pick string

// The ways to choose.
const (
	Failover      Pick = "failover"           // the first in order
	RoundRobin    Pick = "round-robin"        // one after the other
	Random        Pick = "random"             // any
	LeastSessions Pick = "least-sessions"     // who has the fewest sessions now
	LowestLatency Pick = "lowest-latency"     // who is quickest to connect; unknown ones are tried
	StickyUser    Pick = "sticky-user"        // the same for a user, or else for a client: its IPv4 address, or its /64
	StickyHost    Pick = "sticky-destination" // the same for a destination host, whatever the port
)

// ParsePick returns the Pick of a name; "" is [Failover].
func ParsePick(name string) (Pick, error) {
	all := []Pick{Failover, RoundRobin, Random, LeastSessions, LowestLatency, StickyUser, StickyHost}
	switch {
	case name == "":
		return Failover, nil
	case slices.Contains(all, Pick(name)):
		return Pick(name), nil
	}
	return "", fmt.Errorf("unknown choice %q, want one of %v", name, all)
}

// sort puts members that may be used into the order of the group's Pick.
func (g *Group) sort(ctx context.Context, address string, members []*Member) {
	switch g.Pick {
	case RoundRobin:
		g.rotate(members)
	case Random:
		rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	case LeastSessions:
		g.rotate(members) // among equals
		sortBy(members, func(m *Member) int64 { return m.record().sessions.Load() })
	case LowestLatency:
		g.rotate(members) // among unknown ones
		sortBy(members, func(m *Member) time.Duration { return m.record().latency.recent() })
	case StickyUser:
		sortBy(members, scores(userKey(ctx)))
	case StickyHost:
		sortBy(members, scores(hostKey(ctx, address)))
	}
}

// rotate lets another member be the first each time.
func (g *Group) rotate(members []*Member) {
	if len(members) < 2 {
		return
	}
	n := int((g.turn.Add(1) - 1) % uint64(len(members)))
	copy(members, slices.Concat(members[n:], members[:n]))
}

// sortBy sorts by what rank says at this moment: it may change meanwhile.
func sortBy[T cmp.Ordered](members []*Member, rank func(*Member) T) {
	ranks := make(map[*Member]T, len(members))
	for _, m := range members {
		ranks[m] = rank(m)
	}
	slices.SortStableFunc(members, func(a, b *Member) int { return cmp.Compare(ranks[a], ranks[b]) })
}

// scores ranks members for a key by rendezvous hashing: when one goes, only
// those who had it as their first get another. They come back with it.
func scores(key string) func(*Member) uint64 {
	return func(m *Member) uint64 {
		sum := sha256.Sum256([]byte(key + "\x00" + m.name()))
		return binary.BigEndian.Uint64(sum[:8])
	}
}

// userKey says whose request it is; "" for nobody's.
func userKey(ctx context.Context) string {
	req := argyle.RequestOf(ctx)
	switch {
	case req == nil:
		return ""
	case req.User != "":
		return "user " + req.User
	}
	ip := req.Client.Addr().Unmap()
	if ip.Is6() { // a host has all of a /64
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
	return ip.String()
}

// hostKey says where it goes: for datagrams, which go anywhere, by the user.
func hostKey(ctx context.Context, address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return userKey(ctx)
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// latency is a moving average of the time that a connection takes.
type latency struct {
	mu      sync.Mutex
	average time.Duration
	at      time.Time // of the last measurement
}

// freshness is how long a measurement counts: then it is time for another.
const freshness = 5 * time.Minute

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d = max(d, 1) // 0 is unknown
	if l.average == 0 || time.Since(l.at) > freshness {
		l.average = d
	} else {
		l.average += (d - l.average) * 3 / 10
	}
	l.at = time.Now()
}

// value returns the average; 0 if there is none.
func (l *latency) value() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.average
}

// recent returns the average if it is fresh, else 0.
func (l *latency) recent() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) > freshness {
		return 0
	}
	return l.average
}
