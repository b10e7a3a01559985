package main

import (
	"testing"

	"github.com/argyle-socks/argyle"
)

func TestNoProxy(t *testing.T) {
	t.Parallel()
	tests := []struct {
		list, dest string
		want       bool
	}{
		{"", "a.example:80", false},
		{",, ,", "a.example:80", false},
		{"*", "a.example:80", true},
		{"*", "192.0.2.1:80", true},
		{"b.example,*", "[2001:db8::1]:80", true},

		// Names and their domains.
		{"a.example", "a.example:80", true},
		{"a.example", "A.Example:80", true},
		{"A.EXAMPLE", "a.example:80", true},
		{"a.example", "a.example.:80", true},
		{"a.example.", "a.example:80", true},
		{"a.example", "www.a.example:80", true},
		{"a.example", "aa.example:80", false},
		{"a.example", "a.example.net:80", false},
		{"a.example", "example:80", false},
		{".a.example", "www.a.example:80", true},
		{".a.example", "a.example:80", true}, // as curl has it
		{".a.example", "ba.example:80", false},
		{"*.a.example", "www.a.example:80", true},
		{"*.a.example", "ba.example:80", false},
		{"b.example a.example", "a.example:80", true},
		{"b.example, a.example ,c.example", "a.example:80", true},
		{"b.example,c.example", "a.example:80", false},
		{".", "a.example:80", false},
		{"localhost", "localhost:80", true},
		{"localhost", "127.0.0.1:80", false},
		{"localhost", "mylocalhost:80", false},

		// Ports.
		{"a.example:80", "a.example:80", true},
		{"a.example:80", "a.example:443", false},
		{".a.example:80", "www.a.example:80", true},
		{"192.0.2.1:80", "192.0.2.1:80", true},
		{"192.0.2.1:80", "192.0.2.1:443", false},
		{"[2001:db8::1]:80", "[2001:db8::1]:80", true},
		{"[2001:db8::1]:80", "[2001:db8::1]:443", false},
		{"a.example:http", "a.example:80", false},
		{":80", "a.example:80", false},
		{":", "a.example:80", false},

		// Addresses and networks.
		{"192.0.2.1", "192.0.2.1:80", true},
		{"192.0.2.1", "192.0.2.10:80", false},
		{"192.0.2.1", "a.example:80", false},
		{"2.1", "192.0.2.1:80", false},
		{"::ffff:192.0.2.1", "192.0.2.1:80", true},
		{"192.0.2.1", "[::ffff:192.0.2.1]:80", true},
		{"2001:db8::1", "[2001:db8::1]:80", true},
		{"[2001:db8::1]", "[2001:db8::1]:80", true},
		{"2001:DB8:0::1", "[2001:db8::1]:80", true},
		{"2001:db8::1", "[2001:db8::2]:80", false},
		{"::1", "[::1]:80", true},
		{"192.0.2.0/24", "192.0.2.255:80", true},
		{"192.0.2.77/24", "192.0.2.1:80", true},
		{"192.0.2.0/24", "192.0.3.0:80", false},
		{"192.0.2.0/24", "a.example:80", false},
		{"2001:db8::/32", "[2001:db8:ffff::1]:80", true},
		{"2001:db8::/32", "[2001:db9::1]:80", false},
		{"0.0.0.0/0", "[2001:db8::1]:80", false},
		{"192.0.2.0/33", "192.0.2.1:80", false},
		{"http://a.example", "a.example:80", false},
	}
	for _, tt := range tests {
		dest, err := argyle.ParseAddr(tt.dest)
		if err != nil {
			t.Fatal(err)
		}
		if got := noProxy(tt.list, dest); got != tt.want {
			t.Errorf("noProxy(%q, %s) = %v", tt.list, tt.dest, got)
		}
	}
}

func TestParseDest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ host, port, want string }{
		{"a.example", "80", "a.example:80"},
		{"a.example:80", "", "a.example:80"},
		{"192.0.2.1", "80", "192.0.2.1:80"},
		{"2001:db8::1", "80", "[2001:db8::1]:80"}, // as OpenSSH's %h has it
		{"[2001:db8::1]", "80", "[2001:db8::1]:80"},
		{"[2001:db8::1]:80", "", "[2001:db8::1]:80"},
		{"::ffff:192.0.2.1", "80", "192.0.2.1:80"},
		{"fe80::1%eth0", "80", "[fe80::1%eth0]:80"},
		{"a.example", "", "error"},
		{"2001:db8::1", "", "error"},
		{"a.example", "0", "error"},
		{"a.example", "65536", "error"},
		{"a.example", "ssh", "error"},
		{"a.example:80", "80", "error"},
		{"127.1", "80", "error"},
		{"", "80", "error"},
		{"", "", "error"},
	} {
		args := []string{tt.host, tt.port}
		if tt.port == "" {
			args = args[:1]
		}
		got := "error"
		if dest, err := parseDest(args); err == nil {
			got = dest.String()
		}
		if got != tt.want {
			t.Errorf("%q: %s, want %s", args, got, tt.want)
		}
	}
}

func TestParseNetworks(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"192.0.2.0/24":         "192.0.2.0/24",
		"192.0.2.77/24":        "192.0.2.0/24",
		"192.0.2.1":            "192.0.2.1/32",
		"2001:db8::/32":        "2001:db8::/32",
		"2001:db8::1":          "2001:db8::1/128",
		"fe80::1%eth0":         "error",
		"0.0.0.0/0":            "0.0.0.0/0",
		"::/0":                 "::/0",
		"192.0.2.0/33":         "error",
		"192.0.2/24":           "error",
		"a.example":            "error",
		"192.0.2.1:80":         "error",
		"::ffff:192.0.2.0/120": "error",
		"::ffff:192.0.2.1":     "error",
		"":                     "error",
	} {
		got := "error"
		if prefixes, err := parseNetworks("--allow", []string{value}); err == nil {
			got = prefixes[0].String()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}
