package config

import (
	"encoding"
	"net/netip"
	"reflect"
)

// shape is what errors and the JSON Schema say of a type whose values are
// written as one word, number or text.
type shape struct {
	one, many string   // what it is called
	words     []string // all values, if these are few
	pattern   string   // what values look like, if there is more to say than string
	number    bool     // may also be written as a number
	boolean   bool     // is true or false
}

// shapeOf returns the shape of a leaf.
func shapeOf(t reflect.Type) shape {
	switch v := reflect.Zero(t).Interface().(type) {
	case interface{ shape() shape }:
		return v.shape()
	case netip.Addr:
		return shape{one: "an address", many: "addresses", pattern: `^[0-9a-fA-F]*[.:][0-9a-fA-F.:]*(%.+)?$`}
	}
	switch t.Kind() {
	case reflect.Bool:
		return shape{one: "true or false", boolean: true}
	case reflect.Int:
		return shape{one: "a number", many: "numbers", number: true, pattern: "^-?[0-9]+$"}
	case reflect.Uint32:
		return shape{one: "a number", many: "numbers", number: true, pattern: "^(0x[0-9a-fA-F]+|[0-9]+)$"}
	}
	return shape{one: "a string", many: "strings"}
}

// isLeaf reports whether values of t are written as one word, number or text.
func isLeaf(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Uint32:
		return true
	}
	return false
}

// field is a key of a structure.
type field struct {
	key, doc string
	index    int
	short    bool // may stand for the whole structure
	typ      reflect.Type
}

func fieldsOf(t reflect.Type) (all []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("yaml"); key != "" {
			all = append(all, field{key, f.Tag.Get("doc"), i, f.Tag.Get("short") == "true", f.Type})
		}
	}
	return all
}

func shortField(fields []field) (f field, ok bool) {
	for _, f := range fields {
		if f.short {
			return f, true
		}
	}
	return field{}, false
}

// accepts reports whether a value of that kind can be one of t.
func accepts(t reflect.Type, k kind) bool {
	switch {
	case k == isNull:
		return true
	case isLeaf(t):
		return k == isScalar
	case t.Kind() == reflect.Pointer:
		return accepts(t.Elem(), k)
	case t.Kind() == reflect.Slice:
		return k == isList || accepts(t.Elem(), k)
	case t.Kind() == reflect.Struct && k != isMapping:
		short, ok := shortField(fieldsOf(t))
		return ok && accepts(short.typ, k)
	}
	return k == isMapping
}

// want says in words what t wants.
func want(t reflect.Type) string {
	switch {
	case isLeaf(t):
		return shapeOf(t).one
	case t.Kind() == reflect.Pointer:
		return want(t.Elem())
	case t.Kind() == reflect.Slice:
		return "a list of " + wantMany(t.Elem())
	case t.Kind() == reflect.Struct:
		if short, ok := shortField(fieldsOf(t)); ok {
			return "a mapping or " + want(short.typ)
		}
	}
	return "a mapping"
}

func wantMany(t reflect.Type) string {
	if isLeaf(t) {
		return shapeOf(t).many
	}
	if short, ok := shortField(fieldsOf(t)); ok && isLeaf(short.typ) {
		return "mappings or " + shapeOf(short.typ).many
	}
	return "mappings"
}
