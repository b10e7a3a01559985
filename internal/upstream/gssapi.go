package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/krb5"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// gssapiOptions are those of a SOCKS 5 proxy that wants a Kerberos ticket.
var gssapiOptions = []string{"auth", "service", "level", "nec", "ccache", "keytab", "principal"}

// gssapi makes the client's side of GSS-API of the options; nil if it is not
// wanted. forward is the way to the proxy.
func (u *proxyURL) gssapi(forward argyle.Dialer) (*socks.GSSAPIClient, error) {
	switch auth := u.options.Get("auth"); auth {
	case "gssapi":
	case "":
		for _, option := range gssapiOptions {
			if u.options.Has(option) {
				return nil, fmt.Errorf("option %s is for auth=gssapi", option)
			}
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("option auth is %q, want gssapi", auth)
	}
	if u.user != "" || u.password != "" {
		return nil, errors.New("auth=gssapi shows a ticket: no user name and password go with it")
	}
	if u.options.Has("principal") && !u.options.Has("keytab") {
		return nil, errors.New("option principal says whose keys of a keytab to use: name it with keytab")
	}
	if u.options.Has("ccache") && u.options.Has("keytab") {
		return nil, errors.New("options ccache and keytab: want one of them")
	}
	if service := u.options.Get("service"); service != "" {
		if err := krb5.CheckService(service); err != nil {
			return nil, fmt.Errorf("option service: %w", err)
		}
	}
	g := &socks.GSSAPIClient{Service: u.options.Get("service"), Level: wire.Confidentiality}
	if level := u.options.Get("level"); level != "" {
		var err error
		if g.Level, err = wire.ParseProtectionLevel(level); err != nil {
			return nil, fmt.Errorf("option level: %w", err)
		}
	}
	if nec := u.options.Get("nec"); nec != "" {
		if !slices.Contains([]string{"yes", "no"}, nec) {
			return nil, fmt.Errorf("option nec is %q, want yes or no", nec)
		}
		g.NEC = nec == "yes"
	}
	i := &krb5.Initiator{
		Cache: u.options.Get("ccache"), Keytab: u.options.Get("keytab"), Principal: u.options.Get("principal"),
		DialContext: kdcDial(forward),
	}
	g.Initiate = func(ctx context.Context, service, host string) (socks.SecurityContext, error) {
		c, err := i.Initiate(ctx, service, host)
		if err != nil {
			return nil, err // and no context, which a nil pointer would be
		}
		return c, nil
	}
	return g, nil
}

// kdcDial returns what connects to KDCs: without proxies, but with sockets like
// those to the first proxy.
func kdcDial(forward argyle.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		switch d := forward.(type) {
		case *toProxy:
			forward = d.Dialer
		case *socks.Dialer:
			forward = d.Forward
		case *argyle.Direct:
			return (&toProxy{d}).DialContext
		default:
			return nil
		}
	}
}
