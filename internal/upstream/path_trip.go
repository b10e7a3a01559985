package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
)

// try lets use have a way through hops, and another one while hops are dead.
func (p *Path) try(ctx context.Context, use func(context.Context, argyle.Dialer) error) error {
	t := &trip{path: p, out: make(map[int]bool), doubted: make(map[int]bool)}
	defer t.drop()
	var err error
	for {
		hops := t.choose()
		if len(hops) == 0 {
			return t.stranded(err)
		}
		began := time.Now()
		err = t.once(ctx, hops, use)
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // that tells nothing
		}
		if over := t.learn(hops, began, err); over || ctx.Err() != nil {
			return err
		}
	}
}

// trip is one request on its way through a path.
type trip struct {
	path     *Path
	out      map[int]bool // hops that are left out
	doubted  map[int]bool // hops that have failed to reach another, without a reason
	suspects []failure    // of silent hops
	trials   []int        // hops that this request has the trial of
}

// failure is what may be held against a hop.
type failure struct {
	hop   int
	by    int // the hop that tells; -1 for what the client sees
	began time.Time
	hasty bool // it ran out of time before silence meant anything
	err   error
}

// stranded is the end of a request that has no hops left.
func (t *trip) stranded(err error) error {
	switch {
	case err == nil:
		return errors.New("no hops to go through")
	case t.path.isStrict() || judge(err) != fault:
		return err
	}
	return fmt.Errorf("too few live hops in %v: %w", t.path, err)
}

// choose returns the hops to go through, none if too few are left.
func (t *trip) choose() []int {
	p := t.path
	if p.isStrict() {
		if len(t.out) > 0 {
			return nil
		}
		return t.remaining()
	}
	var live, dead []int
	for _, hop := range t.remaining() {
		if t.may(hop) {
			live = append(live, hop)
		} else {
			dead = append(dead, hop)
		}
	}
	if p.Mode == Dynamic {
		if len(live) == 0 {
			return dead // as a last resort
		}
		return live
	}
	return draw(live, dead, p.length())
}

// remaining returns the hops that are not left out.
func (t *trip) remaining() (hops []int) {
	for hop := range t.path.Hops {
		if !t.out[hop] {
			hops = append(hops, hop)
		}
	}
	return hops
}

// may reports whether a hop may be used, for a trial perhaps.
func (t *trip) may(hop int) bool {
	if slices.Contains(t.trials, hop) {
		return true
	}
	trial, ok := t.path.health(hop).begin(false)
	if trial {
		t.trials = append(t.trials, hop)
	}
	return ok
}

// draw returns so many hops at random, dead ones only if there are too few others.
func draw(live, dead []int, length int) []int {
	shuffle(live)
	shuffle(dead)
	hops := slices.Concat(live, dead)
	if len(hops) < length {
		return nil
	}
	hops = hops[:length]
	shuffle(hops)
	return hops
}

func shuffle(hops []int) {
	rand.Shuffle(len(hops), func(i, j int) { hops[i], hops[j] = hops[j], hops[i] })
}

// once goes one way, in half of the time if there may be another.
func (t *trip) once(ctx context.Context, hops []int, use func(context.Context, argyle.Dialer) error) error {
	p := t.path
	d, err := p.stack(hops)
	if err != nil {
		return err
	}
	left := 2
	if p.isStrict() || len(t.remaining()) <= p.length() {
		left = 1
	}
	ctx, cancel := share(ctx, left, p.Timeout)
	defer cancel()
	return use(ctx, d)
}

