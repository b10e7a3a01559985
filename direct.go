package argyle

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/argyle-socks/argyle/internal/event"
	"golang.org/x/net/idna"
)

// Direct is the [Dialer] that uses no proxy. The zero Direct is ready to use.
//
// Names are resolved and their addresses raced as RFC 8305 asks.
type Direct struct {
	// Resolver looks up names; nil stands for [net.DefaultResolver].
	Resolver Resolver

	// Check, if not nil, is asked before anything is sent to an address or
	// accepted from it, after the resolver has spoken; an error refuses the
	// address. No other look-up happens between Check and the connection.
	// If ctx carries a request ([RequestOf]), its Dest is what the address
	// was looked up for. For datagrams an answer holds for some seconds.
	Check func(ctx context.Context, network string, addr netip.AddrPort) error

	// Local, if not nil, chooses the local address of a socket that is to
	// reach remote; the zero Addr leaves it to the system. For datagrams it
	// is asked about the unspecified address of each family.
	Local func(ctx context.Context, remote netip.Addr) (netip.Addr, error)

	// Control, if not nil, prepares every socket before it is bound, as
	// net.Dialer.Control does.
	Control func(network, address string, conn syscall.RawConn) error
}

var _ Dialer = (*Direct)(nil)

// DetachesItself says that DialContext may run in an event loop.
func (*Direct) DetachesItself() {}

// String returns "direct".
func (*Direct) String() string { return "direct" }

// DialContext connects to address, "host:port".
func (d *Direct) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dest, err := ParseAddr(address)
	if err != nil {
		return nil, opError("dial", network, err)
	}
	ips := []netip.Addr{dest.IP}
	if dest.Name != "" {
		if ips, err = d.resolve(ctx, dest.Name); err != nil {
			return nil, opError("dial", network, err)
		}
	}
	if ips, err = ofFamily(ips, network, dest); err != nil {
		return nil, opError("dial", network, err)
	}
	if len(ips) == 1 {
		return d.dial(ctx, network, netip.AddrPortFrom(ips[0], dest.Port))
	}
	return d.race(ctx, network, interleave(ips), dest.Port)
}

// ofFamily returns the addresses that network can reach.
func ofFamily(ips []netip.Addr, network string, dest Addr) ([]netip.Addr, error) {
	var wanted func(netip.Addr) bool
	switch network {
	case "tcp":
		return ips, nil
	case "tcp4":
		wanted = netip.Addr.Is4
	case "tcp6":
		wanted = netip.Addr.Is6
	default:
		return nil, net.UnknownNetworkError(network)
	}
	ips = slices.DeleteFunc(ips, func(ip netip.Addr) bool { return !wanted(ip) })
	if len(ips) == 0 {
		return nil, &net.AddrError{Err: "no suitable address found", Addr: dest.Host()}
	}
	return ips, nil
}

// dial connects to one address.
func (d *Direct) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if err := d.check(ctx, network, to); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	local, err := d.local(ctx, to.Addr())
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	if conn, ok, err := event.Dial(ctx, local, to, d.Control); ok {
		return conn, err
	}
	dialer := net.Dialer{
		Control: d.Control,
		// The relay turns keepalives on for a session that lasts: four
		// system calls that a short one need not pay.
		KeepAlive: -1,
	}
	if local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return dialer.DialContext(ctx, network, to.String())
}

func (d *Direct) local(ctx context.Context, remote netip.Addr) (netip.Addr, error) {
	if d.Local == nil {
		return netip.Addr{}, nil
	}
	return d.Local(ctx, remote)
}

