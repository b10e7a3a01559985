package main

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// tunFlags are the flags of tun.
type tunFlags struct {
	captureFlags
	name    string
	mtu     int
	routes  []string
	except  []string
	ping    []string
	fd      int
	plan    bool
	cleanup bool
}

// The bounds of --mtu: IPv6 needs the least, and the device has no more.
const (
	minTunMTU = 1280
	maxTunMTU = 65535
)

// maxTunRoutes bounds --route: each takes two rules of routing.
const maxTunRoutes = 64

func tunCommand(common *commonFlags) *cobra.Command {
	f := new(tunFlags)
	cmd := &cobra.Command{
		Use:   "tun [flags]",
		Short: "Take a host's packets through a tun device",
		Long: `Take what this host sends through a proxy, by a tun device: TCP, UDP and names,
IPv4 and IPv6. What goes to its local networks is left alone. It needs Linux and
root, and takes back what it has changed when it ends, however it ends.

With --fd, the device is one that somebody else has made: then nothing of this
host is touched, and no root is needed.`,
		Example: `  argyle tun -x socks5h://gw:1080
  argyle tun -x gw --route 10.0.0.0/8`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("dns") && len(f.routes) > 0 {
				f.dns = dnsOff // names would take all else along
			}
			return runTun(cmd.Context(), common, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "argyle0", "`NAME` of the device")
	flags.IntVar(&f.mtu, "mtu", 0, "the longest packet of the device, in `BYTES`; 0 for the best")
	flags.StringArrayVar(&f.routes, "route", nil, "take only what goes to the network `CIDR`; repeatable")
	flags.StringArrayVar(&f.except, "except", nil, "leave alone what goes to the network `CIDR`; repeatable")
	flags.StringVar(&f.dns, "dns", dnsFake, "`MODE` of names: fake (the proxy looks them up), proxy (a resolver is asked through the proxy) or off, as with --route")
	flags.StringArrayVar(&f.ping, "ping", nil, "answer echo requests to `CIDR` or .domain in the name of its hosts; repeatable")
	flags.IntVar(&f.fd, "fd", -1, "use the device that is open as descriptor `N`, and touch nothing else")
	flags.BoolVar(&f.plan, "plan", false, "say what would be changed, and change nothing")
	flags.BoolVar(&f.cleanup, "cleanup", false, "take back what a killed run has left, and end")
	f.add(flags)
	return cmd
}

// check looks at what can be told without this host.
func (f *tunFlags) check() error {
	if modes := []string{dnsFake, dnsProxy, dnsOff}; !slices.Contains(modes, f.dns) {
		return usagef("--dns %q: want %s", f.dns, strings.Join(modes, ", "))
	}
	if f.mtu != 0 && (f.mtu < minTunMTU || f.mtu > maxTunMTU) {
		return usagef("--mtu %d: want %d to %d", f.mtu, minTunMTU, maxTunMTU)
	}
	if f.name == "" || len(f.name) > 15 || strings.ContainsAny(f.name, "/: \t%") || f.name == "." || f.name == ".." {
		return usagef("--name %q: want a name of at most 15 characters", f.name)
	}
	if f.fd >= 0 && (len(f.routes)+len(f.except) > 0 || f.plan || f.cleanup) {
		return usagef("--fd: routes are for whoever has made the device")
	}
	if len(f.routes) > maxTunRoutes {
		return usagef("--route: %d are too many, want %d", len(f.routes), maxTunRoutes)
	}
	return f.captureFlags.check()
}

// networks reads the values of a flag that takes networks only.
func networks(flag string, values []string) ([]netip.Prefix, error) {
	t, err := parseTargets(flag, values)
	if err == nil && len(t.names) > 0 {
		err = usagef("%s %q: want a network such as 10.0.0.0/8", flag, t.names[0])
	}
	return t.prefixes, err
}
