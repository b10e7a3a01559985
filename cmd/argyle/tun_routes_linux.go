package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/hostnet"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// tunRouting is what leads this host's packets to the device.
type tunRouting struct {
	device  string
	index   int
	routes  []netip.Prefix // what is taken; none means everything
	pools   []netip.Prefix // where names have addresses; taken in any case
	except  []netip.Prefix
	lookups bool // those to port 53 are taken, wherever they go
}

// The addresses of the device. That of IPv4 is one of those that never stand for
// names, that of IPv6 is a unique local one (RFC 4193).
var (
	tunAddr4 = netip.AddrFrom4([4]byte{198, 18, 0, 1})
	tunAddr6 = netip.MustParseAddr("fd61:7267:796c:6520::1")
)

// A family of addresses, as the kernel and ip(8) call it.
type ipFamily struct {
	number int
	ip     string
	own    netip.Addr
}

// ipFamilies are those that this host has.
func ipFamilies() []ipFamily {
	all := []ipFamily{{unix.AF_INET, "ip", tunAddr4}, {unix.AF_INET6, "ip -6", tunAddr6}}
	if !hasIPv6() {
		return all[:1]
	}
	return all
}

// wanted are the changes. Rules are asked in their order:
//
//   - our own sockets go past all others,
//   - look-ups go to the device wherever they are for,
//   - what this host has a route of its own for, such as its local networks,
//     goes there; a default route is none,
//   - all else, or what is to be taken, goes to the device.
func (t *tunRouting) wanted() (all []hostRoute) {
	for _, family := range ipFamilies() {
		all = append(all, t.tables(family)...)
		all = append(all, t.rules(family)...)
	}
	return all
}

// tables are the routes of one family.
func (t *tunRouting) tables(family ipFamily) (all []hostRoute) {
	tables := []int{tunTable}
	if t.lookups {
		tables = append(tables, tunNameTable)
	}
	everywhere := netip.PrefixFrom(unspecified(family.number), 0)
	for _, table := range tables {
		way := &netlink.Route{
			LinkIndex: t.index, Dst: ipNet(everywhere), Src: family.own.AsSlice(), Table: table,
			Scope: netlink.SCOPE_LINK, Family: family.number,
		}
		all = append(all, hostRoute{route: way, words: fmt.Sprintf("%s route add default dev %s src %v table %d",
			family.ip, t.device, family.own, table)})
		for _, to := range ofFamily(t.except, family) {
			past := &netlink.Route{Dst: ipNet(to), Type: unix.RTN_THROW, Table: table, Family: family.number}
			all = append(all, hostRoute{route: past, words: fmt.Sprintf("%s route add throw %v table %d", family.ip, to, table)})
		}
	}
	return all
}

// ruleAdder collects rules of one family, whose priorities go up by one.
type ruleAdder struct {
	family   ipFamily
	priority int
	all      []hostRoute
}

// add adds a rule, which change makes of an empty one.
func (a *ruleAdder) add(words string, change func(*netlink.Rule)) {
	rule := netlink.NewRule()
	rule.Family, rule.Priority = a.family.number, a.priority
	change(rule)
	a.all = append(a.all, hostRoute{rule: rule, words: fmt.Sprintf("%s rule add priority %d %s", a.family.ip, a.priority, words)})
	a.priority++
}

// Of linux/fib_rules.h: a rule that does nothing.
const ruleNop = 3

// rules are the rules of one family.
func (t *tunRouting) rules(family ipFamily) []hostRoute {
	a := &ruleAdder{family: family, priority: tunPriority}
	end := tunPriority + t.countRules(family) - 1
	a.add(fmt.Sprintf("fwmark 0x%x goto %d", ownMark, end), func(r *netlink.Rule) { r.Mark, r.Goto = ownMark, end })
	if t.lookups {
		for _, protocol := range []int{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			name := map[int]string{unix.IPPROTO_UDP: "udp", unix.IPPROTO_TCP: "tcp"}[protocol]
			a.add(fmt.Sprintf("ipproto %s dport 53 lookup %d", name, tunNameTable), func(r *netlink.Rule) {
				r.IPProto, r.Dport, r.Table = protocol, netlink.NewRulePortRange(53, 53), tunNameTable
			})
		}
		a.add(fmt.Sprintf("fwmark 0x%x lookup %d", tunMark, tunNameTable), func(r *netlink.Rule) {
			r.Mark, r.Table = tunMark, tunNameTable
		})
	}
	for _, to := range t.taken(family) {
		words := fmt.Sprintf("to %v ", to)
		if to.Bits() == 0 {
			words = ""
		}
		set := func(r *netlink.Rule) {
			if to.Bits() > 0 {
				r.Dst = ipNet(to)
			}
		}
		a.add(fmt.Sprintf("%slookup main suppress_prefixlength %d", words, to.Bits()), func(r *netlink.Rule) {
			set(r)
			r.Table, r.SuppressPrefixlen = unix.RT_TABLE_MAIN, to.Bits()
		})
		a.add(fmt.Sprintf("%slookup %d", words, tunTable), func(r *netlink.Rule) {
			set(r)
			r.Table = tunTable
		})
	}
	a.add("nop", func(r *netlink.Rule) { r.Type = ruleNop })
	return a.all
}

