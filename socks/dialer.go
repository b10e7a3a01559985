package socks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

// A Dialer goes out through a SOCKS server. It is an [argyle.Dialer], and a
// Dialer and ContextDialer of golang.org/x/net/proxy; its DialContext fits
// http.Transport. Chains are made by nesting, with Forward.
//
// A reply that refuses is an error that [errors.Is] finds as the [wire.Reply]
// and as what it stands for, such as [syscall.ECONNREFUSED].
type Dialer struct {
	// Addr is the server's "host:port", or "unix:/path".
	Addr string

	// Forward is the way to the server; nil is [argyle.Direct].
	Forward argyle.Dialer

	// Version is 5 or 4. 0 stands for 5. With 4, names go as SOCKS 4a.
	Version int

	// User and Password are offered to a SOCKS 5 server that wants them
	// (RFC 1929) if one of them is set. User is the USERID of SOCKS 4.
	User, Password string

	// GSSAPI, if not nil, is the one method that a SOCKS 5 server is offered
	// (RFC 1961): none that proves less is taken in its place.
	GSSAPI *GSSAPIClient

	// ResolveNames makes the Dialer look names up by itself, as SOCKS 4
	// without a and curl's socks5:// do. Otherwise the server does, and it
	// always does so for datagrams.
	ResolveNames bool

	// Check, if not nil, is asked about every address that ResolveNames
	// finds, as [argyle.Direct.Check] is; those that it refuses are not used.
	Check func(ctx context.Context, network string, addr netip.AddrPort) error

	// Resolver is used with ResolveNames; nil is [net.DefaultResolver].
	Resolver argyle.Resolver

	// TLS, if not nil, wraps the connection to the server. The datagrams of
	// an association travel outside it, in clear.
	TLS *tls.Config
}

var _ argyle.Dialer = (*Dialer)(nil)

// String returns the server as a URL, without the password.
func (d *Dialer) String() string {
	scheme := "socks5"
	if d.Version == 4 {
		scheme = "socks4"
	}
	switch {
	case d.ResolveNames:
	case d.Version == 4:
		scheme += "a"
	default:
		scheme += "h"
	}
	if d.TLS != nil {
		scheme += "+tls"
	}
	return scheme + "://" + d.Addr
}

// Dial is DialContext without a context.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to address, "host:port", by CONNECT. The context
// bounds everything until the server's reply has been read, and nothing after.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, _, err := d.command(ctx, argyle.Connect, network, address)
	if err != nil {
		return nil, d.opError("dial", network, address, err)
	}
	return conn, nil
}

// opError makes every error that a Dialer returns.
func (d *Dialer) opError(op, network, address string, err error) error {
	dest, _ := argyle.ParseAddr(address)
	return &net.OpError{Op: op, Net: network, Addr: dest, Err: &throughError{d.String(), err}}
}

// throughError says which server an error came through. It has the Timeout
// that [net.OpError] looks for.
type throughError struct {
	server string
	err    error
}

func (e *throughError) Error() string { return "through " + e.server + ": " + e.err.Error() }
func (e *throughError) Unwrap() error { return e.err }
func (e *throughError) Timeout() bool { return timedOut(e.err) }

// command connects to the server and sends it a request. The connection that
// it returns has nothing read beyond the reply.
func (d *Dialer) command(ctx context.Context, cmd argyle.Command, network, address string) (net.Conn, argyle.Addr, error) {
	dest, err := d.dest(ctx, cmd, network, address)
	if err != nil {
		return nil, argyle.Addr{}, err
	}
	// The ticket first: a server that waits for it would lose patience.
	var sec SecurityContext
	if d.GSSAPI != nil {
		if sec, err = d.GSSAPI.initiate(ctx, d.Addr); err != nil {
			err = &loginError{err}
			return nil, argyle.Addr{}, err
		}
	}
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, argyle.Addr{}, err
	}
	var session net.Conn
	var bound argyle.Addr
	err = interruptible(ctx, conn, func() error {
		if t, ok := conn.(*tls.Conn); ok {
			if err := t.HandshakeContext(ctx); err != nil {
				return fmt.Errorf("TLS handshake: %w", err)
			}
		}
		var err error
		session, bound, err = d.handshake(conn, sec, cmd, dest)
		return err
	})
	if err != nil {
		conn.Close()
		return nil, argyle.Addr{}, err
	}
	return session, bound, nil
}

