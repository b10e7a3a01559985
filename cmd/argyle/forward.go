package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// forwardFlags are the flags of forward.
type forwardFlags struct {
	captureFlags
	allow []string
	specs []string
}

func forwardCommand(common *commonFlags) *cobra.Command {
	f := new(forwardFlags)
	cmd := &cobra.Command{
		Use:   "forward [flags] FORWARD...",
		Short: "Listen here, connect there through a proxy",
		Long: `Listen here and connect there through a proxy, any number of times in one
process. A FORWARD is one of

  tcp/[HOST:]PORT=HOST:PORT    connections to this port
  udp/[HOST:]PORT=HOST:PORT    datagrams to this port
  unix:/PATH=HOST:PORT         connections to this socket
  stdio=HOST:PORT              standard input and output
  bind/HOST:PORT=HOST:PORT     the reverse: the proxy listens (SOCKS BIND) for
                               the peer HOST:PORT, 0.0.0.0:0 for anybody, and
                               each that comes is carried to the second one,
                               here, which may be unix:/PATH

Without HOST a port listens on loopback.`,
		Example: `  argyle forward -x gw tcp/5432=db.lan:5432
  argyle forward -x gw udp/127.0.0.1:53=ns.lan:53 unix:/run/mail.sock=mail.lan:143
  argyle forward -x gw bind/0.0.0.0:0=127.0.0.1:8080`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.specs = args
			return runForward(cmd.Context(), common, f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.allow, "allow", nil, "carry only clients in the network `CIDR`; repeatable")
	flags.StringArrayVar(&f.direct, "direct", nil, "connect to `CIDR` or .domain without the proxy; repeatable")
	flags.StringArrayVar(&f.deny, "deny", nil, "refuse `CIDR` or .domain; repeatable")
	return cmd
}

// forwarder carries what its forwards name.
type forwarder struct {
	capture
	allow []config.Network
}

// runForward serves until a signal, or the end of stdio.
func runForward(ctx context.Context, common *commonFlags, f *forwardFlags) error {
	log, err := common.logger(os.Stderr)
	if err != nil {
		return err
	}
	var given []config.Forward
	for _, text := range f.specs {
		var spec config.ForwardSpec
		if err := spec.UnmarshalText([]byte(text)); err != nil {
			return usagef("forward %q: %w", text, err)
		}
		given = append(given, config.Forward{Spec: spec})
	}
	f.dns = dnsOff
	file, err := f.file(common)
	if err != nil {
		return err
	}
	file.Forward = append(file.Forward, given...)
	if len(file.Forward) == 0 {
		return usagef("nothing to forward: give one such as tcp/5432=db.lan:5432 (see argyle forward --help)")
	}
	fw := &forwarder{capture: capture{log: log, world: newWorld(log)}}
	if fw.allow, err = parseNetworks("--allow", f.allow); err != nil {
		return err
	}
	if file.Timeouts.Bind == 0 {
		file.Timeouts.Bind = config.Off // the proxy has one of its own
	}
	if err := fw.open(file, &f.captureFlags, fakedns.Options{}); err != nil {
		return err
	}
	defer fw.close()
	fw.catch()
	if err := fw.begin(ctx, file.Forward, len(file.Rules) > 0); err != nil {
		return err
	}
	return fw.serve(ctx)
}

// begin opens all forwards.
func (fw *forwarder) begin(ctx context.Context, forwards []config.Forward, ruled bool) error {
	names := make(map[string]bool)
	for _, f := range forwards {
		name := f.Name
		if name == "" {
			name = f.Spec.From()
		}
		if names[name] {
			return usagef("forward %s is there twice", name)
		}
		names[name] = true
		if err := fw.open1(ctx, name, f.Spec, ruled); err != nil {
			return fmt.Errorf("forward %s: %w", name, err)
		}
	}
	return nil
}

// open1 begins one forward.
func (fw *forwarder) open1(ctx context.Context, name string, spec config.ForwardSpec, ruled bool) error {
	if spec.Network == "bind" {
		return fw.bind(ctx, name, spec)
	}
	dest, err := argyle.ParseAddr(spec.Dest)
	if err != nil {
		return err
	}
	switch spec.Network {
	case "stdio":
		return fw.stdio(ctx, name, dest)
	case "udp":
		return fw.datagrams(name, spec, dest, ruled)
	}
	lns, err := fw.listeners(spec)
	if err != nil {
		return err
	}
	for _, ln := range lns {
		fw.warnOpen(name, ln.Addr(), ruled)
		s := &transparent.Server{Handler: fw.admit(), Dest: transparent.Fixed(dest), Inbound: name, Log: fw.log}
		fw.background(name, func() error { return s.Serve(ln) }, s.Close)
		fw.log.Info("forwarding", "forward", name, "from", ln.Addr().String(), "to", dest.String())
	}
	return nil
}

// listeners opens where connections come.
func (fw *forwarder) listeners(spec config.ForwardSpec) ([]net.Listener, error) {
	if spec.Network == "unix" {
		return listen(config.Listener{Address: "unix:" + spec.Listen, Mode: 0o600}, nil)
	}
	var all []net.Listener
	for i, address := range onLoopback(spec.Listen) {
		lns, err := listen(config.Listener{Address: address}, nil)
		if err != nil && i > 0 && noFamily(err) {
			break
		}
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, lns...)
	}
	return all, nil
}

