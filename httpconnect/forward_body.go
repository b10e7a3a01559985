package httpconnect

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// requestBody is the body of a request on its way to the destination. It knows
// whether it has been read to its end, for what is left must not be taken for
// the next request. A nil requestBody is one that has no bytes.
type requestBody struct {
	length int64      // as announced; -1 if it was not
	mu     sync.Mutex // held while somebody reads
	body   io.ReadCloser
	eof    chan struct{} // closed when the end has been read
	failed atomic.Bool
}

func newRequestBody(r *http.Request) *requestBody {
	return &requestBody{length: r.ContentLength, body: r.Body, eof: make(chan struct{})}
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.body.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		if !b.atEOF() {
			close(b.eof)
		}
	case err != nil:
		b.failed.Store(true)
	}
	return n, err
}

// Close does nothing: net/http closes the body after the answer.
func (b *requestBody) Close() error { return nil }

// atEOF reports whether the whole body has been read.
func (b *requestBody) atEOF() bool {
	if b == nil {
		return true
	}
	select {
	case <-b.eof:
		return true
	default:
		return false
	}
}

// settled is atEOF, but gives a body of known length a moment to get there. It
// is about to where a destination answers without a look at the body.
func (b *requestBody) settled() bool {
	if b.atEOF() || b.length < 0 {
		return b.atEOF()
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-b.eof:
		return true
	case <-timer.C:
		return false
	}
}

// settleTime is what net/http's transport grants in the same case.
const settleTime = 50 * time.Millisecond

// broken reports whether the client did not send what it had promised.
func (b *requestBody) broken() bool { return b != nil && b.failed.Load() }

// release waits for a reader to return and lets nobody read any more.
func (b *requestBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.body = nil
}
