// Package upstream makes ways out of proxy URLs, and of several ways out one: an
// [SSH] server, a [Path] through several proxies, a [Group] of ways out that
// stand in for each other.
//
//	[scheme://][user[:password]@]host[:port][?option=value]
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"syscall"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
)

// Chain returns the way out through all the proxies, the nearest first.
func Chain(urls []string) (argyle.Dialer, error) { return Options{}.Chain(urls) }

// An AddrCheck looks at an address, as [argyle.Direct.Check] does.
type AddrCheck = func(ctx context.Context, network string, addr netip.AddrPort) error

// Checks are asked about the addresses that a way out uses by itself; nil
// allows all.
type Checks struct {
	First AddrCheck // about the first proxy's
	Dest  AddrCheck // about those of names, where a proxy's scheme says that we resolve them
}

// Chain is [Chain] with the checks built in.
func (c Checks) Chain(urls []string) (argyle.Dialer, error) { return Options{Checks: c}.Chain(urls) }

// Options are what URLs do not say about the ways out that are made of them.
// The zero Options are ready to use.
type Options struct {
	Checks

	// Resolver looks up the first proxy's name, and destinations where a
	// proxy's scheme says that we do; nil is the system's.
	Resolver argyle.Resolver

	// Control, if not nil, prepares every socket, as net.Dialer.Control does.
	Control func(network, address string, conn syscall.RawConn) error

	// Base is the way to the first proxy, which then looks after its name
	// and its address by itself; nil is an [argyle.Direct] with Resolver,
	// Control and Checks.First.
	Base argyle.Dialer

	// Log is told of SSH connections that come and go; nil discards.
	Log *slog.Logger
}

// Chain returns the way out through all the proxies, the nearest first.
func (o Options) Chain(urls []string) (argyle.Dialer, error) {
	way := o.base()
	for _, u := range urls {
		next, err := o.parse(u, way)
		if err != nil {
			return nil, err
		}
		way = next
	}
	return way, nil
}

// Hop returns the proxy of a URL as a part of a [Path].
func (o Options) Hop(url string) (Hop, error) {
	// Once for the errors and the name; Paths make more of them.
	d, err := o.parse(url, nil)
	if err != nil {
		return Hop{}, err
	}
	if _, direct := d.(*argyle.Direct); direct {
		return Hop{}, fmt.Errorf("proxy URL %q: direct is no proxy to go through", Redact(url))
	}
	return Hop{
		Name: nameOf(d),
		Reach: func(forward argyle.Dialer) (argyle.Dialer, error) {
			way, err := o.parse(url, forward)
			if kept, ok := d.(*socks.Dialer); ok && err == nil {
				way.(*socks.Dialer).GSSAPI = kept.GSSAPI // which has the tickets
			}
			return way, err
		},
	}, nil
}

// Path returns a way out through the proxies by a mode; see [Path].
func (o Options) Path(mode Mode, length int, hops ...Hop) *Path {
	return &Path{Hops: hops, Mode: mode, Length: length, Base: o.base(), Log: o.Log}
}

func (o Options) base() argyle.Dialer {
	if o.Base != nil {
		return o.Base
	}
	return &argyle.Direct{Check: o.First, Resolver: o.Resolver, Control: o.Control}
}

// parse is Parse with what the URL does not say.
func (o Options) parse(url string, forward argyle.Dialer) (argyle.Dialer, error) {
	if _, direct := forward.(*argyle.Direct); forward != nil && (!direct || o.Base != nil) {
		forward = &toProxy{forward}
	}
	d, err := Parse(url, forward)
	switch d := d.(type) {
	case *socks.Dialer:
		d.Check, d.Resolver = o.Dest, o.Resolver
	case *SSH:
		d.Log = o.Log
	}
	return d, err
}

// Parse returns the way out through the proxy that s names, which is reached
// through forward. An error never shows the password in s.
func Parse(s string, forward argyle.Dialer) (argyle.Dialer, error) {
	u, err := split(s)
	if err != nil {
		return nil, fmt.Errorf("proxy URL %q: %w", Redact(s), err)
	}
	d, err := u.dialer(forward)
	if err != nil {
		return nil, fmt.Errorf("proxy URL %q: %w", Redact(s), err)
	}
	return d, nil
}

// Close closes what a way out keeps open between requests, which is the
// connections to SSH servers, with the sessions on them. It can still be used.
func Close(way argyle.Dialer) error {
	switch d := way.(type) {
	case *socks.Dialer:
		return Close(d.Forward)
	case *httpconnect.Dialer:
		return Close(d.Forward)
	case *SSH:
		return errors.Join(d.Close(), Close(d.Forward))
	case io.Closer:
		return d.Close()
	}
	return nil
}

// nameOf returns how a way out calls itself.
func nameOf(d argyle.Dialer) string {
	if named, ok := d.(fmt.Stringer); ok {
		return named.String()
	}
	return fmt.Sprintf("%T", d)
}
