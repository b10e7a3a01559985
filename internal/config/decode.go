package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
)

// maxAliased is how many values may come by aliases, which can stand for more
// than anybody could write.
const maxAliased = 100_000

// decoder fills a File from nodes. It goes on after an error, which goccy's
// decoder does not, and tells where each is.
type decoder struct {
	loader  *Loader
	source  *source
	errs    []*Error
	broken  map[string]bool // paths of what could not be decoded; false for what is around it
	fields  map[reflect.Type][]field
	depth   int // of aliases
	aliased int // values that came by them
}

func (d *decoder) fail(n *node, path, format string, args ...any) {
	d.failAt(n.at, path, format, args...)
}

func (d *decoder) failAt(at mark, path, format string, args ...any) {
	d.errs = append(d.errs, d.source.newError(d.source.at(at), fmt.Errorf(format, args...)))
	d.noteBroken(path)
}

// noteBroken notes that the value at path is not what the file means.
func (d *decoder) noteBroken(path string) {
	d.broken[path] = true
	for p := parent(path); p != ""; p = parent(p) {
		if _, known := d.broken[p]; !known {
			d.broken[p] = false
		}
	}
}

// value decodes n into v.
func (d *decoder) value(v reflect.Value, n *node, path string) {
	if n.broken {
		d.noteBroken(path)
	}
	if n.alias {
		d.depth++
		defer func() { d.depth-- }()
	}
	if n.kind == isNull && path != "" && !n.broken {
		// A rule whose `to:` is left empty would match everything.
		d.fail(n, path, "there is no value: write one, or leave the key out")
	}
	if n.kind == isNull || n.kind == isScalar && n.broken || d.depth > 0 && d.tooManyAliased(n, path) {
		return
	}
	if !accepts(v.Type(), n.kind) {
		d.fail(n, path, "expected %s, got %s", want(v.Type()), n.kind)
		return
	}
	switch {
	case isLeaf(v.Type()):
		d.leaf(v, n, path)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem(), n, path)
	case v.Kind() == reflect.Slice:
		d.list(v, n, path)
	case v.Kind() == reflect.Map:
		d.mapping(v, n, path)
	default:
		d.structure(v, n, path)
	}
}

func (d *decoder) tooManyAliased(n *node, path string) bool {
	d.aliased++
	if d.aliased == maxAliased+1 {
		d.fail(n, path, "the aliases stand for more than %d values", maxAliased)
	}
	return d.aliased > maxAliased
}

// list decodes a list; any other value stands for a list of one.
func (d *decoder) list(v reflect.Value, n *node, path string) {
	items := n.items
	if n.kind != isList {
		items = []*node{n}
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		d.value(v.Index(i), item, path+"["+strconv.Itoa(i)+"]")
	}
}

func (d *decoder) mapping(v reflect.Value, n *node, path string) {
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.keys)))
	for _, e := range n.keys {
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(value, e.value, path+"."+e.key)
		v.SetMapIndex(reflect.ValueOf(e.key), value)
	}
}

// structure decodes a mapping with given keys, or the one value that may stand
// for it.
func (d *decoder) structure(v reflect.Value, n *node, path string) {
	fields := d.fieldsOf(v.Type())
	if n.kind != isMapping {
		short, _ := shortField(fields)
		d.value(v.Field(short.index), n, path)
		return
	}
	prefix := path + "."
	if path == "" {
		prefix = ""
	}
	for _, e := range n.keys {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key })
		if i < 0 {
			meant := meant(e.key, fields)
			d.failAt(e.at, prefix+e.key, "unknown key %q%s", e.key, suggestion(e.key, meant, fields))
			for _, key := range meant {
				d.noteBroken(prefix + key) // so that nobody misses it
			}
			continue
		}
		d.value(v.Field(fields[i].index), e.value, prefix+e.key)
	}
}

func (d *decoder) fieldsOf(t reflect.Type) []field {
	fields, known := d.fields[t]
	if !known {
		fields = fieldsOf(t)
		d.fields[t] = fields
	}
	return fields
}

// leaf decodes a single value. Errors show it as it stands in the file: what
// was put in for a variable is nobody's business, nor is a password.
func (d *decoder) leaf(v reflect.Value, n *node, path string) {
	_, isURL := v.Interface().(ProxyURL)
	_, isSecret := v.Interface().(Secret)
	text, inserted, err := d.loader.expand(d.source, n.text, isURL, isSecret)
	d.source.hide(inserted)
	if err == nil {
		err = setLeaf(v, text)
	}
	switch {
	case err == nil:
	case isURL || isSecret:
		d.fail(n, path, "%w", err)
	default:
		d.fail(n, path, "%s: %w", quote(n.text), err)
	}
}

// quote writes a text as errors show it.
func quote(s string) string {
	const most = 60
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	return strconv.Quote(s)
}

// setLeaf sets v to what text means.
func setLeaf(v reflect.Value, text string) error {
	if _, isAddr := v.Interface().(netip.Addr); isAddr {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Is4In6() {
			return errors.New("want an address such as 192.0.2.1 or 2001:db8::1")
		}
		v.Set(reflect.ValueOf(addr))
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("want true or false")
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, 32)
		v.SetInt(n)
		if err != nil {
			return errors.New("want a whole number")
		}
	case reflect.Uint32:
		n, err := strconv.ParseUint(text, 0, 32) // marks are often written as 0x1f
		v.SetUint(n)
		if err != nil || len(text) > 1 && text[0] == '0' && text[1] != 'x' {
			return errors.New("want a number such as 7 or 0x1f")
		}
	default:
		v.SetString(text)
	}
	return nil
}