func (d *Direct) check(ctx context.Context, network string, addr netip.AddrPort) error {
	if d.Check == nil {
		return nil
	}
	return d.Check(ctx, network, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
}

// Listen opens a listener that peer, "host:port", can reach, and accepts from
// peer's addresses only. A port of 1024 or more is the wish for a local port,
// granted if it is free.
func (d *Direct) Listen(ctx context.Context, network, peer string) (net.Listener, error) {
	dest, err := ParseAddr(peer)
	if err != nil {
		return nil, opError("listen", network, err)
	}
	local := netip.IPv6Unspecified()
	ln := &bindListener{direct: d, network: network}
	if dest.Name != "" || !dest.IP.IsUnspecified() {
		if ln.peers, err = d.lookup(ctx, network, dest); err != nil {
			return nil, opError("listen", network, err)
		}
		if local, err = d.facing(ctx, netip.AddrPortFrom(ln.peers[0], dest.Port)); err != nil {
			return nil, err
		}
		for i, peer := range ln.peers {
			ln.peers[i] = peer.WithZone("") // as Accept compares them
		}
	} else if dest.IP.Is4() {
		local = dest.IP
	}
	var wish uint16
	if dest.Port >= 1024 {
		wish = dest.Port
	}
	tcp, err := d.listen(ctx, netip.AddrPortFrom(local, wish))
	if err != nil && wish != 0 {
		tcp, err = d.listen(ctx, netip.AddrPortFrom(local, 0))
	}
	if err != nil {
		return nil, err
	}
	// What Check is asked about peers concerns this request.
	ln.ctx = context.WithoutCancel(ctx)
	ln.TCPListener = tcp
	return ln, nil
}

func (d *Direct) listen(ctx context.Context, local netip.AddrPort) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: d.Control, KeepAlive: -1}
	ln, err := config.Listen(ctx, "tcp", local.String())
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// facing returns the local address from which we would speak to peer: the one
// that peer can reach.
func (d *Direct) facing(ctx context.Context, peer netip.AddrPort) (netip.Addr, error) {
	if local, err := d.local(ctx, peer.Addr()); err != nil || local.IsValid() {
		return local, err
	}
	if peer.Port() == 0 {
		peer = netip.AddrPortFrom(peer.Addr(), 9) // any port does; connecting a UDP socket sends nothing
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(peer))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return AddrOf(c.LocalAddr()).IP, nil
}

// lookup returns the addresses of dest that Check lets pass, which are at least one.
func (d *Direct) lookup(ctx context.Context, network string, dest Addr) ([]netip.Addr, error) {
	ips := []netip.Addr{dest.IP}
	if dest.Name != "" {
		var err error
		if ips, err = d.resolve(ctx, dest.Name); err != nil {
			return nil, err
		}
	}
	var refused error
	allowed := ips[:0]
	for _, ip := range ips {
		if err := d.check(ctx, network, netip.AddrPortFrom(ip, dest.Port)); err != nil {
			refused = err
			continue
		}
		allowed = append(allowed, ip)
	}
	if len(allowed) == 0 {
		return nil, refused
	}
	return allowed, nil
}

// resolve returns the addresses of a name, which are at least one.
func (d *Direct) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	ascii, err := asciiName(name)
	if err != nil {
		return nil, err
	}
	event.Detach(ctx)
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	ips, err := resolver.LookupNetIP(ctx, "ip", ascii)
	for i, ip := range ips {
		ips[i] = ip.Unmap()
	}
	return ips, err
}

// bindListener accepts from peers only, or from anybody that Check lets pass
// if there are none.
type bindListener struct {
	*net.TCPListener
	direct  *Direct
	ctx     context.Context
	network string
	peers   []netip.Addr
}

// Accept waits for the peer. A stranger is sent away and the wait goes on, so
// that a port scanner cannot end it.
func (l *bindListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		from := AddrOf(conn.RemoteAddr())
		known := l.peers == nil || slices.Contains(l.peers, from.IP.WithZone(""))
		if known && l.direct.check(l.ctx, l.network, from.AddrPort()) == nil {
			return conn, nil
		}
		_ = conn.SetLinger(0)
		conn.Close()
	}
}

// asciiName turns a name in UTF-8 into its A-labels (RFC 5891), as resolvers need it.
func asciiName(name string) (string, error) {
	if strings.IndexFunc(name, func(r rune) bool { return r >= 0x80 }) < 0 {
		return name, nil
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", &net.DNSError{Err: err.Error(), Name: name, IsNotFound: true}
	}
	// The mapping makes an address of full-width digits, which no rule has seen.
	if addr, err := ParseHost(ascii, 0); err != nil || addr.Name == "" {
		return "", notFound(name, "neither an address nor a host name")
	}
	return ascii, nil
}

// opError wraps err as the net package's functions do, once.
func opError(op, network string, err error) error {
	var already *net.OpError
	if errors.As(err, &already) {
		return err
	}
	return &net.OpError{Op: op, Net: network, Err: err}
}
