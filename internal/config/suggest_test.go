package config

import (
	"reflect"
	"slices"
	"testing"
)

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"same", "same", 0}, {"upstream", "upstreams", 1}, {"idel", "idle", 1},
		{"lisen", "listen", 1}, {"vai", "via", 1}, {"alow", "deny", 4}, {"größe", "grösse", 2}, {"x", "a long text that is", 9},
		{"ca", "abc", 3}, // a swap, and nothing between
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("from %q to %q it is %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := distance(tt.b, tt.a); got != tt.want {
			t.Errorf("from %q to %q it is %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

// TestForeign: what is suggested must exist somewhere, and must not be what was
// written.
func TestForeign(t *testing.T) {
	var all []string
	collect(&all, reflect.TypeFor[File]())
	for word, keys := range foreign {
		for _, key := range keys {
			if !slices.Contains(all, key) || key == word {
				t.Errorf("for %s, there is no key %s", word, key)
			}
		}
	}
}

func collect(all *[]string, t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if isLeaf(t) {
		return
	}
	for _, f := range fieldsOf(t) {
		*all = append(*all, f.key)
		collect(all, f.typ)
	}
}
