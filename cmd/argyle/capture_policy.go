package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// capturePolicy is that of the configuration, but that names stay names: nobody
// looks one up here because there are rules about networks.
type capturePolicy struct{ *world }

// Route decides about a request.
func (p capturePolicy) Route(ctx context.Context, req *argyle.Request) (proxy.Route, error) {
	route, err := p.world.Route(ctx, req)
	if req.Dest.Name != "" {
		route.Dest = argyle.Addr{} // it is one of shownAddresses
	}
	return route, err
}

// shownAddresses is what rules about networks see of a name: an address that only
// networks contain which mean the whole internet. The true one is for the proxy to
// know.
type shownAddresses struct{}

// LookupNetIP returns one address.
func (shownAddresses) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{someAddress}, nil
}

// someAddress is a public one that nobody goes to (AS112, RFC 7535): neither lists
// of private networks nor of those that are not routed have it.
var someAddress = netip.AddrFrom4([4]byte{192, 31, 196, 255})

// carriesUDP reports whether any of the ways out may carry datagrams. Some
// proxies will say that they do not when they are asked.
func (set *setup) carriesUDP() bool {
	// With a context that has ended nobody is asked: what cannot be done says
	// so, and all else that there was no time.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, way := range set.ways {
		if name == "direct" && len(set.file.Rules) == 0 {
			continue // nothing goes that way
		}
		conn, err := way.ListenPacket(ctx, "udp", "")
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return true
		}
	}
	return false
}
