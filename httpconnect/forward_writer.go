package httpconnect

import (
	"bufio"
	"net"
	"net/http"
)

// responseWriter is the client's side of an exchange, for ReverseProxy.
type responseWriter struct {
	http.ResponseWriter
	exchange *exchange
}

// Unwrap lets [http.ResponseController] find what is below.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader passes on the destination's status and fields.
func (w *responseWriter) WriteHeader(status int) {
	if status == http.StatusContinue || status < 200 && !w.exchange.inbound.ProtoAtLeast(1, 1) {
		// net/http says "continue" itself when the body is first read, and
		// HTTP/1.0 knows no interim answers.
		return
	}
	if status >= 200 {
		header := w.Header()
		if _, ok := header["Content-Type"]; !ok {
			header["Content-Type"] = nil // or else net/http guesses one
		}
		if w.exchange.accepted && !w.exchange.body.settled() {
			// An answer that overtakes its request ends the connection:
			// after it nobody could tell the rest of this request from
			// the next.
			header.Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Hijack returns a connection that can be half closed, with what the client
// has sent ahead: ReverseProxy takes no notice of the reader.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, err := hijack(w.ResponseWriter)
	if err != nil {
		return nil, nil, err
	}
	w.exchange.hijacked()
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}
