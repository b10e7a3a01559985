package config

import (
	"fmt"
	"strings"
)

// hidden stands where a secret is not shown.
const hidden = "…"

// Secret is a string that is not shown: whatever prints it, prints …; use
// string(s) for what it is.
type Secret string

// UnmarshalText takes every text.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}

// String hides s.
func (Secret) String() string { return hidden }

// Format hides s from every verb, also from those that know no methods.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, hidden) }

// MarshalText hides s from encoders and from log/slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

func (Secret) shape() shape { return shape{one: "a password", many: "passwords"} }

// ProxyURL is the URL of a proxy, or the name of an upstream, and not parsed
// here. It is printed without its password; use string(u) for what it is.
type ProxyURL string

// UnmarshalText takes every text that is not empty.
func (u *ProxyURL) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "" {
		return fmt.Errorf("want a proxy URL such as socks5h://gw.example, or the name of an upstream")
	}
	*u = ProxyURL(text)
	return nil
}

// String writes u without its password.
func (u ProxyURL) String() string { return hideUserinfo(string(u)) }

// Format writes u without its password, whatever the verb.
func (u ProxyURL) Format(f fmt.State, verb rune) {
	if verb == 'q' {
		fmt.Fprintf(f, "%q", u.String())
		return
	}
	fmt.Fprint(f, u.String())
}

// MarshalText is for encoders and log/slog.
func (u ProxyURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (ProxyURL) shape() shape {
	return shape{one: "a proxy URL or name of an upstream", many: "proxy URLs or names of upstreams"}
}

// hideUserinfo hides the password of a URL. It would rather hide too much: all
// up to the last @ may belong to the password, also where the URL is wrong.
func hideUserinfo(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	from := 0
	if scheme, _, found := strings.Cut(s[:at], "://"); found && !strings.ContainsAny(scheme, ": ") {
		from = len(scheme) + len("://")
	}
	colon := strings.IndexByte(s[from:at], ':')
	if colon < 0 {
		return s
	}
	return s[:from+colon+1] + hidden + s[at:]
}
