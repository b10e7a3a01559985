package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/systemd"
	"github.com/argyle-socks/argyle/proxy"
)

// watchInterval is how often the files are looked at.
const watchInterval = time.Second

// reload takes the configuration as it is now, users and certificate included,
// or leaves everything as it was.
func (s *service) reload(why string) {
	_ = systemd.Reloading()
	defer func() { _ = systemd.Ready() }()
	file, err := s.load()
	if err == nil {
		err = s.refresh()
	}
	if err == nil {
		err = s.apply(file)
	}
	if err != nil {
		for _, e := range unjoin(err) {
			s.log.Error("kept the old configuration", "why", why, "err", e)
		}
		return
	}
	s.log.Info("took the new configuration", "why", why)
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
	old := s.now.Load()
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
	s.inbounds = kept
	s.note()
	for address, in := range kept {
		in.front.Store(s.newFront(set, in.spec))
		delete(gone, address)
	}
	for _, in := range opened {
		in.start(s, s.failed)
	}
	for _, in := range gone {
		s.log.Info("no longer listening", "address", in.spec.Address)
		s.running.Go(func() { _ = in.serve.Shutdown(context.Background()) })
	}
	s.runSetup(set, old)
	if old != nil && file.Reload.Sessions == config.EndRefused {
		s.endRefused(set)
	}
	return nil
}

// setLimits lets the limits of set hold for the sessions that are there already.
func (s *service) setLimits(set *setup) {
	for _, l := range set.limits {
		l.limit()
	}
	if subjects := set.policy.Limits; subjects != nil {
		for session := range s.proxy.Sessions() {
			subjects(session.Request())
		}
	}
}

// openInbounds opens the listeners that set wants and that are not open yet.
// kept are all of them.
func (s *service) openInbounds(set *setup) (kept map[string]*inbound, opened []*inbound, err error) {
	kept = make(map[string]*inbound)
	specs := set.file.Listen
	optional := len(specs) == 0
	if optional {
		specs = defaultListen()
	}
	for i, spec := range specs {
		if in := s.inbounds[listenKey(spec)]; in != nil {
			in.spec = spec
			kept[listenKey(spec)] = in
			continue
		}
		in, err := openInbound(spec)
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
		kept[listenKey(spec)] = in
	}
	return kept, opened, nil
}

// listenKey is what makes a listener another one, that must be opened anew.
func listenKey(spec config.Listener) string {
	return fmt.Sprintf("%s %s %v", spec.Address, spec.Name, spec.Mode)
}

// refuseOpenRelay fails if anybody on the network could use the proxy and
// nobody has said that this is wanted.
func (set *setup) refuseOpenRelay(inbounds map[string]*inbound) error {
	f := set.file
	if f.Open || len(f.Allow) > 0 || f.Rules != nil {
		return nil
	}
	for _, in := range inbounds {
		for _, ln := range in.lns {
			if !isLocal(ln.Addr()) && set.letsAnybodyIn(in.spec) {
				return fmt.Errorf("refusing to listen on %v: anybody could use it; say who may with --users, --allow, --tls-client-ca or rules, or --open for anybody", ln.Addr())
			}
		}
	}
	return nil
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
	set.runWays(s, old)
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
	var peer net.Addr // of a session through a proxy that is the proxy, of which rules know nothing
	if w := set.ways[session.Route()]; w != nil {
		if _, direct := w.Dialer.(*argyle.Direct); direct {
			peer = session.Peer()
		}
	}
	return set.policy.Recheck(session.Request(), peer)
}

// watch takes a configuration file that changes, until ctx ends.
func (s *service) watch(ctx context.Context) {
	if s.path == "" {
		return
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for seen := s.stamp; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := stampOf(s.path)
		if now == seen || now == (stamp{}) {
			continue
		}
		seen = now
		s.reload("the file has changed")
	}
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

// stampOf returns the stamp of a file; zero if there is none.
func stampOf(name string) stamp {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime()}
}
