package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/argyle-socks/argyle"
)

// sshClient is one connection to an SSH server.
type sshClient struct {
	conn ssh.Conn
	wire *lifeline
	idle time.Duration // negative: for ever
	log  *slog.Logger
	done chan struct{} // closed when the connection is over

	mu        sync.Mutex
	users     int   // channels, listeners, and what is being opened
	retired   bool  // takes no more users
	cause     error // of the end
	idleTimer *time.Timer

	forwards forwards
}

// lifeline is the connection below an SSH connection. It remembers that it
// broke: channels show that as an end in order.
type lifeline struct {
	net.Conn
	broken atomic.Bool
}

func (l *lifeline) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if err != nil {
		l.broken.Store(true)
	}
	return n, err
}

func (l *lifeline) Close() error {
	l.broken.Store(true)
	return l.Conn.Close()
}

// newSSHClient takes over a connection that is logged in.
func (s *SSH) newSSHClient(wire *lifeline, conn ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) *sshClient {
	c := &sshClient{conn: conn, wire: wire, idle: orDefault(s.Idle, sshIdle), log: s.Log, done: make(chan struct{})}
	c.mu.Lock()
	c.rest()
	c.mu.Unlock()
	go ssh.DiscardRequests(reqs)
	go c.forwards.serve(chans)
	go func() {
		defer close(c.done)
		c.close(conn.Wait())
	}()
	if every := orDefault(s.KeepAlive, sshKeepAlive); every > 0 {
		go c.keepAlive(every)
	}
	return c
}

// take counts a user. It reports false if the connection takes no more.
func (c *sshClient) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired {
		return false
	}
	c.hold()
	return true
}

// hold counts a user whatever the state. c.mu is held.
func (c *sshClient) hold() {
	c.users++
	if c.idleTimer != nil {
		c.idleTimer.Stop()
		c.idleTimer = nil
	}
}

// release is the end of a use.
func (c *sshClient) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users == 0 {
		c.rest()
	}
}

var errIdle = errors.New("idle for too long")

// rest is called without users: a retired connection goes at once. c.mu is held.
func (c *sshClient) rest() {
	switch {
	case c.retired:
		go c.close(errIdle)
	case c.idle > 0:
		c.idleTimer = time.AfterFunc(c.idle, c.closeIdle)
	}
}

func (c *sshClient) closeIdle() {
	c.mu.Lock()
	idle := c.users == 0
	c.retired = c.retired || idle
	c.mu.Unlock()
	if idle {
		c.close(errIdle)
	}
}

// retire lets what goes over the connection go on, and takes nothing new.
func (c *sshClient) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
}

// over reports whether the connection takes no more users.
func (c *sshClient) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// close ends the connection and all its channels.
func (c *sshClient) close(cause error) {
	c.mu.Lock()
	first := c.cause == nil
	if first {
		c.cause = cause
	}
	c.retired = true
	if c.idleTimer != nil {
		c.idleTimer.Stop()
	}
	c.mu.Unlock()
	c.wire.Close()
	c.conn.Close()
	if first && c.log != nil {
		c.log.Debug("ssh connection ended", "server", c.wire.RemoteAddr(), "reason", cause)
	}
}

// err says why the connection is over.
func (c *sshClient) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &lostError{c.cause}
}

// ask sends a question that every server answers, if only with no. The channel
// is closed when the answer has come.
func (c *sshClient) ask() <-chan struct{} {
	answered := make(chan struct{})
	go func() {
		if _, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil); err == nil {
			close(answered)
		}
	}()
	return answered
}

// keepAlive closes the connection when the server does not answer any more.
// Questions stand in line, so there is one at a time, with the time of three.
func (c *sshClient) keepAlive(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.done:
			return
		}
		limit := time.NewTimer(missed * every)
		select {
		case <-c.ask():
		case <-limit.C:
			c.close(fmt.Errorf("no answer for %v", missed*every))
		case <-c.done:
		}
		limit.Stop()
	}
}

// missed is how many keepalives may be without an answer.
const missed = 3

// dial opens a channel to address.
func (c *sshClient) dial(ctx context.Context, address string) (net.Conn, error) {
	dest, err := argyle.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	// RFC 4254, section 7.2. Where the client connects from is no business
	// of the server's.
	payload := ssh.Marshal(&struct {
		Host       string
		Port       uint32
		Originator string
		OriginPort uint32
	}{dest.Host(), uint32(dest.Port), "0.0.0.0", 0})
	channel, requests, err := c.open(ctx, payload)
	if err != nil {
		return nil, err
	}
	return newChannelConn(c, channel, requests, c.wire.LocalAddr(), tcpAddr(dest)), nil
}

// opened is the outcome of a request for a channel.
type opened struct {
	channel  ssh.Channel
	requests <-chan *ssh.Request
	err      error
}

// silence is how long a channel may take to open before the server is asked
// whether it is there at all, and how long it has to answer that.
const silence = 2 * time.Second

var errSilent = errors.New("the server does not answer")

// open opens a channel "direct-tcpip". A server that answers nothing at all
// gets no further ones over this connection; what goes over it is left to the
// keepalives, as the network may only have paused.
func (c *sshClient) open(ctx context.Context, payload []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	result := make(chan opened, 1)
	go func() {
		channel, requests, err := c.conn.OpenChannel("direct-tcpip", payload)
		result <- opened{channel, requests, err}
	}()
	patience := time.NewTimer(silence)
	defer patience.Stop()
	var answered <-chan struct{}
	var err error
	for err == nil {
		select {
		case o := <-result:
			return o.channel, o.requests, c.openError(o.err)
		case <-answered:
			answered = nil
			patience.Stop() // the server is there: it is the destination that takes its time
		case <-patience.C:
			if answered != nil {
				c.retire()
				err = errSilent
				break
			}
			answered = c.ask()
			patience.Reset(silence)
		case <-c.done:
			err = c.err()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	go closeLate(result)
	return nil, nil, err
}

// openError is what the error of a request for a channel means.
func (c *sshClient) openError(err error) error {
	var refused *ssh.OpenChannelError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return (*channelError)(refused)
	}
	c.close(err)
	return c.err()
}

// closeLate closes a channel that nobody waits for any more.
func closeLate(result <-chan opened) {
	o := <-result
	if o.err != nil {
		return
	}
	go ssh.DiscardRequests(o.requests)
	o.channel.Close()
}

// tcpAddr returns an address as package net has it, or a name as it is.
func tcpAddr(a argyle.Addr) net.Addr {
	if a.IP.IsValid() {
		return net.TCPAddrFromAddrPort(a.AddrPort())
	}
	return a
}
