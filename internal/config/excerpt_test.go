package config

import (
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	tests := []struct {
		text         string // the last line is shown, and a ‸ stands before the place
		shown, caret string
	}{
		{"a: ‸b", "a: b", "   ^"},
		{"ä: ‸b", "ä: b", "   ^"},
		{"a: b‸", "a: b", "    ^"},
		{"a: \x1b[31m‸b", "a: ?[31mb", "        ^"},
		{"‸password: hunter2", "password: …", "^"},
		{"password: ‸hunter2", "password: …", "          ^"},
		{"password: hunt‸er2 # x", "password: …", "          ^"},
		{"{password: hunter2, mode: ‸x}", "{password: …, mode: x}", "                    ^"},
		{`{password: "hun,t\"er}2", mode: ‸x}`, `{password: …, mode: x}`, "                    ^"},
		{"{password: 'hunter2', mode: ‸x}", "{password: …, mode: x}", "                    ^"},
		{`{"password":"hunter2","mode":‸x}`, `{"password":…,"mode":x}`, `                     ^`},
		{"{password: hunter2, a: {‸secret: hunter2}}", "{password: …, a: {secret: …}}", "                  ^"},
		{"password: &a !!str \"hunter2\" # ‸x", "password: &a !!str … # x", "                       ^"},
		{"password: \"hunter2\" ‸x", "password: …", "          ^"},
		{"password: \"a\"hunter2‸", "password: …", "           ^"},
		{"{password: 'a''hunter2', mode: ‸x}", "{password: …, mode: x}", "                    ^"},
		{"pasword: ‸hunter2", "pasword: …", "         ^"},
		{"API_TOKEN: ‸hunter2", "API_TOKEN: …", "           ^"},
		{"# password: ‸hunter2", "# password: …", "            ^"},
		{"proxy: socks5://ann:hunter2@gw ‸x", "proxy: socks5://ann:…@gw x", "                         ^"},
		{"proxy: ann:hunter2‸@gw", "proxy: ann:…@gw", "            ^"},
		{"proxy: ann:hunt@er://2@gw‸", "proxy: ann:…@gw", "               ^"},
		{`proxy: "ann: hunter2@gw"‸`, `proxy: "ann:…@gw"`, "                 ^"},
		{"proxy: [ann:hunter2@a, ‸x, bob:hunter2@b]", "proxy: [ann:…@b]", "            ^"},
		{"user: ssh://ann@‸gw", "user: ssh://ann@gw", "                ^"},
		{"? password\n: ‸hunter2", ":…", " ^"},
		{"password:\n  ‸hunter2", "  …", "  ^"},
		{"password:\n\n‸hunter2", "…", "^"},
		{"a:\n  password: |\n    x\n    ‸hunter2", "    …", "    ^"},
		{"a:\n  password: |\n    password: x\n    ‸hunter2", "    …", "    ^"},
		{"a:\n  - password: >-\n      x\n     ‸hunter2", "     …", "     ^"},
		{"a:\n  password: x\n  mode: ‸y", "  mode: y", "        ^"},
		{"password: \"x\n‸hunter2\" y", "…", "^"},
		{"password: 'x\ny\n‸hunter2' y", "…", "^"},
		{"password: \"x\n  y\"\nmode: ‸z", "mode: z", "      ^"},
		{"password: x\nmode: ‸z", "mode: z", "      ^"},
		{"b: " + strings.Repeat("x", 200) + "‸y", "… " + strings.Repeat("x", 99) + "y", strings.Repeat(" ", 101) + "^"},
		{"b: ‸" + strings.Repeat("x", 200), "b: " + strings.Repeat("x", 97) + " …", "   ^"},
	}
	for _, tt := range tests {
		lines := strings.Split(tt.text, "\n")
		last := len(lines) - 1
		before, after, _ := strings.Cut(lines[last], "‸")
		lines[last] = before + after
		shown, caret := excerpt(lines, last, len([]rune(before)))
		if got := strings.Repeat(" ", caret) + "^"; shown != tt.shown || got != tt.caret {
			t.Errorf("%q is shown as\n%s\n%s\nwant\n%s\n%s", tt.text, shown, got, tt.shown, tt.caret)
		}
	}
}
