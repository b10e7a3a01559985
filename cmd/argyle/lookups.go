package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/proxy"
)

// lookups answers what a program looks up, as --dns says.
type lookups struct {
	mode     string
	fixed    map[netip.Addr]string // what addresses stand for beside those of the pool
	unknown  atomic.Uint64         // times that an address stood for nothing
	pool     *fakedns.Pool         // nil but for dnsFake
	server   *fakedns.Server       // likewise
	resolver *askedThrough
	serving  sync.WaitGroup // of connections
}

// openNames makes what answers look-ups. What it cannot answer by itself it
// asks resolver, through the way that policy has for that.
func openNames(mode string, options fakedns.Options, resolver argyle.Addr, policy proxy.Policy, log *slog.Logger) (*lookups, error) {
	n := &lookups{mode: mode, resolver: &askedThrough{policy: policy, dest: resolver}}
	if mode != dnsFake {
		return n, nil
	}
	pool, err := fakedns.Open(options)
	if err != nil {
		return nil, err
	}
	n.pool = pool
	any4, any6 := netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	n.server = &fakedns.Server{
		Pool:     pool,
		Allow:    []netip.Prefix{any4, any6}, // nobody but the program can ask
		Exchange: n.resolver.exchange,
		Log:      log,
	}
	return n, nil
}

// close ends what was opened.
func (n *lookups) close() {
	if n.server != nil {
		_ = n.server.Close()
		n.serving.Wait()
	}
	if n.pool != nil {
		_ = n.pool.Close() // it has no journal that could fail
	}
	n.resolver.close()
}

// name returns the name that an address stands for, and whether it is one of
// those that stand for names.
func (n *lookups) name(ip netip.Addr) (name string, fake bool) {
	if name, ok := n.fixed[ip]; ok {
		return name, true
	}
	if n.pool == nil {
		return "", false
	}
	if name, ok := n.pool.Name(ip); ok {
		return name, true
	}
	if fake = n.pool.Contains(ip); fake {
		n.unknown.Add(1)
	}
	return "", fake
}

// use notes that somebody has a connection to a destination, which may be one of
// the pool.
func (n *lookups) use(dest argyle.Addr) {
	if n.pool == nil {
		return
	}
	if dest.Name == "" && dest.IP.IsValid() {
		dest.Name = dest.IP.String()
	}
	n.pool.Use(dest.Name)
}

// answers returns the function that answers queries which come as datagrams,
// nil if datagrams to port 53 are like any others.
func (n *lookups) answers() func(ctx context.Context, client, server netip.AddrPort, query []byte) []byte {
	switch n.mode {
	case dnsFake:
		return func(ctx context.Context, client, server netip.AddrPort, query []byte) []byte {
			return n.server.Answer(withResolver(ctx, server), client, query, false)
		}
	case dnsProxy:
		return n.resolver.answer
	}
	return nil
}

// handler returns one that takes connections to port 53, and leaves all others
// to next.
func (n *lookups) handler(next argyle.Handler) argyle.Handler {
	if n.mode == dnsOff {
		return next
	}
	return argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		req := call.Request()
		switch {
		case req.Command != argyle.Connect || req.Dest.Port != 53:
			next.ServeCall(ctx, call)
		case n.mode == dnsProxy:
			next.ServeCall(ctx, elsewhere(call, n.resolver.dest))
		default:
			if conn, err := call.Accept(nil); err == nil {
				server := netip.AddrPortFrom(req.Dest.IP, req.Dest.Port)
				// The call is answered; the connection may stay for long.
				ctx := withResolver(context.WithoutCancel(ctx), server)
				n.serving.Go(func() { _ = n.server.ServeConn(ctx, conn) }) // how it ended is the program's business
			}
		}
	})
}

// resolverKey is the key of the resolver that a query was sent to.
type resolverKey struct{}

