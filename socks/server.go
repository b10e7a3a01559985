package socks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/socks/wire"
)

// ErrServerClosed is returned by [Server.Serve] after Shutdown or Close.
var ErrServerClosed = serve.ErrServerClosed

// A Server speaks SOCKS 4, 4a and 5 with clients and turns what they ask for
// into calls. Its fields are not to be changed once it serves.
type Server struct {
	// Handler serves the calls; normally a proxy.Proxy. It is required.
	Handler argyle.Handler

	// Authenticators are the methods that clients may use, the preferred
	// first, whatever the order of a client's offer. If there are any and
	// [NoAuth] is not among them, a client must authenticate, and SOCKS 4,
	// which cannot, is refused. Empty means that nobody needs to; then a
	// client that insists on a password may send any, and stays nameless.
	Authenticators []Authenticator

	// ConnUser, if not nil, names the user of a connection that is known by
	// other means, such as a TLS client certificate, and says by which; ""
	// if it is not. Who is known need not authenticate.
	ConnUser func(conn net.Conn) (user string, auth argyle.Auth)

	// Other, if not nil, gets the connections whose first byte is neither 4
	// nor 5, with nothing lost. It owns conn. nil closes them.
	Other func(ctx context.Context, conn net.Conn)

	// HandshakeTimeout bounds the time until a client has said what it
	// wants. 0 means 10 seconds, negative no bound.
	HandshakeTimeout time.Duration

	// MaxHandshakes bounds the connections that have not said yet what they
	// want; the oldest makes room for a new one. Half as many may come from
	// one address (one /64 for IPv6). 0 means 4096.
	MaxHandshakes int

	// Log takes what an operator should know; nil discards it.
	Log *slog.Logger

	once  sync.Once
	serve serve.Server
}

// Serve accepts clients from ln until Shutdown or Close, and then returns
// [ErrServerClosed]. It may be called for several listeners at once.
func (s *Server) Serve(ln net.Listener) error {
	return s.server().Serve(ln)
}

// Shutdown stops listening and waits until no handshake and no call is under
// way. A handler that leaves its sessions running, as proxy.Proxy does, has a
// Shutdown of its own. When ctx ends first, what is left is cut and the error
// of ctx returned.
func (s *Server) Shutdown(ctx context.Context) error { return s.server().Shutdown(ctx) }

// Close stops listening, cuts the handshakes and cancels the calls.
func (s *Server) Close() error { return s.server().Close() }

func (s *Server) server() *serve.Server {
	s.once.Do(func() {
		s.serve.Handle = s.ServeConn
		s.serve.Timeout = s.HandshakeTimeout
		s.serve.MaxHandshakes = s.MaxHandshakes
		s.serve.Log = s.Log
	})
	return &s.serve
}

// ServeConn serves one connection, which it owns, until its call is answered
// or handed over. Serve calls it for every connection; it serves any other,
// such as one unwrapped from TLS, in the same way.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) {
	first := firstBytes.Get().(*[3]byte)
	defer firstBytes.Put(first)
	// Three bytes are the shortest greeting that offers anything, so that
	// nothing is read of what may follow.
	n, err := conn.Read(first[:])
	if err != nil {
		conn.Close() // a health check or a port scan: nothing to tell
		return
	}
	b := first[:n]
	switch {
	case b[0] == wire.Version5:
		err = s.serve5(ctx, conn, b)
	case b[0] == wire.Version4:
		err = s.serve4(ctx, conn, b)
	case s.Other != nil:
		event.Detach(ctx)
		s.Other(ctx, serve.Unread(conn, slices.Clone(b)))
	default:
		conn.Close()
	}
	switch {
	case err == nil || s.Log == nil:
	case errors.Is(err, ErrLogin):
		// What an operator, or a program that bans addresses, looks for.
		s.Log.Warn("login refused", "client", conn.RemoteAddr().String(), "err", err)
	default:
		s.Log.Debug("handshake ended", "client", conn.RemoteAddr().String(), "err", err)
	}
}

var firstBytes = sync.Pool{New: func() any { return new([3]byte) }}

// serve5 goes through the handshake of SOCKS 5, of which b has been read.
func (s *Server) serve5(ctx context.Context, conn net.Conn, b []byte) error {
	greeting, _, err := read(conn, b, wire.ParseGreeting)
	if err != nil {
		conn.Close()
		return opError("read greeting", err)
	}
	known, how := s.connUser(conn)
	auth := s.choose(greeting.Methods, known != "")
	if auth == nil {
		err = send(conn, wire.Selection{Method: wire.NoAcceptable})
		serve.Finish(conn)
		return errors.Join(errNoMethod, err)
	}
	if err := send(conn, wire.Selection{Method: auth.Method()}); err != nil {
		conn.Close()
		return opError("select method", err)
	}
	identity, err := s.authenticate(ctx, auth, conn)
	if err != nil {
		serve.Finish(conn)
		return opError("authenticate", err)
	}
	if identity.User == "" {
		identity.User, identity.Auth = known, how
	}
	if identity.Conn != nil {
		conn = identity.Conn
	}
	return s.request5(ctx, conn, identity)
}

