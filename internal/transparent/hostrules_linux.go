package transparent

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// HostRules lead what programs of a host, or clients that it routes for, send to
// some destinations to the sockets of [ListenTCP] and [ListenUDP]: [Rules] are
// for a namespace where everything is ours, these are for one that has a life of
// its own. What they do not name goes on as ever.
//
// They need routes that bring the packets with Mark back to the host, "local
// default dev lo" in a table that a rule of policy routing has for that mark. Addresses
// of the host and of loopback are never taken, but for DNS and Pools; neither
// are link-local addresses of IPv6, nor packets that answer others'. Other
// protocols than TCP and UDP go on as ever, but to Pools, where they are refused.
type HostRules struct {
	// Table is the name of their table, of family inet.
	Table string

	// Pools are destinations that stand for names. What is not taken of what
	// goes there is refused: nobody else is behind them.
	Pools []netip.Prefix

	// To are destinations that are taken, Except those that are not.
	To, Except []netip.Prefix

	// DNS takes what goes to port 53 as well, wherever: to a resolver on
	// loopback, too.
	DNS bool

	// From and FromLinks are the clients that this host routes for: their
	// addresses, and the links that they come in by.
	From      []netip.Prefix
	FromLinks []string

	// Local takes what the programs of this host send; of some of them alone,
	// if there are UIDs, GIDs or Cgroups (paths from the root of the hierarchy).
	Local   bool
	UIDs    []uint32
	GIDs    []uint32
	Cgroups []string

	// Mark is that of packets on their way to us, Own that of the packets of
	// our own sockets, which pass. A connection that was there before the rules
	// and has come in from elsewhere is marked with Own as well.
	Mark, Own uint32

	// TCP and UDP are the ports of our sockets. Without one for UDP, datagrams
	// are answered as a closed port would.
	TCP, UDP uint16

	// RedirectTCP is the port of a common listener that gets the connections in
	// place of TCP, by REDIRECT: see [OriginalDst].
	RedirectTCP uint16

	// RejectUDP answers datagrams as a closed port would, but for DNS.
	RejectUDP bool

	// Hold sends SYNs through Queue (see [OpenQueue]) first. It cannot be had
	// with RedirectTCP.
	Hold  bool
	Queue uint16
}

// Plan returns what Install does, in the words of nft(8).
func (r *HostRules) Plan() (string, error) {
	b, err := r.builder(new(nftables.Conn))
	if err != nil {
		return "", err
	}
	queue := queueNative(r.Queue)
	if !r.Hold {
		r.build(b, nil)
	} else {
		r.build(b, &queue)
	}
	return b.text("owner"), nil
}

// Install puts the rules in force in this network namespace, until they are
// closed. Where the kernel can (Linux 5.12), they are gone with this process,
// however it ends, and nobody else can change them; else the table stays. The
// errors are those of [Rules.Install].
func (r *HostRules) Install() (io.Closer, error) {
	var in io.Closer
	install := func(queue *part) (err error) {
		in, err = r.install(queue)
		return err
	}
	if !r.Hold {
		err := install(nil)
		return in, err
	}
	err := installQueue(r.Queue, install, func() error { return in.Close() })
	return in, err
}

