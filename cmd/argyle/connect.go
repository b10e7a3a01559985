package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/upstream"
)

func connectCommand(common *commonFlags) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "connect [flags] HOST PORT | HOST:PORT",
		Short: "Join standard input and output to host:port through a proxy",
		Long: `Join standard input and output to host:port through a proxy.

The proxy is that of -x, else of ALL_PROXY or all_proxy. Hosts that NO_PROXY or
no_proxy names are connected to directly.

It serves as OpenSSH's ProxyCommand and as git's core.gitProxy.`,
		Example: `  argyle connect -x socks5h://gw:1080 db.lan 5432
  ssh -o ProxyCommand='argyle connect -x gw %h %p' box`,
		Args: arguments(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dest, err := parseDest(args)
			if err != nil {
				return err
			}
			way, err := wayTo(common.proxies, dest)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return connect(ctx, way, dest, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up after `DURATION` without a connection; 0 for never")
	return cmd
}

// parseDest reads HOST PORT or HOST:PORT.
func parseDest(args []string) (argyle.Addr, error) {
	text := args[0]
	if len(args) == 2 {
		text = net.JoinHostPort(trimBrackets(args[0]), args[1])
	}
	dest, err := argyle.ParseAddr(text)
	if err != nil {
		return dest, usagef("destination %q: want HOST PORT or HOST:PORT: %w", text, err)
	}
	if dest.Port == 0 {
		return dest, usagef("destination %q: port 0 cannot be connected to", text)
	}
	return dest, nil
}

func trimBrackets(host string) string {
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}

// wayTo returns the way to dest that flags and environment ask for.
func wayTo(proxies []string, dest argyle.Addr) (argyle.Dialer, error) {
	if len(proxies) == 0 {
		if env := firstEnv("ALL_PROXY", "all_proxy"); env != "" {
			proxies = []string{env}
		}
	}
	if len(proxies) == 0 {
		return nil, usagef("no proxy: give -x URL, or set ALL_PROXY (-x direct:// for none)")
	}
	if noProxy(firstEnv("NO_PROXY", "no_proxy"), dest) {
		return &argyle.Direct{}, nil
	}
	return chain(proxies, upstream.Checks{})
}

// chain returns the way out through all the proxies. A wrong URL is a wrong
// command line; a file in it that cannot be read is not.
func chain(proxies []string, checks upstream.Checks) (argyle.Dialer, error) {
	way, err := checks.Chain(proxies)
	var file *fs.PathError
	if err != nil && !errors.As(err, &file) {
		err = &usageError{err}
	}
	return way, err
}

func firstEnv(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

// connect dials and carries standard input and output.
func connect(ctx context.Context, way argyle.Dialer, dest argyle.Addr, timeout time.Duration) error {
	dialCtx, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		dialCtx, cancel = context.WithTimeout(ctx, timeout)
	}
	conn, err := way.DialContext(dialCtx, "tcp", dest.String())
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan error, 1)
	go func() { done <- carry(conn, os.Stdin, os.Stdout) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// It may be writing to somebody who does not read: not to be waited for.
		return errors.New("interrupted")
	}
}

// carry copies both ways until both have ended: the end of in becomes the end
// of our side of conn, and the other way round. On a terminal the end of conn
// is enough, since a person who is not being read any more would wait for ever.
func carry(conn net.Conn, in, out *os.File) error {
	up := make(chan error, 1)
	go func() { up <- send(conn, in) }()
	_, err := io.Copy(out, conn)
	out.Close()
	if err != nil {
		return fmt.Errorf("receive: %w", cause(err))
	}
	if term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return <-up
}

// cause returns the system's error in err. What splice puts around it blames
// standard output for what the network did.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// send copies in to conn, and ends conn's write side after it. That conn is
// gone is for the other direction to say.
func send(conn net.Conn, in io.Reader) error {
	_, err := io.Copy(conn, in)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("send: %w", cause(err))
	}
	if w, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // fails where the other side has closed
	}
	return nil
}
