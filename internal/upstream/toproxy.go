package upstream

import (
	"context"
	"net"

	"github.com/argyle-socks/argyle"
)

// toProxy is the way to a proxy. What goes by it is on its way to the proxy, and
// not to where a request wants to go: rules about destinations have no say in it.
type toProxy struct{ argyle.Dialer }

type toProxyKey struct{}

// ToProxy reports whether what is being dialled is a proxy in a chain, and not
// the destination of the request in ctx. An [AddrCheck] may want to know.
func ToProxy(ctx context.Context) bool { return ctx.Value(toProxyKey{}) != nil }

func (*toProxy) on(ctx context.Context) context.Context {
	return context.WithValue(ctx, toProxyKey{}, true)
}

// String returns what the way calls itself.
func (d *toProxy) String() string { return nameOf(d.Dialer) }

// DialContext connects to the proxy.
func (d *toProxy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.Dialer.DialContext(d.on(ctx), network, address)
}

// Listen is for what a proxy sends on.
func (d *toProxy) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	return d.Dialer.Listen(d.on(ctx), network, peer)
}

// ListenPacket opens a socket for datagrams to the proxy.
func (d *toProxy) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return d.Dialer.ListenPacket(d.on(ctx), network, address)
}

// Close closes what the way keeps open; see [Close].
func (d *toProxy) Close() error { return Close(d.Dialer) }
