package policy

import (
	"iter"
	"math/bits"
	"slices"
)

// bitset has one bit for each rule.
type bitset []uint64

func newBitset(rules int) bitset { return make(bitset, (rules+63)/64) }

func (b bitset) set(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }

// and leaves what is in o, too.
func (b bitset) and(o bitset) {
	o = o[:len(b)]
	for i := range b {
		b[i] &= o[i]
	}
}

// andNot leaves what is not in o.
func (b bitset) andNot(o bitset) {
	o = o[:len(b)]
	for i := range b {
		b[i] &^= o[i]
	}
}

// or adds what is in o.
func (b bitset) or(o bitset) {
	o = o[:len(b)]
	for i := range b {
		b[i] |= o[i]
	}
}

// first returns the first rule, -1 if there is none.
func (b bitset) first() int {
	for i, word := range b {
		if word != 0 {
			return i*64 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// all yields the rules in their order.
func (b bitset) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, word := range b {
			for ; word != 0; word &= word - 1 {
				if !yield(i*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// ruleSet is a set of rules that does not change: a sorted list, or bits where
// those are less work.
type ruleSet struct {
	few  []uint32
	many bitset
}

func newRuleSet(rules []uint32, total int) ruleSet {
	slices.Sort(rules)
	rules = slices.Compact(rules)
	if len(rules) <= max(total/128, 2) {
		return ruleSet{few: slices.Clone(rules)}
	}
	many := newBitset(total)
	for _, r := range rules {
		many.set(r)
	}
	return ruleSet{many: many}
}

func (s *ruleSet) addTo(b bitset) {
	for _, r := range s.few {
		b.set(r)
	}
	if s.many != nil {
		b.or(s.many)
	}
}

func (s *ruleSet) has(rule uint32) bool {
	if s.many != nil {
		return s.many.has(rule)
	}
	_, found := slices.BinarySearch(s.few, rule)
	return found
}
