package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/internal/hostnet"
	"github.com/argyle-socks/argyle/internal/policy"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// nameGateway is what rules, logs and the record of changes call gateway.
const nameGateway = config.GatewayName

// gatewayd is a gateway.
type gatewayd struct {
	capture
	interception
	file    *config.File
	conf    *config.Gateway
	journal string
	host    hostAddresses
}

// runGateway serves until it is told to end.
func runGateway(ctx context.Context, common *commonFlags, f *gatewayFlags) error {
	if f.cleanup {
		return cleanUp(nameGateway)
	}
	if err := f.check(); err != nil {
		return err
	}
	log, err := common.logger(os.Stderr)
	if err != nil {
		return err
	}
	file, err := f.file(common)
	if err != nil {
		return err
	}
	if err := ownMarkOnly(file, nameGateway); err != nil {
		return err
	}
	g := &gatewayd{
		capture:      capture{log: log, world: newWorld(log)},
		interception: interception{slot: slotGateway, inbound: nameGateway},
		file:         file,
		conf:         file.Gateway,
		journal:      journalPath(file, f.journal),
	}
	if f.plan {
		return g.printPlan()
	}
	if err := mayIntercept(nameGateway); err != nil {
		return err
	}
	return g.run(ctx, &f.captureFlags)
}

// run serves until it is told to end.
func (g *gatewayd) run(ctx context.Context, f *captureFlags) (err error) {
	g.catch()
	changes, err := hostnet.Open(nameGateway)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, changes.Close()) }()
	if err := g.openNames(f); err != nil {
		return err
	}
	defer func() {
		g.close()
		g.remove() // after the sessions, which need the rules
	}()
	if err := g.begin(changes); err != nil {
		return err
	}
	g.log.Info("gateway", "dns", fmt.Sprint(g.conf.DNS), "pools", fmt.Sprint(g.Pools), "held", g.Hold, "journal", g.journal)
	return g.serve(ctx)
}

// begin serves in the background.
func (g *gatewayd) begin(changes *hostnet.Changes) error {
	if err := g.chooseTaken(g.names.pool); err != nil {
		return err
	}
	queries, err := g.listenQueries()
	if err != nil {
		return err
	}
	if err := g.intercept(changes, &g.interception); err != nil {
		closeAllOf(queries)
		return err
	}
	for _, q := range queries {
		g.background("dns", q.serve, g.names.server.Close)
	}
	if err := g.serveControl(); err != nil {
		return err
	}
	g.serveUses()
	return g.serveWatch()
}

// openNames opens the pool and the way to the proxy.
func (g *gatewayd) openNames(f *captureFlags) error {
	g.world.control = markOwn
	g.world.special = g.special
	if err := g.host.read(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(g.journal), 0o700); err != nil {
		return fmt.Errorf("make a directory for the names: %w", err)
	}
	f.dns = dnsFake
	if err := g.open(g.file, f, g.poolOptions()); err != nil {
		return err
	}
	// What clients send to port 53 of somebody else is for somebody else.
	g.names.mode = dnsOff
	g.names.fixed = g.mapped()
	g.setServer(g.names.server)
	return nil
}

func (g *gatewayd) poolOptions() fakedns.Options {
	o := fakedns.Options{
		IPv4: g.conf.IPv4.Prefix(), IPv6: g.conf.IPv6.Prefix(),
		Share: g.conf.Share, Hold: g.conf.Hold.Duration(), Journal: g.journal,
	}
	for addr := range g.mapped() {
		o.Reserved = append(o.Reserved, addr)
	}
	return o
}

// mapped are the addresses that stand for one destination each.
func (g *gatewayd) mapped() map[netip.Addr]string {
	all := make(map[netip.Addr]string, len(g.conf.Map))
	for text, dest := range g.conf.Map {
		if addr, err := netip.ParseAddr(text); err == nil { // the configuration has been checked
			all[addr] = dest
		}
	}
	return all
}

