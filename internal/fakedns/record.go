package fakedns

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

// The journal is text: a header, then a line for each change.
//
//	crc argyle-fakedns 1 key IPv4-prefix IPv6-prefix
//	crc a slot time client name    it stands for name
//	crc p slot time - name         the same, pinned
//	crc d slot                     it stands for nothing
//
// crc is the CRC-32C of what follows the space behind it, up to the line's
// end, in hexadecimal; time is in seconds; client is a prefix or a hyphen.
const magic = "argyle-fakedns 1"

const (
	opAdd    = "a"
	opPin    = "p"
	opDelete = "d"
)

var errDamaged = errors.New("the line is damaged")

// A state is what a journal says.
type state struct {
	key     []byte
	v4, v6  netip.Prefix
	slots   map[uint32]record
	current map[string]uint32 // of the slots of a name, the one it has now
	newest  int64             // of all times
	torn    int               // bytes at the end that are none of a line
}

// A record is a line of the journal after its header.
type record struct {
	op     string
	slot   uint32
	time   int64
	client netip.Prefix
	name   string
}

// appendLine puts the checksum before text, and the line's end behind it.
func appendLine(b []byte, text string) []byte {
	sum := crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli))
	return fmt.Appendf(b, "%08x %s\n", sum, text)
}

// checkLine returns the text of a line without its end.
func checkLine(line []byte) (string, bool) {
	sum, text, ok := strings.Cut(string(line), " ")
	if !ok {
		return "", false
	}
	want := crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli))
	return text, sum == fmt.Sprintf("%08x", want)
}

func appendHeader(b, key []byte, v4, v6 netip.Prefix) []byte {
	return appendLine(b, fmt.Sprintf("%s %x %v %v", magic, key, v4, v6))
}

func (r record) append(b []byte) []byte {
	if r.op == opDelete {
		return appendLine(b, fmt.Sprintf("%s %d", r.op, r.slot))
	}
	client := "-"
	if r.client.IsValid() {
		client = r.client.String()
	}
	return appendLine(b, fmt.Sprintf("%s %d %d %s %s", r.op, r.slot, r.time, client, r.name))
}

func parseRecord(text string) (r record, err error) {
	fields := strings.Split(text, " ")
	r.op = fields[0]
	switch {
	case r.op == opDelete && len(fields) == 2:
	case (r.op == opAdd || r.op == opPin) && len(fields) == 5:
		stamp, err := strconv.ParseUint(fields[2], 10, 40)
		if err != nil {
			return r, fmt.Errorf("time: %w", err)
		}
		r.time = int64(stamp)
		if fields[3] != "-" {
			if r.client, err = netip.ParsePrefix(fields[3]); err != nil {
				return r, fmt.Errorf("client: %w", err)
			}
		}
		if r.name, err = canonical(fields[4]); err != nil {
			return r, err
		}
	default:
		return r, fmt.Errorf("unknown line %.40q", text)
	}
	slot, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return r, fmt.Errorf("slot: %w", err)
	}
	r.slot = uint32(slot)
	return r, nil
}

// parseJournal reads a journal. What a crash has left at its end, bytes after
// which no line is whole, is counted and left out; damage before a whole line
// is an error.
func parseJournal(b []byte) (*state, error) {
	s := &state{slots: map[uint32]record{}, current: map[string]uint32{}}
	for n := 1; len(b) > 0; n++ {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		text, ok := checkLine(line)
		var err error
		switch {
		case !whole || !ok:
			if n > 1 && !anyLine(rest) {
				s.torn = len(b)
				return s, nil
			}
			err = errDamaged
		case n == 1:
			err = s.header(text)
		default:
			err = s.line(text)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		b = rest
	}
	return s, nil
}

// anyLine reports whether a line of b is whole.
func anyLine(b []byte) bool {
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if !whole {
			return false
		}
		if _, ok := checkLine(line); ok {
			return true
		}
		b = rest
	}
}

func (s *state) header(text string) error {
	rest, ok := strings.CutPrefix(text, magic+" ")
	fields := strings.Split(rest, " ")
	if !ok || len(fields) != 3 {
		return errors.New("not the header of a journal")
	}
	var err error
	if s.key, err = hex.DecodeString(fields[0]); err != nil || len(s.key) == 0 {
		return errors.New("the header has no key")
	}
	if s.v4, err = netip.ParsePrefix(fields[1]); err != nil {
		return err
	}
	s.v6, err = netip.ParsePrefix(fields[2])
	return err
}

func (s *state) line(text string) error {
	r, err := parseRecord(text)
	if err != nil {
		return err
	}
	old, taken := s.slots[r.slot]
	switch {
	case r.op == opDelete && !taken:
		return fmt.Errorf("slot %d is free already", r.slot)
	case r.op == opDelete:
		delete(s.slots, r.slot)
		if s.current[old.name] == r.slot {
			delete(s.current, old.name)
		}
		return nil
	case taken && old.name != r.name:
		return fmt.Errorf("slot %d is that of %s, and of %s", r.slot, old.name, r.name)
	case !taken:
		s.current[r.name] = r.slot
	}
	s.newest = max(s.newest, r.time)
	s.slots[r.slot] = r
	return nil
}
