package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/argyle-socks/argyle"
)

// An SSH is a way out through an SSH server, as ssh -D has it: a channel
// "direct-tcpip" (RFC 4254, section 7.2) for every connection, all of them over
// one connection to the server. That is made when it is first needed and again
// when it has died. There is no UDP.
//
// The server's key must be known: an unknown or a changed one is refused, and
// the error says what to do. Keys come from an agent and from files, as ssh has
// them; a key with a passphrase must be in the agent.
//
// OpenSSH tells a refused connection, an unreachable host and an unknown name
// with one and the same code; all are [syscall.EHOSTUNREACH] here.
type SSH struct {
	// Addr is the server's "host:port".
	Addr string

	// User is who logs in; "" is who runs this process.
	User string

	// Password, if not "", is tried before keys.
	Password string

	// Identity are files with private keys. If there are any, no other keys
	// are tried. nil stands for the agent's, then ~/.ssh/id_ed25519,
	// id_ecdsa and id_rsa.
	Identity []string

	// KnownHosts are files with the keys of servers; nil stands for
	// ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
	KnownHosts []string

	// Agent is the socket of an agent; "" is $SSH_AUTH_SOCK.
	Agent string

	// Forward is the way to the server; nil is [argyle.Direct].
	Forward argyle.Dialer

	// Timeout bounds the making of a connection to the server, however many
	// wait for it. 0 means 30 seconds.
	Timeout time.Duration

	// KeepAlive is the time between questions whether the server is still
	// there; the connection is dead when there is no answer for three times
	// as long. 0 means 15 seconds, negative none.
	KeepAlive time.Duration

	// Idle is how long a connection without a channel is kept. 0 means 5
	// minutes, negative for ever.
	Idle time.Duration

	// Log is told of connections that come and go; nil discards.
	Log *slog.Logger

	mu     sync.Mutex
	client *sshClient // for new channels; nil, or perhaps dead
	making *making    // nil if no connection is being made
}

var _ argyle.Dialer = (*SSH)(nil)

// What the fields of an SSH mean where they are 0.
const (
	sshTimeout   = 30 * time.Second
	sshKeepAlive = 15 * time.Second
	sshIdle      = 5 * time.Minute
)

// String returns the server as a URL, without user and password.
func (s *SSH) String() string { return "ssh://" + s.Addr }

// DialContext connects to address, "host:port", which the server looks up. A
// shared connection that turns out to be dead is replaced once.
func (s *SSH) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := checkNetwork(network)
	if err == nil {
		err = s.use(ctx, func(c *sshClient) (err error) {
			conn, err = c.dial(ctx, address)
			return err
		})
	}
	if err != nil {
		return nil, opError(s.String(), "dial", network, address, err)
	}
	return conn, nil
}

// Listen asks the server to wait for a connection from peer ("tcpip-forward",
// RFC 4254, section 7.1). A server with "GatewayPorts no", OpenSSH's default,
// only lets its own host connect, and does not say so.
func (s *SSH) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	var ln net.Listener
	err := checkNetwork(network)
	if err == nil {
		err = s.use(ctx, func(c *sshClient) (err error) {
			ln, err = c.listen(ctx, peer, s.serverIP(c))
			return err
		})
	}
	if err != nil {
		return nil, opError(s.String(), "listen", network, peer, err)
	}
	return ln, nil
}

// ListenPacket returns [errors.ErrUnsupported].
func (s *SSH) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

// Close closes the connection to the server, with all that goes over it. The
// next request makes another.
func (s *SSH) Close() error {
	s.mu.Lock()
	client, m := s.client, s.making
	s.client, s.making = nil, nil
	s.mu.Unlock()
	if m != nil {
		m.cancel()
		<-m.done
	}
	if client != nil {
		client.close(net.ErrClosed)
	}
	return nil
}

func checkNetwork(network string) error {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return net.UnknownNetworkError(network)
	}
	return nil
}

