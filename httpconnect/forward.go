package httpconnect

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"
)

// forward serves a request for an absolute URL. net/http speaks with the
// destination over a connection that is a call like any other, so that policy,
// accounting and log see no difference to a CONNECT.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, who identity) {
	if r.URL.Scheme != "http" {
		refuse(w, r, http.StatusNotImplemented, "only http:// URLs are fetched; anything else goes through CONNECT")
		return
	}
	req, err := s.request(r, who)
	if err != nil {
		s.badTarget(w, r, err)
		return
	}
	x := newExchange(s, w, r, req)
	completed := false
	defer func() { // ReverseProxy breaks off by panic
		if !completed && !r.ProtoAtLeast(1, 1) {
			resetOnClose(connOf(r))
		}
		x.end(completed)
	}()
	s.reverseProxy().ServeHTTP(&responseWriter{w, x}, x.inbound)
	completed = true
}

// reverseProxy returns what all requests for absolute URLs share; it keeps no
// connections.
func (s *Server) reverseProxy() *httputil.ReverseProxy {
	s.once.Do(func() {
		s.proxy = &httputil.ReverseProxy{
			Rewrite: rewrite,
			Transport: &http.Transport{
				DialContext: dial,
				// A relayed connection is one client's, and one session
				// is one request: nothing is ever used again.
				DisableKeepAlives:      true,
				DisableCompression:     true,
				ExpectContinueTimeout:  time.Second,
				MaxResponseHeaderBytes: maxResponseHeaderBytes,
			},
			FlushInterval: -1,
			BufferPool:    &copyBuffers,
			ErrorLog:      slog.NewLogLogger(s.logHandler(), slog.LevelDebug),
			ErrorHandler:  s.forwardFailed,
		}
	})
	return s.proxy
}

// maxResponseHeaderBytes bounds the header of a destination's answer, as
// browsers do.
const maxResponseHeaderBytes = 256 << 10

// copyBuffers are those that bodies are copied with.
var copyBuffers bufferPool

type bufferPool struct{ pool sync.Pool }

const copyBufferSize = 32 << 10

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[copyBufferSize]byte); ok {
		return b[:]
	}
	return make([]byte, copyBufferSize)
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[copyBufferSize]byte)(b)) }

// rewrite undoes what a reverse proxy does to a request and a forward proxy may
// not: ReverseProxy has already taken out the hop-by-hop fields.
func rewrite(p *httputil.ProxyRequest) {
	in, out := p.In, p.Out
	// RFC 9112, section 3.2.2: path and query go on as they came.
	out.URL.RawQuery = in.URL.RawQuery
	path := rawPath(in.RequestURI)
	switch {
	case path == "" && in.Method == http.MethodOptions && in.URL.RawQuery == "":
		out.URL.Opaque = "*" // section 3.2.4
	case path != "" && path != in.URL.EscapedPath() && !strings.HasPrefix(path, "//"):
		out.URL.Opaque = path
	}
	// The body's reader puts the trailers into the map of in.
	out.Trailer = in.Trailer
	named := strings.ToLower(strings.Join(in.Header["Connection"], ","))
	for _, field := range forwarded {
		if values, ok := in.Header[field]; ok && !strings.Contains(named, strings.ToLower(field)) {
			out.Header[field] = values
		}
	}
}

// forwarded are the end-to-end fields that ReverseProxy takes out, since a
// reverse proxy sets them itself.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// rawPath returns the path of an absolute URL as it was sent.
func rawPath(target string) string {
	_, rest, _ := strings.Cut(target, "://")
	rest, _, _ = strings.Cut(rest, "?")
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:]
	}
	return ""
}

// forwardFailed answers a request that got no answer from its destination.
func (s *Server) forwardFailed(w http.ResponseWriter, r *http.Request, err error) {
	status, reason := http.StatusBadGateway, "the destination gave no valid answer"
	x := exchangeOf(r.Context())
	var refused *rejection
	switch {
	case errors.As(err, &refused):
		status, reason = outcomeOf(refused.reason)
		if x.body != nil {
			// net/http reads it before it answers, for which it knows
			// no bound in time.
			_ = x.client.SetReadDeadline(time.Now().Add(lingerTime))
		}
	case x.body.broken():
		status, reason = http.StatusBadRequest, "the request's body ended too soon"
	case timedOut(err):
		status, reason = outcomeOf(err)
	}
	s.debug("request failed", "client", r.RemoteAddr, "status", status, "err", err)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, reasonLine(status, reason)) // not to a HEAD, and not to one that has gone
}

// rejection is the reason of a Reject on its way through net/http.
type rejection struct{ reason error }

func (r *rejection) Error() string { return r.reason.Error() }
func (r *rejection) Unwrap() error { return r.reason }
