package wire

import (
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
)

var headers = []sample[Header]{
	{name: "alone, IPv4", hex: "0000 00 01 c0000201 0035", want: Header{0, addr("192.0.2.1", 53)}},
	{name: "alone, name", hex: "0000 00 03 0b" + text("example.com") + "0035", want: Header{0, name("example.com", 53)}},
	{name: "alone, IPv6", hex: "0000 00 04" + hexDB81 + "0035", want: Header{0, addr("2001:db8::1", 53)}},
	{name: "first fragment", hex: "0000 01 01 c0000201 0035", want: Header{1, addr("192.0.2.1", 53)}},
	{name: "last fragment", hex: "0000 82 01 c0000201 0035", want: Header{0x82, addr("192.0.2.1", 53)}},
	{name: "port 0", hex: "0000 00 01 c0000201 0000", want: Header{0, addr("192.0.2.1", 0)}},
	{name: "longest", hex: "0000 00 03 ff" + strings.Repeat("61", 255) + "0035", want: Header{0, name(strings.Repeat("a", 255), 53)}},
	{name: "empty name", hex: "0000 00 03 00 0035", want: Header{0, name("", 53)}, readOnly: true},
	{name: "RSV is not looked at", hex: "dead 00 01 c0000201 0035", want: Header{0, addr("192.0.2.1", 53)}, readOnly: true},
	{name: "IPv4-mapped", hex: "0000 00 04" + hexMapped + "0035", want: Header{0, addr("192.0.2.1", 53)}, readOnly: true},
}

var badHeaders = []refusal{
	{"ATYP 0", "0000 00 00"},
	{"ATYP 2", "0000 00 02"},
	{"ATYP 255", "0000 00 ff"},
}

func TestHeader(t *testing.T) {
	testSamples(t, ParseHeader, headers)
	testRefusals(t, ParseHeader, badHeaders)
	testUnwritable(t, map[string]Header{
		"nowhere":           {},
		"name of 256 bytes": {0, name(strings.Repeat("a", 256), 53)},
	})
}

func TestMaxHeader(t *testing.T) {
	b, err := Header{Addr: name(strings.Repeat("a", 255), 53)}.Append(nil)
	if err != nil || len(b) != MaxHeader {
		t.Errorf("the longest header has %d bytes (%v), MaxHeader is %d", len(b), err, MaxHeader)
	}
}

func TestFrag(t *testing.T) {
	for _, c := range []struct {
		frag     Frag
		position int
		last     bool
	}{
		{0x00, 0, false}, {0x01, 1, false}, {0x7f, 127, false}, {0x81, 1, true}, {0xff, 127, true}, {0x80, 0, true},
	} {
		if c.frag.Position() != c.position || c.frag.Last() != c.last {
			t.Errorf("FRAG %#02x: position %d, last %v", byte(c.frag), c.frag.Position(), c.frag.Last())
		}
	}
}

// A relay writes a header per datagram; only a name costs memory to read.
func TestHeaderAllocs(t *testing.T) {
	h := Header{Addr: argyle.Addr{IP: addr("2001:db8::1", 0).IP, Port: 53}}
	buf := make([]byte, 0, MaxHeader)
	if n := testing.AllocsPerRun(100, func() {
		b, err := h.Append(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ParseHeader(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per header", n)
	}
}

func FuzzParseHeader(f *testing.F) { fuzz(f, ParseHeader, headers, badHeaders) }

func BenchmarkHeader(b *testing.B) {
	b.Run("IPv4", func(b *testing.B) { benchmark(b, ParseHeader, headers[0].hex) })
	b.Run("name", func(b *testing.B) { benchmark(b, ParseHeader, headers[1].hex) })
	b.Run("IPv6", func(b *testing.B) { benchmark(b, ParseHeader, headers[2].hex) })
}
