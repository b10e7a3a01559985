package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/netns"
	"github.com/argyle-socks/argyle/internal/process"
	"github.com/argyle-socks/argyle/internal/transparent"
	"github.com/argyle-socks/argyle/internal/tun"
	"github.com/argyle-socks/argyle/proxy"
)

// inboundRun is what rules and logs call the way in from a program.
const inboundRun = "run"

// The files that a namespace's child makes for us.
const (
	fileTCP   = "tcp"   // a listener
	fileUDP   = "udp"   // a socket
	fileQueue = "queue" // where SYNs wait; absent if they cannot
	fileRaw4  = "raw4"  // sends from whatever address
	fileRaw6  = "raw6"  // likewise; absent without IPv6
)

// queueNum is the number of the queue in its namespace, where there are no others.
const queueNum = 0

// namespacePlan is what the child is to do in the namespace.
type namespacePlan struct {
	Device    bool // there is one that brings everything
	RejectUDP bool
	NoDNS     bool
}

// prepareNamespace runs in the namespace, with its capabilities: it leads all
// that the program sends to sockets of ours, and returns those.
func prepareNamespace(plan []byte) (files map[string]*os.File, err error) {
	var p namespacePlan
	if err := json.Unmarshal(plan, &p); err != nil {
		return nil, err
	}
	if p.Device {
		return nil, nil
	}
	tcp, err := transparent.ListenTCP()
	if err != nil {
		return nil, err
	}
	defer tcp.Close()
	udp, err := transparent.ListenUDP()
	if err != nil {
		return nil, err
	}
	defer udp.Close()
	own, err := ownNetworks()
	if err != nil {
		return nil, err
	}
	rules := &transparent.Rules{
		Table:     "argyle",
		Except:    own,
		TCP:       argyle.AddrOf(tcp.Addr()).Port,
		UDP:       argyle.AddrOf(udp.LocalAddr()).Port,
		RejectUDP: p.RejectUDP,
		NoDNS:     p.NoDNS,
	}
	files = make(map[string]*os.File)
	raw4, raw6, err := transparent.RawFiles()
	if err != nil {
		return nil, err
	}
	files[fileRaw4] = raw4
	if raw6 != nil {
		files[fileRaw6] = raw6
	}
	if files[fileTCP], err = tcp.File(); err != nil {
		return nil, err
	}
	if files[fileUDP], err = udp.File(); err != nil {
		return nil, err
	}
	if queue, err := transparent.OpenQueue(queueNum); err == nil {
		files[fileQueue] = queue
		rules.Hold, rules.Queue = true, queueNum
	}
	err = rules.Install()
	if errors.Is(err, transparent.ErrNoQueue) {
		delete(files, fileQueue)
		rules.Hold = false
		err = rules.Install()
	}
	return files, err
}

// ownNetworks are those that the program reaches by itself: the addresses of
// the namespace.
func ownNetworks() ([]netip.Prefix, error) {
	own := []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
		netip.PrefixFrom(netip.IPv6Loopback(), 128),
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if n, ok := addr.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && !ip.Unmap().IsLoopback() {
				own = append(own, netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()))
			}
		}
	}
	return own, nil
}

// lookupspace runs the program in a network namespace whose every packet comes
// to us. If try is set, it does all but run the program.
func (r *runner) lookupspace(ctx context.Context, device, try bool) (status process.Status, err error) {
	plan, err := json.Marshal(namespacePlan{Device: device, RejectUDP: !r.world.now.Load().carriesUDP(), NoDNS: r.dns == dnsOff})
	if err != nil {
		return status, err
	}
	w, err := netns.Start(ctx, netns.Config{
		Argv:     r.argv,
		Env:      plainEnviron(),
		Hook:     plan,
		TUN:      device,
		Resolver: r.dns != dnsOff,
		WaitAll:  r.wait == waitAll,
	})
	if err != nil {
		if lacks(err) {
			err = &lacksError{err}
		}
		return status, err
	}
	defer w.Close()
	if try {
		return status, nil
	}
	n := &namespace{runner: r, space: w}
	defer n.close()
	if device {
		err = n.serveDevice()
	} else {
		err = n.serveSockets()
	}
	if err == nil {
		err = n.serveForwards()
	}
	if err != nil {
		return status, err
	}
	status, err = w.Run()
	n.flush()
	drainAll(append(n.inner, r.proxy))
	return status, err
}