// connect reaches the server.
func (d *Dialer) connect(ctx context.Context) (conn net.Conn, err error) {
	path, unix := strings.CutPrefix(d.Addr, "unix:")
	switch {
	case unix && d.isDirect():
		conn, err = new(net.Dialer).DialContext(ctx, "unix", path)
	case unix:
		return nil, errors.New("a unix socket cannot be reached through another proxy")
	default:
		conn, err = d.forward().DialContext(ctx, "tcp", d.Addr)
	}
	if err != nil {
		return nil, err
	}
	if d.TLS != nil {
		return tls.Client(conn, d.tlsConfig()), nil
	}
	return conn, nil
}

// isDirect reports whether nothing stands between us and the server.
func (d *Dialer) isDirect() bool {
	_, direct := d.forward().(*argyle.Direct)
	return direct
}

func (d *Dialer) forward() argyle.Dialer {
	if d.Forward == nil {
		return &argyle.Direct{}
	}
	return d.Forward
}

// tlsConfig returns TLS with the name to be verified.
func (d *Dialer) tlsConfig() *tls.Config {
	if d.TLS.ServerName != "" || d.TLS.InsecureSkipVerify {
		return d.TLS
	}
	config := d.TLS.Clone()
	config.ServerName, _, _ = net.SplitHostPort(d.Addr)
	return config
}

// dest returns what the request asks for: an address, or a name for the server
// to look up.
func (d *Dialer) dest(ctx context.Context, cmd argyle.Command, network, address string) (argyle.Addr, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return argyle.Addr{}, net.UnknownNetworkError(network)
	}
	if cmd == argyle.Associate {
		// Where our datagrams will come from is not known behind a NAT.
		return argyle.Addr{IP: netip.IPv4Unspecified()}, nil
	}
	dest, err := argyle.ParseAddr(address)
	if err != nil || dest.Name == "" || !d.ResolveNames {
		return dest, err
	}
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	family := "ip"
	switch {
	case d.Version == 4 || network == "tcp4":
		family = "ip4"
	case network == "tcp6":
		family = "ip6"
	}
	ips, err := resolver.LookupNetIP(ctx, family, dest.Name)
	if err != nil {
		return dest, err
	}
	for _, ip := range ips {
		dest = argyle.Addr{IP: ip.Unmap(), Port: dest.Port}
		if d.Check == nil {
			return dest, nil
		}
		if err = d.Check(ctx, network, dest.AddrPort()); err == nil {
			return dest, nil
		}
	}
	return dest, err
}

// interruptible runs f, whose reads and writes on conn fail when ctx ends;
// then the error is that of ctx. Afterwards ctx has no power over conn.
func interruptible(ctx context.Context, conn net.Conn, f func() error) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	err := f()
	if !stop() {
		<-interrupted
		return ctx.Err()
	}
	return err
}

// handshake speaks with the server and returns the connection for what follows,
// and BND.ADDR and BND.PORT.
func (d *Dialer) handshake(conn net.Conn, sec SecurityContext, cmd argyle.Command, dest argyle.Addr) (net.Conn, argyle.Addr, error) {
	switch {
	case d.Version == 4 && sec == nil:
		bound, err := d.handshake4(conn, cmd, dest)
		return conn, bound, err
	case d.Version == 4:
		return nil, argyle.Addr{}, errors.New("SOCKS 4 has no GSS-API")
	case d.Version == 0, d.Version == 5:
		conn, err := d.authenticate(conn, sec)
		if err != nil {
			return nil, argyle.Addr{}, err
		}
		if err := send(conn, wire.Request{Command: cmd, Dest: dest}); err != nil {
			return nil, argyle.Addr{}, opError("write request", err)
		}
		bound, err := d.reply(conn)
		return conn, bound, err
	}
	return nil, argyle.Addr{}, fmt.Errorf("SOCKS version %d is unknown", d.Version)
}

