package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
)

// request is what a client asks for; the client "unix" has no address, and a name in dest stays one.
func request(t *testing.T, client string, cmd argyle.Command, dest string) *argyle.Request {
	t.Helper()
	req := &argyle.Request{Command: cmd}
	if client != "unix" {
		req.Client = netip.AddrPortFrom(netip.MustParseAddr(client), 40000)
	}
	if dest == "" {
		return req
	}
	host, port, err := net.SplitHostPort(dest)
	if err != nil {
		t.Fatal(err)
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		req.Dest = argyle.Addr{IP: ip, Port: uint16(n)} // as it is, mapped or not
	} else {
		req.Dest = argyle.Addr{Name: host, Port: uint16(n)}
	}
	return req
}

func TestRoute(t *testing.T) {
	const (
		public  = "8.8.8.8:443"
		private = "10.0.0.1:443"
		own     = "127.0.0.1:1080"
	)
	var (
		plain   = Policy{}
		open    = Policy{AllowPrivate: true}
		listed  = Policy{Clients: prefixes("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32")}
		through = Policy{Upstream: new(otherWay)}
	)
	tests := []struct {
		policy Policy
		client string
		cmd    argyle.Command
		dest   string
		want   string // the way out: local, remote, upstream; or the reason against it
	}{
		// Clients on this host go where they like, but not to the proxy itself.
		{plain, "127.0.0.1", argyle.Connect, public, "local"},
		{plain, "127.0.0.1", argyle.Connect, private, "local"},
		{plain, "127.0.0.1", argyle.Connect, "127.0.0.1:22", "local"},
		{plain, "127.0.0.1", argyle.Connect, "169.254.169.254:80", "local"},
		{plain, "127.0.0.1", argyle.Connect, "localhost:80", "local"},
		{plain, "127.0.0.1", argyle.Connect, own, "127.0.0.1:1080 is this proxy itself"},
		{plain, "127.0.0.1", argyle.Bind, private, "local"},
		{plain, "127.0.0.1", argyle.Bind, own, "this proxy itself"},
		{plain, "127.0.0.1", argyle.Bind, "0.0.0.0:0", "local"},
		{plain, "127.0.0.1", argyle.Bind, "[::]:0", "local"},
		{plain, "127.0.0.1", argyle.Associate, "", "local"},
		{plain, "127.0.0.1", argyle.Associate, private, "local"},
		{plain, "127.9.9.9", argyle.Connect, private, "local"},
		{plain, "::1", argyle.Connect, private, "local"},
		{plain, "::ffff:127.0.0.1", argyle.Connect, private, "local"},
		{plain, "unix", argyle.Connect, private, "local"},
		{plain, "unix", argyle.Connect, own, "this proxy itself"},

		// Clients from elsewhere reach what is public.
		{plain, "192.0.2.1", argyle.Connect, public, "remote"},
		{plain, "192.0.2.1", argyle.Connect, "[2606:4700::1111]:443", "remote"},
		{plain, "192.0.2.1", argyle.Connect, "a.example:443", "remote"},
		{plain, "192.0.2.1", argyle.Connect, "localhost:80", "is loopback"},
		{plain, "192.0.2.1", argyle.Connect, private, "10.0.0.1 is private"},
		{plain, "192.0.2.1", argyle.Connect, "127.0.0.1:22", "127.0.0.1 is loopback"},
		{plain, "192.0.2.1", argyle.Connect, "[::1]:22", "::1 is loopback"},
		{plain, "192.0.2.1", argyle.Connect, "[::ffff:127.0.0.1]:22", "loopback"},
		{plain, "192.0.2.1", argyle.Connect, "[64:ff9b::a9fe:a9fe]:80", "link-local inside IPv6"},
		{plain, "192.0.2.1", argyle.Connect, "169.254.169.254:80", "link-local"},
		{plain, "192.0.2.1", argyle.Bind, public, "remote"},
		{plain, "192.0.2.1", argyle.Bind, private, "10.0.0.1 is private"},
		{plain, "192.0.2.1", argyle.Bind, "0.0.0.0:0", "BIND without an address of the peer"},
		{plain, "192.0.2.1", argyle.Bind, "[::]:0", "BIND without an address of the peer"},
		{plain, "192.0.2.1", argyle.Associate, "", "remote"},
		{plain, "192.0.2.1", argyle.Associate, public, "remote"},
		{plain, "192.0.2.1", argyle.Associate, private, "10.0.0.1 is private"},
		{plain, "10.0.0.9", argyle.Connect, "10.0.0.1:443", "private"}, // not even from there
		{plain, "fe80::2%eth0", argyle.Connect, private, "private"},
		{plain, "::ffff:192.0.2.1", argyle.Connect, private, "private"},
		{plain, "2001:db8::1", argyle.Connect, private, "private"},

		// --allow-private
		{open, "192.0.2.1", argyle.Connect, private, "local"},
		{open, "192.0.2.1", argyle.Connect, "127.0.0.1:22", "local"},
		{open, "192.0.2.1", argyle.Bind, "0.0.0.0:0", "local"},
		{open, "192.0.2.1", argyle.Connect, own, "this proxy itself"},

		// --allow
		{listed, "192.0.2.0", argyle.Connect, public, "remote"},
		{listed, "192.0.2.255", argyle.Connect, public, "remote"},
		{listed, "192.0.2.255", argyle.Connect, private, "private"},
		{listed, "::ffff:192.0.2.9", argyle.Connect, public, "remote"},
		{listed, "2001:db8:ffff::1", argyle.Associate, "", "remote"},
		{listed, "198.51.100.7", argyle.Connect, public, "remote"},
		{listed, "unix", argyle.Connect, private, "local"},
		{listed, "192.0.1.255", argyle.Connect, public, "client 192.0.1.255 is in none of the allowed networks"},
		{listed, "192.0.3.0", argyle.Connect, public, "in none of the allowed networks"},
		{listed, "198.51.100.8", argyle.Associate, "", "in none of the allowed networks"},
		{listed, "2001:db9::1", argyle.Bind, public, "in none of the allowed networks"},
		{listed, "127.0.0.1", argyle.Connect, public, "in none of the allowed networks"},
		{listed, "::1", argyle.Connect, public, "in none of the allowed networks"},
		{listed, "::ffff:10.0.0.1", argyle.Connect, public, "client 10.0.0.1 is in none"},

		// Through an upstream literals are looked at all the same. What a name means is the upstream's knowledge.
		{through, "127.0.0.1", argyle.Connect, private, "upstream"},
		{through, "192.0.2.1", argyle.Connect, public, "upstream"},
		{through, "192.0.2.1", argyle.Connect, "a.example:80", "upstream"},
		{through, "192.0.2.1", argyle.Connect, private, "10.0.0.1 is private"},
		{through, "192.0.2.1", argyle.Connect, "a.LocalHost.:80", "is loopback"},
		{through, "127.0.0.1", argyle.Connect, "localhost:80", "upstream"},
		{through, "127.0.0.1", argyle.Connect, own, "this proxy itself"},
	}
	for _, tt := range tests {
		tt.policy.Own = func(addr netip.AddrPort) bool { return addr.String() == own }
		p := New(tt.policy)
		name := fmt.Sprintf("%s %v %s", tt.client, tt.cmd, tt.dest)
		way, err := p.Route(t.Context(), request(t, tt.client, tt.cmd, tt.dest))
		switch {
		case err != nil && !errors.Is(err, argyle.ErrNotAllowed):
			t.Errorf("%s: %v, which is not ErrNotAllowed", name, err)
		case err != nil && !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		case err == nil && wayName(p, way) != tt.want:
			t.Errorf("%s: goes %s, want %s", name, wayName(p, way), tt.want)
		}
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func wayName(p *Policy, way argyle.Dialer) string {
	switch way {
	case &p.local:
		return "local"
	case &p.remote:
		return "remote"
	case p.Upstream:
		return "upstream"
	}
	return fmt.Sprintf("%T", way)
}

// otherWay is a way out of another kind.
type otherWay struct{ argyle.StreamOnly }

func (*otherWay) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

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

// Private addresses are refused behind a name, too.
func TestPrivateNames(t *testing.T) {
	to := newTarget(t)
	p := New(Policy{Upstream: &argyle.Direct{Resolver: resolver(t, privateNames)}})
	for name := range privateNames {
		dest := argyle.Addr{Name: name, Port: to.port}.String()
		for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind} {
			way, err := p.Route(t.Context(), request(t, "192.0.2.1", cmd, dest))
			if err != nil {
				t.Fatalf("%v %s: %v: nobody has looked it up yet", cmd, name, err)
			}
			if err := use(t, way, cmd, dest); !errors.Is(err, argyle.ErrNotAllowed) {
				t.Errorf("%v %s: %v, want ErrNotAllowed", cmd, name, err)
			}
		}
	}
	to.wantNothing(t)
}

// use does with a way out what a client has asked for.
func use(t *testing.T, way argyle.Dialer, cmd argyle.Command, dest string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if cmd == argyle.Bind {
		ln, err := way.Listen(ctx, "tcp", dest)
		if err == nil {
			ln.Close()
		}
		return err
	}
	conn, err := way.DialContext(ctx, "tcp", dest)
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
		tt.policy.Upstream = &argyle.Direct{Resolver: names}
		p := New(tt.policy)
		for _, name := range []string{"loopback.test", "any.test", "mapped.test"} {
			for _, port := range []uint16{to.port, itself.port} {
				dest := argyle.Addr{Name: name, Port: port}.String()
				way, err := p.Route(t.Context(), request(t, tt.client, argyle.Connect, dest))
				if err != nil {
					t.Fatal(err)
				}
				err = use(t, way, argyle.Connect, dest)
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
	var seen public
	p := New(Policy{Upstream: &argyle.Direct{Resolver: resolver(t, names)}, Own: seen.stop})
	for range 8 {
		for name := range names {
			dest := argyle.Addr{Name: name, Port: to.port}.String()
			for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind} {
				way, err := p.Route(t.Context(), request(t, "192.0.2.1", cmd, dest))
				if err != nil {
					t.Fatal(err)
				}
				if err := use(t, way, cmd, dest); !errors.Is(err, argyle.ErrNotAllowed) {
					t.Errorf("%v %s: %v, want ErrNotAllowed", cmd, name, err)
				}
			}
		}
	}
	to.wantNothing(t)
	seen.check(t)
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
	var seen public
	p := New(Policy{Upstream: &argyle.Direct{Resolver: resolver(t, names)}, Own: seen.stop})
	way, err := p.Route(t.Context(), request(t, "192.0.2.1", argyle.Associate, ""))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := way.ListenPacket(t.Context(), "udp", "")
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
	to.wantNothing(t)
	seen.check(t)
}

// A direct way out that is given as the upstream is checked like any other.
func TestDirectUpstream(t *testing.T) {
	to := newTarget(t)
	p := New(Policy{Upstream: &argyle.Direct{Resolver: resolver(t, privateNames)}})
	for client, allowed := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false} {
		dest := argyle.Addr{Name: "loopback.test", Port: to.port}.String()
		way, err := p.Route(t.Context(), request(t, client, argyle.Connect, dest))
		if err != nil {
			t.Fatal(err)
		}
		if err := use(t, way, argyle.Connect, dest); errors.Is(err, argyle.ErrNotAllowed) == allowed {
			t.Errorf("from %s: %v", client, err)
		}
	}
	to.want(t, "a connection")
	to.wantNothing(t)
}
