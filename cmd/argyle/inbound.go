package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/proxyproto"
	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/internal/users"
	"github.com/argyle-socks/argyle/socks"
)

// inbound is one of the ways in: what the configuration calls a listener.
type inbound struct {
	spec  atomic.Pointer[config.Listener]
	lns   []net.Listener // several if systemd passes several under one name
	serve serve.Server
	front atomic.Pointer[front]
	done  sync.WaitGroup
}

// front is how an inbound serves its clients. A reload puts another in its
// place, for those who come then.
type front struct {
	socks     *socks.Server
	http      *httpconnect.Server
	tls       *tlsFiles // nil without TLS
	trusted   []netip.Prefix
	handshake time.Duration // 0 is the default
}

// openInbound opens the listeners of spec. control is what is done to a socket
// of TCP before it is bound, as in [net.ListenConfig]; it may be nil.
func openInbound(spec config.Listener, control controlFunc) (*inbound, error) {
	lns, err := listen(spec, control)
	if err != nil {
		return nil, err
	}
	in := &inbound{}
	in.spec.Store(&spec)
	for _, ln := range lns {
		in.lns = append(in.lns, &namedListener{event.Listen(ln), in})
	}
	return in, nil
}

// set makes spec hold, which has the same address.
func (in *inbound) set(spec config.Listener) {
	if path, ok := strings.CutPrefix(spec.Address, "unix:"); ok && spec.Mode != 0 && spec.Mode != in.spec.Load().Mode {
		_ = os.Chmod(path, os.FileMode(spec.Mode)) // it was ours to make
	}
	in.spec.Store(&spec)
}

// Name is what rules and logs call the listener: its name, or its address as it
// is written.
func (in *inbound) Name() string {
	spec := in.spec.Load()
	return cmp.Or(spec.Name, spec.Address)
}

// namedListener is a listener that rules and logs know by a name, which
// internal/serve asks for.
type namedListener struct {
	net.Listener
	*inbound
}

// NetListener returns the listener inside.
func (l *namedListener) NetListener() net.Listener { return l.Listener }

// start begins to serve. What ends it other than close goes to failed.
func (in *inbound) start(s *service, failed chan<- error) {
	in.serve.Handle = in.handle
	in.serve.Log = s.log
	for _, ln := range in.lns {
		s.log.Info("listening", "address", ln.Addr().String())
		in.done.Go(func() {
			if err := in.serve.Serve(ln); !errors.Is(err, serve.ErrServerClosed) {
				failed <- err
			}
		})
	}
}

// close stops listening; handshakes under way are let through.
func (in *inbound) close() {
	for _, ln := range in.lns {
		ln.Close()
	}
}

// handle serves one connection.
func (in *inbound) handle(ctx context.Context, conn net.Conn) {
	f := in.front.Load()
	if f.handshake != 0 {
		serve.Limit(ctx, f.handshake)
	}
	if len(f.trusted) > 0 {
		conn = proxyproto.Accept(conn, f.trusted)
	}
	f.socks.ServeConn(ctx, conn)
}

// newFront makes what serves the clients of spec.
func (s *service) newFront(set *setup, spec config.Listener) *front {
	methods := set.methods(spec)
	f := &front{tls: set.tls, handshake: time.Duration(set.file.Timeouts.Handshake)}
	for _, n := range spec.ProxyProtocol {
		f.trusted = append(f.trusted, n.Prefix())
	}
	known := connUser(methods)
	login := set.login(methods)
	open := slices.Contains(methods, config.AuthNone)
	f.socks = &socks.Server{
		Handler:          s.proxy,
		ConnUser:         known,
		Other:            func(ctx context.Context, conn net.Conn) { s.other(ctx, f, conn) },
		HandshakeTimeout: f.handshake,
		Log:              s.log,
	}
	f.socks.Authenticators = set.authenticators(methods, login)
	f.http = &httpconnect.Server{Handler: s.proxy, Login: login, LoginOptional: open, ConnUser: known, Log: s.log}
	return f
}

