package config

import (
	"reflect"
	"strings"
)

// ruleName refuses a name that another rule has: they would share what they
// count.
func (c *checker) ruleName(named map[string]int, i int) {
	name := c.f.Rules[i].Name
	if first, twice := named[name]; twice && name != "" {
		c.fail(indexed("rules", i)+".name", "the rule at %s has this name, too", c.f.Line(indexed("rules", first)))
		return
	}
	named[name] = i
}

// rule checks one rule.
func (c *checker) rule(r *Rule, path string) {
	c.emptyConditions(r, path)
	for i, client := range r.Client {
		at := indexed(path+".client", i)
		if client == "" || c.setExists(at, client) {
			continue
		}
		var n Network
		if err := n.UnmarshalText([]byte(client)); err != nil {
			c.fail(at, "%s: %w, or set:NAME", quote(client), err)
		}
	}
	for i, to := range r.To {
		at := indexed(path+".to", i)
		if !c.setExists(at, to) {
			c.only(to == "" || strings.ContainsAny(to, " \t\n,"), at, quote(to)+": want a name, .domain, a glob, a network, or set:NAME")
		}
	}
	for i, listener := range r.Listener {
		c.listenerExists(indexed(path+".listener", i), listener)
	}
	for i, group := range r.Group {
		c.groupExists(indexed(path+".group", i), group)
	}
	for i, user := range r.User {
		c.only(user == "", indexed(path+".user", i), `an empty user name; "*" is anybody who is known`)
	}
	c.action(r, path)
	c.limit(r.Limits, path+".limits")
	c.timeouts(&r.Timeouts, path+".timeouts")
	c.only(r.Timeouts.Handshake != 0, path+".timeouts.handshake", "the handshake is over when rules are asked: say it in the general timeouts")
}

// emptyConditions refuses conditions without alternatives: what should match
// nothing must not match everything.
func (c *checker) emptyConditions(r *Rule, path string) {
	v := reflect.ValueOf(r).Elem()
	for _, f := range fieldsOf(v.Type()) {
		if list := v.Field(f.index); list.Kind() == reflect.Slice && !list.IsNil() && list.Len() == 0 {
			c.fail(path+"."+f.key, "an empty list matches nothing; leave the key out to match everything")
		}
	}
}

// action checks what follows from the rule.
func (c *checker) action(r *Rule, path string) {
	if r.Via != "" {
		c.upstreamExists(path+".via", r.Via)
	}
	switch {
	case r.Action == Deny:
		c.denyAlone(r, path)
		return
	case r.Action == "" && r.Via == "" && !c.incomplete(path):
		c.fail(path, "a rule needs action or via")
	}
	c.source(r.Source, path+".source")
	c.only(r.Source != nil && r.Via != "", path+".source", "source goes out directly, without via")
	c.sendProxy(r, path+".send-proxy")
}

// denyAlone refuses what cannot go with deny.
func (c *checker) denyAlone(r *Rule, path string) {
	for _, not := range []struct {
		there bool
		key   string
	}{
		{r.Via != "", "via"}, {r.Source != nil, "source"}, {r.SendProxy != 0, "send-proxy"}, {r.Private, "private"},
		{r.Limits != nil, "limits"}, {r.Timeouts != Timeouts{}, "timeouts"},
	} {
		c.only(not.there, path+"."+not.key, "a rule that denies has no "+not.key)
	}
}

func (c *checker) sendProxy(r *Rule, path string) {
	if !c.has(path) || c.incomplete(path) {
		return
	}
	if r.SendProxy != 1 && r.SendProxy != 2 {
		c.fail(path, "want version 1 or 2 of the PROXY protocol")
	}
	u, named := c.f.Upstreams[r.Via]
	if named && u.Direct == nil && !c.incomplete("upstreams."+r.Via) {
		c.fail(path, "send-proxy goes to the destination itself: it is for ways without a proxy")
	}
}
