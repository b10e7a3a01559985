package httpconnect

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
)

type exchangeKey struct{}

// exchangeOf returns the exchange that a context of ReverseProxy belongs to.
func exchangeOf(ctx context.Context) *exchange {
	return ctx.Value(exchangeKey{}).(*exchange)
}

// exchange is one request for an absolute URL and its answer.
type exchange struct {
	server  *Server
	request argyle.Request
	inbound *http.Request // what ReverseProxy serves
	body    *requestBody  // nil if there is none
	client  *http.ResponseController

	// accepted says that the call was, so that the body may be on its way.
	// It belongs to the goroutine of ServeHTTP.
	accepted bool

	mu       sync.Mutex
	ended    bool      // the client's connection is net/http's again
	complete bool      // the answer has been passed on whole
	deadline time.Time // of the client, once the session has ended
}

func newExchange(s *Server, w http.ResponseWriter, r *http.Request, req argyle.Request) *exchange {
	x := &exchange{server: s, request: req, client: http.NewResponseController(w)}
	ctx := context.WithValue(r.Context(), exchangeKey{}, x)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: x.accept})
	x.inbound = r.WithContext(ctx)
	if r.ContentLength != 0 {
		x.body = newRequestBody(r)
		x.inbound.Body = x.body
	}
	return x
}

// accept is called when the transport has a connection, before anything is sent
// over it.
func (x *exchange) accept(httptrace.GotConnInfo) {
	if x.body != nil {
		// Else net/http holds an answer back until the body has been read.
		_ = x.client.EnableFullDuplex()
	}
	x.accepted = true
}

// sessionEnded is called when nothing more will come from or go to the
// destination. A client that neither takes what is left of the answer nor
// sends the rest of its request has some time to do so.
func (x *exchange) sessionEnded() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.deadline = time.Now().Add(drainTime)
	x.setDeadline()
}

// drainTime is long enough for a slow client to take a buffer's worth.
const drainTime = 2 * time.Minute

// hijacked is called when the client's connection has been taken over, which
// clears its deadlines.
func (x *exchange) hijacked() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.setDeadline()
}

// setDeadline holds the client to its deadline. x.mu is held.
func (x *exchange) setDeadline() {
	if !x.ended && !x.deadline.IsZero() {
		_ = x.client.SetReadDeadline(x.deadline)
		_ = x.client.SetWriteDeadline(x.deadline)
	}
}

// brokenOff reports whether the client went before it was served.
func (x *exchange) brokenOff() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !x.complete && x.inbound.Context().Err() != nil
}

// end gives the client's connection back to net/http. An exchange that was not
// completed breaks off.
func (x *exchange) end(completed bool) {
	x.mu.Lock()
	x.ended, x.complete = true, completed
	x.mu.Unlock()
	if !x.accepted || x.body.atEOF() {
		return
	}
	// The connection will be closed, as responseWriter has told the client,
	// but net/http first reads a little of what is left, for which it knows
	// no bound in time. Nor would it know that somebody is still reading.
	_ = x.client.SetReadDeadline(time.Unix(1, 0))
	x.body.release()
	if completed {
		_ = x.client.SetReadDeadline(time.Now().Add(lingerTime))
	}
}
