package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
)

// How long a reverse forward waits until it asks the proxy again: the first time
// after a failure, and at most.
const (
	bindAgain    = time.Second
	bindAgainMax = time.Minute
)

// binder is a reverse forward.
type binder struct {
	*forwarder
	name  string
	peer  argyle.Addr // who may come
	local string      // where they are carried
	calls sync.WaitGroup
}

// bind begins a reverse forward: it asks the proxy for one peer after the other.
// That the proxy cannot, or will not, is told at once.
func (fw *forwarder) bind(ctx context.Context, name string, spec config.ForwardSpec) error {
	peer, err := argyle.ParseAddr(spec.Listen)
	if err != nil {
		return err
	}
	b := &binder{forwarder: fw, name: name, peer: peer, local: spec.Dest}
	ctx, cancel := context.WithCancel(ctx)
	first := b.call(ctx)
	if err := <-first.armed; err != nil {
		cancel()
		b.calls.Wait()
		return fmt.Errorf("the proxy does not listen (BIND): %w", err)
	}
	serve := func() error {
		b.run(ctx, first)
		b.calls.Wait()
		return nil
	}
	fw.background(name, serve, func() error {
		cancel()
		return nil
	})
	return nil
}

// run asks again whenever a peer has come, until ctx ends. now is the call that
// waits.
func (b *binder) run(ctx context.Context, now *bindCall) {
	wait := bindAgain
	for {
		select {
		case <-now.taken:
			wait = bindAgain
		case <-now.done: // nobody came, and the proxy waits no longer
			if !pause(ctx, wait) {
				return
			}
		case <-ctx.Done():
			return
		}
		now = b.call(ctx)
		for err := <-now.armed; err != nil; err = <-now.armed {
			b.log.Error("the proxy does not listen", "forward", b.name, "err", err, "again", wait)
			if !pause(ctx, wait) {
				return
			}
			wait = min(2*wait, bindAgainMax)
			now = b.call(ctx)
		}
	}
}

// pause waits, and reports false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call asks the proxy for a peer.
func (b *binder) call(ctx context.Context) *bindCall {
	c := &bindCall{
		binder:  b,
		request: argyle.Request{Command: argyle.Bind, Dest: b.peer, Client: thisHost, Inbound: b.name},
		armed:   make(chan error, 1), taken: make(chan struct{}), done: make(chan struct{}),
	}
	b.calls.Go(func() {
		defer close(c.done)
		b.proxy.ServeCall(ctx, c)
	})
	return c
}

// bindCall is a BIND of ours.
type bindCall struct {
	argyle.ConnectOnly
	*binder
	request argyle.Request
	once    sync.Once
	armed   chan error    // gets nil when the proxy listens, or why it does not
	taken   chan struct{} // is closed when the peer has come
	done    chan struct{} // is closed when the call is answered
}

var _ argyle.Call = (*bindCall)(nil)

func (c *bindCall) Request() *argyle.Request { return &c.request }

// Accept is for CONNECT, which this is not.
func (c *bindCall) Accept(net.Addr) (net.Conn, error) { return nil, net.ErrClosed }

// Reject says why the proxy does not listen.
func (c *bindCall) Reject(err error) { c.once.Do(func() { c.armed <- err }) }

// AcceptBind waits for the peer and connects to where it is carried.
func (c *bindCall) AcceptBind(ctx context.Context, ln net.Listener) (client, peer net.Conn, err error) {
	defer ln.Close()
	c.log.Info("the proxy listens", "forward", c.name, "at", ln.Addr().String(), "to", c.local)
	c.once.Do(func() { c.armed <- nil })
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	peer, err = ln.Accept()
	if !stop() && err == nil {
		peer.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("wait for the peer: %w", err)
	}
	close(c.taken)
	if client, err = c.dial(ctx); err != nil {
		resetConn(peer)
		return nil, nil, fmt.Errorf("dial %s: %w", c.local, err)
	}
	return client, peer, nil
}

// dial connects to where peers are carried.
func (b *binder) dial(ctx context.Context) (net.Conn, error) {
	if path, ok := strings.CutPrefix(b.local, "unix:"); ok {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return new(argyle.Direct).DialContext(ctx, "tcp", b.local)
}

// resetConn ends a connection with a RST, if it has those.
func resetConn(conn net.Conn) {
	if l, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	conn.Close()
}
