package config

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checker looks for what is wrong with a File as a whole: references to what
// does not exist, and keys that do not go together.
type checker struct {
	f        *File
	broken   map[string]bool // see decoder
	errs     []*Error
	proxyURL func(string) error // see Loader
}

func (c *checker) fail(path, format string, args ...any) {
	c.errs = append(c.errs, c.f.source.newError(c.f.pos(path), fmt.Errorf(format, args...)))
}

// incomplete reports whether something about the value at path, or below it,
// is wrong: then what seems to be missing may be there.
func (c *checker) incomplete(path string) bool {
	_, is := c.broken[path]
	return is
}

// has reports whether the file says something at path.
func (c *checker) has(path string) bool { return c.f.source.has(path) }

func (c *checker) file() {
	c.listeners()
	c.forwards()
	c.tls()
	c.gssapi()
	c.emptyLists()
	c.upstreams()
	c.items("proxy", c.f.Proxy)
	c.names()
	c.sets()
	named := make(map[string]int)
	for i := range c.f.Rules {
		c.ruleName(named, i)
		c.rule(&c.f.Rules[i], indexed("rules", i))
	}
	c.limits()
	c.gateway()
	c.timeouts(&c.f.Timeouts, "timeouts")
	for i := range c.f.Tests {
		c.test(&c.f.Tests[i], indexed("tests", i))
	}
}

// timeouts refuses what has to end.
func (c *checker) timeouts(t *Timeouts, path string) {
	c.only(t.UDPIdle == Off, path+".udp-idle", "a UDP mapping has no other end: write a time such as 1h")
}

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// emptyLists refuses lists that would open what they are meant to close.
func (c *checker) emptyLists() {
	if c.f.Allow != nil && len(c.f.Allow) == 0 {
		c.fail("allow", "an empty list would allow everybody: leave the key out, or write open: true")
	}
	if c.f.Listen != nil && len(c.f.Listen) == 0 {
		c.fail("listen", "an empty list: leave the key out for the default listeners")
	}
}

// listeners checks the ways in.
func (c *checker) listeners() {
	addresses, names := make(map[string]int), make(map[string]int)
	for i := range c.f.Listen {
		l, path := &c.f.Listen[i], indexed("listen", i)
		if l.Address == "" {
			if !c.incomplete(path) {
				c.fail(path, "a listener needs an address")
			}
			continue
		}
		if err := checkListenAddress(l.Address); err != nil {
			c.fail(path+".address", "%w", err)
		}
		if first, twice := addresses[l.Address]; twice {
			c.fail(path+".address", "%s is there twice, first %s", l.Address, c.f.Line(indexed("listen", first)))
		} else if first, twice := names[l.name()]; twice {
			c.fail(path+".name", "the name %q is there twice, first %s", l.name(), c.f.Line(indexed("listen", first)))
		} else {
			addresses[l.Address], names[l.name()] = i, i
		}
		c.listenerAuth(l, path)
		if l.Mode != 0 && !strings.HasPrefix(l.Address, "unix:") {
			c.fail(path+".mode", "mode is for listeners on unix:/path")
		}
	}
}

// name is what rules call the listener.
func (l *Listener) name() string {
	if l.Name != "" {
		return l.Name
	}
	return l.Address
}

func (c *checker) listenerAuth(l *Listener, path string) {
	if l.Auth != nil && len(l.Auth) == 0 {
		c.fail(path+".auth", "an empty list: nobody could use the listener")
	}
	for i, auth := range l.Auth {
		at := indexed(path+".auth", i)
		switch {
		case auth == AuthPassword && (c.f.Users == nil || c.f.Users.File == "") && !c.incomplete("users"):
			c.fail(at, "password needs a users file: say users")
		case auth == AuthCertificate && (c.f.TLS == nil || c.f.TLS.ClientCA == "") && !c.incomplete("tls"):
			c.fail(at, "certificate needs the authorities of the clients: say tls.client-ca")
		case auth == AuthUID && !strings.HasPrefix(l.Address, "unix:") && !strings.HasPrefix(l.Address, "systemd:"):
			c.fail(at, "uid is for listeners on unix:/path")
		case auth == AuthGSSAPI && (c.f.Auth == nil || c.f.Auth.GSSAPI == nil) && !c.incomplete("auth"):
			c.fail(at, "gssapi needs the service's keys: say auth.gssapi")
		}
	}
}

