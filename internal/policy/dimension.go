package policy

// A dimension is one condition of all rules: which of them do not set it, and
// which hold for a value of it. Values are mapped to lists of owners by what is
// around it: a map, a table of prefixes. An owner is a rule, or a set or group
// that rules name, whose rules are stored once.
type dimension struct {
	unset  bitset // rules without the condition
	cares  bool   // there are rules with it
	lists  []ownerList
	groups []ruleSet // by the number of the set or group
}

// ownerList is a list of owners. Number 0 is empty.
type ownerList struct {
	rules  ruleSet
	groups []uint32
}

// add adds the rules of a list to b.
func (d *dimension) add(b bitset, list uint32) {
	if list == 0 {
		return
	}
	l := &d.lists[list]
	l.rules.addTo(b)
	for _, g := range l.groups {
		d.groups[g].addTo(b)
	}
}

// has reports whether a rule is in a list.
func (d *dimension) has(list, rule uint32) bool {
	l := &d.lists[list]
	if l.rules.has(rule) {
		return true
	}
	for _, g := range l.groups {
		if d.groups[g].has(rule) {
			return true
		}
	}
	return false
}

// owner is the number of a rule, or the complement of that of a group.
type owner int32

func ownerRule(n int) owner  { return owner(n) }
func ownerGroup(n int) owner { return ^owner(n) }

// dimensionBuilder collects the lists of a dimension. A list is known by its
// last owner and the list before it, so that equal lists, of which there are
// many, are one.
type dimensionBuilder struct {
	rules  int
	unset  bitset
	cares  bool
	links  []link
	ids    map[link]uint32
	groups [][]uint32
	final  map[uint32]uint32 // lists in the order in which they are asked for
	lists  []ownerList
}

type link struct {
	before uint32
	owner  owner
}

func newDimensionBuilder(rules int) *dimensionBuilder {
	b := &dimensionBuilder{
		rules: rules,
		unset: newBitset(rules),
		links: make([]link, 1),
		ids:   make(map[link]uint32),
		final: make(map[uint32]uint32),
		lists: make([]ownerList, 1),
	}
	for r := range rules {
		b.unset.set(uint32(r))
	}
	return b
}

// care says that a rule has the condition.
func (b *dimensionBuilder) care(rule int) {
	b.cares = true
	b.unset[rule/64] &^= 1 << (rule % 64)
}

// join says that a rule names a group.
func (b *dimensionBuilder) join(rule, group int) {
	for len(b.groups) <= group {
		b.groups = append(b.groups, nil)
	}
	b.groups[group] = append(b.groups[group], uint32(rule))
}

// extend returns the list with one more owner. All values of an owner come
// after each other, so that a repeated one is the last.
func (b *dimensionBuilder) extend(list uint32, o owner) uint32 {
	if list != 0 && b.links[list].owner == o {
		return list
	}
	l := link{list, o}
	id, ok := b.ids[l]
	if !ok {
		id = uint32(len(b.links))
		b.links = append(b.links, l)
		b.ids[l] = id
	}
	return id
}

// finish returns the number that a list has in the dimension.
func (b *dimensionBuilder) finish(list uint32) uint32 {
	if list == 0 {
		return 0
	}
	if id, ok := b.final[list]; ok {
		return id
	}
	var l ownerList
	var rules []uint32
	for at := list; at != 0; at = b.links[at].before {
		if o := b.links[at].owner; o >= 0 {
			rules = append(rules, uint32(o))
		} else {
			l.groups = append(l.groups, uint32(^o))
		}
	}
	l.rules = newRuleSet(rules, b.rules)
	id := uint32(len(b.lists))
	b.lists = append(b.lists, l)
	b.final[list] = id
	return id
}

// dimension is what was built, after every list is finished.
func (b *dimensionBuilder) dimension() dimension {
	d := dimension{unset: b.unset, cares: b.cares, lists: b.lists}
	for _, rules := range b.groups {
		d.groups = append(d.groups, newRuleSet(rules, b.rules))
	}
	return d
}

// A keyed dimension has strings as values: users, listeners.
type keyed struct {
	dimension
	values map[string]uint32 // to lists
}

// match adds the rules that hold for a value.
func (k *keyed) match(b bitset, value string) { k.add(b, k.values[value]) }

// keyedBuilder builds a keyed.
type keyedBuilder struct {
	*dimensionBuilder
	values map[string]uint32
}

func newKeyedBuilder(rules int) *keyedBuilder {
	return &keyedBuilder{newDimensionBuilder(rules), make(map[string]uint32)}
}

func (b *keyedBuilder) enter(value string, o owner) {
	b.values[value] = b.extend(b.values[value], o)
}

func (b *keyedBuilder) build() keyed {
	for value, list := range b.values {
		b.values[value] = b.finish(list)
	}
	return keyed{b.dimension(), b.values}
}

// A ranged dimension has numbers below 1<<width as values, and ranges of them
// as conditions: ports, minutes. A range is cut into aligned blocks of powers
// of two, as a network is into prefixes: at most two of each size.
type ranged struct {
	dimension
	blocks
	values map[uint32]uint32 // blocks to lists
}

// blocks are those that are in use.
type blocks struct {
	width  uint
	levels uint32 // bit n: there are blocks of 1<<n values
}

// name is a number for the block of 1<<level values that value is in.
func (s *blocks) name(value, level uint) uint32 {
	return uint32((value | 1<<s.width) >> level)
}

// match adds the rules that hold for a value.
func (r *ranged) match(b bitset, value uint) {
	for level := range r.width + 1 {
		if r.levels&(1<<level) != 0 {
			r.add(b, r.values[r.name(value, level)])
		}
	}
}

// rangedBuilder builds a ranged.
type rangedBuilder struct {
	*dimensionBuilder
	blocks
	values map[uint32]uint32
}

func newRangedBuilder(rules int, width uint) *rangedBuilder {
	return &rangedBuilder{newDimensionBuilder(rules), blocks{width: width}, make(map[uint32]uint32)}
}

// enter enters a range, both ends included.
func (b *rangedBuilder) enter(first, last uint, o owner) {
	for first <= last {
		level := uint(0)
		for level < b.width && first&(1<<level) == 0 && first+1<<(level+1)-1 <= last {
			level++
		}
		at := b.name(first, level)
		b.values[at] = b.extend(b.values[at], o)
		b.levels |= 1 << level
		first += 1 << level
	}
}

func (b *rangedBuilder) build() ranged {
	for at, list := range b.values {
		b.values[at] = b.finish(list)
	}
	return ranged{b.dimension(), b.blocks, b.values}
}
