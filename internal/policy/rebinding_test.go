package policy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// target listens on loopback, for TCP and UDP on the same port, and counts what reaches it.
type target struct {
	port    uint16
	reached chan string
}

func newTarget(t *testing.T) *target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	to := &target{port: argyle.AddrOf(ln.Addr()).Port, reached: make(chan string, 1000)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
			to.reached <- "a connection"
		}
	})
	all.Go(func() {
		for buf := make([]byte, 100); ; {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			to.reached <- "datagram " + string(buf[:n])
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conn.Close()
		all.Wait()
	})
	return to
}

func (to *target) wantNothing(t *testing.T) {
	t.Helper()
	select {
	case what := <-to.reached:
		t.Errorf("%s got through", what)
	default:
	}
}

func (to *target) want(t *testing.T, what string) {
	t.Helper()
	select {
	case got := <-to.reached:
		if got != what {
			t.Errorf("got %q, want %q", got, what)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("waited in vain for %s", what)
	}
}

// privateNames are names that mean this host or its neighbours, in all the forms that a name server can give.
var privateNames = map[string]string{
	"loopback.test":   "127.0.0.1",
	"any.test":        "0.0.0.0",
	"private.test":    "10.0.0.1 192.168.0.1 172.16.0.1",
	"metadata.test":   "169.254.169.254",
	"azure.test":      "168.63.129.16",
	"six.test":        "::1",
	"any6.test":       "::",
	"mapped.test":     "::ffff:127.0.0.1",
	"compatible.test": "::127.0.0.1",
	"siit.test":       "::ffff:0:127.0.0.1",
	"nat64.test":      "64:ff9b::127.0.0.1",
	"6to4.test":       "2002:7f00:1::1",
	"teredo.test":     "2001:0:7f00:1::f7f7:f7f7",
	"isatap.test":     "2a00::5efe:127.0.0.1",
	"ula.test":        "fd00:ec2::254",
	"link.test":       "fe80::1",
	"both.test":       "127.0.0.1 ::1",
}

// anything are the policies that let everything through, with rules and without.
func anything(names argyle.Resolver) []Policy {
	network := []string{"192.0.2.0/24"} // makes Route look names up
	return []Policy{
		{Resolver: names},
		{Resolver: names, Rules: []Rule{{}}},
		{Resolver: names, Rules: []Rule{{Dests: []string{"*"}}, {Deny: true}}},
		{Resolver: names, Rules: []Rule{{Deny: true, Dests: network}, {}}},
		{Resolver: names, Rules: []Rule{{Dests: network}, {Dests: []string{"0.0.0.0/0", "::/0"}}}},
		{Resolver: names, Rules: []Rule{{}}, Ways: map[string]Way{"": {Dialer: &argyle.Direct{Resolver: names}}}},
	}
}

// Private addresses are refused behind a name, too.
func TestPrivateNames(t *testing.T) {
	to := newTarget(t)
	for i, policy := range anything(resolver(t, privateNames)) {
		p := made(t, policy)
		for name := range privateNames {
			dest := argyle.Addr{Name: name, Port: to.port}.String()
			for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind} {
				req := request(t, "192.0.2.1", cmd, dest)
				if err := try(t, p, req); !errors.Is(err, argyle.ErrNotAllowed) {
					t.Errorf("policy %d: %v %s: %v, want ErrNotAllowed", i, cmd, name, err)
				}
			}
		}
	}
	to.wantNothing(t)
}

// try asks for a route and uses it.
func try(t *testing.T, p *Policy, req *argyle.Request) error {
	t.Helper()
	route, err := p.Route(t.Context(), req)
	if err != nil {
		return err
	}
	return use(t, route, req)
}

// use does with a way out what a client has asked for, as proxy.Proxy does.
func use(t *testing.T, route proxy.Route, req *argyle.Request) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(argyle.WithRequest(t.Context(), req), 10*time.Second)
	defer cancel()
	dest := req.Dest
	if !route.Dest.IsZero() {
		dest = route.Dest
	}
	if req.Command == argyle.Bind {
		ln, err := route.Dialer.Listen(ctx, "tcp", dest.String())
		if err == nil {
			ln.Close()
		}
		return err
	}
	conn, err := route.Dialer.DialContext(ctx, "tcp", dest.String())
	if err == nil {
		conn.Close()
	}
	return err
}

