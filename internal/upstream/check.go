package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// A Check says how a [Group] looks after its members.
type Check struct {
	// Every is the time between two checks of a member, give or take a
	// tenth. 0 means 30 seconds.
	Every time.Duration

	// Timeout bounds one check. 0 means 5 seconds.
	Timeout time.Duration

	// Target is a "host:port" to connect to through the member. Without it
	// a check goes as far as it can without a request: the greeting and the
	// login of SOCKS 5, a question over the connection to an SSH server;
	// SOCKS 4 and HTTP have nothing before the request but TCP and TLS.
	Target string
}

// What the fields of a Check mean where they are 0.
const (
	checkEvery   = 30 * time.Second
	checkTimeout = 5 * time.Second
)

// maxChecks is how many members of a group are checked at a time.
const maxChecks = 4

// Run looks after the members as Check says, until ctx ends. Without a Check it
// returns at once. It may run only once at a time.
func (g *Group) Run(ctx context.Context) error {
	if g.Check == nil {
		return nil
	}
	slots := make(chan struct{}, maxChecks)
	var all sync.WaitGroup
	for _, m := range g.Members {
		all.Go(func() { g.look(ctx, m, slots) })
	}
	all.Wait()
	return nil
}

// look checks one member again and again, the first time soon.
func (g *Group) look(ctx context.Context, m *Member, slots chan struct{}) {
	every := orDefault(g.Check.Every, checkEvery)
	timer := time.NewTimer(rand.N(every/10 + 1))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		g.check(ctx, m)
		<-slots
		timer.Reset(every - every/10 + rand.N(every/5+1))
	}
}

// check checks one member once.
func (g *Group) check(ctx context.Context, m *Member) {
	timed, cancel := context.WithTimeout(ctx, orDefault(g.Check.Timeout, checkTimeout))
	defer cancel()
	began := time.Now()
	err := g.Check.of(timed, m.Dialer)
	r := m.record()
	switch {
	case ctx.Err() != nil: // that is why it failed
	case err != nil:
		// If it is down, and its time has come, this was the trial.
		g.failed(attempt{member: m, began: began, trial: r.health.state() == due, err: fmt.Errorf("check: %w", err)}, g.Check.Target != "")
	case g.Check.Target != "":
		r.latency.add(time.Since(began))
		g.succeeded(m)
	default:
		r.latency.add(time.Since(began))
		if r.health.reached() {
			g.log(slog.LevelInfo, "upstream is up", m, nil)
		}
	}
}

// of checks a way out.
func (c *Check) of(ctx context.Context, d argyle.Dialer) error {
	if c.Target == "" {
		return probe(ctx, d)
	}
	conn, err := d.DialContext(ctx, "tcp", c.Target)
	if err != nil {
		return err
	}
	return conn.Close()
}

// probe goes as far as it can on a way out without a request.
func probe(ctx context.Context, d argyle.Dialer) error {
	switch d := d.(type) {
	case *socks.Dialer:
		return probeSOCKS(ctx, d)
	case *httpconnect.Dialer:
		conn, err := reach(ctx, d.Forward, d.Addr, d.TLS)
		if err != nil {
			return fmt.Errorf("through %v: %w", d, err)
		}
		return conn.Close()
	case interface{ probe(context.Context) error }:
		return d.probe(ctx)
	}
	return nil
}

// probe asks the members for one that can be reached.
func (g *Group) probe(ctx context.Context) error {
	return g.try(ctx, "", func(ctx context.Context, m *Member) error {
		if err := probe(ctx, m.Dialer); err != nil {
			return err
		}
		m.record().sessions.Add(-1) // nothing has come of it
		return nil
	})
}

// reach connects to a proxy, inside TLS if it has that.
func reach(ctx context.Context, forward argyle.Dialer, addr string, config *tls.Config) (net.Conn, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	if forward == nil {
		forward = &argyle.Direct{}
	}
	dial := forward.DialContext
	if network == "unix" {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil || config == nil {
		return conn, err
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

// probeSOCKS greets a SOCKS server and logs in. The Dialer itself speaks, over a
// connection that does not let its request pass.
func probeSOCKS(ctx context.Context, d *socks.Dialer) error {
	conn, err := reach(ctx, d.Forward, d.Addr, d.TLS)
	if err != nil {
		return fmt.Errorf("through %v: %w", d, err)
	}
	defer conn.Close()
	if d.Version == 4 {
		return nil
	}
	greeter := &socks.Dialer{
		Addr: d.Addr, User: d.User, Password: d.Password, GSSAPI: d.GSSAPI,
		Forward: &oneConn{conn: &greetingConn{Conn: conn, gssapi: d.GSSAPI != nil}},
	}
	if strings.HasPrefix(d.Addr, "unix:") {
		greeter.Addr = "localhost:1" // what there is of it in the name of a service
	}
	if _, err = greeter.DialContext(ctx, "tcp", "0.0.0.0:0"); errors.Is(err, errGreeted) {
		return nil
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = errors.Unwrap(op.Err) // without the name of this proxy, which is none
	}
	return fmt.Errorf("through %v: %w", d, err)
}

// oneConn is a way to one connection.
type oneConn struct {
	argyle.StreamOnly
	conn net.Conn
}

func (o *oneConn) DialContext(context.Context, string, string) (net.Conn, error) { return o.conn, nil }

var errGreeted = errors.New("greeted")

// greetingConn refuses the request: the second message that begins with the
// version of SOCKS 5, after the greeting, or the first one that is encapsulated.
// A login has versions of its own.
type greetingConn struct {
	net.Conn
	gssapi  bool
	greeted bool
}

func (c *greetingConn) Write(b []byte) (int, error) {
	const version = 5
	if len(b) > 0 && b[0] == version {
		if c.greeted {
			return 0, errGreeted
		}
		c.greeted = true
	}
	if c.gssapi && len(b) > 1 && b[1] == byte(wire.DataToken) && b[0] != version {
		return 0, errGreeted
	}
	return c.Conn.Write(b)
}
