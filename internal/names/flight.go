package names

import (
	"context"
	"time"
)

// A flight is a look-up under way, for all who want the same. It ends when
// nobody waits any more.
type flight struct {
	waiting int
	cancel  context.CancelFunc
	done    chan struct{} // closed when answer is there
	answer  answer
}

// await returns what is kept, or waits for an answer.
func (r *Resolver) await(ctx context.Context, k key) answer {
	r.mu.Lock()
	if kept, ok := r.cache.get(k, time.Now()); ok {
		r.mu.Unlock()
		return kept
	}
	f := r.join(k)
	r.mu.Unlock()

	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
	}
	select {
	case <-f.done:
		return f.answer
	case <-ctx.Done():
		r.leave(k, f)
		return answer{err: failure(ctx.Err())}
	}
}

// join takes part in the flight for k, beginning it if it must.
func (r *Resolver) join(k key) *flight {
	f := r.flights[k]
	if f == nil {
		// It is for all, so it takes neither the end nor the values of
		// the context that began it.
		ctx, cancel := context.WithCancel(context.Background())
		f = &flight{cancel: cancel, done: make(chan struct{})}
		r.flights[k] = f
		go r.fly(ctx, k, f)
	}
	f.waiting++
	return f
}

func (r *Resolver) leave(k key, f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.waiting--
	if f.waiting == 0 {
		f.cancel()
		r.forget(k, f)
	}
}

func (r *Resolver) fly(ctx context.Context, k key, f *flight) {
	defer f.cancel()
	f.answer = r.find(ctx, k)
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() == nil {
		r.cache.put(k, f.answer, time.Now())
	}
	r.forget(k, f)
	close(f.done)
}

// forget lets the next caller begin anew; others may have done so already.
func (r *Resolver) forget(k key, f *flight) {
	if r.flights[k] == f {
		delete(r.flights, k)
	}
}
