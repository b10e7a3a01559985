package config

import (
	"maps"
	"slices"
	"strings"
)

// direct is the upstream that is always there.
const direct = "direct"

// upstreams checks the ways out.
func (c *checker) upstreams() {
	for _, s := range slices.Sorted(maps.Keys(c.f.Upstreams)) {
		path := "upstreams." + s
		if s == direct {
			c.fail(path, "direct is always there, and cannot be another upstream")
		}
		c.checkName("an upstream", path, s)
		u := c.f.Upstreams[s]
		c.upstream(&u, path)
		c.items(path+".chain", u.Chain)
		c.items(path+".group", u.Group)
		c.source(u.Direct, path+".direct")
	}
	c.cycles()
}

// upstream checks which keys go together.
func (c *checker) upstream(u *Upstream, path string) {
	chain, group := u.Chain != nil, u.Group != nil
	kinds := 0
	for _, is := range []bool{chain, group, u.Direct != nil} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		c.fail(path, "an upstream is one of chain, group and direct")
	case kinds == 0 && !c.incomplete(path):
		c.fail(path, "an upstream needs one of chain, group and direct (direct: {} is this host as it is)")
	case chain && len(u.Chain) == 0, group && len(u.Group) == 0:
		c.fail(path, "an upstream needs at least one proxy")
	}
	if kinds != 1 {
		return
	}
	c.only(u.Mode != "" && !chain, path+".mode", "mode is for a chain; a group has pick")
	c.only(u.Pick != "" && !group, path+".pick", "pick is for a group; a chain has mode")
	c.only(u.Check != nil && u.Direct != nil, path+".check", "check is for the members of a chain or group")
	c.only((u.User != "" || u.Password != "") && !chain, path, "user and password are for the last proxy of a chain")
	c.only(u.Password != "" && u.User == "" && !c.incomplete(path), path+".password", "password needs user")
	switch {
	case !c.has(path+".length") || c.incomplete(path):
	case u.Mode != ChainRandom:
		c.fail(path+".length", "length is for a chain with mode: random")
	case u.Length < 1 || u.Length > len(u.Chain):
		c.fail(path+".length", "want a length from 1 to that of the chain, %d", len(u.Chain))
	}
	c.check(u.Check, path+".check")
}

// only fails if wrong holds.
func (c *checker) only(wrong bool, path, what string) {
	if wrong {
		c.fail(path, "%s", what)
	}
}

func (c *checker) check(k *Check, path string) {
	if k == nil {
		return
	}
	c.only(k.Every == 0 && !c.incomplete(path), path, "check needs every, the time between two looks")
	c.only(k.Every == Off, path+".every", "leave check out to look never")
	c.only(k.Timeout == Off, path+".timeout", "a look needs a bound: write 5s")
	if k.Target != "" {
		c.checkHostPort(path+".target", k.Target)
	}
}

func (c *checker) source(s *Source, path string) {
	if s == nil {
		return
	}
	c.only(s.Address != nil && len(s.Address) == 0, path+".address", "an empty list: leave the key out for any address")
	c.only(s.Pick != "" && len(s.Address) == 0 && !c.incomplete(path), path+".pick", "pick chooses from address, which is missing")
}

// items checks what stands in a chain or group: names of upstreams, or proxy
// URLs, which are not looked at here. One without a scheme is a host.
func (c *checker) items(path string, items []ProxyURL) {
	for i, item := range items {
		s := string(item)
		if s == "" || c.isUpstream(s) {
			continue
		}
		if strings.ContainsAny(s, ".:/@[") {
			c.checkURL(indexed(path, i), s)
			continue
		}
		if c.broken["upstreams"] || c.f.pos(indexed(path, i)).Line == 0 {
			continue // what the command line says may be a host
		}
		hint := c.meantUpstream(s)
		if hint == "" {
			hint = "; a host of that name is written socks5h://" + s
		}
		c.fail(indexed(path, i), "no upstream %q%s", s, hint)
	}
}

// checkURL asks about a proxy URL. One of the command line has been looked at.
func (c *checker) checkURL(path, url string) {
	if c.proxyURL == nil || c.f.pos(path).Line == 0 {
		return
	}
	if err := c.proxyURL(url); err != nil {
		c.fail(path, "%w", err)
	}
}

func (c *checker) isUpstream(s string) bool {
	_, exists := c.f.Upstreams[s]
	return exists || s == direct
}

func (c *checker) meantUpstream(s string) string {
	return didYouMean(s, append(slices.Collect(maps.Keys(c.f.Upstreams)), direct))
}

// upstreamExists checks a name where a URL cannot stand.
func (c *checker) upstreamExists(path, s string) {
	switch {
	case c.isUpstream(s) || c.broken["upstreams"]:
	case strings.ContainsAny(s, ":/@"):
		c.fail(path, "want the name of an upstream: give this proxy one, in upstreams")
	default:
		c.fail(path, "no upstream %q%s", s, c.meantUpstream(s))
	}
}

// cycles refuses upstreams that go through themselves.
func (c *checker) cycles() {
	done := make(map[string]bool)
	var way []string
	var visit func(s string)
	visit = func(s string) {
		if i := slices.Index(way, s); i >= 0 {
			c.fail("upstreams."+way[i], "the upstream goes through itself: %s", strings.Join(append(way[i:], s), " > "))
			return
		}
		u, exists := c.f.Upstreams[s]
		if done[s] || !exists || s == direct {
			return
		}
		way = append(way, s)
		for _, item := range slices.Concat(u.Chain, u.Group) {
			visit(string(item))
		}
		way = way[:len(way)-1]
		done[s] = true
	}
	for _, s := range slices.Sorted(maps.Keys(c.f.Upstreams)) {
		visit(s)
	}
}
