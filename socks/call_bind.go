package socks

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/serve"
)

// AcceptBind answers a BIND twice: with the address of ln, and with the
// address of the peer that came.
func (c *call) AcceptBind(ctx context.Context, ln net.Listener) (client, peer net.Conn, err error) {
	defer ln.Close()
	if err := c.answer(nil, c.reachable(argyle.AddrOf(ln.Addr()))); err != nil {
		c.conn.Close()
		return nil, nil, opError("write first reply", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	early := watchEarly(c.conn, cancel)
	peer, err = ln.Accept()
	stop()
	unread, gone := early.stop()
	switch {
	case gone != nil:
		err = opError("wait for peer", gone)
	case err != nil && ctx.Err() != nil:
		err = opError("wait for peer", context.Cause(ctx))
	}
	if err == nil {
		err = c.answer(nil, argyle.AddrOf(peer.RemoteAddr()))
	} else if gone == nil {
		c.Reject(err)
	}
	if err != nil {
		c.conn.Close()
		if peer != nil {
			peer.Close()
		}
		return nil, nil, err
	}
	return serve.Unread(c.conn, unread), peer, nil
}

// maxEarly bounds what a client may send before its peer has come.
const maxEarly = 64 << 10

var errClientGone = errors.New("client went away")

// early watches a client that waits for its peer: it keeps what the client
// sends and notices when it goes.
type early struct {
	conn net.Conn
	done chan struct{}
	buf  []byte
	err  error
}

// watchEarly begins to watch; gone is called if the client goes away.
func watchEarly(conn net.Conn, gone context.CancelCauseFunc) *early {
	e := &early{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		if e.err = e.read(); e.err != nil {
			gone(e.err)
		}
	}()
	return e
}

// read reads until the client goes, the deadline set by stop, or the bound.
func (e *early) read() error {
	chunk := make([]byte, 4096)
	for len(e.buf) < maxEarly {
		n, err := e.conn.Read(chunk)
		e.buf = append(e.buf, chunk[:n]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err == io.EOF:
			return errClientGone
		case err != nil:
			return err
		}
	}
	return nil
}

// stop ends the watch and returns what the client sent, and an error if it is gone.
func (e *early) stop() ([]byte, error) {
	_ = e.conn.SetReadDeadline(time.Unix(1, 0))
	<-e.done
	_ = e.conn.SetReadDeadline(time.Time{})
	return e.buf, e.err
}