// setServer has names answered as the configuration says.
func (g *gatewayd) setServer(s *fakedns.Server) {
	s.Allow = nil
	for _, n := range g.file.Allow {
		s.Allow = append(s.Allow, n.Prefix())
	}
	s.FamiliesOf = g.families
	s.TTL = g.conf.TTL.Duration()
	if len(g.conf.NAT64) > 0 {
		s.NAT64 = g.conf.NAT64[0].Prefix.Prefix()
	}
	s.Literals = g.conf.Literals
	s.Verify = g.conf.Verify
	s.UDP = g.world.now.Load().carriesUDP()
	s.Exchange = g.resolvers().exchange
}

// resolvers are those of the configuration, and the one for all else.
func (g *gatewayd) resolvers() *zoneResolvers {
	z := &zoneResolvers{zones: make(map[string]*askedThrough), other: g.names.resolver}
	for zone, at := range g.conf.Resolvers {
		dest, err := argyle.ParseAddr(at)
		if err != nil {
			continue // the configuration has been checked
		}
		zone = plainName(strings.Trim(zone, "."))
		z.zones[zone] = &askedThrough{policy: g.names.resolver.policy, dest: dest, zone: zone}
	}
	g.closers = append(g.closers, z.Close)
	return z
}

// zoneResolvers asks the resolver of the domain that a question is about.
type zoneResolvers struct {
	zones map[string]*askedThrough
	other *askedThrough
}

// Close closes the connections to the resolvers of zones.
func (z *zoneResolvers) Close() error {
	for _, one := range z.zones {
		one.close()
	}
	return nil
}

func (z *zoneResolvers) exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	for name := plainName(query.Question[0].Name); name != ""; _, name, _ = strings.Cut(name, ".") {
		if one := z.zones[name]; one != nil {
			return one.exchange(ctx, query)
		}
	}
	return z.other.exchange(ctx, query)
}

// families says which addresses names have for a client.
func (g *gatewayd) families(client netip.Addr) fakedns.Families {
	if !hasIPv6() {
		return fakedns.IPv4
	}
	for _, one := range g.conf.Families {
		if len(one.Client) > 0 && !slices.ContainsFunc(one.Client, func(n config.Network) bool { return n.Prefix().Contains(client) }) {
			continue
		}
		switch {
		case one.Families == config.FamiliesV4, one.Families == config.FamiliesAuto && client.Is4():
			return fakedns.IPv4
		case one.Families == config.FamiliesV6, one.Families == config.FamiliesAuto:
			return fakedns.IPv6
		}
		break
	}
	return fakedns.Both
}