// learn draws the conclusions from a way's outcome. It reports false if another
// way should be tried.
func (t *trip) learn(hops []int, began time.Time, err error) (over bool) {
	f := failure{began: began, err: err, hasty: timedOut(err) && time.Since(began) < hasty}
	last := len(hops) - 1
	var between *hopError
	switch says := judge(err); {
	case errors.As(err, &between):
		f.hop = t.culprit(between)
		t.praise(hops[:between.worked(hops)])
		switch {
		case between.says == unable:
		case f.hop == between.to && between.says == doubtful:
			f.by = between.by
			t.suspects = append(t.suspects, f)
		default:
			t.blame(f)
		}
	case says == fault:
		f.hop = hops[last]
		t.praise(hops[:last])
		t.blame(f)
	case says == doubtful && !t.answered(hops, err):
		// Perhaps the destination's silence: another way will tell.
		f.hop = hops[last]
		t.praise(hops[:last])
		t.suspect(f)
	case says == doubtful:
		t.praise(hops[:last])
		return true
	case says == unable:
		return true
	default:
		t.praise(hops)
		for _, f := range t.suspects {
			t.blame(f)
		}
		return true
	}
	t.out[f.hop] = true
	return t.path.isStrict()
}

// culprit returns which of two hops is to be left out: one that has said nothing
// of another is believed the first time.
func (t *trip) culprit(e *hopError) int {
	switch {
	case e.says == fault:
		return e.by
	case e.says != doubtful:
		return e.to
	case t.doubted[e.by]:
		t.acquit(e.by)
		return e.by
	}
	t.doubted[e.by] = true
	return e.to
}

// answered reports whether a failure without a reason is an answer nevertheless.
func (t *trip) answered(hops []int, err error) bool {
	var status httpconnect.StatusError
	var channel *channelError
	if isA(err, socks.ReplyFor) || errors.As(err, &status) || errors.As(err, &channel) {
		return true
	}
	way, noWay := t.path.stack(hops)
	s, ok := way.(*socks.Dialer)
	return noWay == nil && ok && s.Version == 4 && !timedOut(err) // it has one refusal for all reasons
}

// isA reports whether an error of the type that of returns is in err.
func isA[E error](err error, _ func(error) E) bool {
	var e E
	return errors.As(err, &e)
}

// suspect notes the silence of a last hop. That of one that has told of another's
// silence before is its own.
func (t *trip) suspect(f failure) {
	f.by = -1
	if t.doubted[f.hop] {
		t.acquit(f.hop)
		t.blame(f)
		return
	}
	t.suspects = append(t.suspects, f)
}

// acquit takes back in whom only a hop that is at fault itself has told of.
func (t *trip) acquit(by int) {
	t.suspects = slices.DeleteFunc(t.suspects, func(f failure) bool {
		if f.by == by {
			delete(t.out, f.hop)
		}
		return f.by == by
	})
}

// worked returns how many hops of a way have done their part.
func (e *hopError) worked(hops []int) int {
	n := max(slices.Index(hops, e.by), 0)
	if e.says > doubtful {
		n++ // it gave a reason
	}
	return n
}

// praise notes that hops have done their part.
func (t *trip) praise(hops []int) {
	for _, hop := range hops {
		t.endTrial(hop)
		if t.path.health(hop).succeed() {
			t.path.log(slog.LevelInfo, "hop is up", hop, nil)
		}
	}
}

// blame notes a failure, unless it means nothing.
func (t *trip) blame(f failure) {
	if f.hasty {
		return
	}
	if t.path.health(f.hop).fail(f.began, t.endTrial(f.hop), false, f.err) {
		t.path.log(slog.LevelWarn, "hop is down", f.hop, f.err)
	}
}

// endTrial reports whether this request had the trial of a hop, until now.
func (t *trip) endTrial(hop int) bool {
	i := slices.Index(t.trials, hop)
	if i < 0 {
		return false
	}
	t.trials = slices.Delete(t.trials, i, i+1)
	return true
}

// drop gives back the trials that have told nothing.
func (t *trip) drop() {
	for _, hop := range t.trials {
		t.path.health(hop).drop()
	}
}

func (p *Path) log(level slog.Level, message string, hop int, err error) {
	if p.Log == nil {
		return
	}
	args := []any{"hop", p.Hops[hop].Name}
	if err != nil {
		args = append(args, "err", err)
	}
	p.Log.Log(context.Background(), level, message, args...)
}