func (t *tunRouting) countRules(family ipFamily) int {
	n := 2 + 2*len(t.taken(family))
	if t.lookups {
		n += 3
	}
	return n
}

// taken are the networks that go to the device, the longest prefix first, as routes
// would have it.
func (t *tunRouting) taken(family ipFamily) []netip.Prefix {
	if len(t.routes) == 0 {
		return []netip.Prefix{netip.PrefixFrom(unspecified(family.number), 0)}
	}
	all := ofFamily(slices.Concat(t.routes, t.pools), family)
	slices.SortStableFunc(all, func(a, b netip.Prefix) int { return cmp.Compare(b.Bits(), a.Bits()) })
	return slices.Compact(all)
}

func ofFamily(all []netip.Prefix, family ipFamily) (of []netip.Prefix) {
	for _, p := range all {
		if p.Addr().Is4() == family.own.Is4() {
			of = append(of, p)
		}
	}
	return of
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// change makes the changes, unless others have their places.
func (t *tunRouting) change(changes *hostnet.Changes) error {
	if strict, err := strictReversePath(); err != nil {
		return err
	} else if strict {
		// What comes back from afar to a socket of ours comes by another way than
		// that which others' packets to there take.
		if err := changes.Sysctl(reversePath, "2"); err != nil {
			return err
		}
	}
	return makeRoutes(changes, t.wanted())
}

// linkRules are the rules of nf_tables.
func (t *tunRouting) linkRules() *transparent.LinkRules {
	r := &transparent.LinkRules{Table: "argyle-tun", Link: t.device, DNS: t.lookups, Except: t.except, Mark: tunMark, Own: ownMark}
	for _, family := range ipFamilies() {
		r.Addrs = append(r.Addrs, netip.PrefixFrom(family.own, family.own.BitLen()))
	}
	return r
}

// reversePath is the sysctl that holds for every interface that has no greater one.
const reversePath = "net/ipv4/conf/all/rp_filter"

// strictReversePath reports whether an interface drops what comes by another way
// than its answers would take (RFC 3704).
func strictReversePath() (strict bool, err error) {
	all, err := os.ReadFile(filepath.Join("/proc/sys", reversePath))
	if err != nil || strings.TrimSpace(string(all)) == "2" {
		return false, err
	}
	files, _ := filepath.Glob("/proc/sys/net/ipv4/conf/*/rp_filter") // the pattern is right
	for _, file := range files {
		one, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(one)) == "1" { // or the interface has gone
			return true, nil
		}
	}
	return false, nil
}

// plan says what would be changed, in the words of ip(8).
func (t *tunRouting) plan(mtu int) string {
	var w strings.Builder
	fmt.Fprintf(&w, "ip tuntap add dev %s mode tun vnet_hdr\nip link set dev %s mtu %d up\n", t.device, t.device, mtu)
	for _, family := range ipFamilies() {
		fmt.Fprintf(&w, "%s address add %v/%d dev %s\n", family.ip, family.own, family.own.BitLen(), t.device)
	}
	if strict, err := strictReversePath(); err == nil && strict {
		fmt.Fprintf(&w, "sysctl %s=2\n", strings.ReplaceAll(reversePath, "/", "."))
	}
	for _, one := range t.wanted() {
		fmt.Fprintln(&w, one.words)
	}
	fmt.Fprintf(&w, "\n%s", t.linkRules().Plan())
	return w.String()
}
