package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/limit"
	"github.com/argyle-socks/argyle/internal/names"
	"github.com/argyle-socks/argyle/internal/policy"
	"github.com/argyle-socks/argyle/internal/users"
	"github.com/argyle-socks/argyle/krb5"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

// setup is what a configuration asks for, listeners apart. A reload makes
// another, which takes over what has not changed.
type setup struct {
	file     *config.File
	policy   *policy.Policy
	users    *users.Store  // nil if nobody has a password
	gate     *users.Gate   // nil without users
	gssapi   *socks.GSSAPI // nil without
	tls      *tlsFiles     // nil without TLS
	ways     map[string]*way
	resolver *names.Resolver
	timeouts proxy.Timeouts
	limits   []ruleLimit // of the rules
}

// world is what setups share, and what outlives them.
type world struct {
	log    *slog.Logger
	now    atomic.Pointer[setup] // the setup in force
	own    atomic.Pointer[policy.Listeners]
	limits *limit.Table
	rules  map[string]*wantedLimit // by name: those of rules that there are or were
	guard  *users.Guard

	replays krb5.Replays // tickets that must not come again, whatever a reload does

	// addresses, if not nil, has what rules about networks see of names, in place
	// of the resolver.
	addresses argyle.Resolver

	// special, if not nil, says which addresses clients from elsewhere must not
	// reach, and why, in place of policy.Private.
	special func(netip.Addr) string

	// control, if not nil, prepares every socket of a way out and of the
	// resolver, as net.Dialer.Control does.
	control controlFunc

	// dial, if not nil, makes the connections of the resolver in place of a
	// net.Dialer with control.
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	// looking, if not nil, is told of every name that is looked up here; what it
	// returns is called when that is done.
	looking func(name string) (done func())
}

// isOwn reports whether an address is one of our listeners.
func (w *world) isOwn(addr netip.AddrPort) bool {
	own := w.own.Load()
	return own != nil && own.Contains(addr)
}

func newWorld(log *slog.Logger) *world {
	return &world{
		log:    log,
		limits: new(limit.Table),
		rules:  make(map[string]*wantedLimit),
		guard:  new(users.Guard),
	}
}

// build makes a setup of a configuration, and returns every mistake in it.
// What old has and file still wants is taken over; old may be nil.
func (w *world) build(file *config.File, old *setup) (*setup, error) {
	set := &setup{file: file, timeouts: timeouts(file.Timeouts).Over(proxy.DefaultTimeouts)}
	var errs []error
	check := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	check(set.openUsers(w, old))
	check(set.openGSSAPI(w))
	check(set.openTLS())
	check(set.makeResolver(w))
	check(set.makeWays(w, old))
	check(set.makePolicy(w))
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return set, errors.Join(set.runTests()...)
}

// openUsers reads the users file.
func (set *setup) openUsers(w *world, old *setup) (err error) {
	if set.file.Users == nil || set.file.Users.File == "" {
		return nil
	}
	path := set.file.Path(set.file.Users.File)
	if old != nil && old.users != nil && old.file.Path(old.file.Users.File) == path {
		set.users, set.gate = old.users, old.gate
		return nil
	}
	if set.users, err = users.Open(path); err != nil {
		var all []error
		for _, err := range unjoin(err) {
			all = append(all, set.file.Errorf("users.file", "%w", err))
		}
		return errors.Join(all...)
	}
	set.gate = users.NewGate(set.users, w.guard)
	return nil
}

// openTLS reads the certificate.
func (set *setup) openTLS() (err error) {
	t := set.file.TLS
	if t == nil {
		return nil
	}
	set.tls = &tlsFiles{
		cert: set.file.Path(t.Cert), key: set.file.Path(t.Key), clientCA: set.file.Path(t.ClientCA),
		optional: set.users != nil || set.gssapi != nil || slices.ContainsFunc(set.file.Listen, func(l config.Listener) bool {
			return slices.ContainsFunc(l.Auth, func(a config.Auth) bool { return a != config.AuthCertificate })
		}),
	}
	if err := set.tls.Reload(); err != nil {
		return set.file.Errorf("tls", "%w", err)
	}
	return nil
}

// makeResolver makes what looks names up.
func (set *setup) makeResolver(w *world) error {
	f := set.file.Names
	prefer, err := names.ParsePreference(string(f.Prefer))
	if err != nil {
		return set.file.Errorf("names.prefer", "%w", err)
	}
	set.resolver = &names.Resolver{
		Hosts:     f.Hosts,
		Prefer:    prefer,
		CacheSize: f.Cache.Size,
		MaxTTL:    f.Cache.MaxTTL.Duration(),
	}
	if set.resolver.Dial = w.dial; w.dial == nil && w.control != nil {
		set.resolver.Dial = (&net.Dialer{Control: w.control}).DialContext
	}
	var errs []error
	parse := func(path string, texts []string) (servers []names.Server) {
		for i, text := range texts {
			server, err := names.ParseServer(text)
			if err != nil {
				errs = append(errs, set.file.Errorf(fmt.Sprintf("%s[%d]", path, i), "%w", err))
			}
			servers = append(servers, server)
		}
		return servers
	}
	set.resolver.Servers = parse("names.servers", f.Servers)
	for suffix, texts := range f.Split {
		set.resolver.Zones = append(set.resolver.Zones, names.Zone{
			Suffix:  suffix,
			Servers: parse("names.split."+suffix, texts),
		})
	}
	return errors.Join(errs...)
}

