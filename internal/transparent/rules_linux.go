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

	// NoDNS leaves what goes to port 53 of the namespace itself alone.
	NoDNS bool

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
	return installQueue(r.Queue, r.install, r.Remove)
}

// installQueue installs rules by the way to queue that the system has.
func installQueue(num uint16, install func(queue *part) error, remove func() error) error {
	// The two ways to queue do the same, and most kernels have both. A
	// failure costs the kernel 10 to 20 ms, an eternity for `argyle run`;
	// small kernels are more often without nft_queue.
	compat, native := queueCompat(num), queueNative(num)
	err := install(&compat)
	if errors.Is(err, ErrNoTPROXY) {
		err = install(&native)
	}
	if !errors.Is(err, ErrNoTPROXY) {
		return err
	}
	// Who is to blame, the queue or TPROXY?
	if install(nil) != nil {
		return err
	}
	if err := remove(); err != nil {
		return err
	}
	return fmt.Errorf("install rules: %w", ErrNoQueue)
}

// install puts the rules in force with a way to queue, nil for none.
func (r *Rules) install(queue *part) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	b := newBuilder(conn, r.Table)
	conn.AddTable(b.table)
	if queue != nil {
		r.hold(b, *queue)
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
func (r *Rules) hold(b *builder, queue part) {
	c := b.base("hold", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle-1)
	b.rule(c, isSYN(expr.CmpOpNeq), acceptPacket())
	b.rule(c, l4proto(protoTCP, expr.CmpOpNeq), acceptPacket())
	r.from(func(from ...part) {
		if !r.NoDNS {
			b.rule(c, append(from, dport(53), queue)...)
		}
		for _, p := range r.Except {
			b.rule(c, append(from, addr(daddr, p), acceptPacket())...)
		}
		b.rule(c, append(from, queue)...)
	})
}

// from adds the rules of add once for each prefix of From.
func (r *Rules) from(add func(from ...part)) {
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
	c := b.base("divert", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
	// A connection that is there has a socket, which the kernel finds by
	// itself, as every address is the namespace's.
	b.rule(c, isSYN(expr.CmpOpNeq), acceptPacket())
	b.rejectVerdicts(c)
	take := b.chain("take")
	for _, p := range r.Except {
		b.rule(c, addr(daddr, p), gotoChain(own.Name))
	}
	r.from(func(from ...part) { b.rule(c, append(from, gotoChain(take.Name))...) })
	r.take(b, take)
}

// take leads packets to our sockets. What is left when there is no socket, or
// when they are neither TCP nor UDP, must not reach the namespace itself: it
// would answer for the whole world.
func (r *Rules) take(b *builder, c *nftables.Chain) {
	if r.RejectUDP {
		b.rule(c, portOf(protoUDP, 53, expr.CmpOpNeq), reject(unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	}
	b.tproxy(c, r.TCP, r.UDP)
	b.refuse(c)
}

// own is for packets to the namespace itself: DNS is ours, answers from port 53
// are not; our sockets are for nobody who knows their port.
func (r *Rules) own(b *builder) *nftables.Chain {
	c := b.chain("own")
	b.rule(c, portOf(protoTCP, r.TCP, expr.CmpOpEq), isSYN(expr.CmpOpEq), rejectTCP())
	b.rule(c, portOf(protoUDP, r.UDP, expr.CmpOpEq), reject(unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	if !r.NoDNS {
		b.rule(c, sport(53), acceptPacket())
		b.tproxy(c, r.TCP, r.UDP, dport(53))
	}
	return c
}
