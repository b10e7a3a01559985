package main

import (
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle"
)

// The ways in which redirect can take connections.
const (
	methodTPROXY   = "tproxy"
	methodRedirect = "redirect"
)

// redirectFlags are the flags of redirect.
type redirectFlags struct {
	captureFlags
	to      []string
	except  []string
	from    []string
	local   bool
	uids    []string
	gids    []string
	cgroups []string
	names   bool
	method  string
	plan    bool
	cleanup bool
}

func redirectCommand(common *commonFlags) *cobra.Command {
	f := new(redirectFlags)
	cmd := &cobra.Command{
		Use:   "redirect [flags]",
		Short: "Take a host's or a network's connections",
		Long: `Take the connections of this host's programs, or of a network that it routes
for, and lead them through a proxy: TCP and UDP, IPv4 and IPv6. It needs Linux
and root, and takes back what it has changed when it ends, however it ends.

With --dns, names get addresses of a pool, and only those are taken. That is the
recommended form: no route is touched that anybody else uses.`,
		Example: `  argyle redirect -x socks5h://gw:1080 --dns
  argyle redirect -x gw --to 10.0.0.0/8 --to .corp.example --from eth1`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRedirect(cmd.Context(), common, f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.to, "to", nil, "take what goes to `CIDR`, .domain or name; repeatable")
	flags.StringArrayVar(&f.except, "except", nil, "leave alone what goes to `CIDR`, .domain or name; repeatable")
	flags.StringArrayVar(&f.from, "from", nil, "take what comes from the network `CIDR` or interface, in place of local programs; repeatable")
	flags.BoolVar(&f.local, "local", false, "take what local programs send, with --from")
	flags.StringArrayVar(&f.uids, "uid", nil, "of local programs, take those of `USER`; repeatable")
	flags.StringArrayVar(&f.gids, "gid", nil, "of local programs, take those of `GROUP`; repeatable")
	flags.StringArrayVar(&f.cgroups, "cgroup", nil, "of local programs, take those in the control group `PATH`; repeatable")
	flags.BoolVar(&f.names, "dns", false, "answer look-ups, with addresses that stand for names; without a name in --to, for all names")
	flags.StringVar(&f.method, "method", methodTPROXY, "`METHOD` for TCP: tproxy or redirect")
	flags.BoolVar(&f.plan, "plan", false, "say what would be changed, and change nothing")
	flags.BoolVar(&f.cleanup, "cleanup", false, "take back what a killed run has left, and end")
	f.add(flags)
	return cmd
}

// check looks at what can be told without this host.
func (f *redirectFlags) check() error {
	if f.method != methodTPROXY && f.method != methodRedirect {
		return usagef("--method %q: want tproxy or redirect", f.method)
	}
	if len(f.to) == 0 && !f.names {
		return usagef("nothing to take: give --dns, or --to CIDR or .domain")
	}
	if narrow := len(f.uids) + len(f.gids) + len(f.cgroups); narrow > 0 && len(f.from) > 0 && !f.local {
		return usagef("--uid, --gid and --cgroup are about local programs, which --from leaves alone: add --local")
	}
	return f.captureFlags.check()
}

// targets are the destinations of some values of --to or --except.
type targets struct {
	prefixes []netip.Prefix
	names    []string // in lower case; what begins with a dot is a domain
}

// parseTargets reads the values of a flag.
func parseTargets(flag string, values []string) (t targets, err error) {
	for _, value := range values {
		if prefix, err := netip.ParsePrefix(value); err == nil {
			t.prefixes = append(t.prefixes, prefix.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(trimBrackets(value)); err == nil && ip.Zone() == "" {
			t.prefixes = append(t.prefixes, netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()))
			continue
		}
		name := strings.ToLower(strings.TrimSuffix(value, "."))
		if addr, err := argyle.ParseHost(strings.TrimPrefix(name, "."), 0); err != nil || addr.Name == "" ||
			strings.ContainsAny(name, "/:%* ") {
			return t, usagef("%s %q: want a network such as 10.0.0.0/8, a domain such as .corp.example, or a name", flag, value)
		}
		t.names = append(t.names, name)
	}
	return t, nil
}

// named reports whether a name, in lower case, is one of them.
func (t *targets) named(name string) bool {
	for _, want := range t.names {
		domain, ok := strings.CutPrefix(want, ".")
		if name == domain || ok && strings.HasSuffix(name, want) {
			return true
		}
	}
	return false
}
