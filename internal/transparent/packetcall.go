package transparent

import (
	"errors"
	"net"
	"time"

	"github.com/argyle-socks/argyle"
)

// packetCall is the call of a flow.
type packetCall struct {
	argyle.ConnectOnly
	flow     *flow
	request  argyle.Request
	answered bool
}

var _ argyle.Call = (*packetCall)(nil)

func (c *packetCall) Request() *argyle.Request { return &c.request }

// Accept returns [errors.ErrUnsupported].
func (c *packetCall) Accept(net.Addr) (net.Conn, error) { return nil, errors.ErrUnsupported }

// AcceptPacket returns the client's datagrams.
func (c *packetCall) AcceptPacket() (net.PacketConn, error) {
	c.answered = true
	c.flow.first = packet{}
	return c.flow, nil
}

// Reject drops what the client sends for a moment, after which it may call
// again.
func (c *packetCall) Reject(error) {
	c.answered = true
	f := c.flow
	f.rejected.Store(true)
	f.server.refuse(f.first)
	f.first = packet{}
	time.AfterFunc(refusedTime, func() { f.Close() })
}

// end is called when the handler has returned.
func (c *packetCall) end() {
	if !c.answered {
		c.Reject(errNotAnswered)
	}
}