// lacks reports whether another engine may do better.
func lacks(err error) bool {
	return errors.Is(err, netns.ErrForbidden) || errors.Is(err, netns.ErrNoTUN) ||
		strings.Contains(err.Error(), transparent.ErrNoTPROXY.Error()) // it came from another process
}

// namespace is what serves the program in one.
type namespace struct {
	*runner
	space   *netns.World
	inner   []*proxy.Proxy // of the forwards
	packets packetServer
}

// packetServer is what carries the datagrams of the program.
type packetServer interface {
	Waiting() int64
	Close() error
}

// flush waits until the datagrams that the program sent last are on their way,
// and ends the associations, which have no end of their own.
func (n *namespace) flush() {
	if n.packets == nil {
		return
	}
	deadline := time.Now().Add(drainPatience)
	for quiet := 0; quiet < 2 && time.Now().Before(deadline); quiet++ {
		if n.packets.Waiting() > 0 {
			quiet = -1
		}
		time.Sleep(flushTick)
	}
	_ = n.packets.Close() // it cannot fail
}

// flushTick is how often flush looks. A datagram that has just come may not
// have been seen before the second time.
const flushTick = 2 * time.Millisecond

func (n *namespace) close() {
	n.closeServers()
	for _, p := range n.inner {
		_ = p.Close()
	}
}

// serveSockets answers what comes to the sockets of prepareNamespace.
func (n *namespace) serveSockets() error {
	ln, err := net.FileListener(n.space.File(fileTCP))
	if err != nil {
		return fmt.Errorf("take over the namespace's listener: %w", err)
	}
	conn, err := net.FilePacketConn(n.space.File(fileUDP))
	if err != nil {
		return fmt.Errorf("take over the namespace's socket: %w", err)
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return fmt.Errorf("the namespace's socket is a %T", conn)
	}
	tcp := &transparent.Server{Handler: n.handler(), Name: n.names.name, Inbound: inboundRun, Log: n.log}
	n.background("tcp", func() error { return tcp.Serve(ln) }, tcp.Close)
	if queue := n.space.File(fileQueue); queue != nil {
		n.background("held connections", func() error { return tcp.Hold(queue) }, tcp.Close)
	} else {
		n.log.Info("connections are accepted before they are dialled: this kernel cannot hold them", "err", transparent.ErrNoQueue)
	}
	// Sockets with the addresses of the world would take ports from the program.
	raw, err := transparent.NewRaw(n.space.File(fileRaw4), n.space.File(fileRaw6))
	if err != nil {
		return fmt.Errorf("take over the namespace's raw sockets: %w", err)
	}
	n.undo = append(n.undo, raw.Close)
	packets := &transparent.PacketServer{
		Handler: n.handler(), Name: n.names.name, Send: raw.Send, Refuse: raw.Refuse, DNS: n.names.answers(),
		Inbound: inboundRun, Log: n.log,
	}
	n.packets = packets
	n.background("udp", func() error { return packets.Serve(udp) }, packets.Close)
	return nil
}

// serveDevice answers what comes by the namespace's tun device, and queries to
// resolvers on loopback, which no device sees.
func (n *namespace) serveDevice() error {
	s := &tun.Server{
		Device: n.space.File(netns.FileTUN), MTU: n.space.MTU(),
		Handler: n.handler(), Name: n.names.name, DNS: n.names.answers(), Inbound: inboundRun, Log: n.log,
	}
	n.packets = s
	n.background("tun", s.Serve, s.Close)
	if answer := n.names.answers(); answer != nil {
		for _, ip := range localResolvers(n.space.IPv6()) {
			if err := n.serveResolver(netip.AddrPortFrom(ip, 53), answer); err != nil {
				return fmt.Errorf("answer as a resolver at %v: %w", ip, err)
			}
		}
	}
	return nil
}

