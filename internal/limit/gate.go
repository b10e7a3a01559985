package limit

// A session is one session's part in a Limit.
type session struct {
	limit    *Limit
	up, down gate
	party    *party
}

// A party is who the limit's rates are divided between: a session of its own,
// or all sessions of one user.
type party struct {
	key      partyKey
	up, down flow
	sessions int
}

// A gate is one direction of a session: first its own rate, then its turn in
// the rate of all.
type gate struct {
	limit  *Limit
	own    bucket
	alone  flow  // the only one of own
	shared *flow // of the limit's bucket
}

func (g *gate) init(l *Limit, rate int64, shared *flow) {
	g.limit, g.shared = l, shared
	g.own.set(rate)
	g.own.join(&g.alone)
}

// Wait returns when n more bytes may pass, with [ErrExceeded] if the quota is
// used up. The piece that reaches the quota passes whole, so all sessions
// together go over it by less than one piece.
func (g *gate) Wait(n int, cut <-chan struct{}) error {
	q := g.limit.quota.Load()
	charged, ok := q.charge(n)
	if !ok {
		return q.used(g.limit)
	}
	err := g.alone.wait(n, cut)
	if err == nil {
		err = g.shared.wait(n, cut)
	}
	if err != nil {
		charged.refund(n)
	}
	return err
}

// Allow counts a datagram if it may pass now.
func (g *gate) Allow(n int) bool {
	charged, ok := g.limit.quota.Load().charge(n)
	if !ok {
		return false
	}
	if g.alone.allow(n) {
		if g.shared.allow(n) {
			return true
		}
		g.alone.refund(n)
	}
	charged.refund(n)
	return false
}

// Chunk is the smaller chunk of the two rates.
func (g *gate) Chunk() int {
	own, shared := g.own.chunk(), g.shared.bucket.chunk()
	if own == 0 || shared == 0 {
		return max(own, shared)
	}
	return min(own, shared)
}
