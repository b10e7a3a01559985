//go:build linux

package hostnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// exists is an error if what would be added is there already: it is somebody
// else's, and must not be taken back.
func (c *change) exists() error {
	if c.Rule == nil {
		return nil
	}
	filter := netlink.RT_FILTER_PRIORITY
	rules, err := netlink.RuleListFiltered(c.Rule.Family, &netlink.Rule{Priority: c.Rule.Priority}, filter)
	if err != nil {
		return fmt.Errorf("list rules of routing: %w", err)
	}
	if len(rules) > 0 {
		return fmt.Errorf("%s: there is a rule of routing of that priority: %s", c, rules[0])
	}
	return nil
}

// do makes the change.
func (c *change) do() (err error) {
	switch {
	case c.Rule != nil:
		err = netlink.RuleAdd(c.Rule)
	case c.Route != nil:
		err = netlink.RouteAdd(c.Route)
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", c, err)
	}
	return nil
}

// undo takes the change back. What is not there any more is not missed.
func (c *change) undo() (err error) {
	switch {
	case c.Rule != nil:
		err = netlink.RuleDel(c.Rule)
	case c.Route != nil:
		err = netlink.RouteDel(c.Route)
	case c.Table != "":
		err = deleteTable(c.Table)
	case c.Sysctl != "":
		err = setSysctl(c.Sysctl, c.Before)
	}
	for _, gone := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.EADDRNOTAVAIL, unix.EINVAL} {
		if errors.Is(err, gone) && (c.Rule != nil || c.Route != nil || c.Table != "") {
			return nil
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("take back %s: %w", c, err)
	}
	return nil
}

// String says what is changed, in the words of ip(8), nft(8) and sysctl(8).
func (c *change) String() string {
	switch {
	case c.Rule != nil:
		return c.Rule.String()
	case c.Route != nil:
		return "ip route " + c.Route.String()
	case c.Table != "":
		return "nft table inet " + c.Table
	}
	return "sysctl " + c.Sysctl
}

// deleteTable deletes a table of nftables. That of a process that has gone with
// its owner flag is gone as well.
func deleteTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	return conn.Flush()
}

func setSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil { //nolint:gosec // it is there
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}
