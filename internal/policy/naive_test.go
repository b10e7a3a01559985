package policy

import (
	"encoding/hex"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/argyle-socks/argyle"
)

// naive decides by going through the rules one after the other, as the
// documentation says it. It shares no code with Policy but Private, which has
// tests of its own.
type naive struct{ *Policy }

// outcome is what is compared.
type outcome struct {
	kind Kind
	rule int
}

// holds is whether a rule matches.
type holds int

const (
	no holds = iota
	maybe
	yes
)

func (n naive) decide(command Command, req *argyle.Request, name string, ip netip.Addr, port uint16) outcome {
	client := req.Client.Addr().Unmap().WithZone("")
	if len(n.Clients) > 0 && client.IsValid() && !slices.ContainsFunc(n.Clients, func(p netip.Prefix) bool { return p.Contains(client) }) {
		return outcome{Stranger, -1}
	}
	if n.Rules == nil {
		return n.guard(outcome{NoRules, -1}, command, client, name, ip, port)
	}
	for i, r := range n.Rules {
		if !n.conditions(&r, command, req, client) {
			continue
		}
		match := n.dest(&r, command, name, ip, port)
		switch {
		case match == no:
			continue
		case match == maybe:
			return outcome{Undecided, i}
		case r.Deny:
			return outcome{RuleDenies, i}
		case r.Via != "":
			return n.guard(outcome{RuleSends, i}, command, client, name, ip, port)
		}
		return n.guard(outcome{RuleAllows, i}, command, client, name, ip, port)
	}
	return outcome{NoMatch, -1}
}

// conditions are those that do not concern the destination.
func (n naive) conditions(r *Rule, command Command, req *argyle.Request, client netip.Addr) bool {
	commands := r.Commands
	if commands == nil {
		commands = []Command{Connect, Bind, UDP}
	}
	_, realm, hasRealm := strings.Cut(req.User, "@")
	isOfRealm := func(u string) bool { return hasRealm && req.Auth == argyle.AuthGSSAPI && u == "*@"+realm }
	isMember := func(m string) bool { return m == req.User || isOfRealm(m) || slices.Contains(req.Groups, m) }
	inGroup := func(g string) bool { return req.User != "" && slices.ContainsFunc(n.Groups[g], isMember) }
	isUser := func(u string) bool { return req.User != "" && (u == req.User || u == "*" || isOfRealm(u)) }
	inSet := func(s string) bool {
		return slices.ContainsFunc(n.Sets[s].Entries, func(e string) bool { return client.IsValid() && (e == "*" || naiveNet(e, client)) })
	}
	inNet := func(p netip.Prefix) bool { return p.Contains(client) }
	return slices.Contains(commands, command) &&
		(r.Inbounds == nil || slices.Contains(r.Inbounds, req.Inbound)) &&
		(r.Auth == nil || slices.Contains(r.Auth, req.Auth)) &&
		(r.Users == nil || slices.ContainsFunc(r.Users, isUser)) &&
		(r.Groups == nil || slices.ContainsFunc(r.Groups, inGroup)) &&
		(r.Clients == nil && r.ClientSets == nil || slices.ContainsFunc(r.Clients, inNet) || slices.ContainsFunc(r.ClientSets, inSet)) &&
		naiveTime(r, n.Now())
}

func naiveTime(r *Rule, now time.Time) bool {
	on := func(d time.Weekday) bool { return r.Days == nil || slices.Contains(r.Days, d) }
	today, yesterday := now.Weekday(), now.AddDate(0, 0, -1).Weekday()
	minute := now.Hour()*60 + now.Minute()
	if r.Times == nil {
		return on(today)
	}
	return slices.ContainsFunc(r.Times, func(s Span) bool {
		if s.From < s.To {
			return on(today) && s.From <= minute && minute < s.To
		}
		return on(today) && minute >= s.From || on(yesterday) && minute < s.To
	})
}

// dest is about the conditions on the destination.
func (n naive) dest(r *Rule, command Command, name string, ip netip.Addr, port uint16) holds {
	var entries []string
	for _, d := range r.Dests {
		if set, ok := strings.CutPrefix(d, "set:"); ok {
			entries = append(entries, n.Sets[set].Entries...)
		} else {
			entries = append(entries, d)
		}
	}
	anywhere := r.Dests == nil || slices.Contains(entries, "*")
	if name == "" && !ip.IsValid() && command == UDP {
		if r.Deny && (!anywhere || r.Ports != nil) {
			return no
		}
		return yes
	}
	if r.Ports != nil && !slices.ContainsFunc(r.Ports, func(p Ports) bool { return p.First <= port && port <= p.Last }) {
		return no
	}
	if anywhere {
		return yes
	}
	match := no
	for _, e := range entries {
		switch {
		case name != "" && naiveName(e, name):
			return yes
		case ip.IsValid() && naiveNet(e, ip):
			return yes
		case ip.IsValid() && r.Deny && slices.ContainsFunc(naiveInside(ip), func(v4 netip.Addr) bool { return naiveNet(e, v4) }):
			return yes
		case name != "" && !ip.IsValid() && naiveIsNet(e):
			match = maybe
		}
	}
	return match
}

