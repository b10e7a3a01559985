//go:build linux

package seccomp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxAssociations bounds the sockets of the program whose datagrams we carry, and
// maxRelays where each of them sends to. Those that have been there for longest
// make room. When the program closes a socket, nobody tells us: whenever there
// are sweepAt of them, or twice as many as the last time, we look which are left.
const (
	maxAssociations = 4096
	maxRelays       = 64
	maxResolvers    = 64 // that have a socket of ours each
	sweepAt         = 128
)

// associations lead datagrams of the program to us. The kernel keeps them on the
// loopback device (see supervisor.serveSocket): there is a socket of ours for
// each destination of each of the program's, which stands for it.
type associations struct {
	ctx    context.Context
	packet func(context.Context, netip.AddrPort, *net.UDPConn)
	dns    func(ctx context.Context, conn *net.UDPConn, server netip.AddrPort, mine func(client netip.AddrPort) bool)
	wg     sync.WaitGroup

	mu      sync.Mutex
	sockets map[uint64]*association           // by the inode of the program's socket
	oldest  []uint64                          // the keys of sockets
	sweep   int                               // of sockets, when to look
	shared  map[netip.AddrPort]netip.AddrPort // our sockets by the resolver that they stand for
}

// association is one socket of the program.
type association struct {
	local  netip.AddrPort // where it is bound, as our sockets see it
	relays map[netip.AddrPort]*relay
	dests  map[netip.AddrPort]netip.AddrPort // by the addresses of our sockets
	oldest []netip.AddrPort                  // the keys of relays
}

// relay is a socket of ours that stands for a destination.
type relay struct {
	conn *net.UDPConn // nil for that of dns, which everybody shares
	addr netip.AddrPort
}

func (r *relay) close() {
	if r.conn != nil {
		r.conn.Close()
	}
}

func newAssociations(ctx context.Context, config *Config) *associations {
	return &associations{
		ctx: ctx, packet: config.Packet, dns: config.DNS,
		sockets: make(map[uint64]*association), shared: make(map[netip.AddrPort]netip.AddrPort), sweep: sweepAt,
	}
}

// wait closes all sockets and waits for what serves them.
func (s *associations) wait() {
	s.mu.Lock()
	for _, a := range s.sockets {
		a.close()
	}
	clear(s.sockets)
	s.mu.Unlock()
	s.wg.Wait()
}

func (a *association) close() {
	for _, r := range a.relays {
		r.close()
	}
}

// forget drops what is known of a socket.
func (s *associations) forget(k *socket) {
	if inode, err := k.inode(); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.remove(inode)
	}
}

// remove ends an association. s.mu is held.
func (s *associations) remove(inode uint64) {
	if a := s.sockets[inode]; a != nil {
		a.close()
		delete(s.sockets, inode)
	}
	s.oldest = slices.DeleteFunc(s.oldest, func(other uint64) bool { return other == inode })
}

// mine reports whether a socket of the program is bound to client: anybody on
// this host can send to ours.
func (s *associations) mine(client netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.sockets {
		if a.local.Port() == client.Port() {
			return true
		}
	}
	return false
}

// of returns the association of a socket, nil if it has none. s.mu is held.
func (s *associations) of(k *socket) *association {
	inode, err := k.inode()
	if err != nil {
		return nil
	}
	return s.sockets[inode]
}

