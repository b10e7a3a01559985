package users

import (
	"context"
	"os"
	"time"
)

// coarse is longer than any file system's clock ticks: a file that changed less
// than this before it was read may change again and look the same.
const coarse = 2 * time.Second

// Watch looks at the file at the given interval, a second if it is zero, and
// reloads it when it has changed. Each time it calls reloaded with the outcome
// of [Store.Reload]. It returns when the context ends, with its error.
func (s *Store) Watch(ctx context.Context, interval time.Duration, reloaded func(error)) error {
	if interval <= 0 {
		interval = time.Second
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if changed, err := s.poll(); changed {
				reloaded(err)
			}
		}
	}
}

// poll reloads the file if it is not what the last reload saw. A file that
// cannot be read, or that is written again with the same content, is no news.
func (s *Store) poll() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.seen
	info, err := os.Stat(s.path)
	if err != nil {
		info = nil
	}
	if before.same(info) {
		return false, nil
	}
	err = s.reload()
	return s.seen.digest != before.digest, err
}

// same reports whether info is certainly of the file that was seen.
func (g glance) same(info os.FileInfo) bool {
	if g.info == nil || info == nil {
		return g.info == nil && info == nil
	}
	return os.SameFile(g.info, info) && g.info.Size() == info.Size() && g.info.ModTime().Equal(info.ModTime()) &&
		g.at.Sub(info.ModTime()) >= coarse
}
