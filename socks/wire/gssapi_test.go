package wire

import "testing"

var tokenHeaders = []sample[TokenHeader]{
	{name: "context", hex: "01 01 02 d1", want: TokenHeader{ContextToken, 721}},
	{name: "nothing to say", hex: "01 01 00 00", want: TokenHeader{ContextToken, 0}},
	{name: "level", hex: "01 02 00 1d", want: TokenHeader{LevelToken, 29}},
	{name: "level of NEC", hex: "01 02 00 01", want: TokenHeader{LevelToken, 1}},
	{name: "data", hex: "01 03 ff ff", want: TokenHeader{DataToken, 65535}},
	{name: "refusal", hex: "01 ff", want: TokenHeader{Abort, 0}},
}

var badTokenHeaders = []refusal{
	{"a request", "05"},
	{"no version", "00"},
	{"no type", "01 00"},
	{"unknown type", "01 04"},
}

func TestTokenHeader(t *testing.T) {
	testSamples(t, ParseTokenHeader, tokenHeaders)
	testRefusals(t, ParseTokenHeader, badTokenHeaders)
	testUnwritable(t, map[string]TokenHeader{
		"too long": {DataToken, 65536}, "negative": {DataToken, -1}, "a refusal with a token": {Abort, 1},
	})
}

func FuzzParseTokenHeader(f *testing.F) { fuzz(f, ParseTokenHeader, tokenHeaders, badTokenHeaders) }
func BenchmarkTokenHeader(b *testing.B) { benchmark(b, ParseTokenHeader, "01 03 ff ff") }

func TestProtectionLevel(t *testing.T) {
	for l, names := range map[ProtectionLevel][]string{
		Clear: {"clear", "0"}, Integrity: {"integrity", "1"}, Confidentiality: {"confidentiality", "2"},
	} {
		for _, name := range names {
			if got, err := ParseProtectionLevel(name); got != l || err != nil {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
	}
	for _, name := range []string{"", "3", "selective", "Clear", "-1", "00"} {
		if got, err := ParseProtectionLevel(name); err == nil {
			t.Errorf("%q: %v", name, got)
		}
	}
}
