package policy

import (
	"bytes"
	"strings"
)

// nameIndex finds what is said of a name: of itself, and of every domain that
// it is in. Lists belong to a dimension around it.
type nameIndex struct {
	ids    map[string]uint32
	nodes  []nameNode // number 0 is none
	labels int        // the most that a name in ids has
	globs  globIndex
}

// nameNode is what is said of one name.
type nameNode struct {
	exact  uint32 // of the name
	below  uint32 // of all below it
	parent uint32 // the nearest domain around it of which something is said
}

// match calls add with the lists for a name.
func (x *nameIndex) match(name []byte, add func(list uint32)) {
	if id, whole := x.longest(name); id != 0 {
		if whole {
			add(x.nodes[id].exact)
			id = x.nodes[id].parent
		}
		for ; id != 0; id = x.nodes[id].parent {
			add(x.nodes[id].below)
		}
	}
	x.globs.match(name, add)
}

// longest returns the node for the longest end of name that has one, and
// whether that is all of it.
func (x *nameIndex) longest(name []byte) (id uint32, whole bool) {
	if x.labels == 0 {
		return 0, false
	}
	dot := len(name)
	for n := 0; n < x.labels && dot >= 0; n++ {
		dot = bytes.LastIndexByte(name[:dot], '.')
	}
	for start := dot + 1; ; {
		if id, ok := x.ids[string(name[start:])]; ok {
			return id, start == 0
		}
		next := bytes.IndexByte(name[start:], '.')
		if next < 0 {
			return 0, false
		}
		start += next + 1
	}
}

// nameBuilder builds a nameIndex.
type nameBuilder struct {
	*dimensionBuilder
	names nameIndex
	globs map[string]uint32
}

func newNameBuilder(d *dimensionBuilder) *nameBuilder {
	return &nameBuilder{
		dimensionBuilder: d,
		names:            nameIndex{ids: make(map[string]uint32), nodes: make([]nameNode, 1)},
		globs:            make(map[string]uint32),
	}
}

// enter enters a pattern for names.
func (b *nameBuilder) enter(p pattern, o owner) {
	if p.kind == globName {
		b.globs[p.text] = b.extend(b.globs[p.text], o)
		return
	}
	id, ok := b.names.ids[p.text]
	if !ok {
		id = uint32(len(b.names.nodes))
		b.names.nodes = append(b.names.nodes, nameNode{})
		b.names.ids[p.text] = id
		b.names.labels = max(b.names.labels, strings.Count(p.text, ".")+1)
	}
	node := &b.names.nodes[id]
	if p.kind != belowName {
		node.exact = b.extend(node.exact, o)
	}
	if p.kind != exactName {
		node.below = b.extend(node.below, o)
	}
}

func (b *nameBuilder) build() nameIndex {
	x := b.names
	for name, id := range x.ids {
		node := &x.nodes[id]
		node.exact, node.below = b.finish(node.exact), b.finish(node.below)
		for rest, more := name, true; more && node.parent == 0; {
			if _, rest, more = strings.Cut(rest, "."); more {
				node.parent = x.ids[rest]
			}
		}
	}
	for text, list := range b.globs {
		b.globs[text] = b.finish(list)
	}
	x.globs = newGlobIndex(b.globs)
	return x
}