func (n naive) guard(o outcome, command Command, client netip.Addr, name string, ip netip.Addr, port uint16) outcome {
	free := n.AllowPrivate || !client.IsValid() || client.IsLoopback() || o.rule >= 0 && n.Rules[o.rule].Private
	private := ip.IsValid() && Private(ip) != ""
	if !ip.IsValid() && name != "" {
		plain := naivePlain(name)
		private = plain == "localhost" || strings.HasSuffix(plain, ".localhost")
	}
	switch {
	case command == Bind && ip.IsValid() && ip.IsUnspecified():
		if !free {
			return outcome{AnyPeer, o.rule}
		}
		return o
	case private && !free && !n.named(o.rule, ip):
		return outcome{PrivateAddress, o.rule}
	case ip.IsValid() && n.Own(netip.AddrPortFrom(ip, port)):
		return outcome{Itself, o.rule}
	}
	return o
}

// named reports whether a rule names ip by a wholly private network.
func (n naive) named(rule int, ip netip.Addr) bool {
	if rule < 0 || !ip.IsValid() {
		return false
	}
	var entries []string
	for _, d := range n.Rules[rule].Dests {
		if set, ok := strings.CutPrefix(d, "set:"); ok {
			entries = append(entries, n.Sets[set].Entries...)
		} else {
			entries = append(entries, d)
		}
	}
	return slices.ContainsFunc(entries, func(e string) bool {
		return naiveNet(e, ip) && slices.Contains(naivePrivateNets, e)
	})
}

// naivePrivateNets are those of the networks in the tests that are wholly private.
var naivePrivateNets = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "127.0.0.0/8", "fd00::/8", "64:ff9b::10.1.2.3", "169.254.169.254"}

func naiveIsNet(entry string) bool {
	_, err := netip.ParseAddr(entry)
	return err == nil || strings.Contains(entry, "/")
}

func naiveNet(entry string, ip netip.Addr) bool {
	if single, err := netip.ParseAddr(entry); err == nil {
		return single.Unmap() == ip
	}
	n, err := netip.ParsePrefix(entry)
	return err == nil && n.Contains(ip)
}

func naivePlain(name string) string {
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		ascii = name
	}
	return strings.TrimSuffix(strings.ToLower(ascii), ".")
}

func naiveName(entry, name string) bool {
	if naiveIsNet(entry) {
		return false
	}
	name = naivePlain(name)
	if domain, ok := strings.CutPrefix(entry, "."); ok {
		domain = naivePlain(domain)
		return name == domain || strings.HasSuffix(name, "."+domain)
	}
	if strings.ContainsAny(entry, "*?") {
		text := regexp.QuoteMeta(strings.TrimSuffix(strings.ToLower(entry), "."))
		text = strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(text)
		return regexp.MustCompile("^(?s:" + text + ")$").MatchString(name)
	}
	return naivePlain(entry) == name
}

// naiveInside are the IPv4 addresses in an IPv6 address, by its hexadecimal digits.
func naiveInside(ip netip.Addr) (all []netip.Addr) {
	if !ip.Is6() || ip.IsLoopback() || ip.IsUnspecified() {
		return nil
	}
	x := hex.EncodeToString(ip.AsSlice())
	add := func(at int, invert byte) {
		b, err := hex.DecodeString(x[at : at+8])
		if err != nil {
			panic(err)
		}
		for i := range b {
			b[i] ^= invert
		}
		all = append(all, netip.AddrFrom4([4]byte(b)))
	}
	zeros := strings.Repeat("0", 24)
	for _, prefix := range []string{zeros, zeros[:16] + "ffff0000", "0064ff9b" + zeros[:16]} {
		if strings.HasPrefix(x, prefix) {
			add(24, 0)
		}
	}
	if strings.HasPrefix(x, "2002") {
		add(4, 0)
	}
	if strings.HasPrefix(x, "20010000") {
		add(8, 0)
		add(24, 0xff)
	}
	if x[16:24] == "00005efe" || x[16:24] == "02005efe" {
		add(24, 0)
	}
	return all
}
