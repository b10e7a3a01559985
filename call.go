package argyle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Command is what a client asks for, with the values of CMD in RFC 1928, section 4.
type Command byte

// The commands of SOCKS. SOCKS 4 has the first two.
const (
	Connect   Command = 1
	Bind      Command = 2
	Associate Command = 3
)

// String returns the command's name in lower case, as rules and logs write it.
func (c Command) String() string {
	switch c {
	case Connect:
		return "connect"
	case Bind:
		return "bind"
	case Associate:
		return "udp"
	}
	return fmt.Sprintf("command %#02x", byte(c))
}

// A Request is what a client asked for. It does not change after the handshake.
type Request struct {
	Command Command
	Dest    Addr           // DST.ADDR and DST.PORT
	Client  netip.AddrPort // not valid for a client on a unix socket
	User    string         // "" if the client did not authenticate
	Groups  []string       // of the user, as authentication told them; rules may know of more
	Auth    Auth           // how it did; "" if it did not
	Inbound string         // the listener's name, for rules and logs
}

// Auth is how a client made itself known.
type Auth string

// The ways in which servers know their clients.
const (
	AuthNone        Auth = ""            // not at all
	AuthPassword    Auth = "password"    // RFC 1929, or HTTP Basic
	AuthGSSAPI      Auth = "gssapi"      // RFC 1961
	AuthCertificate Auth = "certificate" // a TLS client certificate
	AuthUID         Auth = "uid"         // the owner of the other end of a unix socket
)

type requestKey struct{}

// WithRequest returns a context that carries req: a way out may choose by its
// user or its destination. The name in it is what a [Direct.Check] needs to
// know of an address.
func WithRequest(ctx context.Context, req *Request) context.Context {
	return context.WithValue(ctx, requestKey{}, req)
}

// RequestOf returns the request that ctx carries, nil if it has none.
func RequestOf(ctx context.Context) *Request {
	req, _ := ctx.Value(requestKey{}).(*Request)
	return req
}

// A Call is a Request that waits for its answer. Its handler gives one answer:
// the Accept method that belongs to the command, or Reject.
type Call interface {
	Request() *Request

	// Accept tells the client that its CONNECT has reached the destination,
	// from the address bound, and returns the connection to the client,
	// which now belongs to the caller. If it fails, the call is over and
	// the connection closed.
	Accept(bound net.Addr) (net.Conn, error)

	// AcceptBind tells the client where its peer may connect (the first
	// reply of BIND, RFC 1928, section 6), waits for the peer on ln, which
	// it closes, tells the client who came (the second reply), and returns
	// both connections. A client that goes away, or the end of ctx, ends
	// the wait. If it fails, the client has been told.
	AcceptBind(ctx context.Context, ln net.Listener) (client, peer net.Conn, err error)

	// AcceptPacket answers a UDP ASSOCIATE. The addresses of the returned
	// connection are destinations as the client names them ([Addr]): it
	// reads what the client sends, and writes with the true source. Its
	// reads end with the association.
	AcceptPacket() (net.PacketConn, error)

	// Reject refuses the call in the protocol's own words: a REP code, an
	// HTTP status, a reset.
	Reject(reason error)
}

// A Handler answers calls. ServeCall may return while the session that it
// began goes on: what Accept returned belongs to the handler. A call that was
// neither accepted nor rejected on return is rejected.
type Handler interface {
	ServeCall(ctx context.Context, call Call)
}

// HandlerFunc is a function as a [Handler].
type HandlerFunc func(ctx context.Context, call Call)

// ServeCall calls f.
func (f HandlerFunc) ServeCall(ctx context.Context, call Call) { f(ctx, call) }

// ConnectOnly is embedded in a [Call] whose protocol has neither BIND nor
// UDP ASSOCIATE.
type ConnectOnly struct{}

// AcceptBind returns [errors.ErrUnsupported].
func (ConnectOnly) AcceptBind(context.Context, net.Listener) (client, peer net.Conn, err error) {
	return nil, nil, errors.ErrUnsupported
}

// AcceptPacket returns [errors.ErrUnsupported].
func (ConnectOnly) AcceptPacket() (net.PacketConn, error) { return nil, errors.ErrUnsupported }
