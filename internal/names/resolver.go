package names

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	lookupTimeout = 10 * time.Second // of a caller that sets no deadline
	tryTimeout    = 2 * time.Second
	maxNameLen    = 253 // RFC 1035, section 2.3.4, without the root
	maxAliases    = 16
	maxAddrs      = 128 // that one message may give a name
)

// A Resolver looks up addresses. The zero Resolver asks the system; its fields
// must not change after the first look-up.
//
// A name is asked for as it is: no search list is applied, not even the
// system's, or whoever has rules for names could be asked for another one.
// Addresses come as the servers give them. They may be
// private ones, and IPv6 addresses that stand for IPv4 ones (::ffff:192.0.2.1);
// whoever has rules for addresses must Unmap and check them.
type Resolver struct {
	// Servers are asked in this order, the next one if one is dead, refuses
	// or fails. A dead one is asked last for ten seconds. None stands for
	// the system's resolver.
	Servers []Server

	// Zones have servers of their own.
	Zones []Zone

	// Hosts gives names their addresses before anybody is asked. A name
	// that is here has no others, in no family.
	Hosts map[string][]netip.Addr

	// Prefer orders the addresses, or leaves some out.
	Prefer Preference

	// CacheSize is how many answers are kept; zero stands for 10,000, a
	// negative number for none.
	CacheSize int

	// MaxTTL bounds how long an answer is kept, whatever its own time to
	// live; zero stands for an hour. The lower bound is one second.
	MaxTTL time.Duration

	// Timeout is for one try at one server; zero stands for 2 s. A whole
	// look-up ends with its context, or after 10 s without a deadline.
	Timeout time.Duration

	// Dial, if not nil, makes the connections to the servers, to IP
	// addresses only; for "udp" it must keep the boundaries of messages.
	// Its context carries no values of those who look up. With it, the
	// system's resolver is Go's own, over the servers of the system.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	once    sync.Once
	hosts   map[string][]netip.Addr
	remotes map[Server]*remote
	servers []*remote
	zones   map[string][]*remote

	mu      sync.Mutex // guards what follows
	cache   *cache
	flights map[key]*flight
}

// A Zone is a name and all names below it, and the servers that know them.
type Zone struct {
	Suffix  string   // such as "corp.example"; the longest that fits wins
	Servers []Server // as in Resolver: none stands for the system's resolver
}

// LookupNetIP returns the addresses of host, which are at least one, or a
// *net.DNSError. network is "ip", "ip4" or "ip6". An IP address stands for
// itself, whatever is preferred.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	want, err := familiesOf(network)
	if err != nil {
		return nil, err
	}
	if ip, ok := literal(host); ok {
		if len(want.of([]netip.Addr{ip})) == 0 {
			return nil, notFound(errNoAddress).named(host)
		}
		return []netip.Addr{ip}, nil
	}
	r.once.Do(r.prepare)
	k := key{name: plain(host), want: want & r.Prefer.families()}
	got := r.lookup(ctx, k)
	if got.err != nil {
		return nil, got.err.named(host)
	}
	// A copy, as callers sort and unmap what they get.
	return append(make([]netip.Addr, 0, len(got.addrs)), got.addrs...), nil
}

// lookup finds out without a question if it can.
func (r *Resolver) lookup(ctx context.Context, k key) answer {
	if k.name == "" || len(k.name) > maxNameLen {
		return answer{err: notFound(errNoHost)}
	}
	if k.want == 0 {
		return answer{err: notFound(errNoAddress)}
	}
	if addrs, ok := r.hosts[k.name]; ok {
		return r.finish(reply{addrs: addrs, ordered: true, exists: true}, k.want)
	}
	return r.await(ctx, k)
}

// find asks, for a flight.
func (r *Resolver) find(ctx context.Context, k key) answer {
	got, err := r.resolve(ctx, k.name, k.want, 0)
	if err != nil {
		return answer{err: failure(err), ttl: failureTTL}
	}
	return r.finish(got, k.want)
}

// finish makes an answer of what the servers say.
func (r *Resolver) finish(got reply, want families) answer {
	addrs := r.Prefer.arrange(want.of(got.addrs), got.ordered)
	if len(addrs) > 0 {
		return answer{addrs: addrs, ttl: max(minTTL, min(got.ttl, cmp.Or(r.MaxTTL, maxTTL)))}
	}
	text := errNoHost
	if got.exists {
		text = errNoAddress
	}
	ttl := min(got.ttl, cmp.Or(r.MaxTTL, maxTTL), maxNegativeTTL)
	return answer{err: notFound(text), ttl: max(minTTL, ttl)}
}

// resolve asks for name, and for what it is an alias of if the server leaves
// that to us. The alias may be in another zone, with other servers.
func (r *Resolver) resolve(ctx context.Context, name string, want families, aliases int) (reply, error) {
	got, err := r.ask(ctx, name, want)
	if err != nil || got.alias == "" {
		return got, err
	}
	if aliases == maxAliases {
		return reply{}, errAliases
	}
	rest, err := r.resolve(ctx, got.alias, got.open, aliases+1)
	if err != nil && len(got.addrs) == 0 {
		return reply{}, err
	}
	return got.join(rest, err), nil
}

// ask goes from server to server until one answers, to the dead ones last.
func (r *Resolver) ask(ctx context.Context, name string, want families) (reply, error) {
	var first error
	queue := slices.Clip(r.serversOf(plain(name)))
	known := len(queue)
	for i := 0; i < len(queue); i++ {
		if i < known && !queue[i].ready(time.Now()) {
			queue = append(queue, queue[i])
			continue
		}
		got, err := queue[i].ask(ctx, name, want)
		if err == nil || ctx.Err() != nil {
			return got, err
		}
		first = cmp.Or(first, err)
	}
	return reply{}, first
}

// Close closes the connections that are kept for further questions. A look-up
// that comes later, or is under way, opens new ones.
func (r *Resolver) Close() error {
	r.once.Do(r.prepare)
	for _, server := range r.remotes {
		server.close()
	}
	return nil
}

// literal returns host if it is an IP address.
func literal(host string) (netip.Addr, bool) {
	if host == "" {
		return netip.Addr{}, false
	}
	// Parsing a name costs an error, so look first.
	if last := host[len(host)-1]; (last < '0' || last > '9') && !strings.Contains(host, ":") {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(host)
	return ip, err == nil
}

// plain returns a name as it is compared.
func plain(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
