package main

import (
	"context"
	"errors"

	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/limit"
	"github.com/argyle-socks/argyle/internal/policy"
	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/internal/systemd"
	"github.com/argyle-socks/argyle/proxy"
)

func serveCommand(common *commonFlags) *cobra.Command {
	f := new(serveFlags)
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Run a SOCKS 4, 4a, 5 and HTTP proxy",
		Long: `Run a SOCKS 4, 4a, 5 and HTTP proxy. One port speaks them all, and TLS around
any of them.

Without flags it serves this host only. To listen on other addresses, say who
may use it (--users, --allow, --tls-client-ca, rules in a configuration), or
--open for anybody.`,
		Example: `  argyle serve
  argyle serve -l :1080 --users /etc/argyle/users
  argyle serve -c /etc/argyle/argyle.yaml`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.given = cmd.Flags().Changed
			return runServe(cmd.Context(), common, f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.listen, "listen", "l", nil, "listen on `ADDR`: host:port, :port, unix:/path or systemd:NAME; repeatable (default 127.0.0.1:1080 and [::1]:1080)")
	flags.StringVar(&f.users, "users", "", "serve only the users in `FILE` (see argyle passwd)")
	flags.StringVar(&f.cert, "tls-cert", "", "serve TLS too, with the certificate in `FILE`")
	flags.StringVar(&f.key, "tls-key", "", "the certificate's key, in `FILE`")
	flags.StringVar(&f.clientCA, "tls-client-ca", "", "know clients by certificates of the authorities in `FILE`")
	flags.StringArrayVar(&f.allow, "allow", nil, "serve only clients in the network `CIDR`; repeatable")
	flags.BoolVar(&f.open, "open", false, "serve anybody")
	flags.BoolVar(&f.allowPrivate, "allow-private", false, "let clients from elsewhere reach loopback, private, link-local and metadata addresses")
	flags.DurationVar(&f.drain, "drain", 30*time.Second, "on SIGTERM, wait `DURATION` for sessions to end")
	return cmd
}

// service is a running `argyle serve`.
type service struct {
	*world
	load   func() (*config.File, error)
	path   string     // of the configuration; "" if there is none
	failed chan error // what ends the program
	proxy  *proxy.Proxy
	http   *http.Server // for all inbounds
	feed   *serve.Feed
	ledger *limit.Ledger // nil without quotas

	reloading   sync.Mutex // one reload at a time
	seen, taken stamp      // of the configuration last read, and of that in force

	mu       sync.Mutex          // held while a configuration is put in force
	inbounds map[string]*inbound // by their addresses
	stopping bool
	byName   map[string]*inbound // guarded by names
	names    sync.RWMutex
	stop     context.CancelFunc // of what belongs to the setup in force
	running  sync.WaitGroup     // of background tasks
}

func runServe(ctx context.Context, common *commonFlags, f *serveFlags) error {
	signals := make(chan os.Signal, 4)
	// Until the program has ended: one that comes while it says its last words
	// shall not make its exit status.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	stopProfile, err := startProfile()
	if err != nil {
		return err
	}
	defer stopProfile()
	stderr := newLogWriter(os.Stderr)
	defer stderr.Close()
	log, err := common.logger(stderr)
	if err != nil {
		return err
	}
	stderr.lost = func(lines int) { log.Warn("lines of the log are lost: nobody has read it", "lines", lines) }
	s := &service{
		world:  newWorld(log),
		load:   func() (*config.File, error) { return f.file(common) },
		path:   common.config,
		failed: make(chan error, 8),
		feed:   serve.NewFeed(&net.TCPAddr{}),
	}
	s.seen = stampOf(s.path) // before it is read, so that a change meanwhile is one
	s.taken = s.seen
	file, err := s.load()
	if err != nil {
		return err
	}
	if err := s.openLedger(file); err != nil {
		return err
	}
	// The time for a decision is that of the configuration.
	s.proxy = &proxy.Proxy{Policy: s.world, Timeouts: proxy.Timeouts{DialTimeout: -1}, Log: log}
	base := &httpconnect.Server{Log: log}
	s.http = base.HTTPServer()
	s.http.Handler = s
	if err := s.apply(file); err != nil {
		return err
	}
	return s.run(ctx, signals)
}