// authenticate goes through the method, which may wait for other things than
// the client, within the time of the handshake.
func (s *Server) authenticate(ctx context.Context, auth Authenticator, conn net.Conn) (Identity, error) {
	timeout := s.HandshakeTimeout
	if timeout == 0 {
		timeout = serve.DefaultTimeout
	}
	if auth.Method() != wire.NoAuth && timeout > 0 {
		step := event.NewStep(ctx, time.Now().Add(timeout))
		defer step.Cancel()
		ctx = step
	}
	event.DetachUnless(ctx, auth)
	return auth.Authenticate(ctx, conn)
}

var errNoMethod = errors.New("no acceptable method in the client's offer")

// request5 reads the request and serves the call.
func (s *Server) request5(ctx context.Context, conn net.Conn, identity Identity) error {
	req, b, err := read(conn, nil, wire.ParseRequest)
	if err != nil && len(b) > 0 && b[0] == 1 {
		// Some clients send their password though none was asked for.
		var rest []byte
		if rest, err = pretendLogin(conn, b); err == nil {
			req, _, err = read(conn, rest, wire.ParseRequest)
		}
	}
	c := &call{conn: conn, version: wire.Version5}
	if errors.Is(err, wire.AddrTypeNotSupported) {
		c.Reject(wire.AddrTypeNotSupported)
		return opError("read request", err)
	}
	if err != nil {
		conn.Close()
		return opError("read request", err)
	}
	s.call(ctx, c, argyle.Request{
		Command: req.Command, Dest: req.Dest, User: identity.User, Groups: identity.Groups, Auth: identity.Auth,
	})
	return nil
}

// serve4 goes through the handshake of SOCKS 4, of which b has been read.
func (s *Server) serve4(ctx context.Context, conn net.Conn, b []byte) error {
	req, b, err := read(conn, b, wire.ParseRequest4)
	if err != nil {
		conn.Close()
		return opError("read request", err)
	}
	c := &call{conn: conn, version: wire.Version4, echo: [6]byte(b[2:])}
	user, how := s.connUser(conn)
	if user == "" && !s.allowsNoAuth() {
		// USERID is only what the client says of itself.
		c.Reject(argyle.ErrNotAllowed)
		return errors.New("SOCKS 4 client where users must authenticate")
	}
	s.call(ctx, c, argyle.Request{Command: req.Command, Dest: req.Dest, User: user, Auth: how})
	return nil
}

// call completes the request and has it served.
func (s *Server) call(ctx context.Context, c *call, req argyle.Request) {
	serve.Established(ctx)
	c.request = req
	if known, ok := c.conn.(interface{ RemoteAddrPort() netip.AddrPort }); ok { // without an allocation
		c.request.Client = known.RemoteAddrPort()
	} else {
		c.request.Client = argyle.AddrOf(c.conn.RemoteAddr()).AddrPort()
	}
	c.request.Inbound = serve.Inbound(ctx)
	if err := c.normalise(); err != nil {
		c.Reject(err)
		if s.Log != nil {
			s.Log.Info("request refused", "client", c.request.Client.String(), "cmd", c.request.Command.String(), "err", err)
		}
		return
	}
	event.DetachUnless(ctx, s.Handler)
	s.Handler.ServeCall(ctx, c)
	if !c.answered {
		c.Reject(errors.New("not answered"))
	}
}

func (s *Server) connUser(conn net.Conn) (string, argyle.Auth) {
	if s.ConnUser == nil {
		return "", argyle.AuthNone
	}
	return s.ConnUser(conn)
}

// choose returns the first of our methods that the client offers, nil if there
// is none.
func (s *Server) choose(offer []wire.Method, known bool) Authenticator {
	auths := s.Authenticators
	if known && !s.allowsNoAuth() {
		auths = append([]Authenticator{NoAuth{}}, auths...)
	}
	if len(auths) == 0 {
		auths = anybody
	}
	for _, a := range auths {
		if slices.Contains(offer, a.Method()) {
			return a
		}
	}
	return nil
}

// anybody are the methods where nobody needs to authenticate. Firefox with a
// user name offers a password and nothing else.
var anybody = []Authenticator{NoAuth{}, Password{}}

func (s *Server) allowsNoAuth() bool {
	return len(s.Authenticators) == 0 || slices.ContainsFunc(s.Authenticators, func(a Authenticator) bool {
		return a.Method() == wire.NoAuth
	})
}

// message is what every message of package wire can do.
type message interface {
	Append(b []byte) ([]byte, error)
}

// send writes one message in one piece.
func send(w io.Writer, m message) error {
	room := buffers.Get().(*[]byte)
	defer buffers.Put(room)
	b, err := m.Append((*room)[:0])
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	clear(b) // there may be a password in it
	*room = b
	return err
}

// buffers are for messages of usual length.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 64); return &b }}

// read reads one message and nothing beyond it, in however many pieces it
// comes. b is what has been read of it already; what has been read at the end
// is returned, for a second look at its bytes.
func read[M any](r io.Reader, b []byte, parse func([]byte) (M, int, error)) (M, []byte, error) {
	for {
		m, n, err := parse(b)
		if err != wire.ErrShort {
			return m, b, err
		}
		have := len(b)
		if cap(b) < n {
			b = append(make([]byte, 0, max(n, 64)), b...)
		}
		got, err := r.Read(b[have:n])
		if b = b[:have+got]; got == 0 && err != nil {
			if err == io.EOF && have > 0 {
				err = io.ErrUnexpectedEOF
			}
			return m, b, err
		}
	}
}