// ErrMethod is in the error of a server that takes none of the authentication
// methods that it was offered.
var ErrMethod = errors.New("no acceptable authentication method")

// authenticate agrees on a method and goes through it. It returns the
// connection for what follows.
func (d *Dialer) authenticate(conn net.Conn, sec SecurityContext) (net.Conn, error) {
	login := d.User != "" || d.Password != ""
	greeting := wire.Greeting{Methods: []wire.Method{wire.NoAuth}}
	switch {
	case sec != nil:
		greeting.Methods[0] = wire.GSSAPI
	case login:
		greeting.Methods = append(greeting.Methods, wire.UserPass)
	}
	if err := send(conn, greeting); err != nil {
		return nil, opError("write greeting", err)
	}
	selection, _, err := read(conn, nil, wire.ParseSelection)
	if err != nil {
		return nil, opError("read method", err)
	}
	switch {
	case selection.Method == wire.NoAcceptable && sec != nil:
		return nil, fmt.Errorf("%w: the server does not want GSS-API", ErrMethod)
	case selection.Method == wire.NoAcceptable && !login:
		return nil, fmt.Errorf("%w: the server may want a user name and password", ErrMethod)
	case selection.Method == wire.NoAcceptable:
		return nil, ErrMethod
	case !slices.Contains(greeting.Methods, selection.Method):
		return nil, fmt.Errorf("%w: the server chose %v, which was not offered", ErrMethod, selection.Method)
	case selection.Method == wire.GSSAPI:
		session, err := d.GSSAPI.authenticate(conn, sec)
		if err != nil {
			return nil, opError("authenticate", err)
		}
		return session, nil
	case selection.Method == wire.UserPass:
		return conn, d.login(conn)
	}
	return conn, nil
}

func (d *Dialer) login(conn net.Conn) error {
	if err := send(conn, wire.Login{User: d.User, Password: d.Password}); err != nil {
		return opError("write password", err)
	}
	status, _, err := read(conn, nil, wire.ParseLoginStatus)
	if err != nil {
		return opError("read login status", err)
	}
	if status.Status != 0 {
		return fmt.Errorf("%w: user %q", ErrLogin, d.User)
	}
	return nil
}

// reply reads one reply of SOCKS 5.
func (d *Dialer) reply(conn net.Conn) (argyle.Addr, error) {
	response, _, err := read(conn, nil, wire.ParseResponse)
	if err != nil {
		return argyle.Addr{}, opError("read reply", err)
	}
	if response.Reply != wire.Succeeded {
		return argyle.Addr{}, response.Reply
	}
	return response.Bound, nil
}

func (d *Dialer) handshake4(conn net.Conn, cmd argyle.Command, dest argyle.Addr) (argyle.Addr, error) {
	if err := send(conn, wire.Request4{Command: cmd, Dest: dest, UserID: d.User}); err != nil {
		return argyle.Addr{}, opError("write request", err)
	}
	return d.reply4(conn)
}

// reply4 reads one reply of SOCKS 4.
func (d *Dialer) reply4(conn net.Conn) (argyle.Addr, error) {
	response, _, err := read(conn, nil, wire.ParseResponse4)
	if err != nil {
		return argyle.Addr{}, opError("read reply", err)
	}
	if response.Reply != wire.Granted {
		return argyle.Addr{}, response.Reply
	}
	return response.Bound, nil
}

// nextReply reads a further reply, of BIND, of the version in use.
func (d *Dialer) nextReply(conn net.Conn) (argyle.Addr, error) {
	if d.Version == 4 {
		return d.reply4(conn)
	}
	return d.reply(conn)
}
