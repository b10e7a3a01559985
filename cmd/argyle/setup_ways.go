package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/proxyproto"
	"github.com/argyle-socks/argyle/internal/source"
	"github.com/argyle-socks/argyle/internal/upstream"
	"github.com/argyle-socks/argyle/socks"
)

// way is a way out as rules know it: by a name. Its context tells the checks of
// addresses on which way they are asked.
type way struct {
	argyle.Dialer
	name     string
	resolves bool              // names are looked up here
	key      [sha256.Size]byte // what it was made of
	stop     context.CancelFunc
}

type wayKey struct{}

// on returns a context that tells of the way, and of the setup that chose it.
// The setup in force decides about datagrams, so theirs is nil.
func (w *way) on(ctx context.Context) context.Context { return (&routed{way: w}).on(ctx) }

func (r *routed) on(ctx context.Context) context.Context {
	return context.WithValue(ctx, wayKey{}, r)
}

// String is what the log says of the way: its name, or what it is if it is the
// default.
func (w *way) String() string { return cmp.Or(w.name, nameOf(w.Dialer)) }

// DetachesItself says that DialContext may run in an event loop.
func (w *way) DetachesItself() {}

func (w *way) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	event.DetachUnless(ctx, w.Dialer)
	return w.Dialer.DialContext(w.on(ctx), network, address)
}

func (w *way) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	return w.Dialer.Listen(w.on(ctx), network, peer)
}

func (w *way) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return w.Dialer.ListenPacket(w.on(ctx), network, address)
}

// routed is the way of one TCP session. What decided about its request decides
// about the addresses of it, too, although a reload comes in between.
type routed struct {
	*way
	set    *setup
	direct atomic.Bool // the far end is the destination, not a proxy
}

func (r *routed) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	event.DetachUnless(ctx, r.way.Dialer)
	conn, err := r.way.Dialer.DialContext(r.on(ctx), network, address)
	if err == nil {
		r.direct.Store(isDirect(r.way.Dialer, conn))
	}
	return conn, err
}

func (r *routed) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	r.direct.Store(isDirect(r.way.Dialer, nil))
	return r.way.Dialer.Listen(r.on(ctx), network, peer)
}

// isDirect reports whether d, which made conn, goes to the destination itself.
// Of a group that is not known before there is a connection.
func isDirect(d argyle.Dialer, conn net.Conn) bool {
	switch d := d.(type) {
	case *argyle.Direct:
		return true
	case *proxyproto.Dialer:
		return isDirect(d.Dialer, conn)
	case *upstream.Group:
		taken, ok := conn.(interface {
			Member() (argyle.Dialer, net.Conn)
		})
		return ok && isDirect(taken.Member())
	}
	return false
}

func nameOf(d argyle.Dialer) string {
	if named, ok := d.(fmt.Stringer); ok {
		return named.String()
	}
	return fmt.Sprintf("%T", d)
}

// check asks the policy about an address that a way out would use.
func (w *world) check(ctx context.Context, network string, addr netip.AddrPort) error {
	by, ok := ctx.Value(wayKey{}).(*routed)
	if !ok || upstream.ToProxy(ctx) {
		return w.checkOwn(ctx, network, addr)
	}
	set := by.set
	if set == nil {
		set = w.now.Load()
	}
	return set.policy.Check(by.name)(ctx, network, addr)
}

// checkOwn refuses our own listeners.
func (w *world) checkOwn(ctx context.Context, network string, addr netip.AddrPort) error {
	return w.now.Load().policy.CheckOwn(ctx, network, addr)
}

// wayMaker makes the ways out of a configuration.
type wayMaker struct {
	*world
	set  *setup
	old  *setup // nil at first
	errs []error
}

// makeWays makes every way out that rules may name, the default one under "".
func (set *setup) makeWays(w *world, old *setup) error {
	m := &wayMaker{world: w, set: set, old: old}
	set.ways = make(map[string]*way)
	for _, name := range slices.Sorted(maps.Keys(set.file.Upstreams)) {
		m.upstream(name)
	}
	m.add("direct", func() (argyle.Dialer, error) { return m.direct(nil) }, "")
	m.add("", func() (argyle.Dialer, error) { return m.items(set.file.Proxy) }, "proxy", set.file.Proxy)
	for i := range set.file.Rules {
		m.ruleWay(i)
	}
	return errors.Join(m.errs...)
}

