package socks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks/wire"
)

// A SecurityContext is one end of a security context of the GSS-API, as a
// mechanism makes it; package krb5 has that of Kerberos.
type SecurityContext interface {
	// Step takes the other side's token, nil for the first step of the side
	// that begins, and returns the token for it, empty if it needs none. It
	// reports done when the context is established (RFC 2743, sections
	// 2.2.1 and 2.2.2).
	Step(token []byte) (reply []byte, done bool, err error)

	// Peer returns the name of the other side.
	Peer() string

	// Wrap appends a token to dst that protects the integrity of msg, and
	// if conf is true its confidentiality (section 2.3.3). It may be called
	// by several goroutines.
	Wrap(dst, msg []byte, conf bool) ([]byte, error)

	// Unwrap returns the message in a token, whose memory it may use, and
	// whether it was confidential (section 2.3.4). With ordered, a token
	// that is not the one after the last is an error; otherwise only one
	// that came before. It may be called by several goroutines.
	Unwrap(token []byte, ordered bool) (msg []byte, conf bool, err error)
}

// GSSAPI is the method 1: GSS-API (RFC 1961). Where client and server agree on
// protection, what follows on the connection is encapsulated, and so are the
// datagrams of an association.
type GSSAPI struct {
	// Accept begins a context with a client. It is required.
	Accept func() SecurityContext

	// Identify, if not nil, says who the client of an established context
	// is, or that it is nobody who may use the server. Otherwise the user is
	// the context's Peer.
	Identify func(ctx context.Context, sec SecurityContext) (Identity, error)

	// Level is the least protection. A client that asks for less is refused;
	// one that asks for more gets it.
	Level wire.ProtectionLevel

	// ClearOnly answers every client with [wire.Clear], whatever it asked
	// for. curl asks for confidentiality and can take no other answer.
	ClearOnly bool

	// NEC lets clients send the level as a bare byte, which then is answered
	// in the same way, as NEC's implementation has it. Nothing keeps others
	// from changing it on its way.
	NEC bool
}

// Method returns [wire.GSSAPI].
func (GSSAPI) Method() wire.Method { return wire.GSSAPI }

// Authenticate establishes the context and agrees on the protection level. A
// client that is refused gets the message of RFC 1961, section 3.6.
func (g GSSAPI) Authenticate(ctx context.Context, conn net.Conn) (Identity, error) {
	identity, err := g.authenticate(ctx, conn)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.Join(err, send(conn, wire.TokenHeader{Type: wire.Abort}))
	}
	return identity, err
}

func (g GSSAPI) authenticate(ctx context.Context, conn net.Conn) (Identity, error) {
	sec := g.Accept()
	identity, err := g.accept(ctx, conn, sec)
	if err != nil {
		return Identity{}, err
	}
	level, err := g.agree(conn, sec)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %s: %w", ErrLogin, sec.Peer(), err)
	}
	if level != wire.Clear {
		identity.Conn = newProtectedConn(conn, &protection{sec, level})
	}
	return identity, nil
}

// accept establishes the context (RFC 1961, sections 3.1 to 3.6). A client that
// is not let in does not get the last token.
func (g GSSAPI) accept(ctx context.Context, conn net.Conn, sec SecurityContext) (identity Identity, err error) {
	for done := false; !done; {
		token, err := readToken(conn, wire.ContextToken)
		if err != nil {
			return Identity{}, fmt.Errorf("read token: %w", err)
		}
		var reply []byte
		if reply, done, err = sec.Step(token); err != nil {
			return Identity{}, fmt.Errorf("%w: %w", ErrLogin, err)
		}
		if done {
			if identity, err = g.identify(ctx, sec); err != nil {
				return Identity{}, fmt.Errorf("%w: %s: %w", ErrLogin, sec.Peer(), err)
			}
		}
		// A message is sent even if there is nothing to say, since the
		// client waits for it.
		if err := sendToken(conn, wire.ContextToken, reply); err != nil {
			return Identity{}, fmt.Errorf("write token: %w", err)
		}
	}
	return identity, nil
}

// identify says who the client is.
func (g GSSAPI) identify(ctx context.Context, sec SecurityContext) (identity Identity, err error) {
	identity.User = sec.Peer()
	if g.Identify != nil {
		identity, err = g.Identify(ctx, sec)
	}
	identity.Auth = argyle.AuthGSSAPI
	return identity, err
}

// agree reads the level that the client asks for and answers with the one that
// holds (section 4).
func (g GSSAPI) agree(conn net.Conn, sec SecurityContext) (wire.ProtectionLevel, error) {
	token, err := readToken(conn, wire.LevelToken)
	if err != nil {
		return 0, fmt.Errorf("read protection level: %w", err)
	}
	bare := g.NEC && len(token) == 1
	asked := token
	if !bare {
		if asked, _, err = sec.Unwrap(token, true); err != nil {
			return 0, fmt.Errorf("protection level: %w", err)
		}
	}
	if len(asked) != 1 {
		return 0, fmt.Errorf("protection level of %d bytes, want 1", len(asked))
	}
	level, err := g.level(wire.ProtectionLevel(asked[0]))
	if err != nil {
		return 0, err
	}
	answer := []byte{byte(level)}
	if !bare {
		if answer, err = sec.Wrap(nil, answer, false); err != nil {
			return 0, err
		}
	}
	return level, sendToken(conn, wire.LevelToken, answer)
}

