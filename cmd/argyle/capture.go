package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/internal/systemd"
	"github.com/argyle-socks/argyle/internal/transparent"
	"github.com/argyle-socks/argyle/proxy"
)

// A capture is what carries the traffic of programs that know of no proxy: what
// run, forward, redirect, tun and gateway have in common.
type capture struct {
	log   *slog.Logger
	world *world
	names *lookups
	proxy *proxy.Proxy

	running sync.WaitGroup // of checks
	closers []func() error
	undo    []func() error // of what sessions need as long as they live
	signals chan os.Signal // see catch
	failed  chan error     // what ends the program; nil for a good end
}

// captureFlags are the flags of the commands that have a capture.
type captureFlags struct {
	direct   []string
	deny     []string
	dns      string
	resolver string
}

// add makes them flags.
func (f *captureFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.direct, "direct", nil, "connect to `CIDR` or .domain without the proxy; repeatable")
	flags.StringArrayVar(&f.deny, "deny", nil, "refuse `CIDR` or .domain; repeatable")
	flags.StringVar(&f.resolver, "resolver", "9.9.9.9:53", "the resolver that is asked through the proxy, over TCP, as `HOST:PORT`")
}

// check looks at what has a form of its own.
func (f *captureFlags) check() error {
	if _, err := argyle.ParseAddr(f.resolver); err != nil {
		return usagef("--resolver %q: want HOST:PORT: %w", f.resolver, err)
	}
	return nil
}

// file returns the configuration that file and flags make together.
func (f *captureFlags) file(common *commonFlags) (*config.File, error) {
	if common.config == "" {
		file := new(config.File)
		return file, f.enter(common, file)
	}
	loader := newLoader(common.config)
	loader.Flags = func(file *config.File) error { return f.enter(common, file) }
	return loader.Load(common.config)
}

// enter puts the flags into a configuration. Its listeners, and who may use
// them, are for others.
func (f *captureFlags) enter(common *commonFlags, file *config.File) error {
	if err := common.enterProxies(file); err != nil {
		return err
	}
	if env := firstEnv("ALL_PROXY", "all_proxy"); len(file.Proxy) == 0 && common.config == "" {
		if env == "" {
			return usagef("no proxy: give -x URL, or set ALL_PROXY (-x direct:// for none)")
		}
		from := *common
		from.proxies = []string{env}
		if err := from.enterProxies(file); err != nil {
			return err
		}
	}
	// Whose traffic is taken is for the command to say, and nobody else comes in.
	file.AllowPrivate, file.Allow, file.Listen, file.TLS = true, nil, nil, nil
	return f.rules(file)
}

// rules puts those of --deny, --direct and NO_PROXY before all others.
func (f *captureFlags) rules(file *config.File) error {
	var first []config.Rule
	for _, to := range f.deny {
		first = append(first, config.Rule{Name: "--deny " + to, To: []string{to}, Action: config.Deny})
	}
	for _, to := range f.direct {
		first = append(first, config.Rule{Name: "--direct " + to, To: []string{to}, Via: "direct"})
	}
	if rule, ok := noProxyRule(firstEnv("NO_PROXY", "no_proxy")); ok {
		first = append(first, rule)
	}
	if len(first) == 0 {
		return nil
	}
	if file.Rules == nil {
		first = append(first, config.Rule{Action: config.Allow})
	}
	for i, rule := range first {
		file.SetOrigin(fmt.Sprintf("rules[%d]", i), rule.Name)
	}
	file.Rules = append(first, file.Rules...)
	file.Tests = nil // they are about the rules of the file alone
	return nil
}

// noProxyRule sends what NO_PROXY names past the proxy. Only names count: an
// address that a program inside connects to has none of its own here.
func noProxyRule(list string) (config.Rule, bool) {
	rule := config.Rule{Name: "NO_PROXY", Via: "direct"}
	for entry := range noProxyEntries(list) {
		if entry == "*" {
			rule.To = append(rule.To, "*")
			continue
		}
		host, port := splitEntry(entry)
		domain := strings.Trim(strings.TrimPrefix(host, "*"), ".")
		if _, err := netip.ParseAddr(trimBrackets(host)); err == nil || port != 0 || strings.Contains(entry, "/") || !isHostPattern(domain) {
			continue
		}
		rule.To = append(rule.To, "."+domain)
	}
	return rule, len(rule.To) > 0
}

// isHostPattern reports whether a domain can be that of a name: NO_PROXY has all
// kinds of things in it, which others understand.
func isHostPattern(domain string) bool {
	plain := func(r rune) bool {
		return r == '-' || r == '_' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r > 0x7f
	}
	return domain != "" && strings.Trim(domain, "0123456789.") != "" && !strings.ContainsFunc(domain, func(r rune) bool { return !plain(r) })
}