// ruleWay makes the way of a rule that has one of its own.
func (m *wayMaker) ruleWay(i int) {
	rule := &m.set.file.Rules[i]
	name := ruleVia(rule)
	if name == rule.Via || m.set.ways[name] != nil {
		return
	}
	m.add(name, func() (argyle.Dialer, error) {
		d, err := m.ruleDialer(rule)
		if err == nil && rule.SendProxy != 0 {
			d = &proxyproto.Dialer{Dialer: d, Version: rule.SendProxy}
		}
		return d, err
	}, rulePath(i), rule.Source, rule.SendProxy, config.ProxyURL(rule.Via))
}

// ruleDialer is where a rule's way goes, header or not.
func (m *wayMaker) ruleDialer(rule *config.Rule) (argyle.Dialer, error) {
	if rule.Via == "" || rule.Via == "direct" {
		return m.direct(rule.Source)
	}
	if via := m.upstream(rule.Via); via != nil {
		return via.Dialer, nil
	}
	return m.direct(nil) // config has told that there is none
}

// ruleVia names the way out of a rule.
func ruleVia(r *config.Rule) string {
	name := r.Via
	if r.Source != nil {
		all := make(map[string]setting)
		flatten(all, "", reflect.ValueOf(r.Source))
		name = "direct from"
		for _, key := range slices.Sorted(maps.Keys(all)) {
			name += " " + all[key].text
		}
	}
	if r.SendProxy != 0 {
		name = strings.TrimSpace(fmt.Sprintf("%s with PROXY header %d", cmp.Or(name, "direct"), r.SendProxy))
	}
	return name
}

// upstream returns the way of that name, which is made if it is not yet.
func (m *wayMaker) upstream(name string) *way {
	if made, ok := m.set.ways[name]; ok {
		return made
	}
	u, ok := m.set.file.Upstreams[name]
	if !ok {
		return nil // config has told of it
	}
	return m.add(name, func() (argyle.Dialer, error) { return m.make(name, &u) }, "upstreams."+name, u)
}

// add makes a way, or takes over the old one if it was made of the same. path
// is where the configuration tells of it.
func (m *wayMaker) add(name string, maker func() (argyle.Dialer, error), path string, of ...any) *way {
	made := &way{name: name, key: m.key(of)}
	if m.old != nil {
		if old := m.old.ways[name]; old != nil && old.key == made.key {
			m.set.ways[name] = old
			return old
		}
	}
	m.set.ways[name] = made
	d, err := maker()
	if err != nil {
		m.errs = append(m.errs, m.set.file.Errorf(path, "%w", err))
		d = &argyle.Direct{Check: m.check} // the setup will not be used
	}
	made.Dialer = d
	made.resolves = resolves(d)
	return made
}

// key is a digest of what a way is made of, with the upstreams that it names.
func (m *wayMaker) key(of []any) [sha256.Size]byte {
	all := make(map[string]setting)
	for i, part := range of {
		if v := reflect.ValueOf(part); v.IsValid() {
			flatten(all, fmt.Sprint(i), v)
		}
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s=%q\n", key, all[key].value)
		for _, file := range filesOf(m.set.file.Path, all[key].value) {
			data, _ := os.ReadFile(file) // whoever needs it says what is wrong with it
			fmt.Fprintf(&text, "%s=%x\n", file, sha256.Sum256(data))
		}
		if u, ok := m.set.file.Upstreams[all[key].value]; ok && all[key].refers {
			inner := m.key([]any{u}) // config has seen to it that there is no cycle
			text.Write(inner[:])
		}
	}
	return sha256.Sum256([]byte(text.String()))
}

