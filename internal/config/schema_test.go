package config

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// TestSchema holds the schema against the parser: what parses is valid, and
// what is wrong by itself, and not with regard to something else, is not.
func TestSchema(t *testing.T) {
	v := newValidator(t)
	for _, file := range examples(t, "good/*.yaml") {
		if err := v.check(v.root, document(t, string(readExample(t, file)))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, name := range []string{"keys", "foreign", "kinds", "values", "items", "top-list", "top-text", "several"} {
		if v.check(v.root, document(t, string(readExample(t, "testdata/bad/"+name+".yaml")))) == nil {
			t.Errorf("%s.yaml is valid", name)
		}
	}
	for text, want := range map[string]bool{
		"timeouts: {idle: 5m}":                       true,
		"timeouts: {idle: off}":                      true,
		"timeouts: {idle: '${X}'}":                   true,
		"timeouts: {idle: 5}":                        false,
		"timeouts: {idle: soon}":                     false,
		"timeouts: 5s":                               false,
		"listen: a:1":                                true,
		"listen: [a:1, {address: b:1}]":              true,
		"listen: {addr: a:1}":                        false,
		"listen: [[a:1]]":                            false,
		"rules: {action: deny}":                      true,
		"rules: {action: refuse}":                    false,
		"rules: [{port: [1, 80-90], days: sat}]":     true,
		"rules: [{port: http}]":                      false,
		"rules: [{source: 10.0.0.1}]":                true,
		"rules: [{source: {address: ten}}]":          false,
		"upstreams: {a: x}":                          true,
		"upstreams: {a: [x, y]}":                     true,
		"upstreams: {a: {chain: x, mod: x}}":         false,
		"upstreams: [a]":                             false,
		"names: {hosts: {a: [10.0.0.1, '::1']}}":     true,
		"names: {hosts: {a: [10.0.0.1, b]}}":         false,
		"limits: {users: {a: {up: 1Mbit/s}}}":        true,
		"limits: {users: {a: {up: 1}}}":              false,
		"limits: {all: {quota: 1GB/day, rate: 5/s}}": true,
		"limits: {all: {quota: 1GB}}":                false,
		"open: true":                                 true,
		"open: yes":                                  false,
		"users: {groups: {a: b}}":                    true,
		"users: {groups: a}":                         false,
		"gateway: {dns: 127.0.0.1}":                  true,
		"gateway: {dns: ['[::1]:53', 127.0.0.1:54]}": true,
		"gateway: {dns: localhost}":                  false,
		"gateway: {dns: '::1', families: auto}":      true,
		"gateway: {dns: '::1', families: v5}":        false,
		"gateway: {dns: '::1', nat64: 64:ff9b::/96}": true,
		"gateway: {dns: '::1', map: {10.0.0.1: a}}":  true,
		"gateway: {dns: '::1', map: [a]}":            false,
		"$schema: x":                                 false,
	} {
		if err := v.check(v.root, document(t, text)); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := loader().Parse("argyle.yaml", []byte(text)); err == nil && !want {
			t.Errorf("%s: parses, and is not valid", text)
		}
	}
}

// TestPatterns holds the pattern of each scalar type against what it reads.
func TestPatterns(t *testing.T) {
	v := newValidator(t)
	for name, texts := range map[string]struct{ good, bad []string }{
		"Duration":  {[]string{"10s", "1h30m", "7d", "off", "1.5h", "1d12h", "100ms"}, []string{"", "10", "soon", "-5s", "10 s"}},
		"Bandwidth": {[]string{"10Mbit/s", "512kbit", "1.5MB/s", "1 MiB/s"}, []string{"", "10", "10Mbps", "-1MB/s"}},
		"Rate":      {[]string{"10/s", "5/10s", "5/1h30m"}, []string{"", "10", "/s", "10/10"}},
		"Quota":     {[]string{"10GB/day", "1.5MiB/total"}, []string{"", "10GB", "10Gbit/day", "10GB/year"}},
		"Ports":     {[]string{"80", "8000-8999"}, []string{"", "http", "80-"}},
		"Days":      {[]string{"mon", "Mon-Fri"}, []string{"", "monday", "mon-"}},
		"Span":      {[]string{"08:00-18:00", "00:00-24:00"}, []string{"", "8:00-18:00", "24:00-08:00", "08:00-18:60"}},
		"Moment":    {[]string{"2026-11-23 09:30"}, []string{"", "2026-11-23", "tomorrow"}},
		"ForwardSpec": {
			[]string{"tcp/5=a:1", "tcp/[::1]:5=[2001:db8::1]:1", "udp/h:5=a:1", "unix:/p=a:1", "stdio=a:1", "bind/0.0.0.0:0=unix:/p"},
			[]string{"", "5=a:1", "tls/5=a:1", "tcp5=a:1"},
		},
		"FileMode": {[]string{"0660", "660", "0o600"}, []string{"", "0680", "rw"}},
		"Network":  {[]string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.1"}, []string{"", "all", "10.0.0.0/"}},
		"Endpoint": {[]string{"192.0.2.1", "192.0.2.1:53", "::1", "[::1]:53", "[fe80::1%eth0]:53"}, []string{"", "example:53", ":53", "[::1]"}},
		"Addr":     {[]string{"10.0.0.1", "2001:db8::1", "fe80::1%eth0"}, []string{"", "example"}},
	} {
		def := v.defs[name]
		for _, text := range texts.good {
			if err := v.check(def, text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, text := range texts.bad {
			if v.check(def, text) == nil {
				t.Errorf("%s: %q is valid", name, text)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	keys := Keys()
	var paths []string
	for _, k := range keys {
		paths = append(paths, k.Path)
		if k.Doc == "" {
			t.Errorf("%s is not documented", k.Path)
		}
	}
	for _, want := range []string{
		"listen", "listen[].address", "rules[].to", "rules[].limits.rate", "upstreams.NAME.chain", "upstreams.NAME.direct.address",
		"limits.users.NAME.quota", "names.split", "tests[].expect", "drain", "users.groups", "rules[].source.mark",
	} {
		if !slices.Contains(paths, want) {
			t.Errorf("no %s in %q", want, paths)
		}
	}
	if sorted := slices.Sorted(slices.Values(paths)); len(slices.Compact(sorted)) != len(paths) {
		t.Error("a key is there twice")
	}
}

// document is a text as JSON has it. Keys without a value are as absent.
func document(t *testing.T, text string) any {
	t.Helper()
	tokens := new(source)
	tokens.text = text
	if err := tokens.readText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	file, failed := tokens.syntax()
	if failed != nil {
		t.Fatal(failed)
	}
	if len(file.Docs) == 0 {
		return map[string]any{}
	}
	var v any
	body := file.Docs[len(file.Docs)-1].Body
	if body == nil {
		return map[string]any{}
	}
	if err := yaml.NodeToValue(body, &v); err != nil {
		t.Fatal(err)
	}
	return bare(v)
}

// bare removes what is null from mappings, and gives numbers the type of JSON's.
func bare(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if value == nil {
				delete(v, key)
				continue
			}
			v[key] = bare(value)
		}
	case []any:
		for i := range v {
			v[i] = bare(v[i])
		}
	case uint64:
		return float64(v)
	case int64:
		return float64(v)
	}
	return v
}

// validator knows the part of JSON Schema that is used here, and fails the test
// at any other keyword.
type validator struct {
	t    *testing.T
	root map[string]any
	defs map[string]any
}

func newValidator(t *testing.T) *validator {
	t.Helper()
	v := &validator{t: t}
	if err := json.Unmarshal(Schema(), &v.root); err != nil {
		t.Fatal(err)
	}
	v.defs = v.root["$defs"].(map[string]any)
	return v
}

func (v *validator) check(schema, value any) error {
	for keyword, arg := range schema.(map[string]any) {
		if err := v.keyword(keyword, arg, schema.(map[string]any), value); err != nil {
			return err
		}
	}
	return nil
}

func (v *validator) keyword(keyword string, arg any, schema map[string]any, value any) error {
	switch keyword {
	case "$schema", "$defs", "title", "description", "properties":
	case "$ref":
		name := strings.TrimPrefix(arg.(string), "#/$defs/")
		if v.defs[name] == nil {
			v.t.Fatalf("no definition %s", name)
		}
		return v.check(v.defs[name], value)
	case "type":
		return v.typ(arg, value)
	case "enum":
		if !slices.ContainsFunc(arg.([]any), func(word any) bool { return reflect.DeepEqual(word, value) }) {
			return fmt.Errorf("%v is none of %v", value, arg)
		}
	case "pattern":
		if s, ok := value.(string); ok && !regexp.MustCompile(arg.(string)).MatchString(s) {
			return fmt.Errorf("%q does not match %s", s, arg)
		}
	case "anyOf":
		var reasons []string
		for _, s := range arg.([]any) {
			err := v.check(s, value)
			if err == nil {
				return nil
			}
			reasons = append(reasons, err.Error())
		}
		return fmt.Errorf("%v: none of (%s)", value, strings.Join(reasons, "; "))
	case "items":
		list, _ := value.([]any)
		for _, item := range list {
			if err := v.check(arg, item); err != nil {
				return err
			}
		}
	case "additionalProperties":
		return v.properties(schema, arg, value)
	default:
		v.t.Fatalf("the keyword %s is not known here", keyword)
	}
	return nil
}

func (v *validator) properties(schema map[string]any, additional, value any) error {
	mapping, _ := value.(map[string]any)
	properties, _ := schema["properties"].(map[string]any)
	for key, member := range mapping {
		of := properties[key]
		if of == nil && additional == false {
			return fmt.Errorf("no key %s", key)
		}
		if of == nil {
			of = additional
		}
		if err := v.check(of, member); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

func (v *validator) typ(arg, value any) error {
	is := func(name any) bool {
		number, isNumber := value.(float64)
		switch name {
		case "object":
			_, ok := value.(map[string]any)
			return ok
		case "array":
			_, ok := value.([]any)
			return ok
		case "string":
			_, ok := value.(string)
			return ok
		case "boolean":
			_, ok := value.(bool)
			return ok
		case "integer":
			return isNumber && number == math.Trunc(number)
		case "number":
			return isNumber
		}
		v.t.Fatalf("the type %v is not known here", name)
		return false
	}
	if names, several := arg.([]any); several && slices.ContainsFunc(names, is) || !several && is(arg) {
		return nil
	}
	return fmt.Errorf("%v is no %v", value, arg)
}