// serverIP returns the server's address, if it can be known from here.
func (s *SSH) serverIP(c *sshClient) netip.Addr {
	if addr, err := argyle.ParseAddr(s.Addr); err == nil && addr.IP.IsValid() {
		return addr.IP
	}
	if _, direct := s.Forward.(*argyle.Direct); direct || s.Forward == nil {
		return argyle.AddrOf(c.wire.RemoteAddr()).IP
	}
	return netip.Addr{}
}

// use calls f with the shared connection, which f may keep if it returns no
// error. If that one is found dead, f gets one more that is not.
func (s *SSH) use(ctx context.Context, f func(*sshClient) error) error {
	for again := true; ; again = false {
		c, fresh, err := s.connection(ctx)
		if err != nil {
			return &connError{err}
		}
		if err = f(c); err == nil {
			return nil
		}
		c.release()
		switch {
		case !c.over():
			return err
		case fresh || !again || ctx.Err() != nil:
			return &connError{err}
		}
	}
}

// connError is an error of the connection to a server, rather than of what was
// to go over it.
type connError struct{ err error }

func (e *connError) Error() string { return e.err.Error() }
func (e *connError) Unwrap() error { return e.err }

// channelError is a server's refusal to open a channel. [errors.Is] finds in it
// what it stands for.
type channelError ssh.OpenChannelError

func (e *channelError) Error() string {
	text := "server answered: " + e.Reason.String()
	if e.Message == "" || strings.EqualFold(e.Message, e.Reason.String()) {
		return text
	}
	return fmt.Sprintf("%s (%q)", text, e.Message)
}

// Is reports whether target is what e stands for outside SSH.
func (e *channelError) Is(target error) bool {
	switch e.Reason {
	case ssh.Prohibited:
		return target == argyle.ErrNotAllowed
	case ssh.ConnectionFailed:
		return target == error(syscall.EHOSTUNREACH)
	case ssh.UnknownChannelType:
		return target == errors.ErrUnsupported
	}
	return false
}

// making is a connection that is being made for all who wait for it.
type making struct {
	cancel context.CancelFunc
	done   chan struct{}
	client *sshClient // or
	err    error      // once done is closed
}

// connection returns the shared connection, counted as in use, and whether it
// was made for this request. The end of ctx ends the wait, not what is waited for.
func (s *SSH) connection(ctx context.Context) (c *sshClient, fresh bool, err error) {
	s.mu.Lock()
	if s.client != nil && s.client.take() {
		defer s.mu.Unlock()
		return s.client, false, nil
	}
	if s.making == nil {
		// What ctx carries may matter to a check of the server's address.
		lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), orDefault(s.Timeout, sshTimeout))
		s.making = &making{cancel: cancel, done: make(chan struct{})}
		go s.make(lasting, s.making)
	}
	m := s.making
	s.mu.Unlock()
	select {
	case <-m.done:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	switch {
	case m.err != nil:
		return nil, false, m.err
	case !m.client.take():
		return nil, false, m.client.err()
	}
	return m.client, true, nil
}

// make makes the connection.
func (s *SSH) make(ctx context.Context, m *making) {
	defer close(m.done)
	defer m.cancel()
	m.client, m.err = s.connect(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.making == m:
		s.making, s.client = nil, m.client
	case m.client != nil: // Close was called
		m.client.close(net.ErrClosed)
	}
}

// connect reaches the server and logs in.
func (s *SSH) connect(ctx context.Context) (*sshClient, error) {
	forward := s.Forward
	if forward == nil {
		forward = &argyle.Direct{}
	}
	conn, err := forward.DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	wire := &lifeline{Conn: conn}
	// Not all connections have deadlines; all can be closed.
	stop := context.AfterFunc(ctx, func() { wire.Close() })
	c, err := s.login(ctx, wire)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		wire.Close()
		return nil, err
	}
	if s.Log != nil {
		s.Log.Debug("ssh connection made", "server", s.Addr)
	}
	return c, nil
}

// probe asks the server whether it is there, over the shared connection.
func (s *SSH) probe(ctx context.Context) error {
	err := s.use(ctx, func(c *sshClient) error {
		select {
		case <-c.ask():
			c.release()
			return nil
		case <-c.done:
			return c.err()
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return &throughError{s.String(), err}
	}
	return nil
}

// orDefault returns d, or def if d is 0.
func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}
