package main

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/users"
)

// printDiff says what changes from one configuration to another.
func printDiff(w io.Writer, oldPath, newPath string) error {
	before, err := loadFile(oldPath)
	if err != nil {
		return err
	}
	after, err := loadFile(newPath)
	if err != nil {
		return err
	}
	lines := diffSettings(before, after)
	people, err := diffUsers(before, after)
	if err != nil {
		return err
	}
	lines = append(lines, people...)
	lines = append(lines, diffRules(before, after)...)
	if len(lines) == 0 {
		lines = []string{"nothing changes"}
	}
	for _, line := range lines {
		fmt.Fprintln(w, line)
	}
	return nil
}

// diffSettings compares everything but rules and tests, key by key. Listeners
// are compared by their addresses.
func diffSettings(before, after *config.File) (lines []string) {
	was, is := settings(before), settings(after)
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if now, stays := is[key]; !stays {
			lines = append(lines, fmt.Sprintf("- %s: %s", key, was[key].text))
		} else if now.text != was[key].text {
			lines = append(lines, fmt.Sprintf("~ %s: %s -> %s", key, was[key].text, now.text))
		} else if now.value != was[key].value {
			lines = append(lines, fmt.Sprintf("~ %s: another secret", key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(is)) {
		if _, had := was[key]; !had {
			lines = append(lines, fmt.Sprintf("+ %s: %s", key, is[key].text))
		}
	}
	return lines
}

// setting is one value of a configuration.
type setting struct {
	value string // to be compared
	text  string // to be shown: without secrets

	refers bool // it may be the name of an upstream
}

// settings returns the values of a configuration by their keys.
func settings(f *config.File) map[string]setting {
	all := make(map[string]setting)
	v := reflect.ValueOf(*f)
	for i := range v.NumField() {
		key := yamlKey(v.Type().Field(i))
		switch key {
		case "", "rules", "tests", "listen":
		default:
			flatten(all, key, v.Field(i))
		}
	}
	for _, ln := range f.Listen {
		flatten(all, "listen "+ln.Address, reflect.ValueOf(ln))
	}
	return all
}

func yamlKey(f reflect.StructField) string {
	if !f.IsExported() {
		return ""
	}
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// flatten enters the values below v that are not zero.
func flatten(all map[string]setting, path string, v reflect.Value) {
	if v.IsZero() {
		return
	}
	if _, isText := v.Interface().(fmt.Stringer); isText {
		all[path] = shown(v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		flatten(all, path, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if key := yamlKey(v.Type().Field(i)); key != "" {
				flatten(all, path+"."+key, v.Field(i))
			}
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			flatten(all, path+"."+key.String(), v.MapIndex(key))
		}
	case reflect.Slice:
		for i := range v.Len() {
			flatten(all, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	default:
		all[path] = shown(v)
	}
}

// shown is a value as it may be read by others.
func shown(v reflect.Value) setting {
	s := setting{value: fmt.Sprint(v.Interface()), text: fmt.Sprint(v.Interface())}
	switch secret := v.Interface().(type) {
	case config.Secret:
		s.value = string(secret)
	case config.ProxyURL:
		s.value, s.refers = string(secret), true
	}
	return s
}

// diffUsers compares the names in the users files.
func diffUsers(before, after *config.File) (lines []string, err error) {
	was, err := userNames(before)
	if err != nil {
		return nil, err
	}
	is, err := userNames(after)
	if err != nil {
		return nil, err
	}
	for _, name := range was {
		if !slices.Contains(is, name) {
			lines = append(lines, "- user "+name)
		}
	}
	for _, name := range is {
		if !slices.Contains(was, name) {
			lines = append(lines, "+ user "+name)
		}
	}
	return lines, nil
}

func userNames(f *config.File) ([]string, error) {
	if f.Users == nil || f.Users.File == "" {
		return nil, nil
	}
	store, err := users.Open(f.Path(f.Users.File))
	if err != nil {
		return nil, f.Errorf("users.file", "%w", err)
	}
	return store.Names(), nil
}

// diffRules compares the rules in their order.
func diffRules(before, after *config.File) (lines []string) {
	hunks := diff.Diff("old", ruleTexts(before), "new", ruleTexts(after))
	for line := range strings.Lines(string(hunks)) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "-rule: "); ok {
			lines = append(lines, "- rule: "+rest)
		}
		if rest, ok := strings.CutPrefix(line, "+rule: "); ok {
			lines = append(lines, "+ rule: "+rest)
		}
	}
	return lines
}

// ruleTexts returns the rules, one a line.
func ruleTexts(f *config.File) (texts []byte) {
	for i := range f.Rules {
		texts = fmt.Appendf(texts, "rule: %s\n", ruleText(&f.Rules[i]))
	}
	return texts
}

// ruleText is a rule in one line.
func ruleText(r *config.Rule) string {
	var parts []string
	v := reflect.ValueOf(*r)
	for i := range v.NumField() {
		all := make(map[string]setting)
		flatten(all, yamlKey(v.Type().Field(i)), v.Field(i))
		values := make([]string, 0, len(all))
		for _, key := range slices.Sorted(maps.Keys(all)) {
			_, below, nested := strings.Cut(key, ".")
			if text := all[key].text; nested {
				values = append(values, below+" "+text)
			} else {
				values = append(values, text)
			}
		}
		if len(values) > 0 {
			parts = append(parts, yamlKey(v.Type().Field(i))+" "+strings.Join(values, " "))
		}
	}
	return strings.Join(parts, ", ")
}
