package transparent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// builder makes one table, and says what it makes in the words of nft(8).
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  []addressSet
	said  []*saidChain
}

// addressSet is a set with its elements.
type addressSet struct {
	*nftables.Set
	prefixes []netip.Prefix
}

// saidChain is a chain in words.
type saidChain struct {
	name, kind string
	rules      []string
}

// newBuilder begins a table, which is there when flush has been called.
func newBuilder(conn *nftables.Conn, name string) *builder {
	return &builder{conn: conn, table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
}

// base adds a chain that sees packets at a hook.
func (b *builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	b.said = append(b.said, &saidChain{name: name, kind: fmt.Sprintf("type %s hook %s priority %s; policy accept;",
		kind, hookWords(hook),
		priorityWords(hook, priority))})
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: kind, Hooknum: hook, Priority: &priority})
}

// hookWords is what nft calls a hook.
func hookWords(hook *nftables.ChainHook) string {
	switch hook {
	case nftables.ChainHookPrerouting:
		return "prerouting"
	case nftables.ChainHookPostrouting:
		return "postrouting"
	}
	return "output"
}

// priorityWords is how nft writes a priority.
func priorityWords(hook *nftables.ChainHook, p nftables.ChainPriority) string {
	switch {
	case p == *nftables.ChainPriorityMangle:
		return "mangle"
	case p == *nftables.ChainPriorityMangle-1:
		return "mangle - 1"
	case p == *nftables.ChainPriorityMangle-2:
		return "mangle - 2"
	case p == *nftables.ChainPriorityNATDest && hook == nftables.ChainHookPrerouting:
		return "dstnat"
	}
	return fmt.Sprint(int32(p))
}

// chain adds a chain that others jump to.
func (b *builder) chain(name string) *nftables.Chain {
	b.said = append(b.said, &saidChain{name: name})
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table})
}

// rule adds a rule of parts: matches, and what to do.
func (b *builder) rule(c *nftables.Chain, parts ...part) {
	var words []string
	var exprs []expr.Any
	for _, p := range parts {
		words = append(words, p.words)
		exprs = append(exprs, p.exprs...)
	}
	i := slices.IndexFunc(b.said, func(s *saidChain) bool { return s.name == c.Name })
	b.said[i].rules = append(b.said[i].rules, strings.Join(words, " "))
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: exprs})
}

// prefixSets are the sets of one list of prefixes, one of each family that it has.
type prefixSets []*nftables.Set

// prefixes makes sets of prefixes. Their elements come with flush.
func (b *builder) prefixes(name string, list []netip.Prefix) (sets prefixSets) {
	v4, v6 := tidy(list)
	for _, one := range []struct {
		suffix   string
		kind     nftables.SetDatatype
		prefixes []netip.Prefix
	}{{"4", nftables.TypeIPAddr, v4}, {"6", nftables.TypeIP6Addr, v6}} {
		if len(one.prefixes) == 0 {
			continue
		}
		set := &nftables.Set{Table: b.table, Name: name + one.suffix, ID: uint32(len(b.sets) + 1), KeyType: one.kind, Interval: true}
		b.sets = append(b.sets, addressSet{set, one.prefixes})
		sets = append(sets, set)
	}
	return sets
}

// in adds a rule for each family: what has an address in the sets meets to.
func (b *builder) in(c *nftables.Chain, s side, sets prefixSets, to ...part) {
	for _, set := range sets {
		b.rule(c, append([]part{addrIn(s, set)}, to...)...)
	}
}

// tidy sorts prefixes, and leaves out those within others: a set of intervals
// cannot overlap.
func tidy(list []netip.Prefix) (v4, v6 []netip.Prefix) {
	sorted := make([]netip.Prefix, 0, len(list))
	for _, p := range list {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, p := range sorted {
		to := &v4
		if p.Addr().Is6() {
			to = &v6
		}
		if n := len(*to); n > 0 && (*to)[n-1].Overlaps(p) {
			continue
		}
		*to = append(*to, p)
	}
	return v4, v6
}

// elements returns a prefix as the ends of an interval.
func elements(p netip.Prefix) []nftables.SetElement {
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	all := []nftables.SetElement{{Key: p.Addr().AsSlice()}}
	end, _ := netip.AddrFromSlice(last)
	if next := end.Next(); next.IsValid() { // the last interval of all has no end
		all = append(all, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
	}
	return all
}

// text is the table in the words of nft(8).
func (b *builder) text(flags string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "table inet %s {\n", b.table.Name)
	if flags != "" {
		fmt.Fprintf(&w, "\tflags %s\n\n", flags)
	}
	for _, s := range b.sets {
		var all []string
		for _, p := range s.prefixes {
			all = append(all, prefixWords(p))
		}
		fmt.Fprintf(&w, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n\t\telements = { %s }\n\t}\n\n",
			s.Name, s.KeyType.Name, strings.Join(all, ",\n\t\t\t     "))
	}
	for i, c := range b.said {
		if i > 0 {
			w.WriteByte('\n')
		}
		fmt.Fprintf(&w, "\tchain %s {\n", c.name)
		for _, line := range append([]string{c.kind}, c.rules...) {
			if line != "" {
				fmt.Fprintf(&w, "\t\t%s\n", line)
			}
		}
		w.WriteString("\t}\n")
	}
	w.WriteString("}\n")
	return w.String()
}

// rejectVerdicts rejects the SYNs that a verdict has marked.
func (b *builder) rejectVerdicts(c *nftables.Chain) {
	b.rule(c, mark(markRefused), l4proto(protoTCP, expr.CmpOpEq), rejectTCP())
	b.rule(c, mark(markHostUnreachable), reject(unix.NFT_REJECT_ICMPX_HOST_UNREACH))
	b.rule(c, mark(markNetUnreachable), reject(unix.NFT_REJECT_ICMPX_NO_ROUTE))
}

// tproxy leads what matches to the sockets of ports, if they are there.
func (b *builder) tproxy(c *nftables.Chain, tcp, udp uint16, match ...part) {
	for _, one := range []struct {
		proto byte
		port  uint16
	}{{protoTCP, tcp}, {protoUDP, udp}} {
		if one.port == 0 {
			continue
		}
		for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
			parts := append([]part{nfproto(family), l4proto(one.proto, expr.CmpOpEq)}, match...)
			b.rule(c, append(parts, tproxyTo(family, one.port), acceptPacket())...)
		}
	}
}

// refuse answers all that it sees as a closed port would, and what has no ports
// as a firewall.
func (b *builder) refuse(c *nftables.Chain) {
	b.rule(c, l4proto(protoTCP, expr.CmpOpEq), rejectTCP())
	b.rule(c, l4proto(protoUDP, expr.CmpOpEq), reject(unix.NFT_REJECT_ICMPX_PORT_UNREACH))
	b.rule(c, reject(unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED))
}
