package httpconnect

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/argyle-socks/argyle"
)

// connect serves a CONNECT.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, who identity) {
	if r.ContentLength != 0 {
		// Is it a body or the first bytes of the tunnel? RFC 9110 gives
		// it no meaning.
		refuse(w, r, http.StatusBadRequest, "a CONNECT has no body")
		return
	}
	req, err := s.request(r, who)
	if err != nil {
		s.badTarget(w, r, err)
		return
	}
	c := &connectCall{w: w, r: r, request: req}
	// The request's own context ends when net/http's reader meets the
	// client's EOF, and so would cut a tunnel that is half closed.
	s.Handler.ServeCall(context.WithoutCancel(r.Context()), c)
	if !c.answered {
		c.Reject(errNotAnswered)
	}
}

// connectCall is a CONNECT that waits for its answer.
type connectCall struct {
	argyle.ConnectOnly
	w        http.ResponseWriter
	r        *http.Request
	request  argyle.Request
	answered bool
}

var _ argyle.Call = (*connectCall)(nil)

func (c *connectCall) Request() *argyle.Request { return &c.request }

// established is the answer to a CONNECT that has reached its destination. It
// has no fields: what follows is the tunnel (RFC 9110, section 9.3.6).
const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// Accept answers 200 and returns the client's connection.
func (c *connectCall) Accept(net.Addr) (net.Conn, error) {
	c.answered = true
	conn, err := hijack(c.w)
	if err != nil {
		c.w.WriteHeader(http.StatusInternalServerError)
		return nil, err
	}
	if _, err := io.WriteString(conn, established); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Reject answers with the status for reason and ends the connection.
func (c *connectCall) Reject(reason error) {
	c.answered = true
	status, text := outcomeOf(reason)
	refuse(c.w, c.r, status, text)
}
