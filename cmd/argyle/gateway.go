package main

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle/internal/config"
)

// gatewayFlags are the flags of gateway.
type gatewayFlags struct {
	captureFlags
	gatewayFiles
	listen       []string
	allow        []string
	nat64        []string
	verify       bool
	allowPrivate bool
	plan         bool
	cleanup      bool
}

func gatewayCommand(common *commonFlags) *cobra.Command {
	f := new(gatewayFlags)
	cmd := &cobra.Command{
		Use:   "gateway [flags]",
		Short: "RFC 3089: names for hosts of the other family",
		Long: `Let hosts that know of no proxy reach whatever it can reach, by name and whatever
the family of either: names are answered with addresses of a pool, and what goes
to those is led through the proxy, which looks the names up. It needs Linux and
root, and takes back what it has changed when it ends, however it ends.

Clients use it as their resolver, and have a route to the pool by way of it.`,
		Example: `  argyle gateway -x gw --dns 192.0.2.1:53 --allow 192.0.2.0/24
  argyle gateway -c argyle.yaml
  argyle gateway map get www.example.com`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runGateway(cmd.Context(), common, f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.listen, "dns", nil, "answer queries at `ADDR`, over UDP and TCP; repeatable")
	flags.StringArrayVar(&f.allow, "allow", nil, "let clients of the network `CIDR` use it; repeatable")
	flags.StringArrayVar(&f.nat64, "nat64", nil, "take the IPv4 addresses inside `PREFIX` to the proxy (RFC 6052); repeatable")
	flags.BoolVar(&f.verify, "verify", false, "ask the resolver whether a name exists before it gets an address")
	flags.BoolVar(&f.allowPrivate, "allow-private", false, "let clients reach loopback, private, link-local and metadata addresses, and this host")
	flags.BoolVar(&f.plan, "plan", false, "say what would be changed, and change nothing")
	flags.BoolVar(&f.cleanup, "cleanup", false, "take back what a killed run has left, and end")
	f.captureFlags.add(flags)
	f.gatewayFiles.add(cmd.PersistentFlags())
	cmd.AddCommand(gatewayMapCommand(common, &f.gatewayFiles))
	return cmd
}

// file returns the configuration that file and flags make together.
func (f *gatewayFlags) file(common *commonFlags) (*config.File, error) {
	loader := newLoader(common.config)
	loader.Flags = func(file *config.File) error { return f.enter(common, file) }
	if common.config == "" {
		return loader.Parse("", nil)
	}
	return loader.Load(common.config)
}

// enter puts the flags into a configuration; a flag stands in place of what the
// file says. The clients are those of the gateway, not those of serve.
func (f *gatewayFlags) enter(common *commonFlags, file *config.File) error {
	private, listeners := file.AllowPrivate, file.Listen
	if err := f.captureFlags.enter(common, file); err != nil {
		return err
	}
	file.AllowPrivate = private || f.allowPrivate
	for _, l := range listeners { // rules may name them
		file.Listen = append(file.Listen, config.Listener{Address: l.Address, Name: l.Name})
	}
	if file.Gateway == nil {
		file.Gateway = new(config.Gateway)
	}
	g := file.Gateway
	if err := f.enterGateway(file, g); err != nil {
		return err
	}
	if len(g.DNS) == 0 && common.config == "" {
		return usagef("where should names be answered? Give --dns ADDR, or a configuration with gateway.dns")
	}
	if file.Allow = g.Allow; len(g.Allow) == 0 {
		file.Allow = loopbackNetworks()
	}
	return nil
}

// enterGateway puts in what flags say of the gateway.
func (f *gatewayFlags) enterGateway(file *config.File, g *config.Gateway) (err error) {
	if len(f.listen) > 0 {
		g.DNS = nil
		file.SetOrigin("gateway.dns", "--dns")
	}
	for _, text := range f.listen {
		var at config.Endpoint
		if err := at.UnmarshalText([]byte(text)); err != nil {
			return usagef("--dns %q: %w", text, err)
		}
		g.DNS = append(g.DNS, at)
	}
	if len(f.allow) > 0 {
		if g.Allow, err = parseNetworks("--allow", f.allow); err != nil {
			return err
		}
		file.SetOrigin("gateway.allow", "--allow")
	}
	if len(f.nat64) > 0 {
		prefixes, err := parseNetworks("--nat64", f.nat64)
		if err != nil {
			return err
		}
		g.NAT64 = nil
		for _, p := range prefixes {
			g.NAT64 = append(g.NAT64, config.NAT64{Prefix: p})
		}
		file.SetOrigin("gateway.nat64", "--nat64")
	}
	g.Verify = g.Verify || f.verify
	return nil
}

func loopbackNetworks() []config.Network {
	return []config.Network{
		config.Network(netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)),
		config.Network(netip.PrefixFrom(netip.IPv6Loopback(), 128)),
	}
}

// allowsLocal reports whether programs of this host are among the clients.
func allowsLocal(allow []config.Network) bool {
	return slices.ContainsFunc(allow, func(n config.Network) bool {
		return n.Prefix().Contains(netip.AddrFrom4([4]byte{127, 0, 0, 1})) || n.Prefix().Contains(netip.IPv6Loopback())
	})
}

// stateDir is where a gateway keeps its names if nothing else is said.
const stateDir = "/var/lib/argyle"

// journalPath is where the names of a gateway are.
func journalPath(file *config.File, flag string) string {
	switch {
	case flag != "":
		return flag
	case file.Gateway != nil && file.Gateway.Journal != "":
		return file.Path(file.Gateway.Journal)
	case file.State != "":
		return filepath.Join(file.Path(file.State), "gateway.journal")
	}
	return filepath.Join(stateDir, "gateway.journal")
}

// controlPath is the socket of the gateway that has a journal.
func controlPath(journal string) string {
	return strings.TrimSuffix(journal, ".journal") + ".sock"
}
