package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	const word = "hunter2"
	u := Upstream{Password: word, Chain: []ProxyURL{"socks5h://ann:" + word + "@gw.example", word + ":" + word + "@gw"}}
	u.Chain = u.Chain[:1]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%f", "%10.3v", "%U", "%c"} {
		for _, v := range []any{u, &u, u.Password, u.Chain, u.Chain[0], []any{u}, map[string]Upstream{"a": u}} {
			s := fmt.Sprintf(verb, v)
			if strings.Contains(s, word) || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", word)) {
				t.Errorf("%s shows it: %s", verb, s)
			}
		}
	}
	text, err := json.Marshal(u)
	if err != nil || strings.Contains(string(text), word) {
		t.Errorf("JSON shows it: %s, %v", text, err)
	}
	for _, handler := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("x", "upstream", u, "pointer", &u, "password", u.Password, "url", u.Chain[0], "chain", u.Chain)
		if strings.Contains(b.String(), word) {
			t.Errorf("slog shows it: %s", b.String())
		}
	}
	if string(u.Password) != word || fmt.Sprint(u.Password) != "…" {
		t.Errorf("password is %q, printed %v", string(u.Password), u.Password)
	}
}

func TestHideUserinfo(t *testing.T) {
	for url, want := range map[string]string{
		"socks5h://gw.example:1080":   "socks5h://gw.example:1080",
		"ssh://ann@box.example":       "ssh://ann@box.example",
		"socks5://ann:pw@gw:1080":     "socks5://ann:…@gw:1080",
		"ann:pw@gw":                   "ann:…@gw",
		"ann:p@w@gw":                  "ann:…@gw",
		"ann:x://p:w@gw":              "ann:…@gw",
		"ann:x://pw@gw":               "ann:…@gw",
		"socks5://ann:a b:@gw":        "socks5://ann:…@gw",
		"socks5://:pw@[2001:db8::1]":  "socks5://:…@[2001:db8::1]",
		"office":                      "office",
		"":                            "",
		"http://ann:@gw":              "http://ann:…@gw",
		"socks5+tls://ann:pw@gw?sni=": "socks5+tls://ann:…@gw?sni=",
	} {
		if got := hideUserinfo(url); got != want {
			t.Errorf("%q is shown as %q, want %q", url, got, want)
		}
	}
}