// install puts the rules in force with a way to queue, nil for none.
func (r *HostRules) install(queue *part) (io.Closer, error) {
	t, err := openTable(r.Table)
	if err != nil {
		return nil, fmt.Errorf("install rules: %w", err)
	}
	b, err := r.builder(t.conn)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := t.addSets(b.builder); err != nil {
		return nil, errors.Join(fmt.Errorf("install rules: %w", err), t.Close())
	}
	r.build(b, queue)
	if err := lacking(t.conn.Flush()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// hostBuilder is a builder of HostRules.
type hostBuilder struct {
	*builder
	pools, to, except, from prefixSets
	cgroups                 []cgroup
}

func (r *HostRules) builder(conn *nftables.Conn) (*hostBuilder, error) {
	b := &hostBuilder{builder: newBuilder(conn, r.Table)}
	for _, path := range r.Cgroups {
		g, err := findCgroup(path)
		if err != nil {
			return nil, err
		}
		b.cgroups = append(b.cgroups, g)
	}
	b.pools, b.to = b.prefixes("pools", r.Pools), b.prefixes("to", r.To)
	b.except, b.from = b.prefixes("except", r.Except), b.prefixes("from", r.From)
	return b, nil
}

// build adds the chains. What is decided about a packet is kept in its mark: at
// the output hook for local programs, whose packets come back by the loopback
// link then, and in prerouting for the clients of others.
func (r *HostRules) build(b *hostBuilder, queue *part) {
	r.wanted(b)
	r.route(b, queue)
	r.divert(b, queue != nil)
	if r.Local {
		r.output(b, queue)
	}
	if r.RedirectTCP != 0 {
		r.redirect(b)
	}
}

// wanted marks packets by where they go.
func (r *HostRules) wanted(b *hostBuilder) {
	mine := b.chain("mine")
	b.rule(mine, setMark(r.Mark))
	outside := b.chain("outside")
	c := b.chain("wanted")
	b.rule(c, l4proto(protoTCP, expr.CmpOpNeq), l4proto(protoUDP, expr.CmpOpNeq), returnPacket())
	if r.DNS {
		b.rule(c, dport(53), gotoChain(mine.Name))
	}
	b.in(c, daddr, b.pools, gotoChain(mine.Name))
	b.in(c, daddr, b.except, returnPacket())
	b.in(c, daddr, b.to, gotoChain(outside.Name))
	if len(b.to) > 0 {
		r.outside(b, outside, mine)
	}
}

// outside is for destinations of To. What answers a connection from there must
// go back as it came, that of whoever is logged in to this host for one. Where
// conntrack(8) has begun with us it does not know who has begun a connection,
// so what is there already is left alone.
func (r *HostRules) outside(b *hostBuilder, c, mine *nftables.Chain) {
	b.rule(c, addr(daddr, netip.MustParsePrefix("fe80::/10")), returnPacket())
	b.rule(c, isReply(), returnPacket())
	b.rule(c, connMark(r.Own), returnPacket())
	b.rule(c, isNew(), isSYN(expr.CmpOpNeq), setConnMark(r.Own), returnPacket())
	b.rule(c, toUnicast(), gotoChain(mine.Name))
	b.rule(c, toUnreachable(), gotoChain(mine.Name))
}

// route looks at what comes in, and has the SYNs of others wait.
func (r *HostRules) route(b *hostBuilder, queue *part) {
	c := b.base("route", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle-1)
	b.rule(c, mark(r.Own), acceptPacket())
	b.sentFrom(c, b.from, jumpTo("wanted"))
	for _, link := range r.FromLinks {
		b.rule(c, iifname(link, expr.CmpOpEq), jumpTo("wanted"))
	}
	if queue != nil {
		b.rule(c, iifname("lo", expr.CmpOpNeq), mark(r.Mark), isSYN(expr.CmpOpEq), *queue)
	}
}

// sentFrom adds a rule for what others have sent us from the addresses of sets.
func (b *hostBuilder) sentFrom(c *nftables.Chain, sets prefixSets, to part) {
	for _, set := range sets {
		b.rule(c, iifname("lo", expr.CmpOpNeq), addrIn(saddr, set), to)
	}
}

// divert leads the packets with our mark to our sockets, or rejects them.
func (r *HostRules) divert(b *hostBuilder, held bool) {
	refuse := b.chain("refuse")
	b.refuse(refuse)
	take := b.chain("take")
	if refused := r.refusedUDP(); len(refused) > 0 {
		b.rule(take, append(refused, gotoChain(refuse.Name))...)
	}
	if r.RedirectTCP != 0 {
		b.rule(take, l4proto(protoTCP, expr.CmpOpEq), acceptPacket())
	}
	b.tproxy(take, r.tproxyTCP(), r.UDP)
	b.rule(take, isSYN(expr.CmpOpNeq), acceptPacket())
	b.rule(take, gotoChain(refuse.Name))

	c := b.base("divert", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle)
	if held {
		b.rejectVerdicts(c)
	}
	b.rule(c, mark(r.Mark), gotoChain(take.Name))
	b.in(c, daddr, b.pools, gotoChain(refuse.Name))
	r.keepPorts(b, c)
}

// tproxyTCP is the port that connections are led to by TPROXY, 0 for none.
func (r *HostRules) tproxyTCP() uint16 {
	if r.RedirectTCP != 0 {
		return 0
	}
	return r.TCP
}

// keepPorts closes our sockets to whoever knows their ports.
func (r *HostRules) keepPorts(b *hostBuilder, c *nftables.Chain) {
	if port := r.tproxyTCP(); port != 0 {
		b.rule(c, portOf(protoTCP, port, expr.CmpOpEq), isSYN(expr.CmpOpEq), toLocal(), rejectTCP())
	}
	if port := r.RedirectTCP; port != 0 {
		b.rule(c, iifname("lo", expr.CmpOpNeq), portOf(protoTCP, port, expr.CmpOpEq), isSYN(expr.CmpOpEq), toLocal(), rejectTCP())
	}
	if r.UDP != 0 {
		b.rule(c, portOf(protoUDP, r.UDP, expr.CmpOpEq), toLocal(), reject(unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	}
}

// output looks at what the programs of this host send. A packet whose mark has
// changed there is routed once more. What is refused is refused here, as no ICMP
// error can be sent later, but for pools: send(2) fails with EPERM.
func (r *HostRules) output(b *hostBuilder, queue *part) {
	if queue != nil {
		r.holdOutput(b, *queue)
	}
	c := b.base("output", nftables.ChainTypeRoute, nftables.ChainHookOutput, *nftables.ChainPriorityMangle)
	b.rule(c, mark(r.Own), acceptPacket())
	if queue != nil {
		b.rejectVerdicts(c)
	}
	if refused := r.refusedUDP(); len(refused) > 0 && len(b.to) > 0 {
		r.programs(b, func(parts ...part) { b.rule(c, append(parts, jumpTo("wanted"))...) })
		b.rule(c, append([]part{mark(r.Mark)}, append(refused, toUnicast(), gotoChain("refuse"))...)...)
		return
	}
	r.programs(b, func(parts ...part) { b.rule(c, append(parts, gotoChain("wanted"))...) })
}

// refusedUDP matches the datagrams that are answered as by a closed port, among
// those that are taken; it is empty if there are none.
func (r *HostRules) refusedUDP() []part {
	switch {
	case r.RejectUDP && r.DNS && r.UDP != 0:
		return []part{portOf(protoUDP, 53, expr.CmpOpNeq)}
	case r.RejectUDP || r.UDP == 0:
		return []part{l4proto(protoUDP, expr.CmpOpEq)}
	}
	return nil
}

// holdOutput has the SYNs of programs wait before they are routed to us: those
// that seem to come from elsewhere could not be told that a host is unreachable.
// The mark that says so is taken off again, since it has to change in output.
func (r *HostRules) holdOutput(b *hostBuilder, queue part) {
	c := b.base("hold", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityMangle-2)
	b.rule(c, mark(r.Own), acceptPacket())
	b.rule(c, l4proto(protoTCP, expr.CmpOpNeq), acceptPacket())
	b.rule(c, isSYN(expr.CmpOpNeq), acceptPacket())
	r.programs(b, func(parts ...part) { b.rule(c, append(parts, jumpTo("wanted"))...) })
	b.rule(c, mark(r.Mark), queue)
	c = b.base("held", nftables.ChainTypeFilter, nftables.ChainHookOutput, *nftables.ChainPriorityMangle-1)
	b.rule(c, mark(r.Mark), setMark(0))
}

// programs adds a rule for each way to be one of the programs whose packets are
// taken.
func (r *HostRules) programs(b *hostBuilder, add func(parts ...part)) {
	for _, uid := range r.UIDs {
		add(ofUser(uid))
	}
	for _, gid := range r.GIDs {
		add(ofGroup(gid))
	}
	for _, g := range b.cgroups {
		add(ofCgroup(g))
	}
	if len(r.UIDs)+len(r.GIDs)+len(b.cgroups) == 0 {
		add()
	}
}

// redirect gives connections another destination, which OriginalDst finds out.
func (r *HostRules) redirect(b *hostBuilder) {
	parts := []part{mark(r.Mark), l4proto(protoTCP, expr.CmpOpEq), redirectTo(r.RedirectTCP)}
	b.rule(b.base("turn", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest), parts...)
	if r.Local {
		b.rule(b.base("turn-local", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest), parts...)
	}
}