// authenticators are the methods of SOCKS 5 for a listener, the strongest
// first; none if nobody needs one.
func (set *setup) authenticators(methods []config.Auth, login loginFunc) (all []socks.Authenticator) {
	if slices.Contains(methods, config.AuthGSSAPI) && set.gssapi != nil {
		all = append(all, set.gssapi)
	}
	if login != nil && (slices.Contains(methods, config.AuthPassword) || len(all) == 0) {
		all = append(all, socks.Password{Verify: login, Prompt: true})
	}
	if len(all) > 0 && slices.Contains(methods, config.AuthNone) {
		all = append(all, socks.NoAuth{})
	}
	return all
}

// loginFunc verifies passwords.
type loginFunc = func(ctx context.Context, client netip.Addr, user, password string) error

// methods are the ways in which clients of a listener may make themselves known.
func (set *setup) methods(spec config.Listener) (all []config.Auth) {
	if len(spec.Auth) > 0 {
		return spec.Auth
	}
	if set.gssapi != nil {
		all = append(all, config.AuthGSSAPI)
	}
	if set.gate != nil {
		all = append(all, config.AuthPassword)
	}
	if set.tls != nil && set.tls.clientCA != "" {
		all = append(all, config.AuthCertificate)
	}
	if len(all) == 0 {
		all = append(all, config.AuthNone)
	}
	return all
}

// letsAnybodyIn reports whether a listener asks nobody who he is.
func (set *setup) letsAnybodyIn(spec config.Listener) bool {
	return slices.Contains(set.methods(spec), config.AuthNone)
}

// login returns what verifies passwords; nil if nobody needs one.
func (set *setup) login(methods []config.Auth) loginFunc {
	switch {
	case slices.Contains(methods, config.AuthPassword) && set.gate != nil:
		return set.gate.Login
	case slices.Contains(methods, config.AuthNone):
		return nil
	}
	// Who is not known by the connection stays outside.
	return func(context.Context, netip.Addr, string, string) error { return users.ErrDenied }
}

// connUser returns what knows clients by their connection.
func connUser(methods []config.Auth) func(net.Conn) (string, argyle.Auth) {
	return func(conn net.Conn) (string, argyle.Auth) {
		if slices.Contains(methods, config.AuthCertificate) {
			if user := certUser(conn); user != "" {
				return user, argyle.AuthCertificate
			}
		}
		if slices.Contains(methods, config.AuthUID) {
			if user := uidUser(conn); user != "" {
				return user, argyle.AuthUID
			}
		}
		return "", argyle.AuthNone
	}
}

// other serves a connection that does not begin as SOCKS does.
func (s *service) other(ctx context.Context, f *front, conn net.Conn) {
	first := firstByte(conn)
	switch {
	case first == tlsRecord && f.tls != nil && !isTLS(conn):
		s.serveTLS(ctx, f, conn)
	case first >= 'A' && first <= 'Z':
		s.feed.Put(ctx, conn)
	default:
		conn.Close()
	}
}

// ServeHTTP gives a request to the front of the listener that it came by.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in := s.inbound(serve.Inbound(r.Context()))
	if in == nil {
		// A reload has closed the listener since.
		w.Header().Set("Connection", "close")
		http.Error(w, "this listener is closed", http.StatusServiceUnavailable)
		return
	}
	in.front.Load().http.ServeHTTP(w, r)
}

// firstByte returns the first byte that a connection has to be read from it, 0
// if it is not known.
func firstByte(conn net.Conn) byte {
	if u, ok := conn.(interface{ Unwrap() (net.Conn, []byte) }); ok {
		if _, unread := u.Unwrap(); len(unread) > 0 {
			return unread[0]
		}
	}
	return 0
}

// serveTLS takes a connection out of TLS and serves what is inside.
func (s *service) serveTLS(ctx context.Context, f *front, conn net.Conn) {
	inside := tls.Server(conn, f.tls.config.Load())
	if err := inside.HandshakeContext(ctx); err != nil {
		s.log.Debug("TLS handshake failed", "client", conn.RemoteAddr().String(), "err", err)
		conn.Close()
		return
	}
	f.socks.ServeConn(ctx, inside)
}
