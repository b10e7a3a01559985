package argyle

import (
	"errors"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func name(s string, port uint16) Addr { return Addr{Name: s, Port: port} }

func literal(s string, port uint16) Addr { return Addr{IP: netip.MustParseAddr(s), Port: port} }

// hosts are hosts as clients and people write them, and what they mean: the
// zero Addr is refused.
var hosts = []struct {
	host string
	want Addr
}{
	// Literals are addresses, wherever they come from.
	{"192.0.2.1", literal("192.0.2.1", 80)},
	{"0.0.0.0", literal("0.0.0.0", 80)},
	{"255.255.255.255", literal("255.255.255.255", 80)},
	{"2001:db8::1", literal("2001:db8::1", 80)},
	{"2001:DB8:0:0::1", literal("2001:db8::1", 80)},
	{"::", literal("::", 80)},
	{"::1", literal("::1", 80)},
	{"[2001:db8::1]", literal("2001:db8::1", 80)},
	{"[192.0.2.1]", literal("192.0.2.1", 80)},
	{"::ffff:192.0.2.1", literal("192.0.2.1", 80)},
	{"::ffff:c000:201", literal("192.0.2.1", 80)},
	{"[::ffff:127.0.0.1]", literal("127.0.0.1", 80)},
	{"64:ff9b::7f00:1", literal("64:ff9b::7f00:1", 80)},

	// A zone says which of the local links is meant, and nothing else.
	{"fe80::1%eth0", literal("fe80::1%eth0", 80)},
	{"[fe80::1%2]", literal("fe80::1%2", 80)},
	{"2001:db8::1%eth0", Addr{}},
	{"::1%lo", Addr{}},
	{"ff02::1%eth0", Addr{}},
	{"192.0.2.1%eth0", Addr{}},
	{"::ffff:169.254.0.1%eth0", Addr{}},
	{"fe80::1%", Addr{}},
	{"fe80::1%a b", Addr{}},
	{"fe80::1%a\x00", Addr{}},
	{"fe80::1%a\nb", Addr{}},
	{"fe80::1%a]:80", Addr{}},
	{"fe80::1%a%b", Addr{}},
	{"fe80::1%../x", Addr{}},
	{"fe80::1%" + strings.Repeat("a", 300), Addr{}},

	// Brackets that are not around an address.
	{"[]", Addr{}},
	{"[", Addr{}},
	{"[example.com]", Addr{}},
	{"[[::1]]", Addr{}},
	{"[::1", Addr{}},
	{"::1]", Addr{}},
	{"[::1]:80", Addr{}},

	// What inet_aton takes for an address, and no rule has seen.
	{"127.1", Addr{}},
	{"127.0.1", Addr{}},
	{"0x7f.1", Addr{}},
	{"0x7f000001", Addr{}},
	{"0X7F000001", Addr{}},
	{"2130706433", Addr{}},
	{"017700000001", Addr{}},
	{"0177.0.0.1", Addr{}},
	{"127.0.0.01", Addr{}},
	{"127.0.0.0x1", Addr{}},
	{"1.2.3.0x10", Addr{}},
	{"1.2.3.4.", Addr{}},
	{"127.1.", Addr{}},
	{"0", Addr{}},
	{"0x", Addr{}},
	{"00000000000000000000000", Addr{}},
	{"256.256.256.256", Addr{}},
	{"1.2.3.4.5", Addr{}},
	{"99999999999999999999", Addr{}},
	{"example.1", Addr{}},
	{"example.0x1f", Addr{}},

	// Names, also odd ones: an upstream may know them.
	{"localhost", name("localhost", 80)},
	{"example.com", name("example.com", 80)},
	{"EXAMPLE.com", name("EXAMPLE.com", 80)},
	{"example.com.", name("example.com.", 80)},
	{"_sip._tcp.example.com", name("_sip._tcp.example.com", 80)},
	{"my_host", name("my_host", 80)},
	{"-a-.example", name("-a-.example", 80)},
	{"3com.com", name("3com.com", 80)},
	{"1.2.3.4.example", name("1.2.3.4.example", 80)},
	{"0x7f.example", name("0x7f.example", 80)},
	{"1e1", name("1e1", 80)},
	{"0xg", name("0xg", 80)},
	{"a1", name("a1", 80)},
	{"bücher.example", name("bücher.example", 80)},
	{"xn--bcher-kva.example", name("xn--bcher-kva.example", 80)},
	{"例え.テスト", name("例え.テスト", 80)},
	{strings.Repeat("a", 255), name(strings.Repeat("a", 255), 80)},

	// No names at all.
	{"", Addr{}},
	{".", Addr{}},
	{"..", Addr{}},
	{"a..", Addr{}},
	{strings.Repeat("a", 256), Addr{}},
	{"a b", Addr{}},
	{"127.0.0.1#x", Addr{}}, // what others may read as an address and more
	{"127.0.0.1;x", Addr{}},
	{"127.0.0.1,x", Addr{}},
	{"127.0.0.1&x", Addr{}},
	{" example.com", Addr{}},
	{"example.com ", Addr{}},
	{"a\tb", Addr{}},
	{"a\nb", Addr{}},
	{"a\r\nb", Addr{}},
	{"a\x00b", Addr{}},
	{"example.com\x00.evil.example", Addr{}},
	{"a\x7fb", Addr{}},
	{"a\x1bb", Addr{}},
	{"example.com:80", Addr{}},
	{"a:b", Addr{}},
	{"user@example.com", Addr{}},
	{"example.com/path", Addr{}},
	{`a\b`, Addr{}},
	{"a%b", Addr{}},
	{`a"b`, Addr{}},
	{"<a>", Addr{}},
}

func TestParseHost(t *testing.T) {
	for _, c := range hosts {
		got, err := ParseHost(c.host, 80)
		if got != c.want || (err == nil) != (c.want != Addr{}) {
			t.Errorf("%q is %+v, %v; want %+v", c.host, got, err, c.want)
		}
		var dns *net.DNSError
		if err != nil && (!errors.As(err, &dns) || !dns.IsNotFound) {
			t.Errorf("%q: error %v, want a DNSError of a name that was not found", c.host, err)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, c := range hosts {
		f.Add(c.host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		a, err := ParseHost(host, 80)
		if err != nil {
			if a != (Addr{}) {
				t.Errorf("%q is %+v and an error", host, a)
			}
			return
		}
		if (a.Name != "") == a.IP.IsValid() {
			t.Errorf("%q is a name and an address, or neither: %+v", host, a)
		}
		if a.IP.Is4In6() || a.IP.Zone() != "" && !a.IP.IsLinkLocalUnicast() {
			t.Errorf("%q is the address %v", host, a.IP)
		}
		for i := range len(a.Host()) {
			if c := a.Host()[i]; c <= ' ' || c == 0x7f {
				t.Errorf("%q passes with byte %#02x", host, c)
			}
		}
		if len(a.Name) > 255 {
			t.Errorf("a name of %d bytes passes", len(a.Name))
		}
		if a.Name != "" && (a.Name != host || isNumeric(a.Name)) {
			t.Errorf("%q is the name %q", host, a.Name)
		}
		// Whatever passes can be written and read again.
		if again, err := ParseAddr(a.String()); again != a {
			t.Errorf("%q is %+v, its String %+v, %v", host, a, again, err)
		}
		if again, err := ParseHost(a.Host(), 80); again != a {
			t.Errorf("%q is %+v, its Host %+v, %v", host, a, again, err)
		}
	})
}

// isNumeric reports whether inet_aton would read s as an address: up to four
// numbers of C, of any size to be on the safe side.
func isNumeric(s string) bool {
	parts := strings.Split(strings.TrimSuffix(s, "."), ".")
	if len(parts) > 4 {
		return false
	}
	for _, part := range parts {
		if strings.ContainsAny(part, "+-") {
			return false // a sign, which only big.Int takes
		}
		if _, ok := new(big.Int).SetString(part, 10); ok {
			continue // octal, too
		}
		hex, ok := strings.CutPrefix(strings.ToLower(part), "0x")
		if _, number := new(big.Int).SetString(hex, 16); !ok || !number {
			return false
		}
	}
	return true
}

func TestParseAddr(t *testing.T) {
	for s, want := range map[string]Addr{
		"example.com:443":       name("example.com", 443),
		"192.0.2.1:0":           literal("192.0.2.1", 0),
		"[2001:db8::1]:65535":   literal("2001:db8::1", 65535),
		"[fe80::1%eth0]:80":     literal("fe80::1%eth0", 80),
		"[::ffff:192.0.2.1]:80": literal("192.0.2.1", 80),
		"example.com:0080":      name("example.com", 80),
		"example.com":           {},
		"example.com:":          {},
		"example.com:http":      {},
		"example.com:65536":     {},
		"example.com:-1":        {},
		"example.com:+80":       {},
		"example.com:0x50":      {},
		"example.com: 80":       {},
		":80":                   {},
		"":                      {},
		"2001:db8::1:80":        {},
		"[2001:db8::1]":         {},
		"[::1]80":               {},
		"127.1:80":              {},
		"a b:80":                {},
	} {
		got, err := ParseAddr(s)
		if got != want || (err == nil) != (want != Addr{}) {
			t.Errorf("%q is %+v, %v; want %+v", s, got, err, want)
		}
	}
}

func TestAddrString(t *testing.T) {
	for _, c := range []struct {
		addr       Addr
		text, host string
	}{
		{name("example.com", 443), "example.com:443", "example.com"},
		{literal("192.0.2.1", 80), "192.0.2.1:80", "192.0.2.1"},
		{literal("2001:db8::1", 80), "[2001:db8::1]:80", "2001:db8::1"},
		{literal("fe80::1%eth0", 80), "[fe80::1%eth0]:80", "fe80::1%eth0"},
		{Addr{}, ":0", ""},
	} {
		if c.addr.String() != c.text || c.addr.Host() != c.host || c.addr.Network() != "udp" {
			t.Errorf("%#v: %q, %q, want %q, %q", c.addr, c.addr.String(), c.addr.Host(), c.text, c.host)
		}
		if zero := c.addr == (Addr{}); c.addr.IsZero() != zero {
			t.Errorf("%v: IsZero is %v", c.addr, !zero)
		}
		if ap := c.addr.AddrPort(); ap.IsValid() != (c.addr.Name == "" && !c.addr.IsZero()) || ap.Port() != c.addr.Port {
			t.Errorf("%v: AddrPort is %v", c.addr, ap)
		}
	}
	if a := (Addr{Port: 80}); !a.IsZero() {
		t.Error("a port alone is somewhere")
	}
}

// textAddr is an address of a kind that this package does not know.
type textAddr string

func (textAddr) Network() string  { return "text" }
func (a textAddr) String() string { return string(a) }

func TestAddrOf(t *testing.T) {
	for _, c := range []struct {
		addr net.Addr
		want Addr
	}{
		{nil, Addr{}},
		{(*net.TCPAddr)(nil), Addr{}},
		{(*net.UDPAddr)(nil), Addr{}},
		{&net.UDPAddr{}, Addr{}},
		{name("example.com", 80), name("example.com", 80)},
		{Addr{Port: 80}, Addr{Port: 80}},
		{&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 80}, literal("192.0.2.1", 80)}, // 16 bytes, IPv4-mapped
		{&net.UDPAddr{IP: net.ParseIP("192.0.2.1").To4(), Port: 80}, literal("192.0.2.1", 80)},
		{&net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 80}, literal("2001:db8::1", 80)},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 80}, literal("fe80::1%eth0", 80)},
		{&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Zone: "eth0", Port: 80}, literal("2001:db8::1", 80)},
		{&net.UnixAddr{Name: "/run/argyle.sock", Net: "unix"}, Addr{}},
		{&net.IPAddr{IP: net.ParseIP("192.0.2.1")}, Addr{}},
		{textAddr("example.com:80"), name("example.com", 80)},
		{textAddr("[::ffff:192.0.2.1]:80"), literal("192.0.2.1", 80)},
		{textAddr("pipe"), Addr{}},
	} {
		if got := AddrOf(c.addr); got != c.want {
			t.Errorf("%T %v is %+v, want %+v", c.addr, c.addr, got, c.want)
		}
	}
}

func TestAddrFrom(t *testing.T) {
	for s, want := range map[string]Addr{
		"192.0.2.1:80":             literal("192.0.2.1", 80),
		"[::ffff:192.0.2.1]:80":    literal("192.0.2.1", 80),
		"[2001:db8::1]:80":         literal("2001:db8::1", 80),
		"[fe80::1%2]:80":           literal("fe80::1%2", 80),
		"[2001:db8::1%2]:80":       literal("2001:db8::1", 80),
		"[ff02::fb%2]:5353":        literal("ff02::fb%2", 5353),
		"[::ffff:169.254.1.1]:123": literal("169.254.1.1", 123),
	} {
		if got := AddrFrom(netip.MustParseAddrPort(s)); got != want {
			t.Errorf("%s is %+v, want %+v", s, got, want)
		}
	}
}
