package policy

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// netIndex finds what is said of an address: by every network that it is in.
// Lists belong to a dimension around it.
type netIndex struct {
	table bart.Table[uint32] // to nodes
	nodes []netNode          // number 0 is none
}

// netNode is what is said of one network.
type netNode struct {
	list    uint32
	parent  uint32 // the nearest network around it
	private bool   // all of it
}

// match calls add with the lists for an address.
func (x *netIndex) match(ip netip.Addr, add func(list uint32)) {
	id, _ := x.table.Lookup(ip)
	for ; id != 0; id = x.nodes[id].parent {
		add(x.nodes[id].list)
	}
}

// anyPrivate reports whether has is true for the list of a wholly private
// network that ip is in.
func (x *netIndex) anyPrivate(ip netip.Addr, has func(list uint32) bool) bool {
	id, _ := x.table.Lookup(ip)
	for ; id != 0; id = x.nodes[id].parent {
		if n := &x.nodes[id]; n.private && has(n.list) {
			return true
		}
	}
	return false
}

// netBuilder builds a netIndex.
type netBuilder struct {
	*dimensionBuilder
	lists map[netip.Prefix]uint32
}

func newNetBuilder(d *dimensionBuilder) *netBuilder {
	return &netBuilder{d, make(map[netip.Prefix]uint32)}
}

// enter enters a network, which is masked.
func (b *netBuilder) enter(n netip.Prefix, o owner) { b.lists[n] = b.extend(b.lists[n], o) }

func (b *netBuilder) build() *netIndex {
	x := &netIndex{nodes: make([]netNode, 1, 1+len(b.lists))}
	// The wide ones first, so that each finds those around it in the table.
	order := slices.SortedFunc(maps.Keys(b.lists), func(m, n netip.Prefix) int { return m.Bits() - n.Bits() })
	for _, n := range order {
		parent, _ := x.table.LookupPrefix(n)
		x.table.Insert(n, uint32(len(x.nodes)))
		x.nodes = append(x.nodes, netNode{list: b.finish(b.lists[n]), parent: parent, private: whollyPrivate(n)})
	}
	return x
}