func checkListenAddress(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("unix: without a path")
		}
		return nil
	}
	if name, ok := strings.CutPrefix(address, "systemd:"); ok && name != "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if _, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil {
		return fmt.Errorf("%s: want host:port, :port, unix:/path or systemd:NAME, IPv6 in brackets", quote(address))
	}
	return nil
}

func (c *checker) tls() {
	if t := c.f.TLS; t != nil && (t.Cert == "" || t.Key == "") && !c.incomplete("tls") {
		c.fail("tls", "tls needs cert and key")
	}
}

// gssapi checks who may log in by a ticket, and as whom.
func (c *checker) gssapi() {
	if c.f.Auth == nil {
		return
	}
	g := c.f.Auth.GSSAPI
	if g == nil {
		if !c.incomplete("auth") {
			c.fail("auth", "auth has one key, gssapi")
		}
		return
	}
	const path = "auth.gssapi"
	if s := g.Service; s != "" && !servicePattern.MatchString(s) {
		c.fail(path+".service", "%s: want a service such as rcmd, or a principal such as rcmd/gw.example.com; @ and a realm may follow", quote(s))
	}
	if g.Principals != nil && len(g.Principals) == 0 {
		c.fail(path+".principals", "an empty list: nobody could log in; leave the key out for those of the keytab's realms")
	}
	for i, p := range g.Principals {
		c.principal(indexed(path+".principals", i), p)
	}
	for _, p := range slices.Sorted(maps.Keys(g.Map)) {
		at := path + ".map." + p
		c.principal(at, p)
		switch name := g.Map[p]; {
		case name == "" || strings.HasPrefix(name, "sid:"):
			c.fail(at, "%s: want a user name", quote(name))
		case strings.Count(name, "*") > strings.Count(p, "*"):
			c.fail(at, "%s: a * in the name stands for what a * in the principal stood for", quote(name))
		}
	}
}

// servicePattern is a service, with its host and its realm or without.
var servicePattern = regexp.MustCompile(`^[^@/\s]+(/[^@/\s]+)*(@[^@/\s]+)?$`)

func (c *checker) principal(path, p string) {
	if at := strings.LastIndexByte(p, '@'); at < 1 || at == len(p)-1 {
		c.fail(path, "%s: want a principal with its realm, such as ann@EXAMPLE.COM or *@EXAMPLE.COM", quote(p))
	}
}

func (c *checker) names() {
	if c.has("names.cache.size") && c.f.Names.Cache.Size == 0 && !c.incomplete("names.cache.size") {
		c.fail("names.cache.size", "0 means nothing: a negative size is for no cache")
	}
}

// namePattern is what may be called for by set:NAME or via.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func (c *checker) checkName(what, path, s string) {
	if !namePattern.MatchString(s) {
		c.fail(path, "%s: the name of %s has letters, digits, dots, _ and - only", quote(s), what)
	}
}

func (c *checker) sets() {
	for _, s := range slices.Sorted(maps.Keys(c.f.Sets)) {
		path := "sets." + s
		c.checkName("a set", path, s)
		set := c.f.Sets[s]
		if set.Entries == nil && set.File == "" && !c.incomplete(path) {
			c.fail(path, "a set needs entries, a file, or both")
		}
	}
}

// setExists checks an entry that may be set:NAME, and reports whether it is.
func (c *checker) setExists(path, entry string) bool {
	s, is := strings.CutPrefix(entry, "set:")
	if is {
		if _, exists := c.f.Sets[s]; !exists && !c.broken["sets"] {
			c.fail(path, "no set %q%s", s, didYouMean(s, slices.Collect(maps.Keys(c.f.Sets))))
		}
	}
	return is
}