// LookupNetIP asks the resolver of the setup in force.
func (w *world) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if w.looking != nil {
		defer w.looking(host)()
	}
	return w.now.Load().resolver.LookupNetIP(ctx, network, host)
}

// DetachesItself says that Route may run in an event loop.
func (w *world) DetachesItself() {}

// Route asks the policy of the setup in force.
func (w *world) Route(ctx context.Context, req *argyle.Request) (proxy.Route, error) {
	set := w.now.Load()
	if d := set.timeouts.DialTimeout; d > 0 { // rules may look a name up
		until := time.Now().Add(d)
		if deadline, ok := ctx.Deadline(); !ok || until.Before(deadline) {
			step := event.NewStep(ctx, until)
			defer step.Cancel()
			ctx = step
		}
	}
	route, err := set.policy.Route(ctx, req)
	route.Timeouts = route.Timeouts.Over(set.timeouts)
	if taken, ok := route.Dialer.(*way); ok && req.Command != argyle.Associate {
		route.Dialer = &routed{way: taken, set: set}
	}
	return route, err
}

func timeouts(t config.Timeouts) proxy.Timeouts {
	return proxy.Timeouts{
		DialTimeout: t.Dial.Duration(),
		BindTimeout: t.Bind.Duration(),
		Idle:        t.Idle.Duration(),
		UDPIdle:     t.UDPIdle.Duration(),
		MaxTime:     t.Session.Duration(),
	}
}

// subjectLimits returns what a request counts against beside its rule.
func (w *world) subjectLimits(file *config.File) func(*argyle.Request) []proxy.Limit {
	l := file.Limits
	if l.All == nil && l.Client == nil && l.User == nil && len(l.Users) == 0 && len(l.Groups) == 0 {
		return nil
	}
	groups := groupsByUser(file)
	return func(req *argyle.Request) (all []proxy.Limit) {
		add := func(kind, name string, of *config.Limit) {
			all = append(all, w.limits.For(kind, name, limitSpec(of)))
		}
		if l.All != nil {
			add("all", "", l.All)
		}
		if l.Client != nil && req.Client.IsValid() {
			add("client", limit.ClientKey(req.Client.Addr()), l.Client)
		}
		if of := userLimit(&l, groups, req); of != nil {
			add("user", req.User, of)
		}
		return all
	}
}

// wantedLimit is a rule's limit, which counts on from one configuration to the
// next: sessions know it as the same.
type wantedLimit struct {
	world *world
	name  string
	spec  atomic.Pointer[limit.Spec]
}

// ruleLimit is what a setup wants a limit to be. It is set when the setup is in
// force, not before.
type ruleLimit struct {
	*wantedLimit
	spec limit.Spec
}

// ruleLimit returns the limit of that name. A reload is one at a time.
func (w *world) ruleLimit(name string, spec limit.Spec) ruleLimit {
	l := w.rules[name]
	if l == nil {
		l = &wantedLimit{world: w, name: name}
		l.spec.Store(&spec)
		w.rules[name] = l
	}
	return ruleLimit{l, spec}
}

func (l *wantedLimit) limit() *limit.Limit {
	return l.world.limits.For(limit.Rule, l.name, *l.spec.Load())
}

// Begin counts a session in.
func (l *wantedLimit) Begin(req *argyle.Request) (proxy.Share, error) { return l.limit().Begin(req) }

// userLimit is what holds for a user: his own limit, that of his group, or that
// of everybody.
func userLimit(l *config.Limits, groups map[string][]string, req *argyle.Request) *config.Limit {
	if req.User == "" {
		return nil
	}
	if own, ok := l.Users[req.User]; ok {
		return &own
	}
	first := ""
	for member := range policy.Members(req) {
		for _, group := range groups[member] {
			if _, ok := l.Groups[group]; ok && (first == "" || group < first) {
				first = group
			}
		}
	}
	if of, ok := l.Groups[first]; ok {
		return &of
	}
	return l.User
}

// groupsByUser returns the groups of each of their members.
func groupsByUser(file *config.File) map[string][]string {
	byUser := make(map[string][]string)
	if file.Users == nil {
		return byUser
	}
	for group, members := range file.Users.Groups {
		for _, user := range members {
			byUser[user] = append(byUser[user], group)
		}
	}
	return byUser
}

func limitSpec(l *config.Limit) limit.Spec {
	return limit.Spec{
		Sessions:    l.Sessions,
		Rate:        limit.Rate{N: l.Rate.N, Per: l.Rate.Per},
		Up:          int64(l.Up),
		Down:        int64(l.Down),
		SessionUp:   int64(l.SessionUp),
		SessionDown: int64(l.SessionDown),
		Quota:       l.Quota.Bytes,
		QuotaPeriod: limit.Period(l.Quota.Period),
	}
}
