package transparent

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// LinkRules are for a host whose packets leave by one link because routes say so,
// and mend what those cannot tell apart. What answers a connection that has come in
// goes back as that came, and TCP connections that are there already stay where
// they are. Look-ups, on the other hand, leave by the link even from sockets that
// have chosen another, as those of systemd-resolved do; what cannot be led there is
// dropped.
//
// They need rules of policy routing for packets with Own, which go past the link,
// and with Mark, which go there.
type LinkRules struct {
	// Table is the name of their table, of family inet.
	Table string

	// Link is the one to leave by, and Addrs its addresses.
	Link  string
	Addrs []netip.Prefix

	// DNS leads what goes to port 53 to the link, but for what goes to Except.
	DNS    bool
	Except []netip.Prefix

	// Mark is that of look-ups that are routed once more, Own that of the
	// packets of our own sockets, and of whatever else goes past the link.
	Mark, Own uint32
}

// Plan returns what Install does, in the words of nft(8).
func (r *LinkRules) Plan() string {
	b := newBuilder(new(nftables.Conn), r.Table)
	r.build(b, r.sets(b))
	return b.text("owner")
}

// Install puts the rules in force, as [HostRules.Install] does.
func (r *LinkRules) Install() (io.Closer, error) {
	t, err := openTable(r.Table)
	if err != nil {
		return nil, fmt.Errorf("install rules: %w", err)
	}
	b := newBuilder(t.conn, r.Table)
	sets := r.sets(b)
	if err := t.addSets(b); err != nil {
		return nil, errors.Join(fmt.Errorf("install rules: %w", err), t.Close())
	}
	r.build(b, sets)
	if err := lacking(t.conn.Flush()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// linkSets are the sets of LinkRules.
type linkSets struct{ addrs, except prefixSets }

func (r *LinkRules) sets(b *builder) linkSets {
	return linkSets{b.prefixes("addrs", r.Addrs), b.prefixes("except", r.Except)}
}

// build adds the chains. A packet whose mark has changed at the output hook is
// routed once more.
func (r *LinkRules) build(b *builder, sets linkSets) {
	lookups, past := b.chain("lookups"), b.chain("past")
	b.rule(past, setMark(r.Own), acceptPacket())
	if r.DNS {
		r.lookups(b, lookups, sets.except)
	}
	c := b.base("output", nftables.ChainTypeRoute, nftables.ChainHookOutput, *nftables.ChainPriorityMangle)
	b.rule(c, mark(r.Own), acceptPacket())
	b.rule(c, oifname("lo", expr.CmpOpEq), acceptPacket())
	b.rule(c, isReply(), gotoChain(past.Name))
	b.rule(c, connMark(r.Own), gotoChain(past.Name))
	b.in(c, saddr, sets.addrs, gotoChain(lookups.Name))
	// Where conntrack(8) has begun with us, it does not know of these.
	b.rule(c, isNew(), isSYN(expr.CmpOpNeq), setConnMark(r.Own), gotoChain(past.Name))
	b.rule(c, gotoChain(lookups.Name))
}

// lookups marks look-ups. Where they leave by then is known later.
func (r *LinkRules) lookups(b *builder, c *nftables.Chain, except prefixSets) {
	b.rule(c, oifname(r.Link, expr.CmpOpEq), acceptPacket())
	b.in(c, daddr, except, acceptPacket())
	for _, protocol := range []byte{protoUDP, protoTCP} {
		b.rule(c, portOf(protocol, 53, expr.CmpOpEq), setMark(r.Mark))
	}
	leave := b.base("leave", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, *nftables.ChainPriorityMangle)
	b.rule(leave, mark(r.Mark), oifname(r.Link, expr.CmpOpNeq), dropPacket())
}
