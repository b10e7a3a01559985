package config

import (
	"encoding/json"
	"reflect"
)

// Schema returns the JSON Schema of configurations (draft 2020-12), made of
// the structs and their tags. It knows what a file looks like; only Parse
// knows what goes together.
func Schema() []byte {
	g := generator{defs: map[string]object{
		"reference": {"type": "string", "pattern": `\$\{`, "description": "a value with ${NAME} or ${file:path} in it"},
	}}
	root := g.structure(reflect.TypeFor[File]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Configuration of argyle"
	root["$defs"] = g.defs
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // maps and strings
	}
	return append(text, '\n')
}

// object is an object of JSON.
type object map[string]any

// generator collects the types that have a name, each once.
type generator struct{ defs map[string]object }

// of returns the schema of a type, by reference if it has a name.
func (g *generator) of(t reflect.Type) object {
	switch {
	case isLeaf(t):
		return g.define(t, func() object { return leafSchema(shapeOf(t)) })
	case t.Kind() == reflect.Pointer:
		return g.of(t.Elem())
	case t.Kind() == reflect.Slice:
		item := g.of(t.Elem())
		return object{"anyOf": []object{item, {"type": "array", "items": item}}}
	case t.Kind() == reflect.Map:
		return object{"type": "object", "additionalProperties": g.of(t.Elem())}
	}
	return g.define(t, func() object {
		long := g.structure(t)
		if short, ok := shortField(fieldsOf(t)); ok {
			return object{"anyOf": []object{long, g.of(short.typ)}}
		}
		return long
	})
}

func (g *generator) define(t reflect.Type, schema func() object) object {
	if _, done := g.defs[t.Name()]; !done {
		g.defs[t.Name()] = schema()
	}
	return object{"$ref": "#/$defs/" + t.Name()}
}

// structure returns the schema of a mapping with given keys.
func (g *generator) structure(t reflect.Type) object {
	properties := make(object)
	for _, f := range fieldsOf(t) {
		property := g.of(f.typ)
		property["description"] = f.doc
		properties[f.key] = property
	}
	return object{"type": "object", "properties": properties, "additionalProperties": false}
}

// leafSchema returns the schema of what is written as one word, number or text.
func leafSchema(s shape) object {
	var forms []object
	switch {
	case s.words != nil:
		forms = append(forms, object{"enum": s.words})
	case s.boolean:
		forms = append(forms, object{"type": "boolean"}, object{"enum": []string{"true", "false"}})
	case s.pattern == "":
		return object{"type": []string{"string", "number", "boolean"}} // all may be meant as text
	default:
		forms = append(forms, object{"type": "string", "pattern": s.pattern})
	}
	if s.number {
		forms = append(forms, object{"type": "integer"})
	}
	return object{"anyOf": append(forms, object{"$ref": "#/$defs/reference"})}
}

// Key is a key that a configuration may have.
type Key struct {
	// Path has [] for the items of a list and NAME for names of the user's
	// own: rules[].to, upstreams.NAME.chain.
	Path string
	Doc  string
}

// Keys returns all keys, those of a structure before those below them.
func Keys() []Key { return keysOf("", reflect.TypeFor[File]()) }

func keysOf(prefix string, t reflect.Type) (all []Key) {
	switch {
	case isLeaf(t):
		return nil
	case t.Kind() == reflect.Pointer:
		return keysOf(prefix, t.Elem())
	case t.Kind() == reflect.Slice:
		return keysOf(prefix+"[]", t.Elem())
	case t.Kind() == reflect.Map:
		return keysOf(prefix+".NAME", t.Elem())
	}
	if prefix != "" {
		prefix += "."
	}
	for _, f := range fieldsOf(t) {
		all = append(all, Key{Path: prefix + f.key, Doc: f.doc})
		all = append(all, keysOf(prefix+f.key, f.typ)...)
	}
	return all
}
