package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// The ways in which run can take a program's connections.
const (
	engineAuto    = "auto"
	engineNetns   = "netns"
	engineTun     = "tun"
	engineSeccomp = "seccomp"
	engineEnv     = "env"
)

// What run does with look-ups.
const (
	dnsFake  = "fake"
	dnsProxy = "proxy"
	dnsOff   = "off"
)

// What run waits for.
const (
	waitMain = "main"
	waitAll  = "all"
)

// runFlags are the flags of run.
type runFlags struct {
	captureFlags
	engine   string
	wait     string
	publish  []string
	hostPort []string
	explain  bool
}

func runCommand(common *commonFlags) *cobra.Command {
	f := new(runFlags)
	cmd := &cobra.Command{
		Use:   "run [flags] -- PROGRAM [ARGUMENT...]",
		Short: "Run a program through a proxy",
		Long: `Run a program, and whatever it starts, through a proxy: TCP, UDP and names,
without root, and nothing past the proxy. It needs Linux.

The proxy is that of -x, of the configuration, or else of ALL_PROXY or all_proxy.
The exit status is the program's; 125 if it could not be started through the
proxy, 126 if it cannot be executed, 127 if it is not found.`,
		Example: `  argyle run -x socks5h://gw:1080 -- git pull
  alias p='argyle run --'`,
		Args: arguments(func(cmd *cobra.Command, args []string) error {
			if f.explain {
				return nil
			}
			return cobra.MinimumNArgs(1)(cmd, args)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runProgram(cmd.Context(), common, f, args)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the program is the program's
	flags.StringVar(&f.engine, "engine", engineAuto, "`ENGINE` that takes its connections: auto, netns, tun, seccomp or env")
	flags.StringVar(&f.dns, "dns", dnsFake, "`MODE` of names: fake (the proxy looks them up), proxy (a resolver is asked through the proxy) or off")
	flags.StringVar(&f.wait, "wait", waitMain, "`WHOM` to wait for: end with the program (main), or with its last descendant (all)")
	f.add(flags)
	flags.StringArrayVar(&f.publish, "publish", nil, "let others reach a port of the program, by `FORWARD` [ADDR:]PORT:PORT[/udp]; repeatable")
	flags.StringArrayVar(&f.hostPort, "host-port", nil, "let the program reach `PORT` of this host at its own 127.0.0.1; repeatable")
	flags.BoolVar(&f.explain, "explain", false, "say what would be used here, and why")
	return cmd
}

// check looks at what has a few possible values.
func (f *runFlags) check() error {
	for _, one := range []struct {
		flag, value string
		of          []string
	}{
		{"--engine", f.engine, []string{engineAuto, engineNetns, engineTun, engineSeccomp, engineEnv}},
		{"--dns", f.dns, []string{dnsFake, dnsProxy, dnsOff}},
		{"--wait", f.wait, []string{waitMain, waitAll}},
	} {
		if !slices.Contains(one.of, one.value) {
			return usagef("%s %q: want %s", one.flag, one.value, strings.Join(one.of, ", "))
		}
	}
	for _, of := range []struct {
		flag   string
		values []string
	}{{"--direct", f.direct}, {"--deny", f.deny}} {
		for _, value := range of.values {
			if f.dns != dnsFake && strings.HasPrefix(value, ".") {
				return usagef("%s %s: names are known with --dns fake only", of.flag, value)
			}
		}
	}
	return f.captureFlags.check()
}

// exitNotStarted is the status for a program that could not be started through
// the proxy.
const exitNotStarted = 125

// exitError ends argyle as the program that it ran has ended.
type exitError struct {
	code int
	err  error  // what to tell; nil for nothing
	exit func() // if not nil, ends the process
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// proxyVariables are those that programs find proxies in.
var proxyVariables = []string{
	"ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy",
	"NO_PROXY", "no_proxy",
}

// plainEnviron is our environment without proxies: the program knows of none,
// or it would ask one through the other.
func plainEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(proxyVariables, name)
	})
}

// proxyEnviron tells programs of one proxy.
func proxyEnviron(url string) (env []string) {
	for _, name := range proxyVariables[:6] {
		env = append(env, name+"="+url)
	}
	return env
}

// parseForwards reads --publish and --host-port.
func (f *runFlags) parseForwards() (published, hostPorts []portForward, err error) {
	for _, text := range f.publish {
		p, err := parsePublish(text)
		if err != nil {
			return nil, nil, err
		}
		published = append(published, p)
	}
	for _, text := range f.hostPort {
		addr, err := parseHostPort(text)
		if err != nil {
			return nil, nil, err
		}
		hostPorts = append(hostPorts, portForward{listen: addr, dest: addr})
	}
	return published, hostPorts, nil
}

// portForward is one --publish or --host-port.
type portForward struct {
	udp    bool
	listen netip.AddrPort
	dest   netip.AddrPort
}

// parsePublish reads [ADDR:]PORT:PORT[/udp]: where others connect, and the port
// of the program.
func parsePublish(text string) (p portForward, err error) {
	fail := func() (portForward, error) {
		return portForward{}, usagef("--publish %q: want [ADDR:]PORT:PORT[/udp], such as 8080:80", text)
	}
	rest, network, found := strings.Cut(text, "/")
	if found && network != "udp" && network != "tcp" {
		return fail()
	}
	p.udp = network == "udp"
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return fail()
	}
	inside, ok := parsePort(rest[i+1:])
	if !ok {
		return fail()
	}
	host, outside, found := cutLast(rest[:i], ":")
	if !found {
		host, outside = "127.0.0.1", rest[:i]
	}
	port, ok := parsePort(outside)
	if !ok {
		return fail()
	}
	addr, err := netip.ParseAddr(trimBrackets(host))
	if err != nil {
		return fail()
	}
	p.listen = netip.AddrPortFrom(addr, port)
	p.dest = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), inside)
	return p, nil
}

// parseHostPort reads the port of --host-port.
func parseHostPort(text string) (netip.AddrPort, error) {
	port, ok := parsePort(text)
	if !ok {
		return netip.AddrPort{}, usagef("--host-port %q: want a port from 1 to 65535", text)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), nil
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// runLogger is quiet unless asked: -v tells of every session, -vv of steps.
func runLogger(common *commonFlags) (*slog.Logger, error) {
	quiet := *common
	quiet.quiet = common.verbose == 0
	quiet.verbose = max(0, common.verbose-1)
	return quiet.logger(os.Stderr)
}
