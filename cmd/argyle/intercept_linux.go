package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/hostnet"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// The numbers of the commands that intercept. That of a command is the last
// figure of its mark, of the priority of its rule of policy routing, of its
// routing table and of its queue.
const (
	slotRedirect = 1
	slotGateway  = 2

	interceptMark     = 0x61726710
	interceptPriority = 110
	interceptTable    = 61710
	interceptQueue    = 61710
)

// An interception is what is taken of the traffic of this host, or of clients
// that it routes for.
type interception struct {
	// rules say what is taken: Pools, To, Except, DNS, From, FromLinks, Local,
	// UIDs, GIDs and Cgroups. The rest is filled in.
	transparent.HostRules

	slot    int    // of the command
	inbound string // what rules and logs call the way in
	realms  []transparent.Realm

	// redirect takes connections by REDIRECT. Datagrams need TPROXY in any case.
	redirect bool

	tcp     net.Listener
	udp     *net.UDPConn
	queue   *os.File
	removes []io.Closer // what remove takes away
}

// intercept leads what i says to the proxy, and answers it in the background.
// What it changes about the host is on record in changes, but the rules of
// nf_tables, which i.remove takes away: they shall outlive the servers, so that
// what they take is refused then.
func (c *capture) intercept(changes *hostnet.Changes, i *interception) (err error) {
	defer func() {
		if err != nil {
			i.closeSockets()
		}
	}()
	i.number()
	if err := i.openSockets(c); err != nil {
		return err
	}
	i.RejectUDP = !c.world.now.Load().carriesUDP()
	if err := i.routes(changes); err != nil {
		return err
	}
	if err := i.install(c, changes); err != nil {
		return err
	}
	return c.serveInterception(i)
}

// number fills in the numbers by which the host knows us.
func (i *interception) number() {
	i.Mark, i.Own = uint32(interceptMark+i.slot), ownMark
	i.Queue = uint16(interceptQueue + i.slot)
	i.Table = "argyle-" + i.inbound
}

// openSockets opens what the rules lead to.
func (i *interception) openSockets(c *capture) error {
	if err := i.listen(); err != nil {
		return err
	}
	if i.redirect {
		c.log.Info("connections are accepted before they are dialled: REDIRECT cannot hold them")
		return nil
	}
	queue, err := transparent.OpenQueue(i.Queue)
	if errors.Is(err, syscall.EBUSY) {
		return err
	}
	if i.queue, i.Hold = queue, err == nil; err != nil {
		c.log.Info("connections are accepted before they are dialled: this kernel cannot hold them", "err", err)
	}
	return nil
}

// listen opens the listener and the socket for datagrams.
func (i *interception) listen() error {
	var ln *net.TCPListener
	var err error
	if i.redirect {
		ln, err = net.ListenTCP("tcp", nil)
	} else {
		ln, err = transparent.ListenTCP()
	}
	if err != nil {
		return fmt.Errorf("listen for connections: %w", err)
	}
	i.tcp, i.TCP = ln, argyle.AddrOf(ln.Addr()).Port
	if i.redirect {
		i.TCP, i.RedirectTCP = 0, i.TCP
	}
	raw, err := ln.SyscallConn()
	if err == nil {
		err = transparent.SetMark(raw, i.Own)
	}
	if err != nil {
		return fmt.Errorf("listen for connections: %w", err)
	}
	if i.udp, err = transparent.ListenUDP(); err != nil {
		return fmt.Errorf("listen for datagrams: %w", err)
	}
	i.UDP = argyle.AddrOf(i.udp.LocalAddr()).Port
	return nil
}

