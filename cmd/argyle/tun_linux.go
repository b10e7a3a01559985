package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/internal/hostnet"
	"github.com/argyle-socks/argyle/internal/transparent"
	"github.com/argyle-socks/argyle/internal/tun"
)

// nameTun is what rules, logs and the record of changes call tun.
const nameTun = "tun"

// bestTunMTU is the MTU that measures best: docs/tun.md. plainTunMTU is for a device
// of which nobody can say.
const (
	bestTunMTU  = 65520
	plainTunMTU = 1500
)

// tunnel takes packets.
type tunnel struct {
	capture
	routing tunRouting
	device  *tun.Device
	mtu     int
	ping    targets
	own     *ownLookups // nil if nothing of this host comes by the device
}

// runTun takes packets until it is told to end.
func runTun(ctx context.Context, common *commonFlags, f *tunFlags) (err error) {
	if f.cleanup {
		return cleanUp(nameTun)
	}
	if err := f.check(); err != nil {
		return err
	}
	t := &tunnel{routing: tunRouting{device: f.name, lookups: f.dns != dnsOff}, mtu: cmp.Or(f.mtu, bestTunMTU)}
	if t.routing.routes, err = networks("--route", f.routes); err != nil {
		return err
	}
	if t.routing.except, err = networks("--except", f.except); err != nil {
		return err
	}
	if t.ping, err = parseTargets("--ping", f.ping); err != nil {
		return err
	}
	if f.plan {
		return t.printPlan(f)
	}
	if t.log, err = common.logger(os.Stderr); err != nil {
		return err
	}
	file, err := f.file(common)
	if err != nil {
		return err
	}
	t.world = newWorld(t.log)
	if f.fd >= 0 {
		return t.runAdopted(ctx, file, f)
	}
	if err := mayTun(); err != nil {
		return err
	}
	return t.runOwn(ctx, file, f)
}

// mayTun is an error, with what mends it, if no device can be had.
func mayTun() error {
	if !hasCapability(unix.CAP_NET_ADMIN) {
		return errors.New("tun changes routing, which takes CAP_NET_ADMIN: run it by sudo, or once " +
			`sudo setcap cap_net_admin+ep "$(command -v argyle)"; --fd needs neither`)
	}
	switch _, err := os.Stat(tun.Path); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s: modprobe tun; in a container, start that with --device %s", tun.Path, tun.Path)
	case err != nil:
		return err
	}
	return nil
}

// runOwn takes what this host sends by a device of its own making.
func (t *tunnel) runOwn(ctx context.Context, file *config.File, f *tunFlags) (err error) {
	if err := ownMarkOnly(file, nameTun); err != nil {
		return err
	}
	t.own = t.markSockets(file)
	t.catch()
	changes, err := hostnet.Open(nameTun)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, changes.Close()) }()
	if err := t.open(file, &f.captureFlags, fakedns.Options{Share: -1, Key: hostKey(nameTun)}); err != nil {
		return err
	}
	defer t.close()
	if pool := t.names.pool; pool != nil {
		t.routing.pools = poolsHere(pool)
		for _, pool := range t.routing.pools {
			if err := isFree(pool); err != nil {
				return err
			}
		}
		t.nameOwn()
	}
	if err := t.makeDevice(f.name); err != nil {
		return err
	}
	t.serveDevice()
	t.answerLocally()
	if err := t.addRules(changes); err != nil {
		return err
	}
	if err := t.routing.change(changes); err != nil {
		return err
	}
	t.log.Info("taking packets", "device", t.device.Name, "mtu", t.mtu, "dns", f.dns, "offload", t.device.Header > 0)
	return t.serve(ctx)
}

// addRules adds those of nf_tables, without which most goes well.
func (t *tunnel) addRules(changes *hostnet.Changes) error {
	rules := t.routing.linkRules()
	if err := changes.Table(rules.Table); err != nil {
		return err
	}
	in, err := rules.Install()
	if err != nil {
		t.log.Warn("answers to visitors go to the proxy, and resolvers that choose an interface can ask past it", "err", err)
		return nil
	}
	t.undo = append(t.undo, in.Close)
	return nil
}

// runAdopted takes what comes by a device that is there already.
func (t *tunnel) runAdopted(ctx context.Context, file *config.File, f *tunFlags) (err error) {
	t.catch()
	if t.device, err = tun.Adopt(f.fd); err != nil {
		return usagef("--fd: %w", err)
	}
	t.mtu = cmp.Or(f.mtu, t.device.MTU, plainTunMTU)
	if err := t.open(file, &f.captureFlags, fakedns.Options{Share: -1}); err != nil {
		t.device.Close()
		return err
	}
	defer t.close()
	t.serveDevice()
	t.log.Info("taking packets", "device", t.device.Name, "mtu", t.mtu, "dns", f.dns, "offload", t.device.Header > 0)
	return t.serve(ctx)
}

// makeDevice makes the device, with its addresses.
func (t *tunnel) makeDevice(name string) (err error) {
	t.device, err = tun.Make(name)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: give another --name", err)
	}
	if err != nil {
		return err
	}
	if err := t.setUp(); err != nil {
		t.device.Close()
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}

