package argyle

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// ErrNotAllowed is returned for what the rules forbid: by a policy, by
// [Direct.Check], and (through errors.Is) by an upstream proxy that says so.
var ErrNotAllowed = errors.New("not allowed by the rules")

// A Dialer is a way out. What it cannot do returns an error that is
// [errors.ErrUnsupported]. A context bounds a method, not what it returned.
// Dialers must be comparable; pointers are.
type Dialer interface {
	// DialContext connects to address, "host:port", over network "tcp",
	// "tcp4" or "tcp6".
	DialContext(ctx context.Context, network, address string) (net.Conn, error)

	// Listen waits for one connection from peer, "host:port": the BIND of
	// RFC 1928, section 6. An unspecified host stands for anybody. The
	// listener's Addr is where the peer may connect; the first Accept
	// returns the peer, whose address is that connection's RemoteAddr.
	Listen(ctx context.Context, network, peer string) (net.Listener, error)

	// ListenPacket opens a socket for datagrams to any destination. address
	// is the local address, or "" for any. Datagrams are addressed with
	// [Addr] or [*net.UDPAddr].
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}

// A Resolver looks up the addresses of a name, as [*net.Resolver] does. network
// is "ip", "ip4" or "ip6".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// StreamOnly is embedded in a [Dialer] that can only connect.
type StreamOnly struct{}

// Listen returns [errors.ErrUnsupported].
func (StreamOnly) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

// ListenPacket returns [errors.ErrUnsupported].
func (StreamOnly) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}