// direct makes a way without a proxy.
func (m *wayMaker) direct(from *config.Source) (argyle.Dialer, error) {
	d := &argyle.Direct{Resolver: m.world, Check: m.check, Control: m.control}
	if from == nil {
		return d, nil
	}
	s := &source.Source{Pick: source.Pick(from.Pick), Interface: from.Interface, Mark: from.Mark}
	for _, n := range from.Address {
		s.Addrs = append(s.Addrs, n.Prefix())
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	d.Local, d.Control = s.Local, s.Control
	if m.control != nil {
		d.Control = func(network, address string, conn syscall.RawConn) error {
			if err := m.control(network, address, conn); err != nil {
				return err
			}
			return s.Control(network, address, conn)
		}
	}
	return d, nil
}

// options are those of every proxy in a way.
func (m *wayMaker) options() upstream.Options {
	return upstream.Options{
		Checks:   upstream.Checks{First: m.checkOwn, Dest: m.check},
		Resolver: m.world,
		Control:  m.control,
		Log:      m.log,
	}
}

// resolves reports whether a way looks names up here, so that each address can
// be checked.
func resolves(d argyle.Dialer) bool {
	switch d := d.(type) {
	case *argyle.Direct:
		return true
	case *socks.Dialer:
		return d.ResolveNames
	case *proxyproto.Dialer:
		return resolves(d.Dialer)
	case *upstream.Group:
		return !slices.ContainsFunc(d.Members, func(m *upstream.Member) bool { return !resolves(m.Dialer) })
	}
	return false
}

// make makes the way of an upstream.
func (m *wayMaker) make(name string, u *config.Upstream) (argyle.Dialer, error) {
	switch {
	case u.Direct != nil:
		return m.direct(u.Direct)
	case len(u.Group) > 0:
		return m.group(name, u)
	}
	base, urls, err := m.flatten(u.Chain)
	if err != nil {
		return nil, err
	}
	if urls, err = withLogin(urls, u.User, string(u.Password)); err != nil {
		return nil, err
	}
	if u.Mode == "" || u.Mode == config.ChainStrict {
		return m.chain(base, urls)
	}
	return m.path(base, urls, u)
}

// items makes a chain of proxy URLs and names of upstreams.
func (m *wayMaker) items(items []config.ProxyURL) (argyle.Dialer, error) {
	base, urls, err := m.flatten(items)
	if err != nil {
		return nil, err
	}
	return m.chain(base, urls)
}

// chain makes a strict chain behind base; nil is direct.
func (m *wayMaker) chain(base argyle.Dialer, urls []string) (argyle.Dialer, error) {
	urls = slices.DeleteFunc(urls, func(url string) bool { return strings.HasPrefix(url, "direct:") })
	if len(urls) == 0 {
		if base != nil {
			return base, nil
		}
		return m.direct(nil)
	}
	o := m.options()
	o.Base = base
	way, err := o.Chain(urls)
	return way, inner(err)
}

// inner leaves out the proxy URL of an error: the place in the file says which,
// and there may be a secret in it where nobody looks for one.
func inner(err error) error {
	if cause := errors.Unwrap(err); cause != nil {
		return cause
	}
	return err
}

// path makes a dynamic or random chain.
func (m *wayMaker) path(base argyle.Dialer, urls []string, u *config.Upstream) (argyle.Dialer, error) {
	o := m.options()
	o.Base = base
	var hops []upstream.Hop
	for _, url := range urls {
		hop, err := o.Hop(url)
		if err != nil {
			return nil, inner(err)
		}
		hops = append(hops, hop)
	}
	mode, err := upstream.ParseMode(string(u.Mode))
	if err != nil {
		return nil, err
	}
	return o.Path(mode, u.Length, hops...), nil
}

// flatten replaces the names of upstreams by their URLs. One that has none, such
// as a group, can only be the first: it is the base.
func (m *wayMaker) flatten(items []config.ProxyURL) (base argyle.Dialer, urls []string, err error) {
	for i, item := range items {
		name := string(item)
		u, named := m.set.file.Upstreams[name]
		switch {
		case name == "direct":
		case !named:
			urls = append(urls, rooted(m.set.file.Path, name))
		case len(u.Chain) > 0 && (u.Mode == "" || u.Mode == config.ChainStrict):
			innerBase, inner, err := m.flatten(u.Chain)
			if err != nil {
				return nil, nil, err
			}
			if innerBase != nil && i > 0 {
				return nil, nil, fmt.Errorf("%s can only be the first of a chain", name)
			}
			if inner, err = withLogin(inner, u.User, string(u.Password)); err != nil {
				return nil, nil, err
			}
			base, urls = cmp.Or(innerBase, base), append(urls, inner...)
		case i > 0:
			return nil, nil, fmt.Errorf("%s can only be the first of a chain", name)
		default:
			if made := m.upstream(name); made != nil {
				base = made.Dialer
			}
		}
	}
	return base, urls, nil
}

// withLogin puts user and password into the last URL, in place of those in it.
func withLogin(urls []string, user, password string) ([]string, error) {
	if user == "" && password == "" {
		return urls, nil
	}
	if len(urls) == 0 {
		return nil, errors.New("user and password are for a proxy, and there is none")
	}
	last := urls[len(urls)-1]
	scheme, rest, found := strings.Cut(last, "://")
	if !found {
		scheme, rest = "socks5h", last
	}
	host, options, _ := strings.Cut(rest, "?")
	host = host[strings.LastIndexByte(host, '@')+1:]
	rest = strings.TrimSuffix(host+"?"+options, "?")
	return append(urls[:len(urls)-1:len(urls)-1], scheme+"://"+escape(user)+":"+escape(password)+"@"+rest), nil
}

// escape writes user or password as a proxy URL has them.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// group makes a group of ways.
func (m *wayMaker) group(name string, u *config.Upstream) (argyle.Dialer, error) {
	g := &upstream.Group{Name: name, Log: m.log}
	var err error
	if g.Pick, err = upstream.ParsePick(string(u.Pick)); err != nil {
		return nil, err
	}
	for _, item := range u.Group {
		member := &upstream.Member{Name: upstream.Redact(string(item))}
		if via := m.upstream(string(item)); via != nil {
			member.Dialer = via.Dialer
		} else {
			if member.Dialer, err = m.items([]config.ProxyURL{item}); err != nil {
				return nil, err
			}
		}
		g.Members = append(g.Members, member)
	}
	if c := u.Check; c != nil {
		g.Check = &upstream.Check{Every: c.Every.Duration(), Timeout: c.Timeout.Duration(), Target: c.Target}
	}
	if m.old != nil {
		if old := m.old.ways[name]; old != nil {
			if before, ok := old.Dialer.(*upstream.Group); ok {
				g.Inherit(before)
			}
		}
	}
	return g, nil
}

// runWays starts the checks of the ways that are new, and ends those of the
// ways that are gone.
func (set *setup) runWays(running *sync.WaitGroup, old *setup) {
	for _, w := range set.ways {
		g, ok := w.Dialer.(*upstream.Group)
		if !ok || g.Check == nil || w.stop != nil {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		w.stop = cancel
		running.Go(func() { _ = g.Run(ctx) })
	}
	if old == nil {
		return
	}
	for name, w := range old.ways {
		if set.ways[name] != w && w.stop != nil {
			w.stop()
		}
	}
}

// stopWays ends all checks.
func (set *setup) stopWays() {
	for _, w := range set.ways {
		if w.stop != nil {
			w.stop()
		}
	}
}

// fileOptions are those of a proxy URL that name files.
var fileOptions = []string{"ca", "cert", "key", "identity", "known_hosts"}

// rooted makes the files that a proxy URL names relative to the configuration,
// as all others are.
func rooted(root func(string) string, proxyURL string) string {
	base, options := splitOptions(proxyURL)
	if len(options) == 0 {
		return proxyURL // upstream says what is wrong with it
	}
	for _, name := range fileOptions {
		for i, path := range options[name] {
			if path != "" && !strings.HasPrefix(path, "~/") {
				options[name][i] = root(path)
			}
		}
	}
	return base + "?" + options.Encode()
}

// filesOf returns the files that a proxy URL names; none for other texts.
func filesOf(root func(string) string, proxyURL string) (files []string) {
	_, options := splitOptions(rooted(root, proxyURL))
	for _, name := range fileOptions {
		files = append(files, options[name]...)
	}
	return files
}

func splitOptions(proxyURL string) (base string, options url.Values) {
	base, query, _ := strings.Cut(proxyURL, "?")
	options, err := url.ParseQuery(query)
	if err != nil || strings.Contains(query, "@") {
		return proxyURL, nil
	}
	return base, options
}
