package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/limit"
	"github.com/argyle-socks/argyle/internal/policy"
)

// explainFlags describe the request.
type explainFlags struct {
	user     string
	from     string
	auth     string
	listener string
	at       string
}

func explainCommand(common *commonFlags) *cobra.Command {
	f := new(explainFlags)
	cmd := &cobra.Command{
		Use:   "explain -c FILE [flags] connect|bind|udp HOST:PORT",
		Short: "Say what the rules decide, and why",
		Long: `Say what the rules decide about a request, and why: the rule with its line, what
the name means where it is looked up here, the way out, and the limits and
timeouts that apply. Nothing is dialled.`,
		Example: `  argyle explain -c argyle.yaml --user ann --from 10.1.2.3 connect a.example:443
  argyle explain -c argyle.yaml --at "2026-11-28 03:00" udp 192.0.2.53:53`,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if common.config == "" {
				return usagef("explain: which configuration? Give -c FILE")
			}
			req, err := f.request(args[0], args[1])
			if err != nil {
				return err
			}
			return explain(cmd.Context(), os.Stdout, common.config, f.at, req)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.user, "user", "", "who asks: a `NAME`")
	flags.StringVar(&f.from, "from", "127.0.0.1", "the client's `ADDRESS`, or unix")
	flags.StringVar(&f.auth, "auth", "", "how the client is known: none, password, certificate, gssapi or uid; gssapi or password if there is a user, with an @ or not")
	flags.StringVar(&f.listener, "listener", "", "the `NAME` of the listener")
	flags.StringVar(&f.at, "at", "", "when: a `TIME` such as 2026-11-23 09:30 (default now)")
	return cmd
}

// request is what the flags and arguments describe.
func (f *explainFlags) request(command, dest string) (*argyle.Request, error) {
	req := &argyle.Request{User: f.user, Inbound: f.listener}
	switch command {
	case "connect":
		req.Command = argyle.Connect
	case "bind":
		req.Command = argyle.Bind
	case "udp":
		req.Command = argyle.Associate
	default:
		return nil, usagef("%q: want connect, bind or udp", command)
	}
	var err error
	if req.Dest, err = argyle.ParseAddr(dest); err != nil {
		return nil, usagef("%q: want HOST:PORT: %w", dest, err)
	}
	if f.from != "unix" {
		from, err := netip.ParseAddr(f.from)
		if err != nil {
			return nil, usagef("--from %q: want an address, or unix", f.from)
		}
		req.Client = netip.AddrPortFrom(from, 1024)
	}
	if f.auth != "" {
		if err := new(config.Auth).UnmarshalText([]byte(f.auth)); err != nil {
			return nil, usagef("--auth: %w", err)
		}
	}
	req.Auth = authFor(config.Auth(f.auth), f.user)
	return req, nil
}

// figures is a limit that tells its figures.
type figures struct{ *limit.Limit }

func (f *figures) String() string {
	s := f.Spec()
	var parts []string
	add := func(set bool, format string, args ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(s.Sessions > 0, "%d sessions", s.Sessions)
	add(s.Rate.N > 0, "%v", s.Rate)
	add(s.Up > 0, "%v up", config.Bandwidth(s.Up))
	add(s.Down > 0, "%v down", config.Bandwidth(s.Down))
	add(s.SessionUp > 0, "%v up each", config.Bandwidth(s.SessionUp))
	add(s.SessionDown > 0, "%v down each", config.Bandwidth(s.SessionDown))
	add(s.Quota > 0, "%v", config.Quota{Bytes: s.Quota, Period: string(s.QuotaPeriod)})
	return f.Limit.String() + ": " + strings.Join(parts, ", ")
}

// wanted are the addresses that a configuration would listen on.
func wanted(file *config.File) *policy.Listeners {
	own := new(policy.Listeners)
	specs := file.Listen
	if len(specs) == 0 {
		specs = defaultListen()
	}
	for _, spec := range specs {
		if addr, err := net.ResolveTCPAddr("tcp", spec.Address); err == nil && addr.Port != 0 {
			if addr.IP == nil {
				addr.IP = net.IPv6unspecified
			}
			own.Add(addr)
		}
	}
	return own
}

// explain prints what is decided about a request and why.
func explain(ctx context.Context, w io.Writer, path, at string, req *argyle.Request) error {
	file, err := loadFile(path)
	if err != nil {
		tell(os.Stderr, err)
		return errTold
	}
	world := newWorld(slog.New(slog.DiscardHandler))
	set, err := world.build(file, nil)
	if err != nil {
		tell(os.Stderr, err)
		return errTold
	}
	world.now.Store(set)
	world.own.Store(wanted(file))
	p := set.policy
	if at != "" {
		var moment config.Moment
		if err := moment.UnmarshalText([]byte(at)); err != nil {
			return usagef("--at: %w", err)
		}
		p = p.At(moment.Time())
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	e, err := p.Explain(ctx, req)
	var lookup interface{ Temporary() bool }
	if err != nil && !errors.As(err, &lookup) {
		return err
	}
	if w, ok := e.Route.Dialer.(*way); ok {
		e.Route.Dialer = w.Dialer // whose own name says more
	}
	for i, l := range e.Route.Limits {
		if wanted, ok := l.(*wantedLimit); ok {
			l = wanted.limit()
		}
		if l, ok := l.(*limit.Limit); ok {
			e.Route.Limits[i] = &figures{l}
		}
	}
	e.Route.Timeouts = e.Route.Timeouts.Over(set.timeouts)
	fmt.Fprint(w, e.String())
	return err
}
