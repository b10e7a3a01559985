package wire

import (
	"strings"
	"testing"
)

var logins = []sample[Login]{
	{name: "ann, secret", hex: "01 03" + text("ann") + "06" + text("secret"), want: Login{"ann", "secret"}},
	{name: "no password, as Java", hex: "01 03" + text("ann") + "00", want: Login{"ann", ""}},
	{name: "no user name", hex: "01 00 06" + text("secret"), want: Login{"", "secret"}},
	{name: "nothing", hex: "01 00 00", want: Login{}},
	{name: "the longest", hex: "01 ff" + strings.Repeat("61", 255) + "ff" + strings.Repeat("62", 255),
		want: Login{strings.Repeat("a", 255), strings.Repeat("b", 255)}},
	{name: "any bytes", hex: "01 03 00 ff 0a 02 c3 a9", want: Login{"\x00\xff\n", "é"}},
	{name: "the version of SOCKS", hex: "05 01 61 01 62", want: Login{"a", "b"}, readOnly: true},
}

var badLogins = []refusal{
	{"version 0", "00"},
	{"version 2", "02"},
	{"HTTP", "47"},
}

func TestLogin(t *testing.T) {
	testSamples(t, ParseLogin, logins)
	testRefusals(t, ParseLogin, badLogins)
	testUnwritable(t, map[string]Login{
		"user of 256 bytes":     {User: strings.Repeat("a", 256)},
		"password of 256 bytes": {Password: strings.Repeat("a", 256)},
	})
}

var loginStatuses = []sample[LoginStatus]{
	{name: "success", hex: "01 00", want: LoginStatus{0}},
	{name: "failure", hex: "01 01", want: LoginStatus{1}},
	{name: "any other failure", hex: "01 ff", want: LoginStatus{0xff}},
	{name: "the version of SOCKS", hex: "05 00", want: LoginStatus{0}, readOnly: true},
	{name: "version 0", hex: "00 01", want: LoginStatus{1}, readOnly: true},
}

func TestLoginStatus(t *testing.T) { testSamples(t, ParseLoginStatus, loginStatuses) }

func FuzzParseLogin(f *testing.F)       { fuzz(f, ParseLogin, logins, badLogins) }
func FuzzParseLoginStatus(f *testing.F) { fuzz(f, ParseLoginStatus, loginStatuses, nil) }
func BenchmarkLogin(b *testing.B)       { benchmark(b, ParseLogin, logins[0].hex) }
