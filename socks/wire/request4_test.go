package wire

import (
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
)

var requests4 = []sample[Request4]{
	{name: "connect, as the memo has it", hex: "04 01 0050 42660763" + text("Fred") + "00",
		want: Request4{argyle.Connect, addr("66.102.7.99", 80), "Fred"}},
	{name: "bind", hex: "04 02 0015 c0000201 00", want: Request4{argyle.Bind, addr("192.0.2.1", 21), ""}},
	{name: "bind for anybody", hex: "04 02 0000 00000000 00", want: Request4{argyle.Bind, addr("0.0.0.0", 0), ""}},
	{name: "4a", hex: "04 01 01bb 00000001" + text("ann") + "00" + text("example.com") + "00",
		want: Request4{argyle.Connect, name("example.com", 443), "ann"}},
	{name: "4a without a user", hex: "04 01 01bb 00000001 00" + text("a") + "00", want: Request4{argyle.Connect, name("a", 443), ""}},
	{name: "4a, 0.0.0.255", hex: "04 01 01bb 000000ff 00" + text("a") + "00",
		want: Request4{argyle.Connect, name("a", 443), ""}, readOnly: true},
	{name: "4a, empty name", hex: "04 01 01bb 00000001 00 00", want: Request4{argyle.Connect, name("", 443), ""}, readOnly: true},
	{name: "the longest", hex: "04 01 0050 00000001" + strings.Repeat("61", 255) + "00" + strings.Repeat("62", 255) + "00",
		want: Request4{argyle.Connect, name(strings.Repeat("b", 255), 80), strings.Repeat("a", 255)}},
	// Only three zeros and then something else are the mark of 4a.
	{name: "0.0.1.1 is an address", hex: "04 01 0050 00000101 00", want: Request4{argyle.Connect, addr("0.0.1.1", 80), ""}},
	{name: "0.1.0.1 is an address", hex: "04 01 0050 00010001 00", want: Request4{argyle.Connect, addr("0.1.0.1", 80), ""}},
	{name: "1.0.0.1 is an address", hex: "04 01 0050 01000001 00", want: Request4{argyle.Connect, addr("1.0.0.1", 80), ""}},
	{name: "command that nobody knows", hex: "04 03 0050 c0000201 00", want: Request4{argyle.Associate, addr("192.0.2.1", 80), ""}},
	{name: "user of any bytes", hex: "04 01 0050 c0000201 ff0a20 00", want: Request4{argyle.Connect, addr("192.0.2.1", 80), "\xff\n "}},
}

var badRequests4 = []refusal{
	{"SOCKS 5", "05"},
	{"HTTP", "47"},
	{"user of 256 bytes", "04 01 0050 c0000201" + strings.Repeat("61", 256)},
	{"name of 256 bytes", "04 01 0050 00000001 00" + strings.Repeat("61", 256)},
}

func TestRequest4(t *testing.T) {
	testSamples(t, ParseRequest4, requests4)
	testRefusals(t, ParseRequest4, badRequests4)
	testUnwritable(t, map[string]Request4{
		"nowhere":                 {Command: argyle.Connect},
		"IPv6":                    {argyle.Connect, addr("2001:db8::1", 80), ""},
		"address that means 4a":   {argyle.Connect, addr("0.0.0.1", 80), ""},
		"the last of them":        {argyle.Connect, addr("0.0.0.255", 80), ""},
		"the same, IPv4-mapped":   {argyle.Connect, addr("::ffff:0.0.0.7", 80), ""},
		"user of 256 bytes":       {argyle.Connect, addr("192.0.2.1", 80), strings.Repeat("a", 256)},
		"user with a zero byte":   {argyle.Connect, addr("192.0.2.1", 80), "ann\x00evil.example"},
		"name of 256 bytes":       {argyle.Connect, name(strings.Repeat("a", 256), 80), ""},
		"name with a zero byte":   {argyle.Connect, name("a\x00b", 80), ""},
		"4a user of 256 bytes":    {argyle.Connect, name("a", 80), strings.Repeat("a", 256)},
		"4a user with zero bytes": {argyle.Connect, name("a", 80), "\x00"},
	})
	checkWritten(t, Request4{argyle.Connect, addr("::ffff:192.0.2.1", 80), ""}, unhex(t, "04 01 0050 c0000201 00"))
}

// A text of SOCKS 4 has no length, so a reader gets it byte by byte and never
// one too many.
func TestRequest4AsksForOneByte(t *testing.T) {
	b := unhex(t, "04 01 01bb 00000001"+text("ann")+"00"+text("example.com")+"00")
	for have := 9; have < len(b); have++ {
		if _, n, err := ParseRequest4(b[:have]); err != ErrShort || n != have+1 {
			t.Errorf("after %d bytes: %d, %v, want one byte more", have, n, err)
		}
	}
}

var responses4 = []sample[Response4]{
	{name: "granted", hex: "00 5a 0050 42660763", want: Response4{Granted, addr("66.102.7.99", 80)}},
	{name: "rejected", hex: "00 5b 0000 00000000", want: Response4{Rejected, addr("0.0.0.0", 0)}},
	{name: "no identd", hex: "00 5c 0000 00000000", want: Response4{IdentRequired, addr("0.0.0.0", 0)}},
	{name: "another user", hex: "00 5d 0000 00000000", want: Response4{IdentMismatch, addr("0.0.0.0", 0)}},
	{name: "code that nobody knows", hex: "00 00 0000 00000000", want: Response4{0, addr("0.0.0.0", 0)}},
	{name: "address that would be a name in a request", hex: "00 5a 0050 00000001", want: Response4{Granted, addr("0.0.0.1", 80)}},
	{name: "version 4", hex: "04 5a 0050 42660763", want: Response4{Granted, addr("66.102.7.99", 80)}, readOnly: true},
}

var badResponses4 = []refusal{
	{"the reply of SOCKS 5", "05"},
	{"HTTP", "48"},
}

func TestResponse4(t *testing.T) {
	testSamples(t, ParseResponse4, responses4)
	testRefusals(t, ParseResponse4, badResponses4)
	for _, bound := range []argyle.Addr{addr("2001:db8::1", 80), name("gw.example", 80), {Port: 80}} {
		checkWritten(t, Response4{Granted, bound}, unhex(t, "00 5a 0050 00000000"))
	}
	checkWritten(t, Response4{Granted, addr("::ffff:192.0.2.1", 80)}, unhex(t, "00 5a 0050 c0000201"))
}

func FuzzParseRequest4(f *testing.F)  { fuzz(f, ParseRequest4, requests4, badRequests4) }
func FuzzParseResponse4(f *testing.F) { fuzz(f, ParseResponse4, responses4, badResponses4) }

func BenchmarkRequest4(b *testing.B) {
	b.Run("4", func(b *testing.B) { benchmark(b, ParseRequest4, requests4[0].hex) })
	b.Run("4a", func(b *testing.B) { benchmark(b, ParseRequest4, requests4[3].hex) })
}