// localResolvers are the addresses at which programs look for a resolver on this
// host: what a resolv.conf without any stands for, and that of systemd-resolved.
func localResolvers(ipv6 bool) []netip.Addr {
	ips := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.AddrFrom4([4]byte{127, 0, 0, 53})}
	text, _ := os.ReadFile("/etc/resolv.conf") // without one, 127.0.0.1 is asked
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil && ip.IsLoopback() && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	if ipv6 && !slices.Contains(ips, netip.IPv6Loopback()) {
		ips = append(ips, netip.IPv6Loopback())
	}
	return slices.DeleteFunc(ips, func(ip netip.Addr) bool { return ip.Is6() && !ipv6 })
}

// serveResolver answers queries at an address in the namespace.
func (n *namespace) serveResolver(at netip.AddrPort, answer func(ctx context.Context, client, server netip.AddrPort, query []byte) []byte) error {
	conn, err := n.space.ListenUDP(at)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	serve := func() error {
		serveQueries(ctx, conn, answer)
		return nil
	}
	n.background("resolver", serve, func() error {
		cancel()
		return nil
	})
	ln, err := n.space.Listen(at)
	if err != nil {
		return err
	}
	s := &transparent.Server{Handler: n.handler(), Dest: transparent.Fixed(argyle.AddrFrom(at)), Inbound: inboundRun, Log: n.log}
	n.background("resolver", func() error { return s.Serve(ln) }, s.Close)
	return nil
}

// serveForwards answers for --publish and --host-port.
func (n *namespace) serveForwards() error {
	for _, p := range n.published {
		if err := n.publishPort(p); err != nil {
			return fmt.Errorf("--publish: %w", err)
		}
	}
	for _, p := range n.hostPorts {
		ln, err := n.space.Listen(p.listen)
		if err != nil {
			return fmt.Errorf("--host-port: %w", err)
		}
		n.forward(ln, p.dest, new(argyle.Direct))
	}
	return nil
}

// publishPort lets others reach a port of the program.
func (n *namespace) publishPort(p portForward) error {
	way := &inside{world: n.space}
	if !p.udp {
		ln, err := net.Listen("tcp", p.listen.String())
		if err != nil {
			return err
		}
		n.forward(ln, p.dest, way)
		return nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.listen))
	if err != nil {
		return err
	}
	s := &transparent.PacketServer{Handler: n.inwards(way), Dest: argyle.AddrFrom(p.dest), Inbound: "publish", Log: n.log}
	n.background("published udp", func() error { return s.Serve(conn) }, s.Close)
	return nil
}

// forward carries what comes to ln to dest.
func (n *namespace) forward(ln net.Listener, dest netip.AddrPort, way argyle.Dialer) {
	s := &transparent.Server{
		Handler: n.inwards(way), Dest: transparent.Fixed(argyle.AddrFrom(dest)), Inbound: "publish", Log: n.log,
	}
	n.background("forward", func() error { return s.Serve(ln) }, s.Close)
}

// inwards is a proxy that goes one way, without rules.
func (n *namespace) inwards(way argyle.Dialer) *proxy.Proxy {
	p := &proxy.Proxy{
		Policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return way, nil }),
		Log:    n.log,
	}
	n.inner = append(n.inner, p)
	return p
}

// inside is the way to the programs in a namespace.
type inside struct {
	argyle.StreamOnly
	world *netns.World
}

func (i *inside) String() string { return "inside" }

// DialContext connects to an address of the namespace.
func (i *inside) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return i.world.Dial(ctx, network, addr)
}

// ListenPacket opens a socket in the namespace.
func (i *inside) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return i.world.ListenUDP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0))
}