// install puts the rules in force, as far as the kernel can.
func (i *interception) install(c *capture, changes *hostnet.Changes) error {
	if err := changes.Table(i.Table); err != nil {
		return err
	}
	in, err := i.Install()
	if errors.Is(err, transparent.ErrNoQueue) {
		c.log.Info("connections are accepted before they are dialled: this kernel cannot hold them", "err", err)
		i.queue.Close()
		i.queue, i.Hold = nil, false
		in, err = i.Install()
	}
	if i.redirect && !i.DNS && errors.Is(err, transparent.ErrNoTPROXY) {
		c.log.Warn("datagrams are refused: the kernel has no TPROXY for them", "err", err)
		i.udp.Close()
		i.udp, i.UDP = nil, 0
		in, err = i.Install()
	}
	if err != nil {
		return err
	}
	i.removes = append(i.removes, in)
	return nil
}

// remove takes the rules away, when all is over.
func (i *interception) remove() {
	for _, one := range slices.Backward(i.removes) {
		_ = one.Close() // the keeper of changes sees to what is left
	}
	i.removes = nil
}

// closeSockets is for when nobody serves them.
func (i *interception) closeSockets() {
	i.remove()
	if i.tcp != nil {
		i.tcp.Close()
	}
	if i.udp != nil {
		i.udp.Close()
	}
	if i.queue != nil {
		i.queue.Close()
	}
}

// serveInterception answers what comes to the sockets.
func (c *capture) serveInterception(i *interception) error {
	tcp := &transparent.Server{Handler: c.handler(), Name: c.names.name, Realms: i.realms, Inbound: i.inbound, Log: c.log}
	if i.redirect {
		tcp.Dest = transparent.OriginalDst
	}
	var packets *transparent.PacketServer
	if i.udp != nil {
		raw, err := transparent.OpenRaw(i.Own)
		if err != nil {
			return fmt.Errorf("open sockets for answers: %w", err)
		}
		i.removes = append(i.removes, raw)
		packets = &transparent.PacketServer{
			Handler: c.handler(), Name: c.names.name, Realms: i.realms, DNS: c.names.answers(), Inbound: i.inbound, Log: c.log,
			Reply: i.reply, Send: raw.Send, Refuse: raw.Refuse,
		}
	}
	c.background("tcp", func() error { return tcp.Serve(i.tcp) }, tcp.Close)
	if i.queue != nil {
		c.background("held connections", func() error { return tcp.Hold(i.queue) }, tcp.Close)
	}
	if packets != nil {
		c.background("udp", func() error { return packets.Serve(i.udp) }, packets.Close)
	}
	return nil
}

// errOtherSocket is for addresses at which a program of this host may have a
// socket: one of ours beside it would take the datagrams that are for it.
var errOtherSocket = errors.New("an address of this host")

// reply opens a socket that sends from src.
func (i *interception) reply(src netip.AddrPort) (*net.UDPConn, error) {
	if !slices.ContainsFunc(i.Pools, func(p netip.Prefix) bool { return p.Contains(src.Addr()) }) && isHostAddress(src.Addr()) {
		return nil, errOtherSocket
	}
	conn, err := transparent.ListenReply(src)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = transparent.SetMark(raw, i.Own)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// isHostAddress reports whether an address is one of this host's.
func isHostAddress(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(ip.AsSlice())
	})
}

// markOwn marks a socket of ours: a controlFunc.
func markOwn(_, _ string, raw syscall.RawConn) error { return transparent.SetMark(raw, ownMark) }

// hostRoute is a change of routing.
type hostRoute struct {
	rule  *netlink.Rule // nil for a route
	route *netlink.Route
	words string // as ip(8) has it
}

