package httpconnect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// dial is the DialContext of the transport: it makes a call and waits for its
// answer. Where to is in the context, as the client wrote it.
func dial(ctx context.Context, _, _ string) (net.Conn, error) {
	x := exchangeOf(ctx)
	inbound := x.inbound.Context()
	local, _ := inbound.Value(http.LocalAddrContextKey).(net.Addr)
	ours, theirs := pipe(clientNetAddr(x.request), local)
	theirs.onClose = x.sessionEnded
	c := &forwardCall{
		request: x.request,
		conn:    theirs,
		answer:  make(chan error),
		gone:    inbound.Done(),
	}
	// The client's going cancels a call that was not answered yet; a session
	// ends with its connection.
	callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	answered := context.AfterFunc(inbound, cancel)
	go func() {
		x.server.Handler.ServeCall(callCtx, c)
		c.Reject(errNotAnswered)
	}()
	select {
	case err := <-c.answer:
		answered()
		if err != nil {
			return nil, &rejection{err}
		}
		return transportConn{ours, x.brokenOff}, nil
	case <-c.gone:
		return nil, inbound.Err()
	}
}

// clientNetAddr returns the address of the client, for a connection that comes
// from it by way of net/http.
func clientNetAddr(req argyle.Request) net.Addr {
	if !req.Client.IsValid() {
		return &net.UnixAddr{Net: "unix"}
	}
	return net.TCPAddrFromAddrPort(req.Client)
}

// transportConn is the transport's end of a call's connection.
type transportConn struct {
	*pipeConn
	brokenOff func() bool // reports whether the client went before it was served
}

// Close ends the session: with a reset if it is the client's going that ends it.
func (c transportConn) Close() error {
	if c.brokenOff() {
		_ = c.SetLinger(0)
	}
	return c.pipeConn.Close()
}

// Write throws away what nobody takes any more. How the session ended is to be
// read: perhaps the destination has answered before it closed, which an error
// here would make the transport forget.
func (c transportConn) Write(b []byte) (int, error) {
	n, err := c.pipeConn.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		return len(b), nil
	}
	return n, err
}

// forwardCall is the call of one request for an absolute URL.
type forwardCall struct {
	argyle.ConnectOnly
	request  argyle.Request
	conn     *pipeConn
	answer   chan error      // to dial, which waits for it or is gone
	gone     <-chan struct{} // closed when the client has gone
	answered bool
}

var _ argyle.Call = (*forwardCall)(nil)

func (c *forwardCall) Request() *argyle.Request { return &c.request }

var errClientGone = errors.New("the client has gone")

// Accept lets the request go ahead and returns the connection that brings it.
func (c *forwardCall) Accept(net.Addr) (net.Conn, error) {
	c.answered = true
	select {
	case c.answer <- nil:
		return c.conn, nil
	case <-c.gone:
		return nil, errClientGone
	}
}

// Reject makes the transport fail with reason.
func (c *forwardCall) Reject(reason error) {
	if c.answered {
		return
	}
	c.answered = true
	if reason == nil {
		reason = errNotAnswered
	}
	select {
	case c.answer <- reason:
	case <-c.gone:
	}
}