// open makes the way from a call to the proxy.
func (c *capture) open(file *config.File, f *captureFlags, pool fakedns.Options) (err error) {
	c.failed = make(chan error, 1)
	policy := capturePolicy{c.world}
	var resolver argyle.Addr
	if f.resolver != "" {
		if resolver, err = argyle.ParseAddr(f.resolver); err != nil {
			return err
		}
	}
	if c.names, err = openNames(f.dns, pool, resolver, policy, c.log); err != nil {
		return err
	}
	c.world.addresses = shownAddresses{}
	set, err := c.world.build(file, nil)
	if err != nil {
		c.names.close()
		return err
	}
	c.world.now.Store(set)
	set.runWays(&c.running, nil)
	c.proxy = &proxy.Proxy{Policy: policy, Timeouts: proxy.Timeouts{DialTimeout: -1}, Log: c.log}
	return nil
}

// close ends what background has begun, the last first, and then the sessions.
func (c *capture) close() {
	c.closeServers()
	_ = c.proxy.Close() // it waits for its sessions, nothing can fail
	for _, undo := range slices.Backward(c.undo) {
		if err := undo(); err != nil {
			c.log.Error("something is left behind", "err", err)
		}
	}
	c.world.now.Load().stopWays()
	c.running.Wait()
	c.names.close()
}

func (c *capture) closeServers() {
	for len(c.closers) > 0 {
		last := len(c.closers) - 1
		_ = c.closers[last]() // nothing can be done about it
		c.closers = c.closers[:last]
	}
}

// handler answers calls.
func (c *capture) handler() argyle.Handler { return c.names.handler(c.proxy) }

// background runs a server until close. If it ends by itself, that is an error,
// and the first of those is in failed.
func (c *capture) background(what string, serve func() error, end func() error) {
	done := c.spawn(what, serve)
	c.closers = append(c.closers, func() error {
		err := end()
		<-done
		return err
	})
}

// spawn runs a server. done is closed when it has ended; if it has by itself, that
// is an error, and the first of those is in failed.
func (c *capture) spawn(what string, serve func() error) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := serve()
		if err == nil || errors.Is(err, transparent.ErrServerClosed) || errors.Is(err, fakedns.ErrServerClosed) {
			return
		}
		c.log.Error("serving has ended", "what", what, "err", err)
		select {
		case c.failed <- err:
		default:
		}
	}()
	return ended
}

// catch has signals wait for serve: whatever has been changed before is taken back
// then. It is until the program has ended, for one that comes meanwhile must neither
// keep that from being done nor make the exit status.
func (c *capture) catch() {
	c.signals = make(chan os.Signal, 4)
	signal.Notify(c.signals, os.Interrupt, syscall.SIGTERM)
}

// serve waits for what ends a daemon: a signal, after which sessions have
// drainSessions or until the next one, or a server that has failed.
func (c *capture) serve(ctx context.Context) error {
	if err := systemd.Ready(); err != nil {
		c.log.Warn("systemd was not told", "err", err)
	}
	select {
	case err := <-c.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case sig := <-c.signals:
		c.log.Info("stopping", "signal", sig.String(), "drain", drainSessions)
	}
	_ = systemd.Stopping() // what it cannot hear, it will see
	c.closeServers()
	ctx, cancel := context.WithTimeout(ctx, drainSessions)
	defer cancel()
	go func() {
		select {
		case <-c.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := c.proxy.Shutdown(ctx); err != nil {
		c.log.Info("sessions cut", "err", err)
	}
	return nil
}

// drainSessions is how long the sessions of a daemon that is to end may go on.
const drainSessions = 30 * time.Second

// drainTime bounds how long what a program has left behind may take to be sent
// when it has ended, and drainPatience how long nothing of it may move.
const (
	drainTime     = 10 * time.Second
	drainPatience = time.Second
)

// drain waits for the sessions of a program that has ended: what it sent last
// may still be on its way.
func (c *capture) drain() { drainAll([]*proxy.Proxy{c.proxy}) }

// drainAll does that for several proxies.
func drainAll(proxies []*proxy.Proxy) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for _, p := range proxies {
			all.Go(func() { _ = p.Shutdown(ctx) }) // or it cuts them
		}
		all.Wait()
	}()
	tick := time.NewTicker(drainPatience)
	defer tick.Stop()
	for last := int64(-1); ; {
		select {
		case <-done:
			return
		case <-tick.C:
			if moved := movedBy(proxies); moved == last {
				cancel()
			} else {
				last = moved
			}
		}
	}
}

// movedBy says how many bytes the sessions that are alive have carried.
func movedBy(proxies []*proxy.Proxy) (sum int64) {
	for _, p := range proxies {
		for s := range p.Sessions() {
			up, down := s.Bytes()
			sum += up + down + int64(s.ID())
		}
	}
	return sum
}

// thisHost is the client of calls that no address is known of.
var thisHost = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
