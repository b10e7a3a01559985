package limit

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrExceeded is what a refusal by a limit is, and what ends a session whose
// quota is used up. The text of the error says which limit.
var ErrExceeded = errors.New("limit exceeded")

// A Spec says how much a subject may use. The zero value bounds nothing, and
// neither does a field that is not positive.
type Spec struct {
	Sessions int  // at once
	Rate     Rate // of new sessions

	Up, Down               int64 // bytes per second, of all its sessions together
	SessionUp, SessionDown int64 // bytes per second, of each

	// Quota is how many bytes, both directions together, its sessions may
	// move in one QuotaPeriod.
	Quota       int64
	QuotaPeriod Period // "" means Total
}

// A Rate is a number of new sessions in some time. All of them may come at
// once; each then needs its part of the time.
type Rate struct {
	N   int
	Per time.Duration
}

// String writes the rate as errors do: 5 new sessions per 1m.
func (r Rate) String() string {
	per := r.Per.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(per, zero) {
			per = per[:len(per)-2]
		}
	}
	return fmt.Sprintf("%d new sessions per %s", r.N, per)
}

// pace is what a subject has used of its Rate: the time at which nothing is
// left of it.
type pace time.Time

// free reports whether the history of sessions is over.
func (p pace) free(now time.Time) bool { return !time.Time(p).After(now) }

// take counts a session in, unless that is one too many.
func (p *pace) take(r Rate, now time.Time) bool {
	if r.N <= 0 || r.Per <= 0 {
		return true
	}
	used := max(time.Time(*p).Sub(now), 0)
	used = min(used, r.Per) // what a slower Rate has left
	used += r.Per / time.Duration(r.N)
	if used > r.Per {
		return false
	}
	*p = pace(now.Add(used))
	return true
}

// units are what quotas are given in.
var units = []struct {
	size int64
	name string
}{
	{1 << 40, "TiB"}, {1e12, "TB"},
	{1 << 30, "GiB"}, {1e9, "GB"},
	{1 << 20, "MiB"}, {1e6, "MB"},
	{1 << 10, "KiB"}, {1e3, "kB"},
}

// size writes n in the largest unit that does so exactly.
func size(n int64) string {
	for _, u := range units {
		if n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// A refusal is an ErrExceeded in words of its own.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == ErrExceeded }

func refuse(format string, args ...any) error {
	return refusal(fmt.Sprintf(format, args...))
}
