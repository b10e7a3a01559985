package socks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/socks/wire"
)

// An Authenticator is the server's side of one METHOD of RFC 1928, section 3.
type Authenticator interface {
	Method() wire.Method

	// Authenticate speaks with a client for which the method was selected.
	// It tells the client the outcome itself, as the method's RFC asks; on
	// an error the connection is ended.
	Authenticate(ctx context.Context, conn net.Conn) (Identity, error)
}

// Identity is what authentication leaves behind.
type Identity struct {
	User   string      // "" for nobody in particular
	Groups []string    // that the user is in, as the method knows them
	Auth   argyle.Auth // how the client made itself known
	Conn   net.Conn    // for the rest of the session; nil for the same as before
}

// NoAuth is the method 0: no authentication.
type NoAuth struct{}

// Method returns [wire.NoAuth].
func (NoAuth) Method() wire.Method { return wire.NoAuth }

// DetachesItself says that it may run in an event loop.
func (NoAuth) DetachesItself() {}

// Authenticate lets the client pass, nameless.
func (NoAuth) Authenticate(context.Context, net.Conn) (Identity, error) { return Identity{}, nil }

// Password is the method 2: username and password (RFC 1929).
type Password struct {
	// Verify returns an error if the password is not the user's. To give
	// nothing away, it should take as long for a user that does not exist.
	// client is not valid for a connection without an IP address. If
	// Verify is nil, every password passes and the client stays nameless.
	Verify func(ctx context.Context, client netip.Addr, user, password string) error

	// Prompt says that Verify waits for nothing and does not take long, so
	// that it needs no goroutine of its own.
	Prompt bool
}

// ErrLogin is in the error of a login that was refused.
var ErrLogin = errors.New("login refused")

// loginError is the error of a login that did not get as far as the proxy. What
// it is made of, such as a refused connection to a KDC, is hidden: it would be
// taken for what became of the destination.
type loginError struct{ err error }

func (e *loginError) Error() string { return e.err.Error() }

// Is reports whether target is ErrLogin, or why we gave up.
func (e *loginError) Is(target error) bool {
	return target == ErrLogin ||
		(target == context.Canceled || target == context.DeadlineExceeded) && errors.Is(e.err, target)
}

// Method returns [wire.UserPass].
func (Password) Method() wire.Method { return wire.UserPass }

// DetachesItself says that it may run in an event loop.
func (Password) DetachesItself() {}

// Authenticate reads user name and password and answers with STATUS 0 or 1.
func (p Password) Authenticate(ctx context.Context, conn net.Conn) (Identity, error) {
	login, _, err := read(conn, nil, wire.ParseLogin)
	if err != nil {
		return Identity{}, fmt.Errorf("read password: %w", err)
	}
	if p.Verify == nil {
		return Identity{}, send(conn, wire.LoginStatus{})
	}
	client := argyle.AddrOf(conn.RemoteAddr()).IP
	if !p.Prompt {
		event.Detach(ctx)
	}
	if err := p.Verify(ctx, client, login.User, login.Password); err != nil {
		refusal := send(conn, wire.LoginStatus{Status: 1})
		return Identity{}, errors.Join(fmt.Errorf("%w: user %q: %w", ErrLogin, login.User, err), refusal)
	}
	return Identity{User: login.User, Auth: argyle.AuthPassword}, send(conn, wire.LoginStatus{})
}

// pretendLogin answers a login that nobody asked for, as Tor does, and
// believes nothing of it. It returns what of b comes after the login.
func pretendLogin(conn net.Conn, b []byte) (rest []byte, err error) {
	if _, b, err = read(conn, b, wire.ParseLogin); err != nil {
		return nil, err
	}
	_, n, _ := wire.ParseLogin(b) // read has just parsed it
	return b[n:], send(conn, wire.LoginStatus{})
}