// setUp gives the device what others see of it.
func (t *tunnel) setUp() error {
	link, err := netlink.LinkByName(t.device.Name)
	if err != nil {
		return err
	}
	t.routing.index = link.Attrs().Index
	if err := netlink.LinkSetMTU(link, t.mtu); err != nil {
		return fmt.Errorf("set the MTU %d: %w", t.mtu, err)
	}
	// What is new may be switched off where the rest is not. An address of its own
	// making is of no use to it.
	conf := filepath.Join("/proc/sys/net/ipv6/conf", t.device.Name)
	_ = os.WriteFile(filepath.Join(conf, "disable_ipv6"), []byte("0"), 0)  // then adding the address will say
	_ = os.WriteFile(filepath.Join(conf, "addr_gen_mode"), []byte("1"), 0) // it would do no harm
	for _, family := range ipFamilies() {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(family.own, family.own.BitLen()))}
		if family.own.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add the address %v: %w", family.own, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// serveDevice answers what comes by the device, until the sessions are over.
func (t *tunnel) serveDevice() {
	s := &tun.Server{
		Device: t.device.File, MTU: t.mtu, Header: t.device.Header,
		Handler: t.handler(), Name: t.names.name, DNS: t.answers(),
		RejectUDP: !t.world.now.Load().carriesUDP(), Inbound: nameTun, Log: t.log,
	}
	if len(t.ping.prefixes)+len(t.ping.names) > 0 {
		s.Ping = t.mayPing
	}
	ended := t.spawn("tun", s.Serve)
	t.closers = append(t.closers, s.Drain)
	t.undo = append(t.undo, func() error {
		err := s.Close()
		<-ended
		return err
	})
}

// mayPing reports whether an echo request is to be answered: the operator has said
// so of the destination, and the rules let the client go there.
func (t *tunnel) mayPing(ctx context.Context, client, ip netip.Addr) bool {
	dest := argyle.Addr{IP: ip}
	if name, fake := t.names.name(ip); name != "" {
		dest = argyle.Addr{Name: name}
	} else if fake {
		return false
	}
	if dest.Name != "" && !t.ping.named(plainName(dest.Name)) ||
		dest.Name == "" && !slices.ContainsFunc(t.ping.prefixes, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return false
	}
	_, err := t.proxy.Policy.Route(ctx, &argyle.Request{
		Command: argyle.Connect, Dest: dest, Client: netip.AddrPortFrom(client, 0), Inbound: nameTun,
	})
	return err == nil
}

// nameOwn has our own questions, which a resolver of this host asks for us, answered
// with the truth.
func (t *tunnel) nameOwn() {
	t.names.server.Forward = func(ctx context.Context, name string, query []byte, tcp bool) ([]byte, bool) {
		if !t.own.has(name) {
			return nil, false
		}
		if resolverOf(ctx).Addr().IsLoopback() {
			return serverFailure(query), true // that is us: there is nobody to ask
		}
		return passOn(ctx, query, tcp), true
	}
}

// answers is what answers datagrams to port 53, nil for nothing.
func (t *tunnel) answers() func(ctx context.Context, client, server netip.AddrPort, query []byte) []byte {
	answer := t.names.answers()
	if t.names.mode != dnsProxy || t.own == nil {
		return answer
	}
	return func(ctx context.Context, client, server netip.AddrPort, query []byte) []byte {
		if name, ok := questionOf(query); ok && t.own.has(plainName(name)) {
			return passOn(withResolver(ctx, server), query, false)
		}
		return answer(ctx, client, server, query)
	}
}

// questionOf returns the name that a query is about.
func questionOf(query []byte) (name string, ok bool) {
	var parser dnsmessage.Parser
	if _, err := parser.Start(query); err != nil {
		return "", false
	}
	question, err := parser.Question()
	return question.Name.String(), err == nil
}

// answerLocally answers at the resolvers on loopback that resolv.conf names and that
// are not there: no device sees what goes to them.
func (t *tunnel) answerLocally() {
	answer := t.answers()
	if answer == nil {
		return
	}
	for _, ip := range namedResolvers() {
		if !ip.IsLoopback() {
			continue
		}
		at := netip.AddrPortFrom(ip, 53)
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.log.Debug("somebody answers there", "resolver", at, "err", err)
			continue
		}
		// There is nobody at ip to pass a question on to but us.
		nobody := func(ctx context.Context, client, _ netip.AddrPort, query []byte) []byte {
			return answer(ctx, client, netip.AddrPort{}, query)
		}
		ctx, cancel := context.WithCancel(context.Background())
		t.background("resolver", func() error {
			serveQueries(ctx, conn, nobody)
			return nil
		}, func() error {
			cancel()
			return nil
		})
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			t.log.Warn("look-ups over TCP are not answered", "resolver", at, "err", err)
			continue
		}
		s := &transparent.Server{Handler: t.handler(), Dest: transparent.Fixed(argyle.AddrFrom(at)), Inbound: nameTun, Log: t.log}
		t.background("resolver", func() error { return s.Serve(ln) }, s.Close)
	}
}

// namedResolvers are those of resolv.conf, or what stands for none.
func namedResolvers() (ips []netip.Addr) {
	text, _ := os.ReadFile("/etc/resolv.conf") // without one, 127.0.0.1 is asked
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	if len(ips) == 0 {
		ips = append(ips, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return ips
}

// printPlan says what would be changed.
func (t *tunnel) printPlan(f *tunFlags) error {
	if f.dns == dnsFake {
		pool, err := fakedns.Open(fakedns.Options{Key: hostKey(nameTun)})
		if err != nil {
			return err
		}
		defer pool.Close()
		t.routing.pools = poolsHere(pool)
	}
	_, err := fmt.Print(t.routing.plan(t.mtu))
	return err
}
