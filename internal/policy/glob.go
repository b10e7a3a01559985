package policy

import (
	"maps"
	"slices"
	"strings"
)

// globIndex finds the globs that match a name. Each is filed under letters in a
// row that it asks for: four of them, or as many as it has, and those that are
// the rarest among all globs. Only globs whose letters are in a name are tried.
type globIndex struct {
	globs   []glob
	filed   map[gram][]uint32
	seen    *[1 << 10]uint64  // bits: the grams in filed, hashed
	lengths [maxGram + 1]bool // of the grams in filed
	rest    []uint32          // not filed: wildcards and nothing else
}

type glob struct {
	text string
	list uint32
}

// gram is up to four letters, none of which is zero.
type gram uint32

const maxGram = 4

func (g gram) hash() uint32 { return uint32(g) * 2654435769 >> 16 }

// newGlobIndex files globs, given with their lists.
func newGlobIndex(lists map[string]uint32) globIndex {
	x := globIndex{filed: make(map[gram][]uint32), seen: new([1 << 10]uint64)}
	count := make(map[gram]int)
	for _, text := range slices.Sorted(maps.Keys(lists)) {
		x.globs = append(x.globs, glob{text, lists[text]})
		for length := range maxGram {
			for _, g := range globGrams(text, length+1) {
				count[g]++
			}
		}
	}
	for i, g := range x.globs {
		x.file(uint32(i), g.text, count)
	}
	return x
}

func (x *globIndex) file(i uint32, text string, count map[gram]int) {
	for length := maxGram; length > 0; length-- {
		all := globGrams(text, length)
		if len(all) == 0 {
			continue
		}
		rarest := slices.MinFunc(all, func(a, b gram) int { return count[a] - count[b] })
		x.filed[rarest] = append(x.filed[rarest], i)
		x.lengths[length] = true
		h := rarest.hash()
		x.seen[h/64] |= 1 << (h % 64)
		return
	}
	x.rest = append(x.rest, i)
}

// globGrams returns the letters in a row that a glob asks for.
func globGrams(text string, length int) (all []gram) {
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == '*' || r == '?' }) {
		eachGram([]byte(part), length, func(g gram) { all = append(all, g) })
	}
	return all
}

// eachGram calls use with every run of so many letters.
func eachGram(text []byte, length int, use func(gram)) {
	var g gram
	for i, c := range text {
		g = (g<<8 | gram(c)) & (1<<(8*length) - 1)
		if i+1 >= length {
			use(g)
		}
	}
}

// match calls add with the lists of the globs that match a name.
func (x *globIndex) match(name []byte, add func(list uint32)) {
	if len(x.globs) == 0 {
		return
	}
	x.try(x.rest, name, add)
	for length, used := range x.lengths {
		if !used {
			continue
		}
		eachGram(name, length, func(g gram) {
			if h := g.hash(); x.seen[h/64]&(1<<(h%64)) != 0 {
				x.try(x.filed[g], name, add)
			}
		})
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
