package wire

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
)

func addr(ip string, port uint16) argyle.Addr {
	return argyle.Addr{IP: netip.MustParseAddr(ip), Port: port}
}

func name(s string, port uint16) argyle.Addr { return argyle.Addr{Name: s, Port: port} }

// The address 2001:db8::1, and 192.0.2.1 as an IPv4-mapped one.
const (
	hexDB81   = "20010db8 00000000 00000000 00000001"
	hexMapped = "00000000 00000000 0000ffff c0000201"
)

var requests = []sample[Request]{
	{name: "connect to IPv4", hex: "05 01 00 01 c0000201 0050", want: Request{argyle.Connect, addr("192.0.2.1", 80)}},
	{name: "connect to a name", hex: "05 01 00 03 0b" + text("example.com") + "01bb",
		want: Request{argyle.Connect, name("example.com", 443)}},
	{name: "connect to IPv6", hex: "05 01 00 04" + hexDB81 + "01bb", want: Request{argyle.Connect, addr("2001:db8::1", 443)}},
	{name: "bind", hex: "05 02 00 01 c0000201 0014", want: Request{argyle.Bind, addr("192.0.2.1", 20)}},
	{name: "associate from anywhere", hex: "05 03 00 01 00000000 0000", want: Request{argyle.Associate, addr("0.0.0.0", 0)}},
	{name: "associate from anywhere, IPv6", hex: "05 03 00 04" + strings.Repeat("00", 16) + "ffff",
		want: Request{argyle.Associate, addr("::", 65535)}},
	{name: "longest name", hex: "05 01 00 03 ff" + strings.Repeat("61", 255) + "0001",
		want: Request{argyle.Connect, name(strings.Repeat("a", 255), 1)}},
	{name: "name that is an address, as Chromium sends it", hex: "05 01 00 03 09" + text("192.0.2.1") + "0050",
		want: Request{argyle.Connect, name("192.0.2.1", 80)}},
	{name: "name of any bytes", hex: "05 01 00 03 03 00ff20 0050", want: Request{argyle.Connect, name("\x00\xff ", 80)}},
	{name: "command that nobody knows", hex: "05 f1 00 01 c0000201 0050", want: Request{0xf1, addr("192.0.2.1", 80)}},
	{name: "empty name", hex: "05 01 00 03 00 0050", want: Request{argyle.Connect, name("", 80)}, readOnly: true},
	{name: "RSV is not looked at", hex: "05 01 ff 01 c0000201 0050", want: Request{argyle.Connect, addr("192.0.2.1", 80)}, readOnly: true},
	{name: "IPv4-mapped", hex: "05 01 00 04" + hexMapped + "0050", want: Request{argyle.Connect, addr("192.0.2.1", 80)}, readOnly: true},
}

var badRequests = []refusal{
	{"SOCKS 4", "04"},
	{"a login that nobody asked for", "01"},
	{"ATYP 0", "05 01 00 00"},
	{"ATYP 2", "05 01 00 02"},
	{"ATYP 5", "05 01 00 05"},
	{"ATYP 255", "05 01 00 ff"},
}

func TestRequest(t *testing.T) {
	testSamples(t, ParseRequest, requests)
	testRefusals(t, ParseRequest, badRequests)
	testUnwritable(t, map[string]Request{
		"nowhere":           {Command: argyle.Connect},
		"name of 256 bytes": {argyle.Connect, name(strings.Repeat("a", 256), 80)},
	})
	checkWritten(t, Request{argyle.Connect, addr("::ffff:192.0.2.1", 80)}, unhex(t, "05 01 00 01 c0000201 0050"))
	checkWritten(t, Request{argyle.Connect, addr("fe80::1%eth0", 80)}, unhex(t, "05 01 00 04 fe80000000000000 0000000000000001 0050"))
}

// An unknown ATYP has an answer of its own, REP 8, so its error says so.
func TestAddrTypeError(t *testing.T) {
	_, _, err := ParseRequest(unhex(t, "05 01 00 02 c0000201 0050"))
	var atyp AddrTypeError
	if !errors.As(err, &atyp) || atyp != 2 {
		t.Errorf("error %v, want AddrTypeError(2)", err)
	}
	for target, want := range map[error]bool{
		ErrMessage: true, AddrTypeNotSupported: true, CommandNotSupported: false, ErrShort: false,
	} {
		if errors.Is(err, target) != want {
			t.Errorf("errors.Is(%v, %v) is %v", err, target, !want)
		}
	}
}

var responses = []sample[Response]{
	{name: "succeeded, IPv4", hex: "05 00 00 01 c0000201 c350", want: Response{Succeeded, addr("192.0.2.1", 50000)}},
	{name: "succeeded, IPv6", hex: "05 00 00 04" + hexDB81 + "c350", want: Response{Succeeded, addr("2001:db8::1", 50000)}},
	{name: "refused, full length", hex: "05 05 00 01 00000000 0000", want: Response{ConnectionRefused, addr("0.0.0.0", 0)}},
	{name: "REP that nobody knows", hex: "05 f0 00 01 00000000 0000", want: Response{0xf0, addr("0.0.0.0", 0)}},
	{name: "a name", hex: "05 00 00 03 09" + text("localhost") + "0438", want: Response{Succeeded, name("localhost", 1080)}, readOnly: true},
	{name: "an empty name", hex: "05 00 00 03 00 0000", want: Response{Succeeded, name("", 0)}, readOnly: true},
	{name: "IPv4-mapped", hex: "05 00 00 04" + hexMapped + "c350", want: Response{Succeeded, addr("192.0.2.1", 50000)}, readOnly: true},
	{name: "RSV is not looked at", hex: "05 00 07 01 c0000201 c350", want: Response{Succeeded, addr("192.0.2.1", 50000)}, readOnly: true},
}

var badResponses = []refusal{
	{"the reply of SOCKS 4", "00"},
	{"HTTP", "48"},
	{"ATYP 0", "05 00 00 00"},
	{"ATYP 2", "05 00 00 02"},
}

func TestResponse(t *testing.T) {
	testSamples(t, ParseResponse, responses)
	testRefusals(t, ParseResponse, badResponses)
	// Clients understand no name in a reply, and none that is shorter.
	zeros := unhex(t, "05 01 00 01 00000000 0000")
	checkWritten(t, Response{Reply: GeneralFailure}, zeros)
	checkWritten(t, Response{Succeeded, name("gw.example", 1080)}, unhex(t, "05 00 00 01 00000000 0438"))
	checkWritten(t, Response{Succeeded, addr("::ffff:192.0.2.1", 80)}, unhex(t, "05 00 00 01 c0000201 0050"))
}

func FuzzParseRequest(f *testing.F)  { fuzz(f, ParseRequest, requests, badRequests) }
func FuzzParseResponse(f *testing.F) { fuzz(f, ParseResponse, responses, badResponses) }

func BenchmarkRequest(b *testing.B) {
	b.Run("IPv4", func(b *testing.B) { benchmark(b, ParseRequest, requests[0].hex) })
	b.Run("name", func(b *testing.B) { benchmark(b, ParseRequest, requests[1].hex) })
	b.Run("IPv6", func(b *testing.B) { benchmark(b, ParseRequest, requests[2].hex) })
}

func BenchmarkResponse(b *testing.B) { benchmark(b, ParseResponse, responses[0].hex) }
