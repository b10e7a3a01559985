package httpconnect

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

var errNoLogin = errors.New("no user name and password")

// identity is who makes a request, and how he is known.
type identity struct {
	user string // "" for nobody in particular
	auth argyle.Auth
}

// login returns who makes a request.
func (s *Server) login(r *http.Request) (identity, error) {
	if s.ConnUser != nil {
		if conn := connOf(r); conn != nil {
			if user, auth := s.ConnUser(conn); user != "" {
				return identity{user, auth}, nil
			}
		}
	}
	if s.Login == nil {
		return identity{}, nil
	}
	credentials := r.Header.Get("Proxy-Authorization")
	if credentials == "" && s.LoginOptional {
		return identity{}, nil
	}
	user, password, ok := basicAuth(credentials)
	if !ok {
		return identity{}, errNoLogin
	}
	// Guesses wait for their turn, but not beyond the time of a handshake.
	ctx, cancel := context.WithTimeout(r.Context(), serve.DefaultTimeout)
	defer cancel()
	if err := s.Login(ctx, clientAddr(r).Addr(), user, password); err != nil {
		return identity{}, fmt.Errorf("user %q: %w", user, err)
	}
	return identity{user, argyle.AuthPassword}, nil
}

// basicAuth reads credentials as RFC 7617 has them: everything after the first
// colon is the password.
func basicAuth(credentials string) (user, password string, ok bool) {
	r := http.Request{Header: http.Header{"Authorization": {credentials}}}
	return r.BasicAuth()
}

// demandLogin answers 407.
func demandLogin(w http.ResponseWriter, r *http.Request) {
	const status = http.StatusProxyAuthRequired
	lastAnswer(w, r, status, http.Header{
		"Proxy-Authenticate": {`Basic realm="argyle", charset="UTF-8"`},
		"Content-Type":       {"text/plain; charset=utf-8"},
	}, reasonLine(status, "this proxy wants a user name and a password"))
}
