package proxy_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// knowing is a memPacket of a way out that has looked names up.
type knowing struct {
	*memPacket
	book map[string]string // name to address
}

func (k *knowing) Names(ip netip.Addr) (names []string) {
	for name, addr := range k.book {
		if netip.MustParseAddr(addr) == ip {
			names = append(names, name)
		}
	}
	return names
}

// dgram is a datagram to or from "host:port".
func dgram(t *testing.T, addr, payload string) argyle.Datagram {
	t.Helper()
	a, err := argyle.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	return argyle.Datagram{Addr: a, Payload: []byte(payload)}
}

// A datagram to the client counts against the limits of the destination that it
// comes from. Which name an address stands for, only a way out can tell that has
// looked it up: without it, the datagram may be the reply of any name.
func TestReplyLimits(t *testing.T) {
	book := map[string]string{"slow.example": "192.0.2.1", "fast.example": "192.0.2.2", "also.slow.example": "192.0.2.2"}
	for _, tt := range []struct {
		what   string
		book   map[string]string // of the way out; nil if it knows none
		sent   []string
		from   string
		counts string // the hosts against whose limits it counts
	}{
		{"an address", nil, []string{"203.0.113.1:53"}, "203.0.113.1:53", "203.0.113.1"},
		{"an address among names", nil, []string{"slow.example:53", "203.0.113.1:53"}, "203.0.113.1:53", "203.0.113.1"},
		{"a name as it was sent", nil, []string{"slow.example:53", "fast.example:53"}, "slow.example:53", "slow.example"},
		{"the only name", nil, []string{"slow.example:53"}, "192.0.2.1:53", "slow.example"},
		{"one of two names", nil, []string{"slow.example:53", "fast.example:53"}, "192.0.2.1:53", "slow.example fast.example"},
		{"a stranger", nil, []string{"203.0.113.1:53"}, "203.0.113.2:53", ""},
		{"a stranger, or a name", nil, []string{"203.0.113.1:53", "slow.example:53"}, "203.0.113.2:53", "slow.example"},
		{"an address without limits", nil, []string{"free:53", "198.51.100.1:53", "slow.example:53"}, "198.51.100.1:53", ""},
		{"the name is known", book, []string{"slow.example:53", "fast.example:53"}, "192.0.2.1:53", "slow.example"},
		{"the name has no limits", book, []string{"slow.example:53", "free:53"}, "192.0.2.3:53", ""},
		{"two names are known", book, []string{"slow.example:53", "fast.example:53", "also.slow.example:53"}, "192.0.2.2:53", "fast.example also.slow.example"},
		{"of which one was sent to", book, []string{"slow.example:53", "fast.example:53"}, "192.0.2.2:53", "fast.example"},
		{"another port", book, []string{"slow.example:53", "fast.example:53"}, "192.0.2.1:54", "slow.example fast.example"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if tt.book != nil {
				tt.book["free"] = "192.0.2.3"
			}
			limits := make(map[string]*count)
			for _, host := range []string{"slow.example", "fast.example", "also.slow.example", "203.0.113.1"} {
				limits[host] = &count{gate: &tally{left: 1000}}
			}
			client, out := newMemPacket(), newOutbound()
			way := &fakeDialer{listen: func(ctx context.Context) (net.PacketConn, error) {
				conn, err := out.listen(ctx)
				if err == nil && tt.book != nil {
					conn = &knowing{conn.(*memPacket), tt.book}
				}
				return conn, err
			}}
			p := &proxy.Proxy{Policy: policyOf(func(_ context.Context, req *argyle.Request) (proxy.Route, error) {
				route := proxy.Route{Dialer: way}
				if l := limits[req.Dest.Host()]; l != nil {
					route.Limits = []proxy.Limit{l}
				}
				return route, nil
			})}
			wait := begin(t, p, client)
			var far *memPacket
			for _, dest := range tt.sent {
				client.in <- dgram(t, dest, "")
				if far == nil {
					far = <-out.opened
				}
				<-far.out
			}
			far.in <- dgram(t, tt.from, "1234567")
			expectPacket(t, client, "1234567")
			client.Close()
			wait()
			var counts []string
			for _, host := range []string{"slow.example", "fast.example", "also.slow.example", "203.0.113.1"} {
				if left := limits[host].gate.(*tally).left; left == 1000-7 {
					counts = append(counts, host)
				} else if left != 1000 {
					t.Errorf("%d bytes were counted against %s", 1000-left, host)
				}
			}
			if want := strings.Fields(tt.counts); !slices.Equal(counts, want) {
				t.Errorf("counts against %q, want %q", counts, want)
			}
		})
	}
}

// A destination that was forgotten for the many that came after it, and a name
// that came after its address had spoken, have limits all the same.
func TestReplyLimitsLast(t *testing.T) {
	limited := &count{gate: &tally{left: 10}}
	client, out := newMemPacket(), newOutbound()
	p := &proxy.Proxy{Policy: policyOf(func(_ context.Context, req *argyle.Request) (proxy.Route, error) {
		route := proxy.Route{Dialer: out}
		if host := req.Dest.Host(); host == "203.0.113.1" || host == "late.example" {
			route.Limits = []proxy.Limit{limited}
		}
		return route, nil
	})}
	wait := begin(t, p, client)
	client.in <- dgram(t, "203.0.113.1:53", "")
	far := <-out.opened
	<-far.out
	for port := range uint16(2000) {
		client.in <- to(1+port, "")
		<-far.out
	}
	far.in <- dgram(t, "203.0.113.1:53", "ten, and all") // 12
	far.in <- dgram(t, "192.0.2.1:2000", "a known one is free")
	expectPacket(t, client, "a known one is free")
	client.Close()
	wait()

	client, out = newMemPacket(), newOutbound()
	wait = begin(t, p, client)
	client.in <- dgram(t, "203.0.113.1:1", "") // from now on somebody looks
	far = <-out.opened
	<-far.out
	far.in <- dgram(t, "192.0.2.77:53", "a stranger is free")
	expectPacket(t, client, "a stranger is free")
	client.in <- dgram(t, "late.example:53", "")
	<-far.out
	far.in <- dgram(t, "192.0.2.77:53", "and no longer")
	far.in <- dgram(t, "192.0.2.77:53", "little")
	expectPacket(t, client, "little")
	client.Close()
	wait()
}
