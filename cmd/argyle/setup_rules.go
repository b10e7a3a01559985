package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/policy"
	"github.com/argyle-socks/argyle/proxy"
)

// makePolicy makes the policy; the ways are there.
func (set *setup) makePolicy(w *world) error {
	file := set.file
	p := policy.Policy{
		AllowPrivate: file.AllowPrivate,
		Special:      w.special,
		Own:          w.isOwn,
		Ways:         make(map[string]policy.Way),
		Resolver:     set.resolver,
		Limits:       w.subjectLimits(file),
	}
	if w.addresses != nil {
		p.Resolver = w.addresses
	}
	for _, n := range file.Allow {
		p.Clients = append(p.Clients, n.Prefix())
	}
	if file.Users != nil {
		p.Groups = file.Users.Groups
	}
	for name, way := range set.ways {
		p.Ways[name] = policy.Way{Dialer: way, Resolves: way.resolves}
	}
	var errs []error
	p.Sets, errs = set.makeSets()
	if file.Rules != nil {
		p.Rules = make([]policy.Rule, 0, len(file.Rules))
	}
	for i := range file.Rules {
		p.Rules = append(p.Rules, set.makeRule(w, i))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	made, err := policy.New(p)
	set.policy = made
	return set.ruleErrors(err)
}

// makeSets reads the named sets.
func (set *setup) makeSets() (map[string]*policy.Set, []error) {
	var errs []error
	sets := make(map[string]*policy.Set)
	for name, s := range set.file.Sets {
		file := ""
		if s.File != "" {
			file = set.file.Path(s.File)
		}
		made, err := policy.NewSet(s.Entries, file)
		if err != nil {
			errs = append(errs, set.file.Errorf("sets."+name, "%w", err))
		}
		sets[name] = made
	}
	return sets, errs
}

// makeRule makes the policy's rule of one in the file.
func (set *setup) makeRule(w *world, i int) policy.Rule {
	from := &set.file.Rules[i]
	path := rulePath(i)
	rule := policy.Rule{
		Name:     from.Name,
		At:       set.file.Line(path),
		Inbounds: from.Listener,
		Users:    from.User,
		Groups:   from.Group,
		Dests:    from.To,
		Deny:     from.Action == config.Deny,
		Via:      ruleVia(from),
		Private:  from.Private,
		Timeouts: timeouts(from.Timeouts),
	}
	for _, text := range from.Client {
		if name, ok := strings.CutPrefix(text, "set:"); ok {
			rule.ClientSets = append(rule.ClientSets, name)
			continue
		}
		var n config.Network
		if n.UnmarshalText([]byte(text)) == nil { // config has looked at it
			rule.Clients = append(rule.Clients, n.Prefix())
		}
	}
	for _, a := range from.Auth {
		rule.Auth = append(rule.Auth, authOf(a))
	}
	for _, c := range from.Command {
		rule.Commands = append(rule.Commands, policy.Command(c))
	}
	for _, p := range from.Port {
		rule.Ports = append(rule.Ports, policy.Ports{First: p.First, Last: p.Last})
	}
	for _, d := range from.Days {
		rule.Days = append(rule.Days, d.Weekdays()...)
	}
	for _, t := range from.Time {
		rule.Times = append(rule.Times, policy.Span{From: t.From, To: t.To})
	}
	if from.Limits != nil {
		l := w.ruleLimit(ruleKey(from), limitSpec(from.Limits))
		set.limits = append(set.limits, l)
		rule.Limits = []proxy.Limit{l.wantedLimit}
	}
	rule.Quiet = from.Log == config.LogOff
	rule.Level = logLevel(from.Log)
	return rule
}

func rulePath(i int) string { return fmt.Sprintf("rules[%d]", i) }

// ruleKey names a rule for what it counts: a reload that moves it, or changes
// its limits, lets it go on counting.
func ruleKey(r *config.Rule) string {
	if r.Name != "" {
		return r.Name
	}
	bare := *r
	bare.Limits = nil
	return ruleText(&bare)
}

// authFor is how a user is asked about whose way of logging in may not be said: a
// principal has shown a ticket, others have a password.
func authFor(a config.Auth, user string) argyle.Auth {
	switch {
	case a != "":
		return authOf(a)
	case strings.Contains(user, "@"):
		return argyle.AuthGSSAPI
	case user != "":
		return argyle.AuthPassword
	}
	return ""
}

// authOf is a configuration's word for how a client is known.
func authOf(a config.Auth) argyle.Auth {
	if a == config.AuthNone {
		return argyle.AuthNone
	}
	return argyle.Auth(a)
}

func logLevel(l config.LogLevel) slog.Level {
	var level slog.Level
	if l != "" && l != config.LogOff {
		_ = level.UnmarshalText([]byte(l)) // config has looked at it
	}
	return level
}

// ruleErrors gives the mistakes that the policy found their places in the file.
func (set *setup) ruleErrors(err error) error {
	if err == nil {
		return nil
	}
	var errs []error
	for _, err := range unjoin(err) {
		var at *policy.RuleError
		if errors.As(err, &at) {
			err = set.file.Errorf(rulePath(at.Rule), "%w", at.Err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unjoin returns the errors that errors.Join has joined.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, unjoin(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// runTests decides about the requests in the file and returns what comes out
// wrong.
func (set *setup) runTests() (errs []error) {
	for i := range set.file.Tests {
		test := &set.file.Tests[i]
		path := fmt.Sprintf("tests[%d]", i)
		req, err := testRequest(test)
		if err != nil {
			errs = append(errs, set.file.Errorf(path, "%w", err))
			continue
		}
		got := set.policy.Trial(req, test.Resolves, test.At.Time())
		if want := test.Expect; !meets(got, want) {
			errs = append(errs, set.file.Errorf(path, "expected %s, but it is %s: %s", want, verdictOf(got), got.Reason))
		}
	}
	return errs
}

// verdictOf is a decision in the words of expect.
func verdictOf(d policy.Decision) string {
	switch {
	case !d.Allowed:
		return "deny"
	case d.Via != "":
		return "via " + d.Via
	}
	return "allow"
}

// meets reports whether a decision is what a test expects; allow is met by any
// way out.
func meets(d policy.Decision, want string) bool {
	return verdictOf(d) == want || want == "allow" && d.Allowed
}

// testRequest is the request that a test describes.
func testRequest(test *config.Test) (*argyle.Request, error) {
	req := &argyle.Request{User: test.User, Inbound: test.Listener, Client: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
	from := test.From
	if !from.IsValid() {
		from = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	req.Client = netip.AddrPortFrom(from, 1024)
	req.Auth = authFor(test.Auth, test.User)
	dest := test.Connect
	req.Command = argyle.Connect
	switch {
	case test.Bind != "":
		req.Command, dest = argyle.Bind, test.Bind
	case test.UDP != "":
		req.Command, dest = argyle.Associate, test.UDP
	}
	var err error
	req.Dest, err = argyle.ParseAddr(dest)
	return req, err
}
