package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/process"
	"github.com/argyle-socks/argyle/internal/seccomp"
	"github.com/argyle-socks/argyle/internal/transparent"
	"github.com/argyle-socks/argyle/socks"
)

// runSeccomp runs the program with its calls of connect answered by us. If try
// is set, it runs nothing but ourselves.
func (r *runner) runSeccomp(ctx context.Context, try bool) (status process.Status, err error) {
	if len(r.published)+len(r.hostPorts) > 0 {
		return status, usagef("--publish, --host-port: with engine seccomp the program shares this host's ports anyway")
	}
	s := &supervised{runner: r}
	argv := r.argv
	if try {
		argv = []string{"true"}
	}
	config := &seccomp.Config{
		Argv: argv, Env: plainEnviron(), Connect: s.connect, Packet: s.packets, WaitAll: r.wait == waitAll, Log: r.log,
	}
	if answer := r.names.answers(); answer != nil {
		config.DNS = func(ctx context.Context, conn *net.UDPConn, server netip.AddrPort, mine func(netip.AddrPort) bool) {
			serveQueries(ctx, conn, func(ctx context.Context, client, _ netip.AddrPort, query []byte) []byte {
				if !mine(client) {
					return nil
				}
				return answer(ctx, client, server, query)
			})
		}
	}
	p, err := seccomp.Start(ctx, config)
	if err != nil {
		if errors.Is(err, seccomp.ErrKernel) || errors.Is(err, seccomp.ErrNested) {
			err = &lacksError{err}
		}
		return status, err
	}
	defer p.Close()
	status, err = p.Wait()
	time.Sleep(2 * flushTick) // for datagrams that were sent last
	_ = p.Close()             // it cannot fail
	r.drain()
	return status, err
}

// supervised answers a program that seccomp supervises.
type supervised struct{ *runner }

// dest returns what an address of the program's stands for.
func (s *supervised) dest(addr netip.AddrPort) (argyle.Addr, error) {
	name, fake := s.names.name(addr.Addr())
	switch {
	case fake && name == "":
		return argyle.Addr{}, errUnknownFake
	case fake:
		return argyle.Addr{Name: name, Port: addr.Port()}, nil
	}
	return argyle.AddrFrom(addr), nil
}

// packets carries datagrams between a socket of the program and dest.
func (s *supervised) packets(ctx context.Context, addr netip.AddrPort, conn *net.UDPConn) {
	dest, err := s.dest(addr)
	if err != nil {
		s.log.Info("datagrams refused", "dest", addr.String(), "err", err)
		return
	}
	server := &transparent.PacketServer{Handler: s.proxy, Dest: dest, Inbound: inboundRun, Log: s.log}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.Serve(conn) // it ends when the socket is closed
}

// serveQueries answers DNS queries that come as datagrams.
func serveQueries(ctx context.Context, conn *net.UDPConn, answer func(ctx context.Context, client, server netip.AddrPort, query []byte) []byte) {
	var running sync.WaitGroup
	defer running.Wait()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	slots := make(chan struct{}, maxQueries)
	server := argyle.AddrOf(conn.LocalAddr()).AddrPort()
	buf := make([]byte, 1<<16)
	for {
		n, client, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // of a client that is gone
		}
		query := bytes.Clone(buf[:n])
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if reply := answer(ctx, client, server, query); reply != nil {
				_, _ = conn.WriteToUDPAddrPort(reply, client) // a client that is gone asks no more
			}
		})
	}
}

// maxQueries bounds those that are answered at a time.
const maxQueries = 256

// errUnknownFake refuses an address that stands for names, but for none now.
var errUnknownFake = errors.New("the address stands for no name")

// connect answers a connect of the program.
func (s *supervised) connect(ctx context.Context, c *seccomp.Conn) {
	dest, err := s.dest(c.Dest())
	if err != nil {
		c.Reject(err)
		return
	}
	req := &argyle.Request{Command: argyle.Connect, Dest: dest, Client: thisHost, Inbound: inboundRun}
	if s.connectOwn(ctx, c, req) {
		return
	}
	s.handler().ServeCall(ctx, &supervisedCall{conn: c, request: req})
}

// connectOwn leads the program's own socket through the proxy, so that nothing
// has to be relayed. It reports false if that cannot be: the proxy is not one
// that leaves the connection as it is, or somebody must count the bytes.
func (s *supervised) connectOwn(ctx context.Context, c *seccomp.Conn, req *argyle.Request) bool {
	if !c.Own() || req.Dest.Port == 53 && s.dns != dnsOff {
		return false
	}
	ctx = argyle.WithRequest(ctx, req)
	route, err := s.proxy.Policy.Route(ctx, req)
	if err != nil || len(route.Limits) > 0 || route.Timeouts.MaxTime > 0 {
		return false
	}
	taken, ok := route.Dialer.(*routed)
	if !ok {
		return false
	}
	plain, ok := taken.Dialer.(*socks.Dialer)
	if !ok || plain.TLS != nil || strings.HasPrefix(plain.Addr, "unix:") {
		return false
	}
	first, ok := plain.Forward.(*argyle.Direct)
	if plain.Forward == nil {
		first = new(argyle.Direct)
	} else if !ok {
		return false
	}
	through := &ownSocket{Direct: first, conn: c}
	own := *plain
	own.Forward = through
	if d := route.Timeouts.DialTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	dest := req.Dest.String()
	conn, err := own.DialContext(taken.on(ctx), "tcp", dest)
	if err == nil {
		c.Keep()
		conn.Close()
		return true
	}
	if through.unsupported {
		return false
	}
	s.log.Info("connection failed", "dest", dest, "via", taken.String(), "err", err)
	c.Reject(err)
	return true
}

// ownSocket is the way to a proxy that the program's socket takes.
type ownSocket struct {
	*argyle.Direct
	conn        *seccomp.Conn
	unsupported bool
}

// DialContext connects the program's socket, to the first address that can be
// had: it cannot try several at a time, as [argyle.Direct] does.
func (o *ownSocket) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	addr, err := argyle.ParseAddr(address)
	if err != nil {
		return nil, err
	}
	ips := []netip.Addr{addr.IP}
	if addr.Name != "" {
		resolver := o.Resolver
		if resolver == nil {
			resolver = net.DefaultResolver
		}
		if ips, err = resolver.LookupNetIP(ctx, "ip", addr.Name); err != nil {
			return nil, err
		}
	}
	o.unsupported, err = true, errors.ErrUnsupported
	for _, ip := range ips {
		at := netip.AddrPortFrom(ip.Unmap(), addr.Port)
		if o.Check != nil {
			if refused := o.Check(ctx, network, at); refused != nil {
				o.unsupported, err = false, refused
				continue
			}
		}
		conn, tried := o.conn.Through(ctx, at)
		if tried == nil {
			o.unsupported = false // what the proxy says is the answer
			return conn, nil
		}
		if !errors.Is(tried, errors.ErrUnsupported) {
			o.unsupported, err = false, tried
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// supervisedCall is a connect as a call.
type supervisedCall struct {
	argyle.ConnectOnly
	conn    *seccomp.Conn
	request *argyle.Request
}

var _ argyle.Call = (*supervisedCall)(nil)

func (c *supervisedCall) Request() *argyle.Request { return c.request }

// Accept lets connect succeed.
func (c *supervisedCall) Accept(net.Addr) (net.Conn, error) { return c.conn.Accept() }

// Reject lets connect fail.
func (c *supervisedCall) Reject(reason error) { c.conn.Reject(reason) }