// chooseTaken says what is taken, and whose.
func (g *gatewayd) chooseTaken(pool *fakedns.Pool) error {
	g.Pools = poolsHere(pool)
	for i, one := range g.conf.NAT64 {
		prefix := one.Prefix.Prefix()
		path := fmt.Sprintf("gateway.nat64[%d]", i)
		if !hasIPv6() {
			return g.file.Errorf(path, "this host has no IPv6")
		}
		if _, v6 := pool.Prefixes(); v6.Overlaps(prefix) {
			return g.file.Errorf(path, "%v overlaps %v, whose addresses stand for names", prefix, v6)
		}
		g.Pools = append(g.Pools, prefix)
		g.realms = append(g.realms, realmOf(one))
	}
	for addr := range g.mapped() {
		if !slices.ContainsFunc(g.Pools, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			g.Pools = append(g.Pools, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	g.Local = allowsLocal(g.file.Allow)
	for _, n := range g.file.Allow {
		if !n.Prefix().Addr().IsLoopback() {
			g.From = append(g.From, n.Prefix())
		}
	}
	return nil
}

// realmOf is a prefix with IPv4 addresses inside.
func realmOf(one config.NAT64) transparent.Realm {
	prefix, name := one.Prefix.Prefix(), one.Name
	if name == "" {
		name = nameGateway
	}
	return transparent.Realm{
		Inbound: name,
		Dest:    func(ip netip.Addr) (netip.Addr, bool) { return fakedns.Extract(prefix, ip) },
		Source:  func(ip netip.Addr) (netip.Addr, bool) { return fakedns.Embed(prefix, ip) },
	}
}

// special says which addresses clients from elsewhere must not reach. One of the
// pool stands for a name here, and is nobody's address.
func (g *gatewayd) special(ip netip.Addr) string {
	if g.names.pool.Contains(ip) {
		return ""
	}
	if what := policy.Private(ip); what != "" || !g.host.has(ip) {
		return what
	}
	return "an address of this host"
}

// query is a socket for queries.
type query struct {
	io.Closer
	serve func() error
}

func closeAllOf(all []query) {
	for _, q := range all {
		_ = q.Close() // it was not used
	}
}

// listenQueries opens the sockets at which names are answered.
func (g *gatewayd) listenQueries() (all []query, err error) {
	own := new(policy.Listeners)
	s := g.names.server
	for i, at := range g.conf.DNS {
		udp, tcp := "udp", "tcp"
		if at.AddrPort().Addr().Is4() {
			udp, tcp = "udp4", "tcp4" // or 0.0.0.0 would be every IPv6 address too
		}
		conn, err := net.ListenPacket(udp, at.String())
		if err == nil {
			all = append(all, query{conn, func() error { return s.ServePacket(conn) }})
			own.Add(conn.LocalAddr())
			var ln net.Listener
			if ln, err = net.Listen(tcp, conn.LocalAddr().String()); err == nil {
				all = append(all, query{ln, func() error { return s.Serve(ln) }})
			}
		}
		if err != nil {
			closeAllOf(all)
			return nil, g.file.Errorf(fmt.Sprintf("gateway.dns[%d]", i), "%w", err)
		}
	}
	g.world.own.Store(own)
	return all, nil
}

// serveControl answers argyle gateway map.
func (g *gatewayd) serveControl() error {
	path := controlPath(g.journal)
	ln, err := listenUnix(path, 0o600)
	if err != nil {
		return fmt.Errorf("listen for argyle gateway map: %w", err)
	}
	s := &http.Server{
		Handler:     controlHandler(&poolMappings{g.names.pool}),
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
	}
	serve := func() error {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
	g.background("control", serve, s.Close)
	return nil
}

// useEvery is how often names that have sessions are noted to be in use, at
// least.
const useEvery = 10 * time.Minute

// serveUses keeps the addresses of names that have sessions: an address that has
// one may be old, and yet in use. It also tells of what was sent to addresses
// that stand for nothing.
func (g *gatewayd) serveUses() {
	every := useEvery
	if hold := g.conf.Hold.Duration(); hold > 0 {
		every = min(every, hold/4)
	}
	g.backgroundUntil("uses", func(done <-chan struct{}) error {
		tick := time.NewTicker(every)
		defer tick.Stop()
		told := uint64(0)
		for {
			select {
			case <-done:
				return nil
			case <-tick.C:
			}
			for s := range g.proxy.Sessions() {
				g.names.use(s.Request().Dest)
			}
			if n := g.names.unknown.Load(); n > told {
				g.log.Warn("refused what was sent to addresses that stand for nothing", "times", n-told)
				told = n
			}
		}
	})
}

// backgroundUntil runs a function until close closes its channel.
func (g *gatewayd) backgroundUntil(what string, run func(done <-chan struct{}) error) {
	done := make(chan struct{})
	g.background(what, func() error { return run(done) }, func() error {
		close(done)
		return nil
	})
}

// printPlan says what would be changed. The names are left alone, but the key
// that chooses the IPv6 pool is theirs.
func (g *gatewayd) printPlan() error {
	options := g.poolOptions()
	switch _, err := os.Stat(g.journal); {
	case err == nil:
	case errors.Is(err, os.ErrNotExist):
		options.Journal = ""
	default:
		return err
	}
	pool, err := fakedns.Open(options)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := g.chooseTaken(pool); err != nil {
		return err
	}
	plan, err := g.interception.plan()
	if err != nil {
		return err
	}
	_, err = fmt.Print(plan)
	return err
}
