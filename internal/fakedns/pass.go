package fakedns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	exchangeTimeout = 5 * time.Second
	maxAsking       = 64   // calls of Exchange at the same time
	maxWaiting      = 1024 // questions that wait for one
	maxWaitingEach  = 256  // of one client
	maxKept         = 1024 // answers
	maxKeptSize     = 4096 // bytes of one
	maxTTL          = 3600 // seconds
	maxKeptTTL      = 300  // seconds that an answer is kept
	failureTTL      = 1    // RFC 9520, section 3.2: one second at least
)

var errBusy = errors.New("too many questions are being asked")

// passed is the questions that were passed on, and the answers to them.
type passed struct {
	waiting crowd
	asking  chan struct{} // a place for each call

	mu      sync.Mutex
	flights map[flightKey]*flight
}

// A flightKey is what questions must have in common to share an answer.
type flightKey struct {
	name              string
	qtype             uint16
	dnssec, unchecked bool
}

// A flight is a question that one asks and others wait for, and then its
// answer for as long as it may be kept.
type flight struct {
	done  chan struct{}
	got   result
	err   error
	again bool // who asked has given up: ask again
	came  time.Time
	until time.Time
}

func (p *passed) init() {
	p.waiting = crowd{total: maxWaiting, each: maxWaitingEach}
	p.asking = make(chan struct{}, maxAsking)
	p.flights = map[flightKey]*flight{}
}

// join returns the flight of a question. first says that the caller is the one
// to ask, and to call land.
func (p *passed) join(key flightKey) (f *flight, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if f = p.flights[key]; f != nil && (!f.landed() || now.Before(f.until)) {
		return f, false
	}
	if len(p.flights) >= maxKept {
		p.makeRoom(now)
	}
	f = &flight{done: make(chan struct{})}
	p.flights[key] = f
	return f, true
}

// makeRoom forgets what is over, or else whatever answer comes first.
func (p *passed) makeRoom(now time.Time) {
	for key, f := range p.flights {
		if f.landed() && !now.Before(f.until) {
			delete(p.flights, key)
		}
	}
	for key, f := range p.flights {
		if len(p.flights) < maxKept {
			return
		}
		if f.landed() {
			delete(p.flights, key)
		}
	}
}

// landed is called with the lock of passed.
func (f *flight) landed() bool { return !f.came.IsZero() }

func (p *passed) land(key flightKey, f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.came = time.Now()
	f.until = f.came.Add(f.got.ttl)
	if f.err != nil {
		f.until = f.came.Add(failureTTL * time.Second)
	}
	if f.again || f.got.size > maxKeptSize {
		delete(p.flights, key)
	}
	close(f.done)
}

// pass answers with what Exchange says.
func (s *Server) pass(ctx context.Context, q question) answer {
	if s.Exchange == nil {
		return failure(errNoExchange)
	}
	got, err := s.ask(ctx, q)
	if err != nil {
		return failure(err)
	}
	return answer{rcode: got.rcode, answer: got.answer, ns: got.ns}
}

// ask returns what Exchange says, or said not long ago. The records are the
// caller's.
func (s *Server) ask(ctx context.Context, q question) (result, error) {
	client := clientPrefix(q.client)
	if !s.passed.waiting.enter(client) {
		return result{}, errBusy
	}
	defer s.passed.waiting.leave(client)
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	key := flightKey{q.name, q.Qtype, q.dnssec, q.unchecked}
	for {
		f, first := s.passed.join(key)
		if first {
			s.fly(ctx, q, key, f)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return result{}, fmt.Errorf("wait for the resolver: %w", ctx.Err())
		}
		if first || !f.again {
			return f.got.since(f.came, q.Name), f.err
		}
	}
}

// fly asks on behalf of all who wait.
func (s *Server) fly(ctx context.Context, q question, key flightKey, f *flight) {
	f.err = errors.New("the resolver's answer was lost") // unless Exchange returns
	defer s.passed.land(key, f)
	select {
	case s.passed.asking <- struct{}{}:
		defer func() { <-s.passed.asking }()
	case <-ctx.Done():
		f.err, f.again = fmt.Errorf("wait to ask the resolver: %w", ctx.Err()), true
		return
	}
	query := new(dns.Msg).SetQuestion(dns.Fqdn(q.name), q.Qtype)
	query.CheckingDisabled = q.unchecked
	query.SetEdns0(udpSize, q.dnssec)
	reply, err := s.Exchange(ctx, query)
	if err != nil {
		f.err = fmt.Errorf("ask the resolver: %w", err)
		f.again = errors.Is(ctx.Err(), context.Canceled)
		return
	}
	f.got, f.err = cleanse(reply, q.Question, s.UDP)
}

// A result is what is left of a resolver's reply.
type result struct {
	rcode   int
	answer  []dns.RR
	ns      []dns.RR
	address bool // there was one of the type that was asked for
	ttl     time.Duration
	size    int
}

// since returns a copy whose TTLs have gone down since it came, with the name
// spelled as it was asked for.
func (r result) since(came time.Time, name string) result {
	age := uint32(time.Since(came) / time.Second)
	r.answer, r.ns = renew(r.answer, age, name), renew(r.ns, age, name)
	return r
}

func renew(rrs []dns.RR, age uint32, name string) []dns.RR {
	fresh := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		fresh[i] = dns.Copy(rr)
		h := fresh[i].Header()
		h.Ttl -= min(h.Ttl, age)
		if strings.EqualFold(h.Name, name) {
			h.Name = name
		}
	}
	return fresh
}
