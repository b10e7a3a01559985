package config

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// gateway checks what argyle gateway is to do.
func (c *checker) gateway() {
	g := c.f.Gateway
	if g == nil {
		return
	}
	c.gatewayClients(g)
	c.gatewayPools(g)
	c.nat64(g)
	c.mapped(g)
	for i := range g.Families {
		one := &g.Families[i]
		path := indexed("gateway.families", i)
		c.only(one.Families == "" && !c.incomplete(path), path, "want families: both, v4, v6 or auto")
		c.only(one.Client != nil && len(one.Client) == 0, path+".client", "an empty list matches nobody; leave the key out to match everybody")
	}
	c.only(g.Literals != "" && !isDomain(g.Literals), "gateway.literals", quote(g.Literals)+": want a domain such as v6.lan")
	for _, zone := range slices.Sorted(maps.Keys(g.Resolvers)) {
		path := "gateway.resolvers." + zone
		c.only(!isDomain(strings.TrimPrefix(zone, ".")), path, quote(zone)+": want a domain such as corp.example")
		c.checkHostPort(path, g.Resolvers[zone])
	}
	c.gatewayTimes(g)
	c.only(c.has("gateway.share") && g.Share == 0 && !c.incomplete("gateway.share"), "gateway.share",
		"want 1 name or more, or a negative number for no bound")
}

// gatewayClients refuses what would be an open resolver and relay.
func (c *checker) gatewayClients(g *Gateway) {
	if g.Allow != nil && len(g.Allow) == 0 {
		c.fail("gateway.allow", "an empty list would allow nobody: leave the key out for programs of this host alone")
	}
	if len(g.DNS) == 0 && !c.incomplete("gateway.dns") {
		c.fail("gateway", "a gateway needs dns, the addresses at which names are answered")
	}
	for i, at := range g.DNS {
		if addr := at.AddrPort().Addr(); len(g.Allow) == 0 && !c.incomplete("gateway.allow") && addr.IsValid() && !addr.IsLoopback() {
			c.fail(indexed("gateway.dns", i), "%v is not loopback: say gateway.allow, the networks of the clients", at)
		}
		c.only(slices.Contains(g.DNS[:i], at), indexed("gateway.dns", i), at.String()+" is there twice")
	}
}

// gatewayPools looks at the addresses that stand for names.
func (c *checker) gatewayPools(g *Gateway) {
	v4, v6 := g.IPv4.Prefix(), g.IPv6.Prefix()
	c.only(v4.IsValid() && (!v4.Addr().Is4() || v4.Bits() > 26), "gateway.ipv4", "want an IPv4 network of 26 bits or less, such as 198.18.0.0/15")
	c.only(v6.IsValid() && (!v6.Addr().Is6() || v6.Bits() > 122), "gateway.ipv6", "want an IPv6 network of 122 bits or less, such as fd12:3456:789a::/64")
}

// nat64 checks the prefixes.
func (c *checker) nat64(g *Gateway) {
	for i := range g.NAT64 {
		one := &g.NAT64[i]
		p, path := one.Prefix.Prefix(), indexed("gateway.nat64", i)
		if one.Name != "" {
			c.checkName("a prefix", path+".name", one.Name)
		}
		if !p.IsValid() {
			c.only(!c.incomplete(path), path, "want a prefix")
			continue
		}
		lengths := []int{32, 40, 48, 56, 64, 96}
		if !p.Addr().Is6() || !slices.Contains(lengths, p.Bits()) || p.Addr().As16()[8] != 0 {
			c.fail(path+".prefix", "%v: want an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, of which bits 64 to 71 are zero (RFC 6052)", p)
			continue
		}
		c.only(p.Overlaps(g.IPv6.Prefix()), path+".prefix", p.String()+" overlaps gateway.ipv6")
		for j := range i {
			if other := g.NAT64[j].Prefix; other.Prefix().IsValid() && p.Overlaps(other.Prefix()) {
				c.fail(path+".prefix", "%v overlaps %v", p, other)
			}
		}
	}
}

// mapped checks the addresses that stand for one destination.
func (c *checker) mapped(g *Gateway) {
	first := make(map[netip.Addr]string)
	for _, text := range slices.Sorted(maps.Keys(g.Map)) {
		path := "gateway.map." + text
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast() {
			c.fail(path, "%s: want the address that stands for the destination", quote(text))
			continue
		}
		if other, twice := first[addr]; twice {
			c.fail(path, "%v is there twice, also as %s", addr, other)
		}
		first[addr] = text
		for _, prefix := range g.NAT64 {
			c.only(prefix.Prefix.Prefix().Contains(addr), path, addr.String()+" has an IPv4 address inside: it is of gateway.nat64")
		}
		dest := g.Map[text]
		if ip, err := netip.ParseAddr(dest); err == nil && ip.Zone() == "" || isDomain(dest) {
			continue
		}
		c.fail(path, "%s: want an address or a name", quote(dest))
	}
}

// gatewayTimes refuses times with which a client's cache could lead it to another
// name's destination.
func (c *checker) gatewayTimes(g *Gateway) {
	ttl, hold := g.TTL.Duration(), g.Hold.Duration()
	if ttl != 0 && (ttl < minTTL || ttl > maxTTL) {
		c.fail("gateway.ttl", "want a time from %v to 1h", minTTL)
		return
	}
	if ttl == 0 {
		ttl = defaultTTL
	}
	least := max(time.Minute, 10*ttl)
	switch {
	case g.Hold == Off:
		c.fail("gateway.hold", "the pool would be full one day, for good: write 30d")
	case hold != 0 && hold < least:
		c.fail("gateway.hold", "want %v or more: clients remember addresses for longer than their TTL says", least)
	}
}

// domainPattern is what a domain looks like, as far as we need to know.
var domainPattern = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)

func isDomain(s string) bool { return len(s) <= 253 && domainPattern.MatchString(s) }