// Those who may reach private addresses do so by name as well, but never the proxy itself.
func TestNamesForTrustedClients(t *testing.T) {
	to, itself := newTarget(t), newTarget(t)
	own := new(Listeners)
	own.Add(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(itself.port)})
	names := resolver(t, privateNames)
	for _, tt := range []struct {
		client string
		policy Policy
	}{
		{"127.0.0.1", Policy{}},
		{"unix", Policy{}},
		{"192.0.2.1", Policy{AllowPrivate: true}},
	} {
		tt.policy.Own = own.Contains
		tt.policy.Resolver = names
		p := made(t, tt.policy)
		for _, name := range []string{"loopback.test", "any.test", "mapped.test"} {
			for _, port := range []uint16{to.port, itself.port} {
				dest := argyle.Addr{Name: name, Port: port}.String()
				err := try(t, p, request(t, tt.client, argyle.Connect, dest))
				if port == to.port {
					to.want(t, "a connection")
				} else if !errors.Is(err, argyle.ErrNotAllowed) {
					t.Errorf("%s to itself as %s: %v, want ErrNotAllowed", tt.client, name, err)
				}
			}
		}
	}
	itself.wantNothing(t)
}

// A name that means something else at every look-up gets nothing through: what was looked at is what is dialled.
func TestRebinding(t *testing.T) {
	to := newTarget(t)
	names := map[string]string{
		"flip.test":   "203.0.113.9 | 127.0.0.1",
		"flop.test":   "127.0.0.1 | 203.0.113.9",
		"late.test":   "203.0.113.9 | 203.0.113.9 | 203.0.113.9 | 127.0.0.1",
		"mixed.test":  "203.0.113.9 127.0.0.1 | 127.0.0.1 203.0.113.9",
		"six.test":    "2001:db8::1 ::1 | ::ffff:127.0.0.1 | 64:ff9b::7f00:1",
		"across.test": "203.0.113.9 ::1 | 127.0.0.1 2001:db8::1",
	}
	for i, policy := range anything(resolver(t, names)) {
		var seen public
		policy.Own = seen.stop
		p := made(t, policy)
		for range 8 {
			for name := range names {
				dest := argyle.Addr{Name: name, Port: to.port}.String()
				for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind} {
					if err := try(t, p, request(t, "192.0.2.1", cmd, dest)); !errors.Is(err, argyle.ErrNotAllowed) {
						t.Errorf("policy %d: %v %s: %v, want ErrNotAllowed", i, cmd, name, err)
					}
				}
			}
		}
		seen.check(t)
	}
	to.wantNothing(t)
}

// public keeps the addresses that have passed as public, and stops them: no test sends anything there.
type public struct {
	mu  sync.Mutex
	all []netip.AddrPort
}

func (p *public) stop(addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, addr)
	return true
}

func (p *public) check(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) == 0 {
		t.Error("no public address was looked at")
	}
	for _, addr := range p.all {
		if what := Private(addr.Addr()); what != "" {
			t.Errorf("%v has passed, which is %s", addr, what)
		}
	}
}

// Neither names nor addresses lead datagrams where connections must not go.
func TestRebindingDatagrams(t *testing.T) {
	to := newTarget(t)
	names := map[string]string{"flip.test": "203.0.113.9 | 127.0.0.1", "flop.test": "127.0.0.1 | 203.0.113.9", "local.test": "127.0.0.1"}
	for _, policy := range anything(resolver(t, names)) {
		testRebindingDatagrams(t, policy, to)
	}
	to.wantNothing(t)
}

func testRebindingDatagrams(t *testing.T, policy Policy, to *target) {
	var seen public
	policy.Own = seen.stop
	req := request(t, "192.0.2.1", argyle.Associate, "")
	route, err := made(t, policy).Route(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := route.Dialer.ListenPacket(argyle.WithRequest(t.Context(), req), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := 0
	for range 8 {
		for _, dest := range []argyle.Addr{
			{Name: "flip.test", Port: to.port},
			{Name: "flop.test", Port: to.port},
			{Name: "local.test", Port: to.port},
			{IP: netip.MustParseAddr("127.0.0.1"), Port: to.port},
			{IP: netip.MustParseAddr("::ffff:127.0.0.1"), Port: to.port},
			{IP: netip.MustParseAddr("::1"), Port: to.port},
		} {
			if _, err := conn.WriteTo([]byte("x"), dest); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	dropped := conn.(interface{ Dropped() uint64 }).Dropped
	for deadline := time.Now().Add(10 * time.Second); dropped() < uint64(sent) && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if got := dropped(); got != uint64(sent) {
		t.Errorf("%d of %d datagrams dropped", got, sent)
	}
	seen.check(t)
}

// A direct way out that the caller gives is checked like any other.
func TestDirectWay(t *testing.T) {
	to := newTarget(t)
	p := made(t, Policy{
		Rules: []Rule{{Via: "out"}},
		Ways:  map[string]Way{"out": {Dialer: &argyle.Direct{Resolver: resolver(t, privateNames)}}},
	})
	for client, allowed := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false} {
		dest := argyle.Addr{Name: "loopback.test", Port: to.port}.String()
		err := try(t, p, request(t, client, argyle.Connect, dest))
		if errors.Is(err, argyle.ErrNotAllowed) == allowed {
			t.Errorf("from %s: %v", client, err)
		}
	}
	to.want(t, "a connection")
	to.wantNothing(t)
}
