package socks

import (
	"errors"
	"net"
	"net/netip"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/socks/wire"
)

// call is one request of one client, of either version.
type call struct {
	conn     net.Conn
	version  byte
	request  argyle.Request
	echo     [6]byte // DSTPORT and DSTIP of a SOCKS 4 request, as they came
	answered bool
}

var _ argyle.Call = (*call)(nil)

func (c *call) Request() *argyle.Request { return &c.request }

// normalise makes an address of a literal that came as a name, and refuses
// what can be no destination.
func (c *call) normalise() error {
	dest := &c.request.Dest
	switch c.request.Command {
	case argyle.Connect, argyle.Bind:
	case argyle.Associate:
		if c.version == wire.Version4 {
			return errors.ErrUnsupported
		}
		// The address is the client's own, and often wrong: it is no
		// destination, so nobody resolves it or matches it with rules.
		*dest = argyle.Addr{}
		return nil
	default:
		return errors.ErrUnsupported
	}
	if !dest.IP.IsValid() {
		parsed, err := argyle.ParseHost(dest.Name, dest.Port)
		if err != nil {
			return err
		}
		*dest = parsed
	}
	if c.request.Command == argyle.Connect && (dest.Port == 0 || dest.IP.IsUnspecified()) {
		return argyle.ErrNotAllowed // the system would take 0.0.0.0 for loopback
	}
	return nil
}

// Accept answers a CONNECT.
func (c *call) Accept(bound net.Addr) (net.Conn, error) {
	addr := argyle.AddrOf(bound)
	err := c.answer(nil, addr)
	if err != nil {
		c.conn.Close()
		return nil, opError("write reply", err)
	}
	return c.conn, nil
}

// Reject answers with the reply for reason and ends the connection.
func (c *call) Reject(reason error) {
	if c.answer(reason, argyle.Addr{}) != nil {
		c.conn.Close()
		return
	}
	serve.Finish(c.conn)
}

// answer writes a reply of the client's version. On success bound is the
// address in it; a CONNECT of SOCKS 4 gets back what it asked for.
func (c *call) answer(reason error, bound argyle.Addr) error {
	c.answered = true
	if c.version == wire.Version5 {
		return send(c.conn, wire.Response{Reply: ReplyFor(reason), Bound: bound})
	}
	if c.request.Command == argyle.Bind && reason == nil {
		return send(c.conn, wire.Response4{Reply: wire.Granted, Bound: bound})
	}
	_, err := c.conn.Write(append([]byte{0, byte(reply4For(reason))}, c.echo[:]...))
	return err
}

// reachable returns addr with the address of the client's connection in place
// of an unspecified one: where the client reaches us.
func (c *call) reachable(addr argyle.Addr) argyle.Addr {
	if !addr.IP.IsValid() || addr.IP.IsUnspecified() {
		addr.IP = c.localIP()
	}
	return addr
}

// localIP returns our address on the client's connection; not valid on a unix socket.
func (c *call) localIP() netip.Addr { return argyle.AddrOf(c.conn.LocalAddr()).IP }
