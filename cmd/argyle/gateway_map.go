package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
)

// gatewayFiles say where a gateway has its names.
type gatewayFiles struct{ journal string }

func (f *gatewayFiles) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.journal, "journal", "", "`FILE` that keeps the names, in place of the configuration's")
}

// path is where they are, by flag or configuration.
func (f *gatewayFiles) path(common *commonFlags) (string, error) {
	if f.journal != "" || common.config == "" {
		return journalPath(new(config.File), f.journal), nil
	}
	file, err := loadFile(common.config)
	if err != nil {
		return "", err
	}
	return journalPath(file, ""), nil
}

// A mapping is a name of a gateway and the addresses that stand for it.
type mapping struct {
	Name   string       `json:"name"`
	IPv4   netip.Addr   `json:"ipv4"`
	IPv6   netip.Addr   `json:"ipv6"`
	Client netip.Prefix `json:"client"` // who brought it, "" if nobody did
	Used   time.Time    `json:"used"`
	Pinned bool         `json:"pinned"`
}

// mappings are where names are looked at and pinned: a gateway that runs, or the
// journal of one that does not.
type mappings interface {
	list(ctx context.Context) ([]mapping, error)
	get(ctx context.Context, key string) (mapping, error)
	pin(ctx context.Context, name string, addr netip.Addr) (mapping, error)
	unpin(ctx context.Context, name string) error
	io.Closer
}

// errNoMapping is for a name, or an address, that stands for nothing.
var errNoMapping = errors.New("there is no such name or address")

func gatewayMapCommand(common *commonFlags, files *gatewayFiles) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "map",
		Short: "Look at the names of a gateway and their addresses, and pin them",
		Long: `Look at the names of a gateway and the addresses that stand for them, and pin
them. A gateway that runs is asked, or else its journal.`,
		Example: `  argyle gateway map list
  argyle gateway map get 198.18.44.1
  argyle gateway map pin db.corp.example 198.18.0.20`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	with := func(do func(ctx context.Context, m mappings, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			m, err := openMappings(common, files)
			if err != nil {
				return err
			}
			return errors.Join(do(cmd.Context(), m, args), m.Close())
		}
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List all names", Args: arguments(cobra.NoArgs),
			RunE: with(func(ctx context.Context, m mappings, _ []string) error {
				all, err := m.list(ctx)
				if err != nil {
					return err
				}
				return printMappings(os.Stdout, all, asJSON)
			}),
		},
		&cobra.Command{
			Use: "get NAME|ADDR", Short: "Find a name, or what an address stands for", Args: arguments(cobra.ExactArgs(1)),
			RunE: with(func(ctx context.Context, m mappings, args []string) error {
				one, err := m.get(ctx, args[0])
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				return printMapping(os.Stdout, one, asJSON)
			}),
		},
		&cobra.Command{
			Use: "pin NAME [ADDR]", Short: "Give a name an address for good", Args: arguments(cobra.RangeArgs(1, 2)),
			RunE: with(func(ctx context.Context, m mappings, args []string) error {
				var addr netip.Addr
				if len(args) == 2 {
					var err error
					if addr, err = netip.ParseAddr(args[1]); err != nil {
						return usagef("pin: %q is not an address", args[1])
					}
				}
				one, err := m.pin(ctx, args[0], addr)
				if err != nil {
					return err
				}
				return printMapping(os.Stdout, one, asJSON)
			}),
		},
		&cobra.Command{
			Use: "unpin NAME", Short: "Let the address of a name go again when nobody uses it", Args: arguments(cobra.ExactArgs(1)),
			RunE: with(func(ctx context.Context, m mappings, args []string) error { return m.unpin(ctx, args[0]) }),
		},
	)
	return cmd
}

func printMappings(w io.Writer, all []mapping, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(all)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tIPV4\tIPV6\tCLIENT\tUSED\tPINNED")
	for _, m := range all {
		client, pinned := "-", "-"
		if m.Client.IsValid() {
			client = m.Client.String()
		}
		if m.Pinned {
			pinned = "pinned"
		}
		fmt.Fprintf(table, "%s\t%v\t%v\t%s\t%s\t%s\n", m.Name, m.IPv4, m.IPv6, client, m.Used.Format("2006-01-02 15:04:05"), pinned)
	}
	return table.Flush()
}

func printMapping(w io.Writer, m mapping, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(m)
	}
	return printMappings(w, []mapping{m}, false)
}

// openMappings asks the gateway that runs, or opens the journal.
func openMappings(common *commonFlags, files *gatewayFiles) (mappings, error) {
	path, err := files.path(common)
	if err != nil {
		return nil, err
	}
	client := newControlClient(controlPath(path))
	if client.answers() {
		return client, nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no gateway runs, and none has left its names in %s: say where they are with --journal or -c", path)
	}
	pool, err := fakedns.Open(fakedns.Options{Journal: path})
	if err != nil {
		return nil, err
	}
	return &poolMappings{Pool: pool}, nil
}

// poolMappings are those of a pool in this process.
type poolMappings struct{ *fakedns.Pool }

func (p *poolMappings) list(context.Context) ([]mapping, error) {
	all := []mapping{} // JSON has no null for an empty list
	for _, e := range p.Entries() {
		m := mapping(e)
		m.Used = m.Used.Round(time.Second).UTC()
		all = append(all, m)
	}
	return all, nil
}

// get finds the entry of a name, or of an address, without a use of it.
func (p *poolMappings) get(ctx context.Context, key string) (mapping, error) {
	all, err := p.list(ctx)
	if err != nil {
		return mapping{}, err
	}
	addr, _ := netip.ParseAddr(key)
	key = strings.ToLower(strings.TrimSuffix(key, "."))
	if addr.IsValid() {
		key = addr.Unmap().String()
	}
	i := slices.IndexFunc(all, func(m mapping) bool { return addr.IsValid() && (m.IPv4 == addr || m.IPv6 == addr) })
	// A name that was pinned has its new address beside a former one.
	for j := range all {
		if all[j].Name == key && (i < 0 || all[j].Pinned) {
			i = j
		}
	}
	if i < 0 {
		return mapping{}, errNoMapping
	}
	return all[i], nil
}

func (p *poolMappings) pin(ctx context.Context, name string, addr netip.Addr) (mapping, error) {
	if err := p.Pin(name, addr); err != nil {
		return mapping{}, err
	}
	return p.get(ctx, name)
}

func (p *poolMappings) unpin(ctx context.Context, name string) error {
	if one, err := p.get(ctx, name); err != nil || !one.Pinned {
		return fmt.Errorf("%s is not pinned", name)
	}
	return p.Unpin(name)
}
