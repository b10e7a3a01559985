package config

import (
	"reflect"
	"slices"
	"strings"
)

// foreign are names that other programs have for our keys.
var foreign = map[string][]string{
	"account": {"user"}, "acl": {"rules"}, "addr": {"address"}, "balance": {"pick"},
	"bandwidth": {"up", "limits"}, "bind": {"listen", "address"}, "ca": {"client-ca"}, "certificate": {"cert"},
	"connections": {"sessions", "limits"}, "destination": {"to"}, "dns": {"names"}, "domain": {"to"},
	"download": {"down"}, "dst": {"to"}, "external": {"direct", "source", "address"}, "from": {"client"},
	"hosts": {"names"}, "hours": {"time"}, "inbound": {"listener"}, "inbounds": {"listen"}, "interval": {"every"},
	"ip": {"address"}, "loglevel": {"log"}, "maxconn": {"sessions", "limits"}, "members": {"group", "chain"},
	"method": {"auth"}, "nameserver": {"servers", "names"}, "outbound": {"via", "upstreams"}, "outbounds": {"upstreams"},
	"passwd": {"password", "users"}, "policy": {"pick", "action", "rules"}, "private-key": {"key"},
	"protocol": {"command"}, "proxies": {"chain", "group", "upstreams"}, "proxy": {"via"}, "quota": {"limits"},
	"rate": {"limits"}, "resolver": {"names", "servers"}, "routes": {"rules"}, "routing": {"rules"},
	"sessions": {"limits"}, "speed": {"up", "limits"}, "src": {"client"}, "strategy": {"pick"}, "traffic": {"quota"},
	"upload": {"up"}, "upstream": {"via"}, "url": {"chain"}, "username": {"user"}, "verdict": {"action"},
	"weekdays": {"days"},
}

// meant returns the keys that may have been meant by one that does not exist.
func meant(key string, fields []field) []string {
	key = strings.ToLower(strings.ReplaceAll(key, "_", "-"))
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	if near := nearest(key, keys); near != "" {
		return []string{near}
	}
	return slices.DeleteFunc(slices.Clone(foreign[key]), func(k string) bool { return !slices.Contains(keys, k) })
}

// suggestion says what may have been meant; "" if nobody knows.
func suggestion(key string, meant []string, fields []field) string {
	if len(meant) > 0 {
		return ", did you mean " + orList(meant) + "?"
	}
	for _, f := range fields {
		if hasKey(f.typ, key) {
			return "; it belongs under " + f.key
		}
	}
	return ""
}

// hasKey reports whether t is a structure with that key.
func hasKey(t reflect.Type, key string) bool {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && slices.ContainsFunc(fieldsOf(t), func(f field) bool { return f.key == key })
}

// nearest returns the word that takes the fewest changes to get to, if these
// are few; else "".
func nearest(word string, words []string) (near string) {
	least := max(2, len(word)/3+1) // and this is one too many
	for _, w := range words {
		if d := distance(word, w); d < least && d < len(word) {
			near, least = w, d
		}
	}
	return near
}

// distance is how many letters must be changed, added, left out, or swapped
// with the next, to make b of a.
func distance(a, b string) int {
	from, to := []rune(a), []rune(b)
	if diff := len(from) - len(to); diff > 8 || diff < -8 {
		return 9 // far enough, and long texts take their time
	}
	var before []int
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i, r := range from {
		next := make([]int, len(to)+1)
		next[0] = i + 1
		for j, s := range to {
			cost := 1
			if r == s {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && r == to[j-1] && from[i-1] == s {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(to)]
}
