package limit

import (
	"sync/atomic"
	"time"
)

// A quota is what a Limit may still count on a meter. nil bounds nothing.
type quota struct {
	bytes int64
	meter *meter
}

// exhausted reports whether no more may pass in this period.
func (q *quota) exhausted() bool {
	return q != nil && q.meter.tally(time.Now()).bytes.Load() >= q.bytes
}

// charge counts n bytes, unless the quota is used up. The tally takes a refund.
func (q *quota) charge(n int) (*tally, bool) {
	if q == nil {
		return nil, true
	}
	t := q.meter.tally(time.Now())
	if t.bytes.Add(int64(n))-int64(n) >= q.bytes {
		t.refund(n)
		return nil, false
	}
	return t, true
}

// used is the error about it.
func (q *quota) used(l *Limit) error {
	return refuse("%s has used up its quota of %s %s", l, size(q.bytes), q.meter.key.period.phrase())
}

// A meter counts the bytes of a subject in the current period.
type meter struct {
	key     meterKey
	limits  int // that count on it; guarded by the ledger
	current atomic.Pointer[tally]
}

type meterKey struct {
	subject subject
	period  Period
}

// A tally is the count of one period.
type tally struct {
	start, end int64 // in seconds since 1970
	bytes      atomic.Int64
	saved      int64 // bytes as they are in the file; guarded by Ledger.writing
}

// refund takes back what was charged. A nil tally has charged nothing.
func (t *tally) refund(n int) {
	if t != nil {
		t.bytes.Add(-int64(n))
	}
}

// setBack is how far a clock may be set back before that makes it another
// period again. Less than that is a clock's correction, which must not make an
// old period begin once more with nothing used.
const setBack = 3600 // seconds

func (t *tally) covers(now int64) bool { return t.start-setBack <= now && now < t.end }

// tally returns the count of the period that now is in.
func (m *meter) tally(now time.Time) *tally {
	t := m.current.Load()
	if t != nil && t.covers(now.Unix()) {
		return t
	}
	start, end := m.key.period.bounds(now)
	if t != nil && t.start == start {
		return t // summer time has moved the end
	}
	m.current.CompareAndSwap(t, &tally{start: start, end: end})
	return m.current.Load()
}

// over reports whether the meter has nothing to remember.
func (m *meter) over(now time.Time) bool {
	t := m.current.Load()
	return t == nil || !t.covers(now.Unix()) || t.bytes.Load() == 0
}