// openLedger opens the file of the quotas.
func (s *service) openLedger(file *config.File) (err error) {
	if file.State == "" {
		return nil
	}
	path := file.Path(file.State)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return file.Errorf("state", "%w", err)
	}
	if s.ledger, err = limit.OpenLedger(path + "/usage.db"); err != nil {
		return file.Errorf("state", "%w", err)
	}
	s.limits.Ledger = s.ledger
	return nil
}

// run serves until SIGTERM or SIGINT.
func (s *service) run(ctx context.Context, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	s.background(ctx)
	defer s.finish(cancel)
	if err := systemd.Ready(); err != nil {
		s.log.Warn("systemd was not told", "err", err)
	}
	for {
		select {
		case err := <-s.failed:
			s.shutdown(0, nil)
			return err
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.reload("SIGHUP")
				continue
			}
			drain := s.drain()
			s.log.Info("stopping", "signal", sig.String(), "drain", drain)
			_ = systemd.Stopping() // what it cannot hear, it will see
			s.shutdown(drain, signals)
			return nil
		}
	}
}

// drain is how long sessions may go on after SIGTERM.
func (s *service) drain() time.Duration {
	if d := s.now.Load().file.Drain; d != nil {
		return max(0, d.Duration())
	}
	return 30 * time.Second
}

// background starts what goes on beside the sessions, until ctx ends.
func (s *service) background(ctx context.Context) {
	s.running.Go(func() { s.failed <- s.http.Serve(s.feed) })
	s.running.Go(func() { s.watch(ctx) })
	s.running.Go(func() { giveBack(ctx) })
	s.running.Go(func() { systemd.RunWatchdog(ctx, s.alive) })
	if s.ledger != nil {
		s.ledger.OnError = func(err error) { s.log.Error("quotas are not written", "err", err) }
		s.running.Go(func() { _ = s.ledger.Run(ctx) })
	}
}

// alive reports whether the program still does its work: nobody has held its
// locks for so long that systemd should start it anew.
func (s *service) alive() bool {
	s.names.RLock()
	defer s.names.RUnlock()
	return true
}

// finish ends what background has started.
func (s *service) finish(cancel context.CancelFunc) {
	cancel()
	s.stop()
	s.now.Load().stopWays()
	s.running.Wait()
	if s.ledger != nil {
		if err := s.ledger.Close(); err != nil {
			s.log.Error("quotas are not written", "err", err)
		}
	}
}

// shutdown stops listening and lets the sessions end, until the time or
// another signal to stop has come.
func (s *service) shutdown(drain time.Duration, signals <-chan os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case sig := <-signals:
				if sig != syscall.SIGHUP {
					cancel()
				}
			case <-done:
				return
			}
		}
	}()
	results := make(chan error)
	parts := []func(context.Context) error{s.http.Shutdown}
	s.mu.Lock()
	s.stopping = true // no reload opens a listener after this
	for _, in := range s.inbounds {
		parts = append(parts, in.serve.Shutdown)
	}
	s.mu.Unlock()
	for _, part := range parts {
		go func() { results <- part(ctx) }()
	}
	var err error
	for range parts {
		err = errors.Join(err, <-results)
	}
	err = errors.Join(err, s.proxy.Shutdown(ctx))
	s.feed.Close()
	s.http.Close()
	if err != nil {
		s.log.Info("sessions cut", "err", err)
	}
}

// inbound returns the inbound with a listener of that name, nil if there is none.
func (s *service) inbound(name string) *inbound {
	s.names.RLock()
	defer s.names.RUnlock()
	return s.byName[name]
}

// note makes the inbounds known by their names, and their addresses as our own.
func (s *service) note() {
	own := new(policy.Listeners)
	byName := make(map[string]*inbound)
	for _, in := range s.inbounds {
		for _, ln := range in.lns {
			own.Add(ln.Addr())
			byName[in.Name()] = in
		}
	}
	s.names.Lock()
	defer s.names.Unlock()
	s.byName = byName
	s.own.Store(own)
}