func didYouMean(word string, words []string) string {
	slices.Sort(words)
	if near := nearest(word, words); near != "" {
		return ", did you mean " + near + "?"
	}
	return ""
}

// limits checks what sessions may use; those of rules are checked with them.
func (c *checker) limits() {
	l := &c.f.Limits
	c.limit(l.All, "limits.all")
	c.limit(l.Client, "limits.client")
	c.limit(l.User, "limits.user")
	for _, user := range slices.Sorted(maps.Keys(l.Users)) {
		of := l.Users[user]
		c.limit(&of, "limits.users."+user)
	}
	for _, group := range slices.Sorted(maps.Keys(l.Groups)) {
		of := l.Groups[group]
		c.limit(&of, "limits.groups."+group)
		c.groupExists("limits.groups."+group, group)
	}
}

func (c *checker) limit(l *Limit, path string) {
	if l == nil {
		return
	}
	if at := path + ".sessions"; l.Sessions < 0 || l.Sessions == 0 && c.has(at) && !c.incomplete(at) {
		c.fail(at, "want 1 session or more")
	}
	if l.Quota != (Quota{}) && c.f.State == "" && !c.incomplete("state") {
		c.fail(path+".quota", "a quota needs a place where it outlives a restart: say state")
	}
}

func (c *checker) groupExists(path, group string) {
	if c.f.Users == nil && c.broken["users"] || c.broken["users.groups"] {
		return
	}
	var groups map[string][]string
	if c.f.Users != nil {
		groups = c.f.Users.Groups
	}
	if _, exists := groups[group]; !exists {
		c.fail(path, "no group %q in users.groups%s", group, didYouMean(group, slices.Collect(maps.Keys(groups))))
	}
}

// test checks one of the tests.
func (c *checker) test(t *Test, path string) {
	asked := 0
	for _, of := range []struct{ key, dest string }{{"connect", t.Connect}, {"bind", t.Bind}, {"udp", t.UDP}} {
		if of.dest != "" {
			asked++
			c.checkHostPort(path+"."+of.key, of.dest)
		}
	}
	switch {
	case c.incomplete(path):
	case asked != 1:
		c.fail(path, "a test needs one of connect, bind and udp")
	case t.Expect == "":
		c.fail(path, "a test needs expect")
	}
	if t.Listener != "" {
		c.listenerExists(path+".listener", t.Listener)
	}
	via, isVia := strings.CutPrefix(t.Expect, "via ")
	switch {
	case isVia:
		c.upstreamExists(path+".expect", via)
	case t.Expect != "" && t.Expect != "allow" && t.Expect != "deny":
		c.fail(path+".expect", "%s: want allow, deny or via NAME", quote(t.Expect))
	}
}

func (c *checker) checkHostPort(path, s string) {
	host, port, err := net.SplitHostPort(s)
	if _, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || host == "" || strings.Contains(s, " ") {
		c.fail(path, "%s: want host:port, IPv6 in brackets", quote(s))
	}
}

// commandInbounds are the ways in of commands that have no listeners of their own.
var commandInbounds = []string{"run", "redirect", "tun", GatewayName, "dns"}

func (c *checker) listenerExists(path, listener string) {
	names := []string{"127.0.0.1:1080", "[::1]:1080"} // without listen
	if len(c.f.Listen) > 0 {
		names = nil
	}
	for i := range c.f.Listen {
		names = append(names, c.f.Listen[i].name())
	}
	for i := range c.f.Forward {
		names = append(names, c.f.Forward[i].name())
	}
	names = append(names, commandInbounds...)
	if g := c.f.Gateway; g != nil {
		for i := range g.NAT64 {
			if name := g.NAT64[i].Name; name != "" {
				names = append(names, name)
			}
		}
	}
	if !slices.Contains(names, listener) && !c.incomplete("listen") && !c.incomplete("forward") && !c.incomplete("gateway") {
		c.fail(path, "no listener %q%s", listener, didYouMean(listener, names))
	}
}
