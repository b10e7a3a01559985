package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/internal/policy"
	"github.com/argyle-socks/argyle/internal/serve"
	"github.com/argyle-socks/argyle/internal/upstream"
	"github.com/argyle-socks/argyle/internal/users"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	listen       []string
	users        string
	cert, key    string
	clientCA     string
	allow        []string
	open         bool
	allowPrivate bool
	drain        time.Duration
}

func serveCommand(common *commonFlags) *cobra.Command {
	f := new(serveFlags)
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Run a SOCKS 4, 4a, 5 and HTTP proxy",
		Long: `Run a SOCKS 4, 4a, 5 and HTTP proxy. One port speaks them all, and TLS around
any of them.

Without flags it serves this host only. To listen on other addresses, say who
may use it (--users, --allow, --tls-client-ca), or --open for anybody.`,
		Example: `  argyle serve
  argyle serve -l :1080 --users /etc/argyle/users`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
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
	log       *slog.Logger
	listeners []net.Listener
	proxy     *proxy.Proxy
	socks     *socks.Server
	http      *http.Server
	feed      *serve.Feed
	users     *users.Store // nil if everybody may pass
	tls       *tlsFiles    // nil without TLS
}

func runServe(ctx context.Context, common *commonFlags, f *serveFlags) error {
	log, err := common.logger(os.Stderr)
	if err != nil {
		return err
	}
	s, err := newService(log, common, f)
	if err != nil {
		return err
	}
	return s.run(ctx, f.drain)
}

// newService makes everything that the flags ask for, and opens the listeners.
func newService(log *slog.Logger, common *commonFlags, f *serveFlags) (*service, error) {
	s := &service{log: log}
	networks, err := parseNetworks("--allow", f.allow)
	if err != nil {
		return nil, err
	}
	if f.users != "" {
		if s.users, err = users.Open(f.users); err != nil {
			return nil, fmt.Errorf("--users: %w", err)
		}
	}
	if s.tls, err = openTLS(f); err != nil {
		return nil, err
	}
	own := new(policy.Listeners)
	rules := policy.New(policy.Policy{Clients: networks, AllowPrivate: f.allowPrivate, Own: own.Contains})
	if err := setUpstream(rules, common.proxies); err != nil {
		return nil, err
	}
	s.proxy = &proxy.Proxy{Policy: rules, Log: log}
	s.makeServers(f)
	if s.listeners, err = listenAll(f.listen); err != nil {
		return nil, err
	}
	for _, ln := range s.listeners {
		own.Add(ln.Addr())
	}
	if err := refuseOpenRelay(s.listeners, f); err != nil {
		closeAll(s.listeners)
		return nil, err
	}
	return s, nil
}

// setUpstream makes the way out of the flags, twice: what it resolves by itself
// is looked at as the client deserves, and its first proxy is never ourselves.
func setUpstream(rules *policy.Policy, proxies []string) (err error) {
	if len(proxies) == 0 {
		return nil
	}
	rules.Upstream, err = chain(proxies, upstream.Checks{First: rules.CheckOwn, Dest: rules.CheckOwn})
	if err != nil {
		return err
	}
	rules.UpstreamRemote, err = chain(proxies, upstream.Checks{First: rules.CheckOwn, Dest: rules.CheckPublic})
	if _, direct := rules.Upstream.(*argyle.Direct); direct {
		rules.Upstream, rules.UpstreamRemote = nil, nil // the policy's own are right
	}
	return err
}

// refuseOpenRelay fails if anybody on the network could use the proxy and
// nobody has said that this is wanted.
func refuseOpenRelay(lns []net.Listener, f *serveFlags) error {
	if f.open || f.users != "" || f.clientCA != "" || len(f.allow) > 0 {
		return nil
	}
	for _, ln := range lns {
		if !isLocal(ln.Addr()) {
			return fmt.Errorf("refusing to listen on %v: anybody could use it; say who may with --users, --allow or --tls-client-ca, or --open for anybody", ln.Addr())
		}
	}
	return nil
}

// makeServers makes the ways in.
func (s *service) makeServers(f *serveFlags) {
	login := s.login(f)
	s.socks = &socks.Server{
		Handler:  s.proxy,
		ConnUser: certUser,
		Other:    s.other,
		Log:      s.log,
	}
	if login != nil {
		s.socks.Authenticators = []socks.Authenticator{socks.Password{Verify: login}}
	}
	web := &httpconnect.Server{Handler: s.proxy, Login: login, ConnUser: certUser, Log: s.log}
	s.http = web.HTTPServer()
	s.feed = serve.NewFeed(&net.TCPAddr{})
}

// login returns what verifies passwords; nil if nobody needs one.
func (s *service) login(f *serveFlags) func(context.Context, netip.Addr, string, string) error {
	switch {
	case s.users != nil:
		return users.NewGate(s.users, new(users.Guard)).Login
	case f.clientCA != "":
		// Only certificates count.
		return func(context.Context, netip.Addr, string, string) error { return users.ErrDenied }
	}
	return nil
}

// other serves a connection that does not begin as SOCKS does.
func (s *service) other(ctx context.Context, conn net.Conn) {
	first := firstByte(conn)
	switch {
	case first == tlsRecord && s.tls != nil && !isTLS(conn):
		s.serveTLS(ctx, conn)
	case first >= 'A' && first <= 'Z':
		s.feed.Put(ctx, conn)
	default:
		conn.Close()
	}
}

// firstByte returns the first byte that a connection has to be read from it, 0
// if it is not known.
func firstByte(conn net.Conn) byte {
	if u, ok := conn.(interface{ Unwrap() (net.Conn, []byte) }); ok {
		if _, unread := u.Unwrap(); len(unread) > 0 {
			return unread[0]
		}
	}
	return 0
}

// run serves until SIGTERM or SIGINT.
func (s *service) run(ctx context.Context, drain time.Duration) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	failed := make(chan error, len(s.listeners)+1)
	for _, ln := range s.listeners {
		s.log.Info("listening", "address", ln.Addr().String())
		go func() { failed <- s.socks.Serve(ln) }()
	}
	go func() { failed <- s.http.Serve(s.feed) }()
	s.watchFiles(ctx)

	for {
		select {
		case err := <-failed:
			s.shutdown(0, nil)
			return err
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.reload()
				continue
			}
			s.log.Info("stopping", "signal", sig.String(), "drain", drain)
			s.shutdown(drain, signals)
			return nil
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
	web := make(chan error, 1)
	go func() { web <- s.http.Shutdown(ctx) }()
	err := errors.Join(s.socks.Shutdown(ctx), <-web, s.proxy.Shutdown(ctx))
	s.feed.Close()
	s.http.Close()
	if err != nil {
		s.log.Info("sessions cut", "err", err)
	}
}
