package names

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// unknownTTL is of answers that do not say for how long they hold.
const unknownTTL time.Duration = -1

// A reply is what a server says about a name.
type reply struct {
	addrs   []netip.Addr
	ordered bool // by the system (RFC 6724)
	exists  bool // perhaps without addresses
	ttl     time.Duration
	alias   string   // whose addresses are to be asked for
	open    families // for these families
}

// join adds what was found out about the alias.
func (a reply) join(rest reply, err error) reply {
	if err != nil {
		rest = reply{ttl: partialTTL}
	}
	return reply{
		addrs:   append(a.addrs, rest.addrs...),
		ordered: rest.ordered && len(a.addrs) == 0,
		exists:  true,
		ttl:     sooner(a.ttl, rest.ttl),
	}
}

// sooner returns the shorter time that is known.
func sooner(a, b time.Duration) time.Duration {
	if a == unknownTTL || b == unknownTTL {
		return max(a, b)
	}
	return min(a, b)
}

// A part is what one message says, which is about one family.
type part struct {
	family families
	addrs  []netip.Addr
	exists bool
	ttl    time.Duration
	alias  string
	err    error
}

// combine makes one reply of the parts. One family is enough, for a short
// while; a failure counts if the rest says nothing.
func combine(parts []part) (reply, error) {
	whole := reply{ttl: unknownTTL}
	var failed error
	denied := false
	for _, p := range parts {
		if p.err != nil {
			failed = p.err
			continue
		}
		whole.addrs = append(whole.addrs, p.addrs...)
		whole.ttl = sooner(whole.ttl, p.ttl)
		whole.exists = whole.exists || p.exists
		denied = denied || !p.exists
		if p.alias != "" {
			whole.alias, whole.open = p.alias, whole.open|p.family
		}
	}
	if failed == nil {
		return whole, nil
	}
	if len(whole.addrs) == 0 && whole.alias == "" && !denied {
		return reply{}, failed
	}
	whole.ttl = sooner(whole.ttl, partialTTL)
	return whole, nil
}

// read takes from a message what belongs to the chain of aliases that begins
// with name, whatever else it holds.
func read(msg *dns.Msg, name string, family families) part {
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return part{err: rcodeError(msg.Rcode)}
	}
	p := part{family: family, exists: msg.Rcode == dns.RcodeSuccess, ttl: unknownTTL}
	owner, ok := p.follow(msg.Answer, dns.Fqdn(name))
	if !ok {
		return part{err: errAliases}
	}
	for _, rr := range msg.Answer {
		if ip, ok := address(rr, owner, family); ok && len(p.addrs) < maxAddrs {
			p.addrs = append(p.addrs, ip)
			p.ttl = sooner(p.ttl, ttlOf(rr.Header().Ttl))
		}
	}
	if len(p.addrs) > 0 {
		p.exists = true
		return p
	}
	return p.without(msg, name, owner)
}

// follow returns the last name of the chain, or false if it has no end.
func (p *part) follow(records []dns.RR, owner string) (string, bool) {
	for range maxAliases + 1 {
		alias := aliasOf(records, owner)
		if alias == nil {
			return owner, true
		}
		owner = alias.Target
		p.ttl = sooner(p.ttl, ttlOf(alias.Hdr.Ttl))
	}
	return "", false
}

func aliasOf(records []dns.RR, owner string) *dns.CNAME {
	for _, rr := range records {
		if alias, ok := rr.(*dns.CNAME); ok && strings.EqualFold(alias.Hdr.Name, owner) && alias.Hdr.Class == dns.ClassINET {
			return alias
		}
	}
	return nil
}

// without says why a message has no address of owner.
func (p part) without(msg *dns.Msg, name, owner string) part {
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok { // RFC 2308, section 5
			p.ttl = sooner(p.ttl, min(ttlOf(soa.Hdr.Ttl), ttlOf(soa.Minttl)))
			return p
		}
	}
	switch {
	case !p.exists:
	case !strings.EqualFold(owner, dns.Fqdn(name)):
		p.alias = owner
	case !msg.Authoritative && !msg.RecursionAvailable:
		return part{err: errLame}
	}
	return p
}

func address(rr dns.RR, owner string, family families) (netip.Addr, bool) {
	if !strings.EqualFold(rr.Header().Name, owner) || rr.Header().Class != dns.ClassINET {
		return netip.Addr{}, false
	}
	switch record := rr.(type) {
	case *dns.A:
		ip, ok := netip.AddrFromSlice(record.A.To4())
		return ip, ok && family == ipv4
	case *dns.AAAA:
		ip, ok := netip.AddrFromSlice(record.AAAA)
		return ip, ok && family == ipv6
	}
	return netip.Addr{}, false
}

// ttlOf reads a time to live: one with the highest bit is none (RFC 2181, section 8).
func ttlOf(seconds uint32) time.Duration {
	if seconds > 1<<31-1 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
