package policy

import (
	"regexp"
	"strings"
	"testing"
)

func TestParsePattern(t *testing.T) {
	for text, want := range map[string]pattern{
		"*":                     {kind: everything},
		"a.test":                {kind: exactName, text: "a.test"},
		"A.Test.":               {kind: exactName, text: "a.test"},
		"localhost":             {kind: exactName, text: "localhost"},
		"_srv._tcp.a.test":      {kind: exactName, text: "_srv._tcp.a.test"},
		".a.test":               {kind: domainName, text: "a.test"},
		".Test":                 {kind: domainName, text: "test"},
		"*.a.test":              {kind: belowName, text: "a.test"},
		"*.test.":               {kind: belowName, text: "test"},
		"*.*.test":              {kind: globName, text: "*.*.test"},
		"ads*":                  {kind: globName, text: "ads*"},
		"A?.test":               {kind: globName, text: "a?.test"},
		"*.cdn-?.test":          {kind: globName, text: "*.cdn-?.test"},
		"?*":                    {kind: globName, text: "?*"},
		"10*.test":              {kind: globName, text: "10*.test"},
		"bücher.test":           {kind: exactName, text: "xn--bcher-kva.test"},
		".BÜCHER.test":          {kind: domainName, text: "xn--bcher-kva.test"},
		"XN--BCHER-KVA.test":    {kind: exactName, text: "xn--bcher-kva.test"},
		"*.bücher.test":         {kind: belowName, text: "xn--bcher-kva.test"},
		"a*.bücher.test":        {kind: globName, text: "a*.xn--bcher-kva.test"},
		"set:ads":               {kind: setPattern, text: "ads"},
		"set:":                  {kind: setPattern},
		"192.0.2.7":             {kind: netPattern, net: prefixes("192.0.2.7/32")[0]},
		"192.0.2.7/24":          {kind: netPattern, net: prefixes("192.0.2.0/24")[0]},
		"::ffff:192.0.2.7":      {kind: netPattern, net: prefixes("192.0.2.7/32")[0]},
		"::ffff:192.0.2.0/120":  {kind: netPattern, net: prefixes("192.0.2.0/24")[0]},
		"::ffff:0:0/96":         {kind: netPattern, net: prefixes("0.0.0.0/0")[0]},
		"2001:DB8::/32":         {kind: netPattern, net: prefixes("2001:db8::/32")[0]},
		"::/0":                  {kind: netPattern, net: prefixes("::/0")[0]},
		"64:ff9b::192.0.2.0/96": {kind: netPattern, net: prefixes("64:ff9b::/96")[0]},
	} {
		got, err := parsePattern(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ".", "..", " ", "a b", "a\x00b", "*.", "127.1", "0x7f.1", "1.2.3", "256.1.1.1", "2130706433", "１２７.０.０.１", "10.*", "*.0.0.1", "1??.2.3.4", "10.0.0.0/33",
		"10.0.0.0/-1", "10.0.0/8", "2001:db8::/129", "fe80::1%eth0", "fe80::%eth0/64", "[::1]", "a.test:80", "http://a.test", "a/b", ".*.test", "..test",
		strings.Repeat("a", 256), "ü*.test", "a\u200d\u0300.test", "\xff.test", "a@b", strings.Repeat("*x", 17),
	} {
		if got, err := parsePattern(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func FuzzParsePattern(f *testing.F) {
	for _, text := range world.patterns {
		f.Add(text)
	}
	f.Add("ａ。ｂ")
	f.Add("*.xn--a")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePattern(text)
		if err != nil {
			return
		}
		switch p.kind {
		case everything, setPattern:
		case netPattern:
			if p.net != p.net.Masked() || p.net.Addr().Is4In6() && p.net.Bits() >= 96 || p.net.Addr().Zone() != "" {
				t.Fatalf("%q: %v", text, p.net)
			}
		default:
			again, err := parsePattern(p.text)
			if err != nil || again.text != p.text && again.kind != belowName {
				t.Fatalf("%q is %q, which is %+v, %v", text, p.text, again, err)
			}
			if plain := string(appendName(nil, p.text)); plain != p.text {
				t.Fatalf("%q is %q, whose plain form is %q", text, p.text, plain)
			}
		}
	})
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		glob    string
		yes, no string
	}{
		{"*", "a a.b .", ""},
		{"a", "a", "b aa"},
		{"a*", "a ab a.b", "ba"},
		{"*a", "a ba b.a", "ab"},
		{"a*b", "ab axb a.b abab", "a b aba"},
		{"*a*b*", "ab xaxbx aab", "ba a b"},
		{"?", "a .", "ab"},
		{"a?c", "abc a.c", "ac abbc"},
		{"*?.x", "a.x ab.x", ".x x"},
		{"**", "a", ""},
		{"*.aab", ".aab aab.aab a.aaab.aab", "aab aaab"},
		{"*aab", "aab aaab", "aaba"},
	} {
		for _, name := range strings.Fields(tt.yes) {
			if !globMatches(tt.glob, []byte(name)) {
				t.Errorf("%s does not match %s", tt.glob, name)
			}
		}
		for _, name := range strings.Fields(tt.no) {
			if globMatches(tt.glob, []byte(name)) {
				t.Errorf("%s matches %s", tt.glob, name)
			}
		}
	}
}

// FuzzGlob compares globs with regular expressions, by themselves and in an index.
func FuzzGlob(f *testing.F) {
	f.Add("*.cdn-?.test", "a.cdn-1.test")
	f.Add("*a*ab*b", "aabab")
	f.Add("abc*", "abcabc")
	f.Add("*?abc??d*", "xabcdabcxxd")
	f.Fuzz(func(t *testing.T, glob, name string) {
		if strings.Count(glob, "*") > maxStars || len(glob) > 64 || len(name) > 255 || !isASCII(glob) || !isASCII(name) {
			return
		}
		text := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(glob))
		want := regexp.MustCompile("^(?s:" + text + ")$").MatchString(name)
		if got := globMatches(glob, []byte(name)); got != want {
			t.Fatalf("%q matches %q: %v", glob, name, got)
		}
		x := newGlobIndex(map[string]uint32{glob: 1, glob + "?": 2, "zzz*": 3})
		found := false
		x.match([]byte(name), func(list uint32) { found = found || list == 1 })
		if found != want {
			t.Fatalf("%q is found for %q: %v", glob, name, found)
		}
	})
}

// Blocks of a ranged dimension are what the ranges are made of.
func TestRanges(t *testing.T) {
	b := newRangedBuilder(4, 16)
	ranges := []Ports{{0, 65535}, {25, 25}, {1, 65534}, {1023, 1025}}
	for i, r := range ranges {
		b.enter(uint(r.First), uint(r.Last), ownerRule(i))
	}
	x := b.build()
	for port := range 1 << 16 {
		got := newBitset(4)
		x.match(got, uint(port))
		for i, r := range ranges {
			if want := int(r.First) <= port && port <= int(r.Last); got.has(uint32(i)) != want {
				t.Fatalf("port %d in %v: %v", port, r, !want)
			}
		}
	}
}
