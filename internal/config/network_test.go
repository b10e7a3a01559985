package config

import (
	"net/netip"
	"testing"
)

func TestNetwork(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.1.2.3/8", "10.0.0.0/8"},
		{"192.0.2.7", "192.0.2.7/32"},
		{"2001:db8::1", "2001:db8::1/128"},
		{"2001:DB8::1/32", "2001:db8::/32"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"::/0", "::/0"},
	} {
		got, err := read[Network](tt.text)
		if err != nil || got.String() != tt.want || got.Prefix() != netip.MustParsePrefix(tt.want) {
			t.Errorf("%q = %v, %v; want %s", tt.text, got, err, tt.want)
		}
	}
	refuse[Network](t, "", "all", "10.0.0.0/33", "10.0.0", "10.0.0.0/8/8", "fe80::1%eth0", "fe80::%eth0/64", "::ffff:10.0.0.1",
		"::ffff:10.0.0.0/104", "example.com", "10.0.0.0-10.0.0.9", " 10.0.0.1", "[::1]")
	if _, err := read[Network]("::ffff:10.0.0.1"); err == nil || err.Error() != "write IPv4 networks as IPv4" {
		t.Errorf("a mapped address: %v", err)
	}
}

func TestPorts(t *testing.T) {
	for _, tt := range []scalarTest[Ports]{
		{"80", Ports{80, 80}, "80"},
		{"8000-8999", Ports{8000, 8999}, "8000-8999"},
		{"0-65535", Ports{0, 65535}, "0-65535"},
		{"25-25", Ports{25, 25}, "25"},
	} {
		tt.run(t)
	}
	refuse[Ports](t, "", "https", "65536", "-1", "80-", "80-79", "80,443", "80 - 90", "0x50", "1-2-3", "+80")
	if _, err := read[Ports]("90-80"); err == nil || err.Error() != "the range is empty: write 80-90" {
		t.Errorf("a reversed range: %v", err)
	}
}

func TestFileMode(t *testing.T) {
	for _, tt := range []scalarTest[FileMode]{
		{"0660", 0o660, "0660"},
		{"660", 0o660, "0660"},
		{"0o600", 0o600, "0600"},
		{"7", 0o007, "0007"},
	} {
		tt.run(t)
	}
	refuse[FileMode](t, "", "0", "0000", "0680", "rw-rw----", "1777", "-1", "0x1b0", "99999999999")
}