// wantedRoutes are what brings packets to us: a pool is made local, whatever the
// source; all else by its mark, which local programs' packets get only when they
// have an address already.
func (i *interception) wantedRoutes() (all []hostRoute) {
	families := []int{unix.AF_INET}
	if hasIPv6() {
		families = append(families, unix.AF_INET6)
	}
	for _, family := range families {
		ip, self := "ip", netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if family == unix.AF_INET6 {
			ip, self = "ip -6", netip.IPv6Loopback()
		}
		for _, pool := range i.Pools {
			if pool.Addr().Is4() != self.Is4() {
				continue
			}
			route := localRoute(family, pool)
			route.Table, route.Src = unix.RT_TABLE_LOCAL, self.AsSlice()
			all = append(all, hostRoute{route: route, words: fmt.Sprintf("%s route add local %v dev lo src %v", ip, pool, self)})
		}
		if len(i.To) == 0 && !i.DNS {
			continue
		}
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Mark, rule.Table = family, interceptPriority+i.slot, i.Mark, interceptTable+i.slot
		route := localRoute(family, netip.PrefixFrom(unspecified(family), 0))
		route.Table = rule.Table
		all = append(all,
			hostRoute{route: route, words: fmt.Sprintf("%s route add local default dev lo table %d", ip, route.Table)},
			hostRoute{rule: rule, words: fmt.Sprintf("%s rule add priority %d fwmark 0x%x lookup %d", ip, rule.Priority, rule.Mark, rule.Table)},
		)
	}
	return all
}

func unspecified(family int) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// localRoute leads a prefix to this host itself.
func localRoute(family int, to netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: 1, // lo, always
		Dst:       &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())},
		Type:      unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Family: family,
	}
}

// hasIPv6 reports whether this network namespace has IPv6.
func hasIPv6() bool {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return err == nil && strings.TrimSpace(string(off)) == "0"
}

// routes makes the routes, unless others have their places.
func (i *interception) routes(changes *hostnet.Changes) error {
	for _, pool := range i.Pools {
		if err := isFree(pool); err != nil {
			return err
		}
	}
	return makeRoutes(changes, i.wantedRoutes())
}

// makeRoutes makes changes of routing, unless others have their places.
func makeRoutes(changes *hostnet.Changes, wanted []hostRoute) error {
	free := map[[2]int]bool{{unix.AF_INET, unix.RT_TABLE_LOCAL}: true, {unix.AF_INET6, unix.RT_TABLE_LOCAL}: true}
	for _, one := range wanted {
		if one.rule != nil {
			if err := changes.Rule(one.rule); err != nil {
				return err
			}
			continue
		}
		if table := [2]int{one.route.Family, one.route.Table}; !free[table] {
			there, err := netlink.RouteListFiltered(one.route.Family, &netlink.Route{Table: one.route.Table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return fmt.Errorf("list routes: %w", err)
			}
			if len(there) > 0 {
				return fmt.Errorf("routing table %d is somebody else's: %v", one.route.Table, there[0])
			}
			free[table] = true
		}
		if err := changes.Route(one.route); err != nil {
			return err
		}
	}
	return nil
}

// isFree is an error if this host has a way to some of a pool already.
func isFree(pool netip.Prefix) error {
	family := unix.AF_INET
	if pool.Addr().Is6() {
		family = unix.AF_INET6
	}
	for _, table := range []int{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			ip, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			if there := netip.PrefixFrom(ip.Unmap(), ones); ones > 0 && there.Overlaps(pool) {
				return fmt.Errorf("this host has a route to %v, which overlaps the pool %v of addresses that stand for names", there, pool)
			}
		}
	}
	return nil
}

// plan says what would be changed of this host, in the words of ip(8) and nft(8).
func (i *interception) plan() (string, error) {
	i.number()
	i.Hold, i.TCP, i.UDP = !i.redirect, planTCP, planUDP
	if i.redirect {
		i.TCP, i.RedirectTCP = 0, planTCP
	}
	var w strings.Builder
	for _, one := range i.wantedRoutes() {
		fmt.Fprintln(&w, one.words)
	}
	table, err := i.Plan()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&w, "\n# Ports %d and %d stand for those of argyle's sockets for TCP and UDP, which are chosen at the start.\n%s",
		planTCP, planUDP, table)
	return w.String(), nil
}

// The ports of a plan.
const (
	planTCP = 1
	planUDP = 2
)