// withResolver returns a context that tells where a query was sent.
func withResolver(ctx context.Context, at netip.AddrPort) context.Context {
	return context.WithValue(ctx, resolverKey{}, at)
}

// resolverOf returns where the query in hand was sent; the zero AddrPort if the
// name of that is all that is known.
func resolverOf(ctx context.Context) netip.AddrPort {
	at, _ := ctx.Value(resolverKey{}).(netip.AddrPort)
	return at
}

// elsewhere returns the call with another destination.
func elsewhere(call argyle.Call, dest argyle.Addr) argyle.Call {
	req := *call.Request()
	req.Dest = dest
	return &redirected{Call: call, request: &req}
}

// redirected is a call that goes elsewhere than its client has asked.
type redirected struct {
	argyle.Call
	request *argyle.Request
}

func (c *redirected) Request() *argyle.Request { return c.request }

// askedThrough is a resolver that is asked over TCP, by a way out.
type askedThrough struct {
	policy proxy.Policy
	dest   argyle.Addr
	zone   string // if not "", the way is the one that the policy has for this name

	mu   sync.Mutex
	idle []idleConn // that may be used once more, the latest last
}

type idleConn struct {
	*dns.Conn
	until time.Time
}

// maxIdle is how many connections to a resolver are kept, and keepIdle for how
// long: many a resolver ends them after ten seconds.
const (
	maxIdle  = 4
	keepIdle = 8 * time.Second
)

// exchange asks one question. A connection that was kept may have ended
// meanwhile: then a fresh one is used.
func (r *askedThrough) exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	for conn := r.take(); conn != nil; conn = r.take() {
		if answer, err := r.ask(ctx, conn, query); err == nil {
			return answer, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	conn, err := r.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("resolver %v: %w", r.dest, err)
	}
	return r.ask(ctx, &dns.Conn{Conn: conn}, query)
}

// dial connects to the resolver as the policy has it.
func (r *askedThrough) dial(ctx context.Context) (net.Conn, error) {
	req := &argyle.Request{Command: argyle.Connect, Dest: r.dest, Inbound: "dns"}
	if r.zone != "" {
		req.Dest = argyle.Addr{Name: r.zone, Port: r.dest.Port}
	}
	route, err := r.policy.Route(ctx, req)
	if err != nil {
		return nil, err
	}
	return route.Dialer.DialContext(argyle.WithRequest(ctx, req), "tcp", r.dest.String())
}

// ask uses a connection, which it closes or keeps.
func (r *askedThrough) ask(ctx context.Context, conn *dns.Conn, query *dns.Msg) (answer *dns.Msg, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if stop() && err == nil && r.keep(conn) {
			return
		}
		conn.Close()
	}()
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	for {
		if answer, err = conn.ReadMsg(); err != nil || answer.Id == query.Id {
			return answer, err
		}
	}
}

func (r *askedThrough) take() *dns.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.idle) > 0 {
		conn := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		if time.Now().Before(conn.until) {
			return conn.Conn
		}
		conn.Close()
	}
	return nil
}

// keep puts a connection by, and reports false if there are enough of them.
func (r *askedThrough) keep(conn *dns.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.idle) >= maxIdle {
		return false
	}
	r.idle = append(r.idle, idleConn{conn, time.Now().Add(keepIdle)})
	return true
}

func (r *askedThrough) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.idle {
		conn.Close()
	}
	r.idle = nil
}

// queryTime bounds one question: programs ask again after five seconds.
const queryTime = 5 * time.Second

// answer has a query that came as a datagram answered as it is.
func (r *askedThrough) answer(ctx context.Context, _, _ netip.AddrPort, message []byte) []byte {
	query := new(dns.Msg)
	if err := query.Unpack(message); err != nil || query.Response {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	answer, err := r.exchange(ctx, query)
	if err != nil {
		answer = new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	}
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	answer.Truncate(size)
	packed, err := answer.Pack()
	if err != nil {
		return nil
	}
	return packed
}
