package config

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// joinColons mends what goccy's lexer takes apart (its issue 832): in a list
// inside of {}, it takes each colon for that of a key, and set:NAME,
// 2001:db8::1, 08:00-18:00 and gw:1080 for mappings. In YAML a key's colon has a
// space behind it.
func joinColons(tokens token.Tokens) (joined token.Tokens) {
	var open []token.Type
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			open = append(open, t.Type)
		case token.MappingEndType, token.SequenceEndType:
			open = open[:max(0, len(open)-1)]
		}
		inList := len(open) > 0 && open[len(open)-1] == token.SequenceStartType
		if inList && t.Type == token.MappingValueType && i+1 < len(tokens) && isPlain(tokens[i+1]) && !startsWithSpace(tokens[i+1]) {
			value := tokens[i+1]
			text, origin, at := ":"+value.Value, t.Origin+value.Origin, t.Position
			if n := len(joined); n > 0 && isPlain(joined[n-1]) {
				key := joined[n-1]
				joined = joined[:n-1]
				text, origin, at = key.Value+text, key.Origin+origin, key.Position
			}
			t = token.String(text, origin, at)
			i++
		}
		joined.Add(t)
	}
	return joined
}

// isPlain reports whether t is a scalar without quotes.
func isPlain(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.BoolType, token.NullType, token.FloatType, token.IntegerType, token.BinaryIntegerType,
		token.OctetIntegerType, token.HexIntegerType, token.InfinityType, token.NanType:
		return true
	}
	return false
}

func startsWithSpace(t *token.Token) bool { return strings.TrimLeft(t.Origin, " \t\n") != t.Origin }

// goccy's parser recurses into nested values, without bound, and along the keys
// of a mapping, with a copy of the rest each time.
const (
	maxDepth = 100
	maxKeys  = 10000
)

// frame is a block mapping or list that is open, and how many keys it has had.
type frame struct{ column, keys int }

// tooMuch looks for values that are nested too deep, and mappings that have too
// many keys.
func tooMuch(tokens token.Tokens) (mark, error) {
	var blocks []frame
	flow, run := 0, 0 // brackets that are open; tokens that nest without one
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow, run = max(0, flow-1), 0
		case token.CollectEntryType:
			run = 0
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType, token.AnchorType, token.TagType:
			if flow > 0 {
				run++
				break
			}
			blocks = enter(blocks, t)
		default:
			continue
		}
		if len(blocks)+flow+run > maxDepth {
			return markOf(t), fmt.Errorf("nested more than %d deep", maxDepth)
		}
		if n := len(blocks); n > 0 && blocks[n-1].keys > maxKeys {
			return markOf(t), fmt.Errorf("a mapping with more than %d keys", maxKeys)
		}
	}
	return mark{}, nil
}

// enter returns the blocks that are open after t.
func enter(blocks []frame, t *token.Token) []frame {
	column, isKey := t.Position.Column, t.Type == token.MappingValueType
	if isKey && t.Prev != nil && t.Prev.Position.Line == t.Position.Line {
		column = t.Prev.Position.Column
	}
	for n := len(blocks); n > 0 && blocks[n-1].column > column; n-- {
		blocks = blocks[:n-1]
	}
	if n := len(blocks); n == 0 || blocks[n-1].column < column {
		blocks = append(blocks, frame{column: column})
	}
	if isKey {
		blocks[len(blocks)-1].keys++
	}
	return blocks
}
