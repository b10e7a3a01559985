package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/limit"
	"github.com/argyle-socks/argyle/internal/systemd"
	"github.com/argyle-socks/argyle/proxy"
)

// watchInterval is how often the files are looked at.
const watchInterval = time.Second

// reload takes the configuration as it is now, users and certificate included,
// or leaves everything as it was.
func (s *service) reload(why string) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.isStopping() {
		return
	}
	_ = systemd.Reloading()
	defer func() { _ = systemd.Ready() }()
	if err := s.takeNew(); err != nil {
		for _, e := range unjoin(err) {
			s.log.Error("kept the old configuration", "why", why, "err", e)
		}
		return
	}
	s.log.Info("took the new configuration", "why", why)
}

// errStopping refuses a configuration that comes after SIGTERM.
var errStopping = errors.New("the server is stopping")

func (s *service) takeNew() error {
	s.seen = stampOf(s.path) // before it is read, so that a change meanwhile is one
	if s.seen.size == 0 && s.taken.size > 0 {
		// Whoever rewrites a file may have got as far as that.
		return fmt.Errorf("%s: the file is empty", s.path)
	}
	taken := s.seen
	file, err := s.load()
	if err != nil {
		return err
	}
	if err := s.refresh(); err != nil {
		return err
	}
	if err := s.apply(file); err != nil {
		return err
	}
	s.taken = taken
	return nil
}

// refresh reads the users file again, where it will go on being used.
func (s *service) refresh() error {
	if set := s.now.Load(); set != nil && set.users != nil {
		return set.users.Reload()
	}
	return nil
}

// apply puts a configuration in force: whole, or not at all.
func (s *service) apply(file *config.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return errStopping
	}
	old := s.now.Load()
	if old != nil && file.Path(file.State) != old.file.Path(old.file.State) {
		return file.Errorf("state", "cannot change while the server runs: start it anew")
	}
	set, err := s.build(file, old)
	if err != nil {
		return err
	}
	kept, opened, err := s.openInbounds(set)
	if err == nil {
		err = set.refuseOpenRelay(kept)
	}
	if err != nil {
		for _, in := range opened {
			in.close()
		}
		return err
	}
	s.now.Store(set)
	s.setLimits(set)
	gone := s.inbounds
	s.inbounds = make(map[string]*inbound)
	for _, spec := range set.listen() {
		in := kept[spec.Address]
		if in == nil {
			continue // one that need not be
		}
		s.inbounds[spec.Address] = in
		in.set(spec)
		in.front.Store(s.newFront(set, spec))
		delete(gone, spec.Address)
	}
	s.note()
	for _, in := range opened {
		in.start(s, s.failed)
	}
	for _, in := range gone {
		s.log.Info("no longer listening", "address", in.spec.Load().Address)
		s.running.Go(func() { _ = in.serve.Shutdown(context.Background()) })
	}
	s.runSetup(set, old)
	if old != nil && file.Reload.Sessions == config.EndRefused {
		s.endRefused(set)
	}
	return nil
}

// setLimits lets the limits of set hold for the sessions that are there already,
// and no others.
func (s *service) setLimits(set *setup) {
	wanted := make(map[*limit.Limit]bool)
	for _, l := range set.limits {
		l.wantedLimit.spec.Store(&l.spec)
		wanted[l.limit()] = true
	}
	if subjects := set.policy.Limits; subjects != nil {
		for session := range s.proxy.Sessions() {
			for _, l := range subjects(session.Request()) {
				if l, ok := l.(*limit.Limit); ok {
					wanted[l] = true
				}
			}
		}
	}
	s.limits.Lift(func(l *limit.Limit) bool { return wanted[l] })
}

// openInbounds opens the listeners that set wants and that are not open yet.
// kept are all of them, by their addresses.
func (s *service) openInbounds(set *setup) (kept map[string]*inbound, opened []*inbound, err error) {
	kept = make(map[string]*inbound)
	optional := len(set.file.Listen) == 0
	for i, spec := range set.listen() {
		if in := s.inbounds[spec.Address]; in != nil {
			kept[spec.Address] = in
			continue
		}
		in, err := s.openInbound(spec)
		if optional && i > 0 && noFamily(err) {
			continue
		}
		if err != nil && optional {
			return nil, opened, fmt.Errorf("--listen %s: %w", spec.Address, err)
		}
		if err != nil {
			return nil, opened, set.file.Errorf(fmt.Sprintf("listen[%d]", i), "%w", err)
		}
		opened = append(opened, in)
		kept[spec.Address] = in
	}
	return kept, opened, nil
}

// openInbound opens the listeners of spec. An address that is in use by another
// of ours can be one that a reload widens or narrows: 127.0.0.1:1080 to :1080.
func (s *service) openInbound(spec config.Listener) (*inbound, error) {
	in, err := openInbound(spec, nil)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return in, err
	}
	var ours []net.Listener
	for _, in := range s.inbounds {
		ours = append(ours, in.lns...)
	}
	defer sharePort(ours, false)
	sharePort(ours, true)
	shared, sharedErr := openInbound(spec, controlPort)
	if sharedErr != nil {
		return nil, err
	}
	sharePort(shared.lns, false)
	return shared, nil
}

