package upstream

import (
	"context"
	"errors"
	"slices"
	"time"
)

// order returns the members in the order in which to try them: those that may be
// used, and those that are down, the first to come back first.
func (g *Group) order(ctx context.Context, address string) (first, last []*Member) {
	for _, m := range g.Members {
		if m.record().health.state() == down {
			last = append(last, m)
		} else {
			first = append(first, m)
		}
	}
	g.sort(ctx, address, first)
	slices.SortStableFunc(last, func(a, b *Member) int {
		return a.record().health.next().Compare(b.record().health.next())
	})
	return first, last
}

// try lets one member after the other have a request to host:port, until one has
// an answer.
func (g *Group) try(ctx context.Context, address string, use func(context.Context, *Member) error) error {
	r := &round{group: g, use: use}
	defer r.drop()
	first, last := g.order(ctx, address)
	for i, m := range first {
		if done, err := r.next(ctx, m, false, len(first)-i, len(last) > 0); done {
			return err
		}
		if r.skipped == m { // somebody else tries it: like those that are down
			last = append(last, m)
		}
	}
	for i, m := range last {
		if done, err := r.next(ctx, m, true, len(last)-i, false); done {
			return err
		}
	}
	if r.err == nil {
		r.err = errNoMembers
	}
	return r.error()
}

// round is one request on its way through the members.
type round struct {
	group   *Group
	use     func(context.Context, *Member) error
	tried   int
	skipped *Member // was not tried, as its trial is somebody else's
	doubts  []attempt
	err     error // that says most so far
	says    verdict
}

// attempt is one request to one member.
type attempt struct {
	member *Member
	began  time.Time
	trial  bool
	hasty  bool // it ran out of time before silence meant anything
	err    error
}

// next tries a member, with its part of the time: as many are left, and perhaps
// some last resorts. It reports whether the request is over.
func (r *round) next(ctx context.Context, m *Member, lastResort bool, left int, resorts bool) (bool, error) {
	if r.tried > 0 && ctx.Err() != nil {
		return true, r.error()
	}
	a := attempt{member: m, began: time.Now()}
	var ok bool
	if a.trial, ok = m.record().health.begin(lastResort); !ok {
		r.skipped = m
		return false, nil
	}
	if resorts {
		left++
	}
	r.tried++
	m.record().sessions.Add(1)
	a.err = r.once(ctx, m, left)
	if a.err != nil {
		m.record().sessions.Add(-1)
	}
	return r.settle(ctx, a)
}

// once lets a member have the request for a part of the time.
func (r *round) once(ctx context.Context, m *Member, left int) error {
	ctx, cancel := share(ctx, left, r.group.Timeout)
	defer cancel()
	return r.use(ctx, m)
}

// settle draws the conclusions from an attempt.
func (r *round) settle(ctx context.Context, a attempt) (over bool, err error) {
	says := judge(a.err)
	a.hasty = timedOut(a.err) && time.Since(a.began) < hasty
	if a.err != nil && errors.Is(ctx.Err(), context.Canceled) {
		says = unable // the client has gone: that tells nothing
	} else if says == fault && a.hasty {
		says = doubtful
	}
	r.note(a.err, says)
	switch says {
	case good, final:
		r.group.succeeded(a.member)
		r.blame()
		return true, r.answer(a.err)
	case fault:
		r.group.failed(a, false)
	case doubtful:
		r.doubts = append(r.doubts, a)
	case refused, unanswered:
		r.group.succeeded(a.member)
	case unable:
		a.drop()
	}
	return false, nil
}

// hasty is a time in which not every proxy can answer: who has no more is told
// nothing by silence.
const hasty = 500 * time.Millisecond

// note keeps the error that says most, of equals the first.
func (r *round) note(err error, says verdict) {
	if err != nil && says > r.says {
		r.err, r.says = err, says
	}
}

// blame holds the silent ones' failures against them.
func (r *round) blame() {
	for _, a := range r.doubts {
		if a.hasty {
			a.drop()
		} else {
			r.group.failed(a, true)
		}
	}
	r.doubts = nil
}

// drop lets the silent ones off.
func (r *round) drop() {
	for _, a := range r.doubts {
		a.drop()
	}
}

// drop gives up what the attempt might have told.
func (a *attempt) drop() {
	if a.trial {
		a.member.record().health.drop()
	}
}

// answer is the end of a request with an answer, which may be an error.
func (r *round) answer(err error) error {
	if err == nil {
		return nil
	}
	r.err = err
	return r.error()
}

func (r *round) error() error { return &groupError{r.group.Name, r.tried, r.err} }

// Bounds on the part of the time that one of several gets.
const (
	tryTime  = 10 * time.Second // where there is no end
	leastTry = 3 * time.Second  // though not more than half of what is left
)

// share bounds ctx for the next of so many that are left. The last one has all
// the time there is.
func share(ctx context.Context, left int, timeout time.Duration) (context.Context, context.CancelFunc) {
	end, ends := ctx.Deadline()
	if !ends {
		return context.WithTimeout(ctx, orDefault(timeout, tryTime))
	}
	if left <= 1 {
		return ctx, func() {}
	}
	rest := time.Until(end)
	return context.WithTimeout(ctx, max(rest/time.Duration(left), min(rest/2, leastTry)))
}
