package policy

import (
	"maps"
	"slices"
	"strings"
)

// globIndex finds the globs that match a name. Each is filed under three
// letters in a row that it asks for, the rarest among all globs; only those
// whose letters are in a name are tried, and those without three in a row.
type globIndex struct {
	globs []glob
	filed map[gram][]uint32
	seen  *[1 << 10]uint64 // bits: the grams in filed, hashed
	rest  []uint32         // not filed
}

type glob struct {
	text string
	list uint32
}

// gram is three letters.
type gram uint32

func gramOf(a, b, c byte) gram { return gram(a)<<16 | gram(b)<<8 | gram(c) }

func (g gram) hash() uint32 { return uint32(g) * 2654435769 >> 16 }

// newGlobIndex files globs, given with their lists.
func newGlobIndex(lists map[string]uint32) globIndex {
	x := globIndex{filed: make(map[gram][]uint32), seen: new([1 << 10]uint64)}
	count := make(map[gram]int)
	for _, text := range slices.Sorted(maps.Keys(lists)) {
		x.globs = append(x.globs, glob{text, lists[text]})
		for g := range grams(text) {
			count[g]++
		}
	}
	for i, g := range x.globs {
		rarest, least := gram(0), 0
		for g := range grams(g.text) {
			if n := count[g]; least == 0 || n < least {
				rarest, least = g, n
			}
		}
		if least == 0 {
			x.rest = append(x.rest, uint32(i))
			continue
		}
		x.filed[rarest] = append(x.filed[rarest], uint32(i))
		h := rarest.hash()
		x.seen[h/64] |= 1 << (h % 64)
	}
	return x
}

// grams calls yield with every three letters in a row of a glob.
func grams(text string) func(yield func(gram) bool) {
	return func(yield func(gram) bool) {
		for i := range len(text) - 2 {
			if !strings.ContainsAny(text[i:i+3], "*?") && !yield(gramOf(text[i], text[i+1], text[i+2])) {
				return
			}
		}
	}
}

// match calls add with the lists of the globs that match a name.
func (x *globIndex) match(name []byte, add func(list uint32)) {
	if len(x.globs) == 0 {
		return
	}
	x.try(x.rest, name, add)
	for i := range len(name) - 2 {
		g := gramOf(name[i], name[i+1], name[i+2])
		if h := g.hash(); x.seen[h/64]&(1<<(h%64)) != 0 {
			x.try(x.filed[g], name, add)
		}
	}
}

func (x *globIndex) try(globs []uint32, name []byte, add func(list uint32)) {
	for _, i := range globs {
		if g := &x.globs[i]; globMatches(g.text, name) {
			add(g.list)
		}
	}
}

// globMatches reports whether all of name is as text says. After a mismatch
// only the last star need take more: what is before it matches as early as it can.
func globMatches(text string, name []byte) bool {
	t, n := 0, 0
	star, retry := -1, 0
	for n < len(name) {
		switch {
		case t < len(text) && text[t] == '*':
			star, retry = t, n
			t++
		case t < len(text) && (text[t] == '?' || text[t] == name[n]):
			t++
			n++
		case star >= 0:
			retry++
			t, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(text[t:], "*") == ""
}
