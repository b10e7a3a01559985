package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// node is a value of the file. Aliases are replaced by what they stand for, so
// that a node may have several parents.
type node struct {
	kind   kind
	at     mark
	text   string  // of a scalar, as it is written
	keys   []entry // of a mapping
	items  []*node // of a list
	alias  bool    // stands for a value elsewhere
	broken bool    // something about it is wrong, and has been told
}

// entry is a key of a mapping with its value.
type entry struct {
	key   string
	at    mark
	value *node
}

type kind int

const (
	isNull kind = iota
	isScalar
	isList
	isMapping
)

// String says what there is where something else is wanted.
func (k kind) String() string {
	return [...]string{"nothing", "a single value", "a list", "a mapping"}[k]
}

// mark is a place in the text; line and column begin with 1.
type mark struct{ line, column int }

func markOf(t *token.Token) mark {
	if t == nil || t.Position == nil {
		return mark{}
	}
	return mark{t.Position.Line, t.Position.Column}
}

// locate returns the place of the value at path, and whether it is there; if
// not, the place of the nearest value around it.
func (n *node) locate(path string) (at mark, exact bool) {
	switch {
	case path == "":
		return n.at, true
	case path[0] == '[':
		index, rest, _ := strings.Cut(path[1:], "]")
		i, err := strconv.Atoi(index)
		if n.kind == isList && err == nil && i >= 0 && i < len(n.items) {
			return n.items[i].locate(rest)
		}
		if n.kind != isList && i == 0 {
			return n.locate(rest) // stands for a list of one
		}
	case path[0] == '.' && n.kind != isMapping:
		// A struct in its short form: the value stands for its first field.
		if end := strings.IndexAny(path[1:], ".["); end >= 0 {
			at, _ = n.locate(path[1+end:])
			return at, false
		}
	case n.kind == isMapping:
		path = strings.TrimPrefix(path, ".")
		at = n.at
		longest := -1
		for _, e := range n.keys {
			rest, ok := strings.CutPrefix(path, e.key)
			if !ok || rest != "" && rest[0] != '.' && rest[0] != '[' {
				continue
			}
			// Keys may have dots, so that another may fit as well.
			found, exact := e.value.locate(rest)
			if exact {
				return found, true
			}
			if len(e.key) > longest {
				at, longest = found, len(e.key)
			}
		}
		return at, false
	}
	return n.at, false
}

// builder makes nodes of goccy's syntax tree.
type builder struct {
	source  *source
	anchors map[string]*node
	errs    []*Error
}

func (b *builder) fail(at mark, format string, args ...any) {
	b.errs = append(b.errs, b.source.newError(b.source.at(at), fmt.Errorf(format, args...)))
}

// document returns the only document of a file as a node.
func (b *builder) document(file *ast.File) *node {
	root := new(node)
	for _, doc := range file.Docs {
		if _, directive := doc.Body.(*ast.DirectiveNode); directive || doc.Body == nil {
			continue
		}
		if root.kind != isNull {
			b.fail(markOf(doc.Start), "want one document in the file; here begins another")
			break
		}
		root = b.node(doc.Body)
	}
	root.at = mark{}
	return root
}

func (b *builder) node(n ast.Node) *node {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return new(node)
	case *ast.MappingNode:
		return b.mapping(n.Start, n.Values)
	case *ast.MappingValueNode:
		return b.mapping(n.Start, []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		return b.list(n)
	case *ast.AnchorNode:
		value := b.node(n.Value)
		b.anchors[n.Name.GetToken().Value] = value
		return value
	case *ast.AliasNode:
		return b.alias(n)
	case *ast.TagNode:
		return b.tagged(n)
	case *ast.LiteralNode:
		return &node{kind: isScalar, at: markOf(n.Start), text: n.Value.Value}
	}
	return b.scalar(n.GetToken())
}

// scalar keeps the text as it is written, since 0660 means something else as a
// number. A text over several lines is mostly a mistake in the indentation of
// the second.
func (b *builder) scalar(t *token.Token) *node {
	broken := t.Type == token.StringType && strings.Contains(strings.TrimSpace(t.Origin), "\n")
	if broken {
		b.fail(markOf(t), "a value without quotes over several lines: is the indentation wrong?")
	}
	return &node{kind: isScalar, at: markOf(t), text: t.Value, broken: broken}
}

func (b *builder) list(n *ast.SequenceNode) *node {
	list := &node{kind: isList, at: markOf(n.Start)}
	for i, value := range n.Values {
		item := b.node(value)
		if item.at == (mark{}) {
			item.at = list.at
		}
		if item.kind == isNull && value != nil {
			b.fail(markOf(value.GetToken()), "item %d of the list is empty", i+1)
			item.broken = true
		}
		list.items = append(list.items, item)
	}
	return list
}

func (b *builder) mapping(start *token.Token, values []*ast.MappingValueNode) *node {
	m := &node{kind: isMapping, at: markOf(start)}
	seen := make(map[string]mark, len(values))
	for i, v := range values {
		t, err := keyToken(v.Key)
		if err != nil {
			b.fail(markOf(v.Key.GetToken()), "%w", err)
			m.broken = true
			continue
		}
		at := markOf(t)
		if i == 0 && start.Type == token.MappingValueType {
			m.at = at // a block has no other beginning
		}
		if first, twice := seen[t.Value]; twice {
			b.fail(at, "key %q is there twice, first in line %d", t.Value, first.line)
			continue
		}
		seen[t.Value] = at
		value := b.node(v.Value)
		if value.kind == isNull || isBlock(v.Value) {
			value.at = at
		}
		m.keys = append(m.keys, entry{key: t.Value, at: at, value: value})
	}
	return m
}

// isBlock reports whether a value begins on a line after its key, where nobody
// looks for it.
func isBlock(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.MappingNode:
		return !n.IsFlowStyle
	case *ast.MappingValueNode:
		return true
	case *ast.SequenceNode:
		return !n.IsFlowStyle
	}
	return false
}

// keyToken returns the text of a key.
func keyToken(key ast.Node) (*token.Token, error) {
	switch k := key.(type) {
	case *ast.MappingKeyNode:
		return keyToken(k.Value)
	case *ast.MergeKeyNode:
		return nil, errors.New("merge keys are not supported: write out the keys, or use an alias for a whole value")
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return k.GetToken(), nil
	}
	return nil, errors.New("want a plain text as key")
}

// alias returns what the anchor of that name stands for. Nothing is copied: the
// nodes are shared.
func (b *builder) alias(n *ast.AliasNode) *node {
	at := markOf(n.Start)
	name := n.Value.GetToken().Value
	target := b.anchors[name]
	if target == nil {
		b.fail(at, "no anchor &%s before this alias; if *%s is meant as text, put it in quotes", name, name)
		return &node{at: at, broken: true}
	}
	copied := *target
	copied.at, copied.alias = at, true
	return &copied
}

// tagged allows the tag that makes a text of anything.
func (b *builder) tagged(n *ast.TagNode) *node {
	value := b.node(n.Value)
	if null, ok := n.Value.(*ast.NullNode); ok {
		value.kind, value.text = isScalar, null.GetToken().Value
	}
	if tag := n.Start.Value; tag != string(token.StringTag) {
		b.fail(markOf(n.Start), "tags such as %s are not supported", tag)
		value.broken = true
	}
	return value
}
