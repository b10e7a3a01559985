package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
)

// made returns the policy that New makes.
func made(t testing.TB, from Policy) *Policy {
	t.Helper()
	p, err := New(from)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

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
		through = Policy{Ways: map[string]Way{"": {Dialer: new(otherWay)}}}
	)
	tests := []struct {
		policy Policy
		client string
		cmd    argyle.Command
		dest   string
		want   string // the way out: direct, upstream; or the reason against it
	}{
		// Clients on this host go where they like, but not to the proxy itself.
		{plain, "127.0.0.1", argyle.Connect, public, "direct"},
		{plain, "127.0.0.1", argyle.Connect, private, "direct"},
		{plain, "127.0.0.1", argyle.Connect, "127.0.0.1:22", "direct"},
		{plain, "127.0.0.1", argyle.Connect, "169.254.169.254:80", "direct"},
		{plain, "127.0.0.1", argyle.Connect, "localhost:80", "direct"},
		{plain, "127.0.0.1", argyle.Connect, own, "127.0.0.1:1080 is this proxy itself"},
		{plain, "127.0.0.1", argyle.Bind, private, "direct"},
		{plain, "127.0.0.1", argyle.Bind, own, "this proxy itself"},
		{plain, "127.0.0.1", argyle.Bind, "0.0.0.0:0", "direct"},
		{plain, "127.0.0.1", argyle.Bind, "[::]:0", "direct"},
		{plain, "127.0.0.1", argyle.Associate, "", "direct"},
		{plain, "127.0.0.1", argyle.Associate, private, "direct"},
		{plain, "127.9.9.9", argyle.Connect, private, "direct"},
		{plain, "::1", argyle.Connect, private, "direct"},
		{plain, "::ffff:127.0.0.1", argyle.Connect, private, "direct"},
		{plain, "unix", argyle.Connect, private, "direct"},
		{plain, "unix", argyle.Connect, own, "this proxy itself"},

		// Clients from elsewhere reach what is public.
		{plain, "192.0.2.1", argyle.Connect, public, "direct"},
		{plain, "192.0.2.1", argyle.Connect, "[2606:4700::1111]:443", "direct"},
		{plain, "192.0.2.1", argyle.Connect, "a.example:443", "direct"},
		{plain, "192.0.2.1", argyle.Connect, "localhost:80", "is loopback"},
		{plain, "192.0.2.1", argyle.Connect, private, "10.0.0.1 is private"},
		{plain, "192.0.2.1", argyle.Connect, "127.0.0.1:22", "127.0.0.1 is loopback"},
		{plain, "192.0.2.1", argyle.Connect, "[::1]:22", "::1 is loopback"},
		{plain, "192.0.2.1", argyle.Connect, "[::ffff:127.0.0.1]:22", "loopback"},
		{plain, "192.0.2.1", argyle.Connect, "[64:ff9b::a9fe:a9fe]:80", "link-local inside IPv6"},
		{plain, "192.0.2.1", argyle.Connect, "169.254.169.254:80", "link-local"},
		{plain, "192.0.2.1", argyle.Bind, public, "direct"},
		{plain, "192.0.2.1", argyle.Bind, private, "10.0.0.1 is private"},
		{plain, "192.0.2.1", argyle.Bind, "0.0.0.0:0", "BIND without an address of the peer"},
		{plain, "192.0.2.1", argyle.Bind, "[::]:0", "BIND without an address of the peer"},
		{plain, "192.0.2.1", argyle.Associate, "", "direct"},
		{plain, "192.0.2.1", argyle.Associate, public, "direct"},
		{plain, "192.0.2.1", argyle.Associate, private, "10.0.0.1 is private"},
		{plain, "10.0.0.9", argyle.Connect, "10.0.0.1:443", "private"}, // not even from there
		{plain, "fe80::2%eth0", argyle.Connect, private, "private"},
		{plain, "::ffff:192.0.2.1", argyle.Connect, private, "private"},
		{plain, "2001:db8::1", argyle.Connect, private, "private"},

		// --allow-private
		{open, "192.0.2.1", argyle.Connect, private, "direct"},
		{open, "192.0.2.1", argyle.Connect, "127.0.0.1:22", "direct"},
		{open, "192.0.2.1", argyle.Bind, "0.0.0.0:0", "direct"},
		{open, "192.0.2.1", argyle.Connect, own, "this proxy itself"},

		// --allow
		{listed, "192.0.2.0", argyle.Connect, public, "direct"},
		{listed, "192.0.2.255", argyle.Connect, public, "direct"},
		{listed, "192.0.2.255", argyle.Connect, private, "private"},
		{listed, "::ffff:192.0.2.9", argyle.Connect, public, "direct"},
		{listed, "2001:db8:ffff::1", argyle.Associate, "", "direct"},
		{listed, "198.51.100.7", argyle.Connect, public, "direct"},
		{listed, "unix", argyle.Connect, private, "direct"},
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
		// One rule that allows everything is as good as none.
		for _, rules := range [][]Rule{nil, {{}}} {
			tt.policy.Own = func(addr netip.AddrPort) bool { return addr.String() == own }
			tt.policy.Rules = rules
			name := fmt.Sprintf("%s %v %s, %d rules", tt.client, tt.cmd, tt.dest, len(rules))
			route, err := made(t, tt.policy).Route(t.Context(), request(t, tt.client, tt.cmd, tt.dest))
			switch {
			case err != nil && !errors.Is(err, argyle.ErrNotAllowed):
				t.Errorf("%s: %v, which is not ErrNotAllowed", name, err)
			case err != nil && !strings.Contains(err.Error(), tt.want):
				t.Errorf("%s: %v, want %s", name, err, tt.want)
			case err == nil && wayName(route.Dialer) != tt.want:
				t.Errorf("%s: goes %s, want %s", name, wayName(route.Dialer), tt.want)
			case err == nil && !route.Dest.IsZero():
				t.Errorf("%s: goes to %v", name, route.Dest)
			}
		}
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func wayName(way argyle.Dialer) string {
	switch way.(type) {
	case *argyle.Direct:
		return "direct"
	case *otherWay:
		return "upstream"
	}
	return fmt.Sprintf("%T", way)
}

// otherWay is a way out of another kind.
type otherWay struct{ argyle.StreamOnly }

func (*otherWay) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}
