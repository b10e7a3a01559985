package names

import (
	"cmp"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// prepare turns the fields into what look-ups use.
func (r *Resolver) prepare() {
	r.flights = map[key]*flight{}
	r.cache = newCache(cmp.Or(r.CacheSize, cacheSize))
	r.hosts = map[string][]netip.Addr{}
	for _, name := range slices.Sorted(maps.Keys(r.Hosts)) {
		r.hosts[plain(name)] = append(r.hosts[plain(name)], r.Hosts[name]...)
	}
	r.remotes = map[Server]*remote{}
	r.servers = r.connect(r.Servers)
	r.zones = map[string][]*remote{}
	for _, zone := range r.Zones {
		suffix := plain(strings.TrimPrefix(zone.Suffix, "."))
		r.zones[suffix] = append(r.zones[suffix], r.connect(zone.Servers)...)
	}
}

// connect returns the remotes of servers: one for each, wherever it is named.
func (r *Resolver) connect(servers []Server) []*remote {
	if len(servers) == 0 {
		servers = []Server{{}}
	}
	var list []*remote
	for _, server := range servers {
		if r.remotes[server] == nil {
			r.remotes[server] = newRemote(server, cmp.Or(r.Timeout, tryTimeout), r.dial)
			if r.Dial != nil {
				r.remotes[server].system = &net.Resolver{PreferGo: true, Dial: r.Dial}
			}
		}
		list = append(list, r.remotes[server])
	}
	return list
}

// serversOf returns those of the longest zone that name is in.
func (r *Resolver) serversOf(name string) []*remote {
	for suffix := name; len(r.zones) > 0; {
		if servers, ok := r.zones[suffix]; ok {
			return servers
		}
		if suffix == "" {
			break
		}
		_, suffix, _ = strings.Cut(suffix, ".")
	}
	return r.servers
}

// dial connects to a server. Its name, if it has to have one, is the system's
// to look up: asking ourselves could need this very connection.
func (r *Resolver) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if r.Dial == nil {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, ok := literal(host); ok {
		return r.Dial(ctx, network, address)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, ip := range ips {
		var conn net.Conn
		if conn, err = r.Dial(ctx, network, net.JoinHostPort(ip.Unmap().String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