// level returns the level for a client that asks for one.
func (g GSSAPI) level(asked wire.ProtectionLevel) (wire.ProtectionLevel, error) {
	switch {
	case asked > wire.Selective:
		return 0, fmt.Errorf("the client asks for the unknown protection level %d", asked)
	case asked < g.Level:
		return 0, fmt.Errorf("the client asks for the protection level %v, and %v is demanded", asked, g.Level)
	case g.ClearOnly:
		return wire.Clear, nil
	}
	return min(asked, wire.Confidentiality), nil
}

// GSSAPIClient is the client's side of the method 1: GSS-API (RFC 1961).
type GSSAPIClient struct {
	// Initiate begins a context with a service on a host. It is required.
	Initiate func(ctx context.Context, service, host string) (SecurityContext, error)

	// Service is the service's name; "" is rcmd (section 3). With a host
	// after a slash, as rcmd/gw.example.com, the server's own does not count.
	Service string

	// Level is the protection that is asked for; a server that answers with
	// less is not used. The zero value is [wire.Clear]: who the client is
	// is proved, and then everything travels bare.
	Level wire.ProtectionLevel

	// NEC sends and expects the level as a bare byte, for servers that are
	// as NEC's implementation.
	NEC bool
}

// initiate begins a context with the service at addr.
func (g *GSSAPIClient) initiate(ctx context.Context, addr string) (SecurityContext, error) {
	service := g.Service
	if service == "" {
		service = "rcmd"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = "localhost" // behind a unix socket
	}
	return g.Initiate(ctx, service, host)
}

// authenticate speaks with the server once it has chosen the method. It returns
// the connection for what follows.
func (g *GSSAPIClient) authenticate(conn net.Conn, sec SecurityContext) (net.Conn, error) {
	if err := initiate(conn, sec); err != nil {
		return nil, err
	}
	level, err := g.negotiate(conn, sec)
	if err != nil {
		return nil, err
	}
	if level == wire.Clear {
		return conn, nil
	}
	return newProtectedConn(conn, &protection{sec, level}), nil
}

// initiate establishes the context.
func initiate(conn net.Conn, sec SecurityContext) error {
	token, done, err := sec.Step(nil)
	for err == nil {
		if len(token) > 0 || !done {
			if err := sendToken(conn, wire.ContextToken, token); err != nil {
				return fmt.Errorf("write token: %w", err)
			}
		}
		if done {
			return nil
		}
		var reply []byte
		if reply, err = readToken(conn, wire.ContextToken); err != nil {
			if errors.Is(err, errAborted) {
				return fmt.Errorf("%w: %w", ErrLogin, err)
			}
			return fmt.Errorf("read token: %w", err)
		}
		token, done, err = sec.Step(reply)
	}
	return fmt.Errorf("%w: %w", ErrLogin, err)
}

// negotiate asks for the level and returns the one that holds.
func (g *GSSAPIClient) negotiate(conn net.Conn, sec SecurityContext) (wire.ProtectionLevel, error) {
	token := []byte{byte(g.Level)}
	if !g.NEC {
		var err error
		if token, err = sec.Wrap(nil, token, false); err != nil {
			return 0, err
		}
	}
	if err := sendToken(conn, wire.LevelToken, token); err != nil {
		return 0, fmt.Errorf("write protection level: %w", err)
	}
	answer, err := readToken(conn, wire.LevelToken)
	if errors.Is(err, errAborted) {
		return 0, fmt.Errorf("%w: the server does not grant the protection level %v", ErrLogin, g.Level)
	}
	if err != nil {
		return 0, fmt.Errorf("read protection level: %w", err)
	}
	if !g.NEC {
		if answer, _, err = sec.Unwrap(answer, true); err != nil {
			return 0, fmt.Errorf("protection level: %w", err)
		}
	}
	if len(answer) != 1 || answer[0] > byte(wire.Confidentiality) {
		return 0, fmt.Errorf("the server answers with the protection level % x, want 0, 1 or 2", answer)
	}
	level := wire.ProtectionLevel(answer[0])
	if level < g.Level {
		return 0, fmt.Errorf("%w: the server grants the protection level %v, %v was asked for", ErrLogin, level, g.Level)
	}
	return level, nil
}

// errAborted is the other side's refusal.
var errAborted = errors.New("the other side has refused the GSS-API context; its log may say why")

// readToken reads a message, which must be of that type.
func readToken(conn net.Conn, want wire.TokenType) ([]byte, error) {
	h, _, err := read(conn, nil, wire.ParseTokenHeader)
	switch {
	case err != nil:
		return nil, err
	case h.Type == wire.Abort:
		return nil, errAborted
	case h.Type != want:
		return nil, fmt.Errorf("GSS-API message of type %d, want %d", h.Type, want)
	}
	// What a token only claims to have gets no memory.
	token, err := io.ReadAll(io.LimitReader(conn, int64(h.Len)))
	if err == nil && len(token) < h.Len {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

// sendToken writes a message in one piece.
func sendToken(conn net.Conn, kind wire.TokenType, token []byte) error {
	b, err := wire.TokenHeader{Type: kind, Len: len(token)}.Append(make([]byte, 0, tokenHeader+len(token)))
	if err != nil {
		return err
	}
	_, err = conn.Write(append(b, token...))
	return err
}