// broadcast is all hosts on all links.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// reach returns the address on loopback that stands for dest for a socket of the
// program, which it binds if it is not bound yet.
func (s *associations) reach(k *socket, dest netip.AddrPort) (netip.AddrPort, error) {
	if ip := dest.Addr(); ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip == broadcast {
		return netip.AddrPort{}, unix.ENETUNREACH // no proxy is there
	}
	lo := loopback(dest.Addr())
	bound, err := bind(k)
	if err != nil {
		return netip.AddrPort{}, err
	}
	local := seenFrom(lo, bound)
	inode, err := k.inode()
	if err != nil {
		return netip.AddrPort{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ctx.Err(); err != nil {
		return netip.AddrPort{}, unix.ENETDOWN
	}
	a := s.sockets[inode]
	if a != nil && a.local.Port() != local.Port() { // another socket has the number now
		s.remove(inode)
		a = nil
	}
	if a == nil {
		a = s.add(inode, local)
	}
	r := a.relays[dest]
	if r == nil {
		if r, err = s.open(a, dest, local); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return r.addr, nil
}

// add makes an association. s.mu is held.
func (s *associations) add(inode uint64, local netip.AddrPort) *association {
	if len(s.oldest) >= s.sweep {
		s.removeClosed()
		s.sweep = max(sweepAt, 2*len(s.oldest))
	}
	for len(s.oldest) >= maxAssociations {
		s.remove(s.oldest[0])
	}
	a := &association{
		local: local, relays: make(map[netip.AddrPort]*relay), dests: make(map[netip.AddrPort]netip.AddrPort),
	}
	s.sockets[inode] = a
	s.oldest = append(s.oldest, inode)
	return a
}

// removeClosed ends the associations of sockets that are not there any more. s.mu
// is held.
func (s *associations) removeClosed() {
	there, err := udpInodes()
	if err != nil {
		return // it is no harm but memory
	}
	for inode := range s.sockets {
		if !there[inode] {
			s.remove(inode)
		}
	}
}

// udpInodes returns the sockets for datagrams of this network namespace.
func udpInodes() (map[uint64]bool, error) {
	there := make(map[uint64]bool)
	for _, name := range []string{"udp", "udp6"} {
		text, err := os.ReadFile("/proc/self/net/" + name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			const column = 9
			if fields := strings.Fields(line); len(fields) > column {
				if inode, err := strconv.ParseUint(fields[column], 10, 64); err == nil {
					there[inode] = true
				}
			}
		}
	}
	return there, nil
}

// open makes the socket that stands for dest. s.mu is held.
func (s *associations) open(a *association, dest, local netip.AddrPort) (*relay, error) {
	r := new(relay)
	var err error
	if dest.Port() == 53 && s.dns != nil {
		r.addr, err = s.resolver(dest)
	} else {
		r.conn, r.addr, err = relaySocket(local)
	}
	if err != nil {
		return nil, err
	}
	if conn := r.conn; conn != nil {
		s.wg.Go(func() {
			defer conn.Close()
			s.packet(s.ctx, dest, conn)
		})
	}
	if len(a.oldest) >= maxRelays {
		first := a.oldest[0]
		a.oldest = a.oldest[1:]
		if at := a.relays[first].addr; a.dests[at] == first {
			delete(a.dests, at)
		}
		a.relays[first].close()
		delete(a.relays, first)
	}
	a.relays[dest], a.dests[r.addr] = r, dest
	a.oldest = append(a.oldest, dest)
	return r, nil
}

// resolver returns the address of the socket where queries to a resolver are
// answered, or to any if there are too many of those. s.mu is held.
func (s *associations) resolver(dest netip.AddrPort) (netip.AddrPort, error) {
	lo := loopback(dest.Addr())
	if len(s.shared) >= maxResolvers {
		dest = netip.AddrPortFrom(lo, 0)
	}
	if addr, ok := s.shared[dest]; ok {
		return addr, nil
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(lo, 0)))
	if err != nil {
		return netip.AddrPort{}, err
	}
	s.wg.Go(func() {
		defer conn.Close()
		s.dns(s.ctx, conn, dest, s.mine)
	})
	addr := localAddrPort(conn)
	s.shared[dest] = addr
	return addr, nil
}

func localAddrPort(conn *net.UDPConn) netip.AddrPort {
	addr, _ := conn.LocalAddr().(*net.UDPAddr)
	return unmap(addr.AddrPort())
}

// relaySocket returns a socket on loopback that hears nobody but peer.
func relaySocket(peer netip.AddrPort) (*net.UDPConn, netip.AddrPort, error) {
	lo := loopback(peer.Addr())
	fd, err := unix.Socket(domainOf(peer), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	file := os.NewFile(uintptr(fd), "relay")
	defer file.Close()
	if err := unix.Bind(fd, sockaddr(domainOf(peer), netip.AddrPortFrom(lo, 0))); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if err := unix.Connect(fd, sockaddr(domainOf(peer), peer)); err != nil {
		return nil, netip.AddrPort{}, err
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return nil, netip.AddrPort{}, errors.New("not a UDP socket")
	}
	return udp, localAddrPort(udp), nil
}

// bind gives a socket for datagrams a port, if it has none, and returns where it
// is bound.
func bind(k *socket) (netip.AddrPort, error) {
	local, err := k.localAddr()
	if err != nil || local.Port() != 0 {
		return local, err
	}
	zero := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if k.domain == unix.AF_INET6 {
		zero = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	if err := unix.Bind(k.fd, sockaddr(k.domain, zero)); err != nil {
		return local, err
	}
	return k.localAddr()
}

// connectPacket answers the connect of a socket for datagrams.
func (s *supervisor) connectPacket(_ *call, k *socket, dest netip.AddrPort) error {
	if s.local(dest) {
		return k.connect(dest)
	}
	addr, err := s.udp.reach(k, dest)
	if err != nil {
		return err
	}
	return k.connect(addr)
}

// packetSocket returns our duplicate of the caller's socket if it is one for
// datagrams of IP and of our network namespace, nil otherwise.
func (s *supervisor) packetSocket(c *call) (*socket, error) {
	fd, err := c.descriptor(int(int32(c.args[0])))
	if err != nil {
		return nil, err
	}
	k := &socket{fd: fd}
	if k.look() == nil && k.inet() && k.kind == unix.SOCK_DGRAM && s.ours(k) {
		return k, nil
	}
	k.close()
	return nil, nil
}

// serveSendto sends a datagram to what stands for its destination.
func (s *supervisor) serveSendto(c *call) error {
	b, err := c.address(c.args[4], c.args[5])
	if err != nil {
		return err
	}
	if path := unixPath(b); path != "" {
		return s.connectOther(c, b)
	}
	k, err := s.packetSocket(c)
	if err != nil {
		return err
	}
	if k == nil { // TCP does not look at the address
		c.proceed()
		return nil
	}
	defer k.close()
	if c.args[2] > maxPayload {
		return unix.EMSGSIZE
	}
	payload := make([]byte, c.args[2])
	if err := c.read(payload, c.args[1]); err != nil {
		return err
	}
	n, err := s.transmit(c, k, b, payload, nil)
	if err == nil {
		c.result(int64(n), 0)
	}
	return err
}

// maxPayload is more than a datagram can hold.
const maxPayload = 1 << 16

// transmit sends a datagram to what stands for the destination in name, a struct
// sockaddr; without one to where the socket is connected. control is the
// ancillary data.
func (s *supervisor) transmit(c *call, k *socket, name, payload, control []byte) (n int, err error) {
	var to unix.Sockaddr
	if name != nil {
		dest, ok := parseInet(name)
		switch {
		case !ok:
			return 0, unix.EINVAL
		case dest.Addr().Is6() && k.domain == unix.AF_INET:
			return 0, unix.EAFNOSUPPORT
		}
		if dest = unmap(dest); !s.local(dest) {
			if dest, err = s.udp.reach(k, dest); err != nil {
				return 0, err
			}
		}
		to = sockaddr(k.domain, dest)
	}
	if !c.valid() {
		return 0, unix.ESRCH
	}
	return unix.SendmsgN(k.fd, payload, control, to, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// serveRecvfrom receives a datagram for the program if it may come from a socket
// of ours, and says where it is really from.
func (s *supervisor) serveRecvfrom(c *call) error {
	flags := int(int32(c.args[3]))
	k, err := s.packetSocket(c)
	if err != nil {
		return err
	}
	if k == nil {
		c.proceed()
		return nil
	}
	defer k.close()
	if s.leave(k, flags) {
		c.proceed()
		return nil
	}
	r := &received{data: make([]byte, min(c.args[2], maxPayload))}
	if err := c.receive(k, r, flags, time.Time{}); err != nil {
		return err
	}
	if err := c.write(c.args[1], r.data[:min(r.n, len(r.data))]); err != nil {
		return err
	}
	if err := c.writeAddress(s.udp.name(k, r)); err != nil {
		return err
	}
	c.result(int64(r.n), 0)
	return nil
}

// leave reports whether a datagram is for the kernel to receive: one that is
// there, though we know of nothing that the socket has sent by us. While none is
// there, that may change.
func (s *supervisor) leave(k *socket, flags int) bool {
	if flags&unix.MSG_ERRQUEUE != 0 {
		return true
	}
	if s.udp.knows(k) {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, 0)
	return n != 0 || err != nil
}

// knows reports whether a socket has an association.
func (s *associations) knows(k *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(k) != nil
}

// name returns the struct sockaddr of whom a datagram is from.
func (s *associations) name(k *socket, r *received) []byte {
	return appendInet(nil, k.domain, s.source(k, addrPort(r.from)))
}

// source returns whom a datagram is from that came from the address from.
func (s *associations) source(k *socket, from netip.AddrPort) netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.of(k); a != nil {
		if dest, ok := a.dests[from]; ok {
			return dest
		}
	}
	return from
}

// received is a datagram that was received, and the room for it.
type received struct {
	data, control []byte
	n, controlLen int // of those, what was used; n may be more than there is room for
	flags         int
	from          unix.Sockaddr
}

// receive waits for a datagram as the caller's own call would, but not beyond
// deadline if there is one.
func (c *call) receive(k *socket, r *received, flags int, deadline time.Time) (err error) {
	wait := flags&unix.MSG_DONTWAIT == 0 && !k.nonblocking()
	if tv, err := unix.GetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO); err == nil && tv.Nano() > 0 {
		if until := time.Now().Add(time.Duration(tv.Nano())); deadline.IsZero() || until.Before(deadline) {
			deadline = until
		}
	}
	flags = flags&^(unix.MSG_WAITALL|unix.MSG_WAITFORONE) | unix.MSG_DONTWAIT
	for {
		r.n, r.controlLen, r.flags, r.from, err = unix.Recvmsg(k.fd, r.data, r.control, flags)
		switch {
		case err == unix.EINTR:
			continue
		case err != unix.EAGAIN:
			return err
		case !wait || !deadline.IsZero() && time.Now().After(deadline):
			return unix.EAGAIN
		case !c.valid():
			return unix.ESRCH
		case c.signalled():
			return errRestart
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	}
}

// writeAddress gives the caller the address that it has left room for.
func (c *call) writeAddress(addr []byte) error {
	var room [4]byte
	if err := c.read(room[:], c.args[5]); err != nil {
		return err
	}
	length := int32(binary.NativeEndian.Uint32(room[:]))
	if length < 0 {
		return unix.EINVAL
	}
	if err := c.write(c.args[4], addr[:min(len(addr), int(length))]); err != nil {
		return err
	}
	binary.NativeEndian.PutUint32(room[:], uint32(len(addr)))
	return c.write(c.args[5], room[:])
}