// onLoopback returns the addresses to listen at, which are those of loopback if
// there is no host. Any port is one, so that there is no second address for it.
func onLoopback(address string) []string {
	port, found := strings.CutPrefix(address, ":")
	switch {
	case !found:
		return []string{address}
	case port == "0":
		return []string{"127.0.0.1:0"}
	}
	return []string{"127.0.0.1:" + port, "[::1]:" + port}
}

// datagrams begins a forward of UDP.
func (fw *forwarder) datagrams(name string, spec config.ForwardSpec, dest argyle.Addr, ruled bool) error {
	if !fw.world.now.Load().carriesUDP() {
		return errors.New("the way out carries no datagrams")
	}
	for i, address := range onLoopback(spec.Listen) {
		conn, err := net.ListenPacket("udp", address)
		if err != nil && i > 0 && noFamily(err) {
			break
		}
		if err != nil {
			return err
		}
		udp, ok := conn.(*net.UDPConn)
		if !ok {
			return fmt.Errorf("the socket is a %T", conn)
		}
		fw.warnOpen(name, udp.LocalAddr(), ruled)
		s := &transparent.PacketServer{Handler: fw.admit(), Dest: dest, Inbound: name, Log: fw.log}
		fw.background(name, func() error { return s.Serve(udp) }, s.Close)
		fw.log.Info("forwarding", "forward", name, "from", "udp "+udp.LocalAddr().String(), "to", dest.String())
	}
	return nil
}

// warnOpen tells of a port that anybody may use.
func (fw *forwarder) warnOpen(name string, at net.Addr, ruled bool) {
	if !isLocal(at) && !ruled && len(fw.allow) == 0 {
		fw.log.Warn("anybody who reaches this address is carried: --allow says who may", "forward", name, "address", at.String())
	}
}

// admit answers the calls of those who may.
func (fw *forwarder) admit() argyle.Handler {
	return argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		client := call.Request().Client.Addr()
		if !client.IsValid() {
			call = &redirected{Call: call, request: withClient(call.Request(), thisHost)}
		} else if len(fw.allow) > 0 && !allowed(fw.allow, client) {
			fw.log.Info("connection refused", "client", client.String(), "err", "not in --allow")
			call.Reject(argyle.ErrNotAllowed)
			return
		}
		fw.proxy.ServeCall(ctx, call)
	})
}

func allowed(networks []config.Network, ip netip.Addr) bool {
	for _, n := range networks {
		if n.Prefix().Contains(ip.Unmap()) {
			return true
		}
	}
	return false
}

// withClient returns the request as from another client.
func withClient(req *argyle.Request, client netip.AddrPort) *argyle.Request {
	other := *req
	other.Client = client
	return &other
}

// stdio carries standard input and output; their end is that of the program.
func (fw *forwarder) stdio(ctx context.Context, name string, dest argyle.Addr) error {
	req := &argyle.Request{Command: argyle.Connect, Dest: dest, Client: thisHost, Inbound: name}
	route, err := capturePolicy{fw.world}.Route(ctx, req)
	if err != nil {
		return err
	}
	conn, err := route.Dialer.DialContext(argyle.WithRequest(ctx, req), "tcp", dest.String())
	if err != nil {
		return err
	}
	go func() { fw.failed <- carry(conn, os.Stdin, os.Stdout) }()
	fw.undo = append(fw.undo, func() error {
		// What reads standard input cannot be waited for.
		return conn.Close()
	})
	return nil
}
