package transparent

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ErrNoTPROXY says that the system's kernel cannot lead packets here.
var ErrNoTPROXY = errors.New("the kernel has no TPROXY for nf_tables (nf_tables, nft_tproxy, nf_tproxy_ipv4, nf_tproxy_ipv6)")

// Rules lead what the programs of a network namespace send to the sockets of
// [ListenTCP] and [ListenUDP] there. They need routes that bring every packet
// back to the namespace: "local default dev lo" of both families.
type Rules struct {
	// Table is the name of their table, of family inet.
	Table string

	// From are the addresses whose packets are taken; empty means all.
	From []netip.Prefix

	// Except are destinations that are not for us: those of the namespace
	// itself. What goes to port 53 is ours even there, so that programs
	// find us behind every resolver that a resolv.conf may name.
	Except []netip.Prefix

	// TCP and UDP are the ports of our sockets.
	TCP, UDP uint16

	// RejectUDP answers datagrams to other ports than 53 as a closed port
	// would, for a way out that carries none.
	RejectUDP bool

	// Hold sends SYNs through Queue (see [OpenQueue]) first.
	Hold  bool
	Queue uint16
}

// Install puts the rules in force, in this network namespace and all at once. An
// error is [ErrNoTPROXY] or [ErrNoQueue] if the system cannot do it, and then
// nothing has changed.
func (r *Rules) Install() error {
	if !r.Hold {
		return r.install(nil)
	}
	// The two ways to queue do the same, and most kernels have both. A
	// failure costs the kernel 10 to 20 ms, an eternity for `argyle run`;
	// small kernels are more often without nft_queue.
	err := r.install(queueCompat(r.Queue))
	if errors.Is(err, ErrNoTPROXY) {
		err = r.install(queueNative(r.Queue))
	}
	if !errors.Is(err, ErrNoTPROXY) {
		return err
	}
	// Who is to blame, the queue or TPROXY?
	if r.install(nil) != nil {
		return err
	}
	if err := r.Remove(); err != nil {
		return err
	}
	return fmt.Errorf("install rules: %w", ErrNoQueue)
}

// install puts the rules in force with a way to queue, nil for none.
func (r *Rules) install(queue []expr.Any) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	b := &builder{conn: conn, table: conn.AddTable(&nftables.Table{Name: r.Table, Family: nftables.TableFamilyINet})}
	if queue != nil {
		r.hold(b, queue)
	}
	r.divert(b, r.own(b))
	return lacking(conn.Flush())
}

// Remove takes the rules away again.
func (r *Rules) Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	conn.DelTable(&nftables.Table{Name: r.Table, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	return nil
}

// lacking says what the errors of a kernel mean that lacks an expression, or
// all of them.
func lacking(err error) error {
	for _, errno := range []syscall.Errno{
		syscall.ENOENT, syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT, syscall.EINVAL,
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("install rules: %w: %w", ErrNoTPROXY, err)
		}
	}
	if err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	return nil
}

// hold queues SYNs before the rules of divert see them. A queue that nobody
// reads is passed by.
func (r *Rules) hold(b *builder, queue []expr.Any) {
	c := b.prerouting("hold", *nftables.ChainPriorityMangle-1)
	b.rule(c, l4proto(protoTCP, expr.CmpOpEq), tcpFlags(flagsMask, flagsSYN, expr.CmpOpNeq), acceptPacket())
	b.rule(c, l4proto(protoTCP, expr.CmpOpNeq), acceptPacket())
	r.from(func(from ...[]expr.Any) {
		b.rule(c, append(from, dport(53), queue)...)
		for _, p := range r.Except {
			b.rule(c, append(from, addr(daddr, p), acceptPacket())...)
		}
		b.rule(c, append(from, queue)...)
	})
}

// from adds the rules of add once for each prefix of From.
func (r *Rules) from(add func(from ...[]expr.Any)) {
	if len(r.From) == 0 {
		add()
		return
	}
	for _, p := range r.From {
		add(addr(saddr, p))
	}
}

// divert rejects the SYNs that a verdict has marked, and leads the rest here.
func (r *Rules) divert(b *builder, own *nftables.Chain) {
	c := b.prerouting("divert", *nftables.ChainPriorityMangle)
	// A connection that is there has a socket, which the kernel finds by
	// itself, as every address is the namespace's.
	b.rule(c, l4proto(protoTCP, expr.CmpOpEq), tcpFlags(flagsMask, flagsSYN, expr.CmpOpNeq), acceptPacket())
	b.rule(c, mark(markRefused), l4proto(protoTCP, expr.CmpOpEq), rejectWith(unix.NFT_REJECT_TCP_RST, 0))
	b.rule(c, mark(markHostUnreachable), rejectWith(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_HOST_UNREACH))
	b.rule(c, mark(markNetUnreachable), rejectWith(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_NO_ROUTE))
	take := b.chain("take")
	for _, p := range r.Except {
		b.rule(c, addr(daddr, p), jump(expr.VerdictGoto, own.Name))
	}
	r.from(func(from ...[]expr.Any) { b.rule(c, append(from, jump(expr.VerdictGoto, take.Name))...) })
	r.take(b, take)
}

// take leads packets to our sockets. What is left when there is no socket, or
// when they are neither TCP nor UDP, must not reach the namespace itself: it
// would answer for the whole world.
func (r *Rules) take(b *builder, c *nftables.Chain) {
	if r.RejectUDP {
		b.rule(c, l4proto(protoUDP, expr.CmpOpEq), not(dport(53)),
			rejectWith(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	}
	r.tproxy(b, c)
	b.rule(c, l4proto(protoTCP, expr.CmpOpEq), rejectWith(unix.NFT_REJECT_TCP_RST, 0))
	b.rule(c, l4proto(protoUDP, expr.CmpOpEq), rejectWith(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	b.rule(c, rejectWith(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED))
}

// own is for packets to the namespace itself: DNS is ours, answers from port 53
// are not; our sockets are for nobody who knows their port.
func (r *Rules) own(b *builder) *nftables.Chain {
	c := b.chain("own")
	b.rule(c, l4proto(protoTCP, expr.CmpOpEq), dport(r.TCP), tcpFlags(flagsMask, flagsSYN, expr.CmpOpEq),
		rejectWith(unix.NFT_REJECT_TCP_RST, 0))
	b.rule(c, l4proto(protoUDP, expr.CmpOpEq), dport(r.UDP),
		rejectWith(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	b.rule(c, sport(53), acceptPacket())
	r.tproxy(b, c, dport(53))
	return c
}

// tproxy leads what matches to our sockets, if they are there.
func (r *Rules) tproxy(b *builder, c *nftables.Chain, match ...[]expr.Any) {
	for _, proto := range []byte{protoTCP, protoUDP} {
		port := r.TCP
		if proto == protoUDP {
			port = r.UDP
		}
		for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
			b.rule(c, append([][]expr.Any{nfproto(family), l4proto(proto, expr.CmpOpEq)},
				append(match, tproxyTo(family, port), acceptPacket())...)...)
		}
	}
}
