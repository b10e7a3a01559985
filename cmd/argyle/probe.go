package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/argyle-socks/argyle/internal/upstream"
	"github.com/argyle-socks/argyle/probe"
	"github.com/argyle-socks/argyle/socks"
)

// probeFlags are those of argyle probe.
type probeFlags struct {
	json, markdown bool
	only           []string
	helper         string
	serveHelper    string
}

func probeCommand(common *commonFlags) *cobra.Command {
	var f probeFlags
	cmd := &cobra.Command{
		Use:   "probe [flags] URL... | --serve-helper HOST:PORT",
		Short: "Say what a proxy can do, and what it gets wrong",
		Long: `Say what a SOCKS proxy can do, and what it gets wrong: every MUST and SHOULD of
RFC 1928, RFC 1929 and the memos of SOCKS 4 that can be seen from outside, and
the traps that proxies fall into.

The proxy connects to a helper on this host, which it must be able to reach, or
elsewhere (--serve-helper there, --helper here). Nothing else is connected to.
The exit status is 0 if no MUST is broken.`,
		Example: `  argyle probe socks5://gw:1080
  argyle probe --only UDP --only NEG-SPLIT -v socks5://ann:pw@gw:1080
  argyle probe --markdown 127.0.0.1:1080 127.0.0.1:1081`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if f.serveHelper != "" {
				return f.help(ctx, cmd.OutOrStdout(), args)
			}
			return f.run(ctx, cmd.OutOrStdout(), args, common.verbose > 0)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.json, "json", false, "print the report as JSON")
	flags.BoolVar(&f.markdown, "markdown", false, "print a table of Markdown, with a column for each proxy")
	flags.StringArrayVar(&f.only, "only", nil, "look at the row `ID` only, or at all that begin with it, as UDP; may be repeated")
	flags.StringVar(&f.helper, "helper", "", "let the proxy connect to the helper `SECRET@HOST:PORT`, in place of this host")
	flags.StringVar(&f.serveHelper, "serve-helper", "", "be a helper on `HOST:PORT`, which the proxy reaches by that, and say its secret")
	return cmd
}

// help is a helper until ctx ends.
func (f *probeFlags) help(ctx context.Context, out io.Writer, args []string) error {
	if len(args) > 0 || f.json || f.markdown || len(f.only) > 0 || f.helper != "" {
		return usagef("--serve-helper goes with nothing else")
	}
	host, port, err := net.SplitHostPort(f.serveHelper)
	if err != nil || host == "" {
		return usagef("--serve-helper %q: want HOST:PORT, where HOST is as the proxy should reach it", f.serveHelper)
	}
	helper, err := probe.ListenHelper(host, port)
	if err != nil {
		return err
	}
	defer helper.Close()
	fmt.Fprintf(out, "--helper %s\n", helper)
	<-ctx.Done()
	return nil
}

// run probes the proxies, one after the other.
func (f *probeFlags) run(ctx context.Context, out io.Writer, urls []string, trace bool) error {
	if len(urls) == 0 {
		return usagef("want the URL of a proxy")
	}
	if f.json && f.markdown {
		return usagef("--json and --markdown: want one of them")
	}
	var helper *probe.Helper
	if f.helper != "" {
		var err error
		if helper, err = probe.DialHelper(f.helper); err != nil {
			return usagef("--helper: %w", err)
		}
	}
	var probers []*probe.Prober
	for _, url := range urls {
		p, err := proberOf(url)
		if err != nil {
			return err
		}
		p.Helper, p.Only, p.Trace = helper, f.only, trace
		if err := p.Check(); err != nil {
			return usagef("--only: %w", err)
		}
		probers = append(probers, p)
	}
	var reports []*probe.Report
	for i, p := range probers {
		report, err := p.Run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", upstream.Redact(urls[i]), err)
		}
		if reports = append(reports, report); !f.json && !f.markdown {
			file, isFile := out.(*os.File)
			colour := isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == ""
			if err := report.WriteText(out, colour); err != nil {
				return err
			}
		}
	}
	if err := f.write(out, reports); err != nil {
		return err
	}
	if slices.ContainsFunc(reports, func(r *probe.Report) bool { return !r.OK() }) {
		return errTold
	}
	return nil
}

// write writes what is for other programs.
func (f *probeFlags) write(out io.Writer, reports []*probe.Report) error {
	switch {
	case f.json:
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		if len(reports) == 1 {
			return encoder.Encode(reports[0])
		}
		return encoder.Encode(reports)
	case f.markdown:
		return probe.WriteMarkdown(out, reports...)
	}
	return nil
}

// proberOf makes a prober of a proxy URL.
func proberOf(url string) (*probe.Prober, error) {
	way, err := upstream.Parse(url, nil)
	if err != nil {
		return nil, usagef("%w", err)
	}
	d, ok := way.(*socks.Dialer)
	if !ok || d.GSSAPI != nil || strings.HasPrefix(d.Addr, "unix:") {
		return nil, usagef("proxy URL %q: want a SOCKS proxy on HOST:PORT, with a password or without", upstream.Redact(url))
	}
	p := &probe.Prober{Addr: d.Addr, User: d.User, Password: d.Password}
	if d.TLS != nil {
		p.Dial = func(ctx context.Context) (net.Conn, error) { return dialInTLS(ctx, d) }
	}
	return p, nil
}

// dialInTLS connects to a proxy inside TLS.
func dialInTLS(ctx context.Context, d *socks.Dialer) (net.Conn, error) {
	config := d.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(d.Addr)
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", d.Addr)
	if err != nil {
		return nil, errors.Join(errors.New("TLS"), err)
	}
	return conn, nil
}
