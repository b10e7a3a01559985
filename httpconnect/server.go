package httpconnect

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// A Server is the HTTP proxy as an [http.Handler]: it makes a call of every
// CONNECT and of every request for an http:// URL, and answers anything else
// with a page that says what it is. Its fields are not to be changed once it
// serves.
type Server struct {
	// Handler serves the calls; normally a proxy.Proxy. It is required.
	Handler argyle.Handler

	// Login returns an error if the password is not the user's. To give
	// nothing away, it should take as long for a user that does not exist.
	// client is not valid for a connection without an IP address. If Login
	// is nil, nobody needs to authenticate.
	Login func(ctx context.Context, client netip.Addr, user, password string) error

	// LoginOptional lets those pass, nameless, who send no credentials.
	LoginOptional bool

	// ConnUser, if not nil, names the user of a connection that is known by
	// other means, such as a TLS client certificate, and says by which; ""
	// if it is not. Who is known needs no password. It is asked under
	// HTTPServer only.
	ConnUser func(conn net.Conn) (user string, auth argyle.Auth)

	// Log takes what an operator may want to know; nil discards it.
	Log *slog.Logger

	once  sync.Once
	proxy *httputil.ReverseProxy // for absolute URLs
}

// How long a client may leave its connection unused between two requests, and
// how long its header may be.
const (
	keepAliveTime  = 2 * time.Minute
	maxHeaderBytes = 64 << 10
)

// HTTPServer returns an [http.Server] around s with the bounds that a proxy
// needs. It speaks HTTP/1 only, and passes on what the connections of an
// internal listener know of themselves: such a listener says, too, how long a
// client may take for its first request.
func (s *Server) HTTPServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      s,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            serve.DefaultTimeout,
		IdleTimeout:                  keepAliveTime,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(s.logHandler(), slog.LevelDebug),
		ConnContext:                  connContext,
		Protocols:                    &protocols,
	}
}

type connKey struct{}

// connContext is the ConnContext of HTTPServer.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	inner, _ := bare(conn)
	return context.WithValue(serve.ConnContext(ctx, conn), connKey{}, inner)
}

// connOf returns the connection of a request, bare; nil if it is not known.
func connOf(r *http.Request) net.Conn {
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	return conn
}

// ServeHTTP serves one request. Before a client is authorised it gets one
// answer, after which its connection ends: so nobody stays for longer than a
// handshake may take.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 {
		refuse(w, r, http.StatusHTTPVersionNotSupported, "this proxy speaks HTTP/1.1")
		return
	}
	if r.Method != http.MethodConnect && !r.URL.IsAbs() {
		servePage(w, r)
		return
	}
	who, err := s.login(r)
	if err != nil {
		s.refused(r, err)
		demandLogin(w, r)
		return
	}
	serve.Established(r.Context())
	if r.Method == http.MethodConnect {
		s.connect(w, r, who)
	} else {
		s.forward(w, r, who)
	}
}

// request returns the call's request. An error is the client's fault if it is
// an [*net.AddrError], and else the answer of [StatusFor].
func (s *Server) request(r *http.Request, who identity) (argyle.Request, error) {
	req := argyle.Request{
		Command: argyle.Connect,
		User:    who.user,
		Auth:    who.auth,
		Inbound: serve.Inbound(r.Context()),
		Client:  clientAddr(r),
	}
	var err error
	if r.Method == http.MethodConnect {
		req.Dest, err = authorityDest(r.URL)
	} else {
		req.Dest, err = urlDest(r.URL)
	}
	if err == nil && (req.Dest.Port == 0 || req.Dest.IP.IsValid() && req.Dest.IP.IsUnspecified()) {
		err = argyle.ErrNotAllowed // the system would take 0.0.0.0 for loopback
	}
	return req, err
}

// clientAddr returns the client's address; it is not valid on a unix socket.
func clientAddr(r *http.Request) netip.AddrPort {
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	return argyle.AddrFrom(client).AddrPort()
}

// authorityDest reads the target of a CONNECT, which is nothing but
// "host:port" (RFC 9112, section 3.2.3).
func authorityDest(u *url.URL) (argyle.Addr, error) {
	if u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery {
		return argyle.Addr{}, &net.AddrError{Err: "not host:port", Addr: u.Host}
	}
	return argyle.ParseAddr(u.Host)
}

// urlDest returns the host and port of an http:// URL.
func urlDest(u *url.URL) (argyle.Addr, error) {
	if u.Host == "" {
		return argyle.Addr{}, &net.AddrError{Err: "no host in the URL", Addr: u.Redacted()}
	}
	port := uint64(80)
	if text := u.Port(); text != "" {
		var err error
		if port, err = strconv.ParseUint(text, 10, 16); err != nil {
			return argyle.Addr{}, &net.AddrError{Err: "port is not a number from 0 to 65535", Addr: u.Host}
		}
	}
	return argyle.ParseHost(u.Hostname(), uint16(port))
}

// badTarget answers a request whose target is no destination.
func (s *Server) badTarget(w http.ResponseWriter, r *http.Request, err error) {
	s.debug("request refused", "client", r.RemoteAddr, "err", err)
	var syntax *net.AddrError
	if errors.As(err, &syntax) {
		refuse(w, r, http.StatusBadRequest, syntax.Err)
		return
	}
	status, reason := outcomeOf(err)
	refuse(w, r, status, reason)
}

var errNotAnswered = errors.New("call was not answered")

func (s *Server) logHandler() slog.Handler {
	if s.Log == nil {
		return slog.DiscardHandler
	}
	return s.Log.Handler()
}

// refused tells of a login that failed, for operators and for programs that
// ban addresses.
func (s *Server) refused(r *http.Request, err error) {
	switch {
	case s.Log == nil:
	case errors.Is(err, errNoLogin): // browsers ask first whether they must
		s.Log.Debug("login wanted", "client", r.RemoteAddr)
	default:
		s.Log.Warn("login refused", "client", r.RemoteAddr, "err", err)
	}
}

func (s *Server) debug(msg string, args ...any) {
	if s.Log != nil {
		s.Log.Debug(msg, args...)
	}
}
