package main

import (
	"context"
	"errors"
	"time"
)

// watchInterval is how often the files are looked at.
const watchInterval = time.Second

// reload reads users and certificates again, as SIGHUP asks.
func (s *service) reload() {
	if s.users != nil {
		s.reloaded("users file", s.users.Reload())
	}
	if s.tls != nil {
		s.reloaded("certificate", s.tls.Reload())
	}
	if s.users == nil && s.tls == nil {
		s.log.Info("nothing to reload")
	}
}

// reloaded tells what became of one file.
func (s *service) reloaded(what string, err error) {
	if err != nil {
		s.log.Error("kept the old "+what, "err", err)
		return
	}
	s.log.Info("took the new " + what)
}

// watchFiles takes users and certificates that change, until ctx ends.
func (s *service) watchFiles(ctx context.Context) {
	if s.users != nil {
		go func() {
			err := s.users.Watch(ctx, watchInterval, func(err error) { s.reloaded("users file", err) })
			if err != nil && !errors.Is(err, context.Canceled) {
				s.log.Error("users file is not watched any more", "err", err)
			}
		}()
	}
	if s.tls != nil {
		go s.watchTLS(ctx)
	}
}

// watchTLS reads the certificate again when one of its files has changed.
func (s *service) watchTLS(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.tls.changed() {
			s.reloaded("certificate", s.tls.Reload())
		}
	}
}
