package proxyproto

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/argyle-socks/argyle"
)

// A Dialer begins every connection of another one with a PROXY header that
// tells of the client. BIND and UDP are as they were.
type Dialer struct {
	argyle.Dialer

	// Version is that of the header: 1 or 2.
	Version int
}

// String returns what the way calls itself.
func (d *Dialer) String() string { return fmt.Sprint(d.Dialer) }

// DialContext connects and writes the header. Its source is the client of the
// request that ctx carries; without one it says that the connection is our own.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	_, err = d.header(ctx, conn).WriteTo(conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("write PROXY header: %w", err)
	}
	return conn, nil
}

func (d *Dialer) header(ctx context.Context, conn net.Conn) *proxyproto.Header {
	var client net.Addr
	if req := argyle.RequestOf(ctx); req != nil && req.Client.IsValid() {
		client = net.TCPAddrFromAddrPort(req.Client)
	}
	return proxyproto.HeaderProxyFromAddrs(byte(d.Version), client, conn.RemoteAddr())
}
