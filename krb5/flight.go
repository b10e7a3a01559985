package krb5

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// keepTime is how long a ticket for a service is kept: for no longer does one
// stay in use that is of a key that the service has renewed.
const keepTime = 5 * time.Minute

// fresh reports whether a ticket that was got may be used once more.
func (t *ticket) fresh() bool {
	return t.good() && (t.server[0] == "krbtgt" || time.Since(t.got) < keepTime)
}

// flight is one exchange with a KDC, for all who want the same ticket. It ends
// when the last of them has lost patience.
type flight struct {
	agent   *agent
	waiters int
	cancel  context.CancelFunc
	done    chan struct{} // closed when what follows is set
	ticket  *ticket
	err     error
}

// shared returns the ticket of a key that was kept, or gets it, once for
// everybody who asks at the time.
func (i *Initiator) shared(ctx context.Context, a *agent, key string, get func(context.Context) (*ticket, error)) (*ticket, error) {
	i.mu.Lock()
	if t := i.got[key]; t.fresh() {
		i.mu.Unlock()
		return t, nil
	}
	f := i.flights[key]
	if f == nil {
		f = i.fly(ctx, a, key, get)
	}
	f.waiters++
	i.mu.Unlock()

	select {
	case <-f.done:
		return f.ticket, f.err
	case <-ctx.Done():
	}
	i.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && i.flights[key] == f {
		delete(i.flights, key)
	}
	i.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
	return nil, fmt.Errorf("no answer of %s: %w", f.agent.whom(), ctx.Err())
}

// fly begins a flight.
func (i *Initiator) fly(ctx context.Context, a *agent, key string, get func(context.Context) (*ticket, error)) *flight {
	f := &flight{agent: a, done: make(chan struct{})}
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if i.flights == nil {
		i.flights = make(map[string]*flight)
	}
	i.flights[key] = f
	go func() {
		defer close(f.done)
		defer f.cancel()
		f.ticket, f.err = guardedGet(ctx, get)
		i.land(key, f)
	}()
	return f
}

// guardedGet is there because the messages of KDCs are taken apart by a library.
func guardedGet(ctx context.Context, get func(context.Context) (*ticket, error)) (t *ticket, err error) {
	defer func() {
		if r := recover(); r != nil {
			t, err = nil, fmt.Errorf("malformed answer of the KDC: %v", r)
		}
	}()
	return get(ctx)
}

// land ends a flight, and keeps its ticket for the next time, unless the
// credentials have changed meanwhile.
func (i *Initiator) land(key string, f *flight) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.flights[key] != f {
		return
	}
	delete(i.flights, key)
	if f.err != nil {
		return
	}
	maps.DeleteFunc(i.got, func(_ string, t *ticket) bool { return !t.good() })
	if i.got == nil {
		i.got = make(map[string]*ticket)
	}
	i.got[key] = f.ticket
}

// whom returns who is being asked.
func (a *agent) whom() string {
	if whom := a.asking.Load(); whom != nil {
		return *whom
	}
	return "the KDC"
}
