package wire

import (
	"strings"
	"testing"
)

var greetings = []sample[Greeting]{
	{name: "curl, no password", hex: "05 01 00", want: Greeting{[]Method{NoAuth}}},
	{name: "Java", hex: "05 02 00 02", want: Greeting{[]Method{NoAuth, UserPass}}},
	{name: "curl with Kerberos", hex: "05 03 00 01 02", want: Greeting{[]Method{NoAuth, GSSAPI, UserPass}}},
	{name: "PuTTY, with CHAP", hex: "05 03 00 03 02", want: Greeting{[]Method{NoAuth, 3, UserPass}}},
	{name: "twice the same", hex: "05 03 02 02 02", want: Greeting{[]Method{UserPass, UserPass, UserPass}}},
	{name: "no methods", hex: "05 00", want: Greeting{[]Method{}}},
	{name: "the method that stands for none", hex: "05 01 ff", want: Greeting{[]Method{NoAcceptable}}},
	{name: "255 methods", hex: "05 ff" + strings.Repeat("80", 255), want: Greeting{methods(255)}},
}

var badGreetings = []refusal{
	{"SOCKS 4", "04"},
	{"HTTP", "47"},
	{"TLS", "16"},
	{"zero", "00"},
}

func methods(n int) []Method {
	ms := make([]Method, n)
	for i := range ms {
		ms[i] = 0x80
	}
	return ms
}

func TestGreeting(t *testing.T) {
	testSamples(t, ParseGreeting, greetings)
	testRefusals(t, ParseGreeting, badGreetings)
	testUnwritable(t, map[string]Greeting{"256 methods": {methods(256)}})
	checkWritten(t, Greeting{}, unhex(t, "05 00"))
}

func FuzzParseGreeting(f *testing.F)  { fuzz(f, ParseGreeting, greetings, badGreetings) }
func BenchmarkGreeting(b *testing.B)  { benchmark(b, ParseGreeting, "05 02 00 02") }
func FuzzParseSelection(f *testing.F) { fuzz(f, ParseSelection, selections, badSelections) }
func BenchmarkSelection(b *testing.B) { benchmark(b, ParseSelection, "05 00") }

var selections = []sample[Selection]{
	{name: "none needed", hex: "05 00", want: Selection{NoAuth}},
	{name: "GSS-API", hex: "05 01", want: Selection{GSSAPI}},
	{name: "password", hex: "05 02", want: Selection{UserPass}},
	{name: "private method", hex: "05 80", want: Selection{0x80}},
	{name: "none acceptable", hex: "05 ff", want: Selection{NoAcceptable}},
}

var badSelections = []refusal{
	{"the reply of SOCKS 4", "00"},
	{"HTTP", "48"},
}

func TestSelection(t *testing.T) {
	testSamples(t, ParseSelection, selections)
	testRefusals(t, ParseSelection, badSelections)
}

func TestMethodString(t *testing.T) {
	for m, want := range map[Method]string{
		NoAuth: "none", GSSAPI: "gssapi", UserPass: "password", NoAcceptable: "no acceptable method", 0x80: "method 0x80",
	} {
		if got := m.String(); got != want {
			t.Errorf("%d is %q, want %q", m, got, want)
		}
	}
}