// sharePort says whether others of us may listen on the same port as lns.
func sharePort(lns []net.Listener, on bool) {
	for _, ln := range lns {
		named, ok := ln.(*namedListener)
		if !ok {
			continue
		}
		if tcp, ok := named.Listener.(syscall.Conn); ok {
			if raw, err := tcp.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { _ = reusePort(fd, on) }) // or the address stays in use
			}
		}
	}
}

// controlPort lets a socket share its port with ours.
func controlPort(_, _ string, conn syscall.RawConn) (err error) {
	if e := conn.Control(func(fd uintptr) { err = reusePort(fd, true) }); e != nil {
		return e
	}
	return err
}

// listen are the listeners that the configuration wants, or the default ones.
func (set *setup) listen() []config.Listener {
	if len(set.file.Listen) == 0 {
		return defaultListen()
	}
	return set.file.Listen
}

// refuseOpenRelay fails if anybody on the network could use the proxy and
// nobody has said that this is wanted.
func (set *setup) refuseOpenRelay(inbounds map[string]*inbound) error {
	for _, spec := range set.listen() {
		in := inbounds[spec.Address]
		if in == nil || !set.letsAnybodyUse(spec) {
			continue
		}
		for _, ln := range in.lns {
			if !isLocal(ln.Addr()) {
				return openRelay(ln.Addr().String())
			}
		}
	}
	return nil
}

// checkOpenRelay is refuseOpenRelay without listeners: it looks at the addresses
// as they are written.
func (set *setup) checkOpenRelay() error {
	for i, spec := range set.file.Listen {
		host, _, err := net.SplitHostPort(spec.Address)
		if err != nil || !set.letsAnybodyUse(spec) {
			continue // unix: and systemd: among others
		}
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && !ip.IsLoopback() {
			return set.file.Errorf(fmt.Sprintf("listen[%d]", i), "%w", openRelay(spec.Address))
		}
	}
	return nil
}

// letsAnybodyUse reports whether nobody is asked who he is, and no rule says
// where he may go.
func (set *setup) letsAnybodyUse(spec config.Listener) bool {
	f := set.file
	return !f.Open && len(f.Allow) == 0 && f.Rules == nil && set.letsAnybodyIn(spec)
}

func openRelay(address string) error {
	return fmt.Errorf("refusing to listen on %s: anybody could use it; say who may with --users, --allow, --tls-client-ca or rules, or --open for anybody", address)
}

// runSetup starts what belongs to set, and ends what belonged to old.
func (s *service) runSetup(set, old *setup) {
	ctx, cancel := context.WithCancel(context.Background())
	if s.stop != nil {
		s.stop()
	}
	s.stop = cancel
	if set.users != nil {
		s.running.Go(func() {
			err := set.users.Watch(ctx, watchInterval, func(err error) { s.reloaded("users file", err) })
			if err != nil && !errors.Is(err, context.Canceled) {
				s.log.Error("users file is not watched any more", "err", err)
			}
		})
	}
	s.running.Go(func() {
		_ = set.policy.Watch(ctx, watchInterval, func(err error) { s.reloaded("sets", err) })
	})
	if set.tls != nil {
		s.running.Go(func() { s.watchTLS(ctx, set.tls) })
	}
	set.runWays(&s.running, old)
}

// reloaded tells what became of one file.
func (s *service) reloaded(what string, err error) {
	if err != nil {
		s.log.Error("kept the old "+what, "err", err)
		return
	}
	s.log.Info("took the new " + what)
}

// endRefused ends the sessions that the new rules refuse.
func (s *service) endRefused(set *setup) {
	for session := range s.proxy.Sessions() {
		if err := set.refuses(session); err != nil {
			session.CloseFor(fmt.Errorf("ended by a reload: %w", err))
		}
	}
}

// refuses says why a session would not be begun now; nil if it would.
func (set *setup) refuses(session *proxy.Session) error {
	req := session.Request()
	if req.Auth == argyle.AuthPassword && set.users != nil && !set.users.Has(req.User) {
		return fmt.Errorf("there is no user %s any more", req.User)
	}
	var peer net.Addr // of a session through a proxy that is the proxy, of which rules know nothing
	if taken, ok := session.Dialer().(*routed); ok && taken.direct.Load() {
		peer = session.Peer()
	}
	return set.policy.Recheck(req, peer)
}

// watch takes a configuration file that changes, until ctx ends. It waits until
// the file has been left alone for a while: an editor may write it piece by piece.
func (s *service) watch(ctx context.Context) {
	if s.path == "" {
		return
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for last := stampOf(s.path); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := stampOf(s.path)
		if now == last && now != (stamp{}) && s.isNew(now) {
			s.reload("the file has changed")
		}
		last = now
	}
}

// isNew reports whether the file is not the one that a reload saw last.
func (s *service) isNew(now stamp) bool {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	return now != s.seen
}

// watchTLS reads the certificate again when one of its files has changed.
func (s *service) watchTLS(ctx context.Context, t *tlsFiles) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if t.changed() {
			s.reloaded("certificate", t.Reload())
		}
	}
}

func (s *service) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// stampOf returns the stamp of a file; zero if there is none.
func stampOf(name string) stamp {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime()}
}
