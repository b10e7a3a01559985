package krb5

import (
	"encoding/binary"
	"fmt"
)

// ndr reads what Microsoft's remote procedure calls have encoded (C706, chapter
// 14): little-endian numbers, at multiples of their length. No count is believed
// that is more than what is left.
type ndr struct {
	cursor
	size int
}

// newNDR begins to read one structure (MS-RPCE, section 2.2.6): two headers, and
// the pointer to it, come before it.
func newNDR(b []byte) *ndr {
	n := &ndr{cursor{b: b}, len(b)}
	head := n.take(16)
	if n.failed || string(head[:4]) != "\x01\x10\x08\x00" || !n.pointer() {
		n.fail()
	}
	return n
}

func (n *ndr) fail() { n.b, n.failed = nil, true }

func (n *ndr) uint32() uint32 {
	n.take((len(n.b) - n.size) & 3)
	if b := n.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// pointer reports whether a pointer points to something.
func (n *ndr) pointer() bool { return n.uint32() != 0 }

// stringPointer reads the fixed part of a string.
func (n *ndr) stringPointer() bool {
	n.uint32() // its lengths
	return n.pointer()
}

// skipStrings skips the strings that are there.
func (n *ndr) skipStrings(there []bool) {
	for _, there := range there {
		if there {
			n.uint32() // its room
			n.uint32() // where it begins in there
			n.elements(n.uint32(), 2)
		}
	}
}

// elements takes that many of a size.
func (n *ndr) elements(count uint32, size int) []byte {
	if uint64(count)*uint64(size) > uint64(len(n.b)) {
		n.fail()
		return nil
	}
	return n.take(int(count) * size)
}

// array begins an array that is there, whose count is written twice, and
// returns the elements.
func (n *ndr) array(there bool, count uint32, size int) []byte {
	if !there {
		return nil
	}
	if n.uint32() != count {
		n.fail()
	}
	return n.elements(count, size)
}

// relativeIDs reads GROUP_MEMBERSHIPs (MS-PAC, section 2.2.2).
func (n *ndr) relativeIDs(there bool, count uint32) (ids []uint32) {
	for b := n.array(there, count, 8); len(b) > 0; b = b[8:] {
		ids = append(ids, binary.LittleEndian.Uint32(b))
	}
	return ids
}

// sid reads an RPC_SID (MS-DTYP, section 2.4.2.3) and returns it as S-1-5-…, "" if
// it is not there.
func (n *ndr) sid(there bool) string {
	if !there {
		return ""
	}
	const most = 15
	count := n.uint32()
	head := n.take(8)
	if n.failed || head[0] != 1 || count > most || uint32(head[1]) != count {
		n.fail()
		return ""
	}
	format := "S-1-%d"
	authority := binary.BigEndian.Uint64(head) & (1<<48 - 1)
	if authority >= 1<<32 {
		format = "S-1-0x%012x"
	}
	s := fmt.Appendf(nil, format, authority)
	for range count {
		s = fmt.Appendf(s, "-%d", n.uint32())
	}
	return string(s)
}

// sids reads KERB_SID_AND_ATTRIBUTES (MS-PAC, section 2.2.1).
func (n *ndr) sids(there bool, count uint32) (sids []string) {
	for b := n.array(there, count, 8); len(b) > 0 && !n.failed; b = b[8:] {
		if s := n.sid(binary.LittleEndian.Uint32(b) != 0); s != "" {
			sids = append(sids, s)
		}
	}
	return sids
}

// join appends the groups of a domain, which must be there if there are any.
func (n *ndr) join(groups []string, domain string, ids []uint32) []string {
	if domain == "" && len(ids) > 0 {
		n.fail()
	}
	for _, id := range ids {
		groups = append(groups, fmt.Sprintf("%s-%d", domain, id))
	}
	return groups
}
