package policy

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
)

// privateTable has what Private says, "public" for nothing, and addresses of which it says so: the first and the last
// of every prefix, and around it the neighbours that must pass.
var privateTable = []struct{ what, addrs string }{
	{"this host", "0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255"},
	{"public", "1.0.0.0 1.1.1.1 8.8.8.8 9.9.9.9 9.255.255.255"},
	{"private", "10.0.0.0 10.0.0.1 10.1.2.3 10.255.255.255"},
	{"public", "11.0.0.0 100.0.0.1 100.63.255.255"},
	{"shared address space", "100.64.0.0 100.64.0.1 100.127.255.255"},
	{"public", "100.128.0.0 126.255.255.255"},
	{"loopback", "127.0.0.0 127.0.0.1 127.0.0.53 127.1.2.3 127.255.255.255"},
	{"public", "128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255"},
	{"link-local", "169.254.0.0 169.254.0.1 169.254.255.255"},
	{"public", "169.255.0.0 172.15.255.255"},
	{"private", "172.16.0.0 172.16.0.1 172.31.255.255"},
	{"public", "172.32.0.0 191.255.255.255"},
	{"protocol assignments", "192.0.0.0 192.0.0.8 192.0.0.170 192.0.0.255"},
	{"public", "192.0.1.0 192.167.255.255"},
	{"private", "192.168.0.0 192.168.1.1 192.168.255.255"},
	{"public", "192.169.0.0 198.17.255.255"},
	{"benchmarking", "198.18.0.0 198.18.0.1 198.19.255.255"},
	{"public", "198.20.0.0 223.255.255.255"},
	{"multicast", "224.0.0.0 224.0.0.251 239.255.255.250 239.255.255.255"},
	{"reserved", "240.0.0.0 250.1.2.3 255.255.255.254 255.255.255.255"},

	// Documentation is not routed, and nobody's network either.
	{"public", "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1"},

	// Where clouds keep what a virtual machine may know about itself.
	{"link-local", "169.254.169.254 169.254.170.2 169.254.169.123 169.254.0.23"}, // AWS, GCP, Azure, Oracle; ECS; Tencent
	{"cloud metadata", "168.63.129.16"},                                          // Azure's wire server
	{"shared address space", "100.100.100.200"},                                  // Alibaba
	{"protocol assignments", "192.0.0.192"},                                      // Oracle Classic
	{"private", "fd00:ec2::254 fd00:ec2::253 fd20:ce::254 fd00:c1::a9fe:a9fe"},   // AWS, GCP, Oracle

	{"this host", ":: 0:0:0:0:0:0:0:0"},
	{"loopback", "::1 0:0:0:0:0:0:0:1"},
	{"private", "fc00:: fc00::1 fd00::1 fd12:3456:789a::1 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"public", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe00:: fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"link-local", "fe80:: fe80::1 fe80::1%eth0 fe80::a9fe:a9fe febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"site-local", "fec0:: fec0::1 feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"multicast", "ff00:: ff01::1 ff02::1%eth0 ff02::fb ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"discard-only", "100:: 100::1 100::ffff:ffff:ffff:ffff"},
	{"dummy prefix", "100:0:0:1:: 100:0:0:1:ffff:ffff:ffff:ffff"},
	{"public", "ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 100:0:0:2::"},
	{"benchmarking", "2001:2:: 2001:2:0:ffff:ffff:ffff:ffff:ffff"},
	{"public", "2001:1:ffff:ffff:ffff:ffff:ffff:ffff 2001:2:1::"},
	{"deprecated", "2001:10:: 2001:1f:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"public", "2001:f:ffff:ffff:ffff:ffff:ffff:ffff 2001:20::"},
	{"segment routing", "5f00:: 5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"public", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 5f01::"},
	{"public", "2001:4860:4860::8888 2606:4700:4700::1111 2620:fe::fe 2a00:1450:4001:81b::200e"},
	{"public", "2000:: 3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},

	// IPv4-mapped (RFC 4291, 2.5.5.2) is IPv4.
	{"this host", "::ffff:0.0.0.0"},
	{"loopback", "::ffff:127.0.0.1 ::ffff:7f00:1 ::FFFF:127.0.0.1 0:0:0:0:0:ffff:7f00:0001 ::ffff:127.255.255.255%eth0"},
	{"private", "::ffff:10.0.0.1 ::ffff:a00:1 ::ffff:172.16.0.1 ::ffff:192.168.0.1 ::ffff:c0a8:1"},
	{"link-local", "::ffff:169.254.169.254 ::ffff:a9fe:a9fe"},
	{"cloud metadata", "::ffff:168.63.129.16"},
	{"shared address space", "::ffff:100.100.100.200"},
	{"public", "::ffff:8.8.8.8 ::ffff:808:808 ::ffff:126.255.255.255 ::ffff:128.0.0.0"},

	// IPv4-compatible (RFC 4291, 2.5.5.1).
	{"this host inside IPv6", "::2 ::0.0.0.2 ::ff:ffff"},
	{"loopback inside IPv6", "::127.0.0.1 ::7f00:1 ::7fff:ffff"},
	{"private inside IPv6", "::10.0.0.1 ::172.31.255.255 ::192.168.1.1"},
	{"link-local inside IPv6", "::169.254.169.254 ::a9fe:a9fe"},
	{"public", "::8.8.8.8 ::100:0 ::808:808 ::1:7f00:1"},

	// IPv4-translated, SIIT (RFC 2765).
	{"loopback inside IPv6", "::ffff:0:127.0.0.1 ::ffff:0:7f00:1"},
	{"private inside IPv6", "::ffff:0:10.0.0.1 ::ffff:0:192.168.255.255"},
	{"link-local inside IPv6", "::ffff:0:169.254.169.254"},
	{"reserved inside IPv6", "::ffff:0:255.255.255.255"},
	{"public", "::ffff:0:8.8.8.8 ::ffff:1:127.0.0.1 ::fffe:0:127.0.0.1"},

	// NAT64, well-known (RFC 6052) and local-use (RFC 8215). The latter says nothing of how much of it is the prefix.
	{"this host inside IPv6", "64:ff9b:: 64:ff9b::0.0.0.1"},
	{"loopback inside IPv6", "64:ff9b::127.0.0.1 64:ff9b::7f00:1 64:FF9B::7F00:0001 0064:ff9b:0:0:0:0:127.0.0.1"},
	{"private inside IPv6", "64:ff9b::10.0.0.1 64:ff9b::172.16.0.1 64:ff9b::192.168.0.1"},
	{"shared address space inside IPv6", "64:ff9b::100.100.100.200"},
	{"cloud metadata inside IPv6", "64:ff9b::168.63.129.16"},
	{"link-local inside IPv6", "64:ff9b::169.254.169.254 64:ff9b::a9fe:a9fe"},
	{"public", "64:ff9b::8.8.8.8 64:ff9b::808:808 64:ff9a::127.0.0.1 64:ff9c::127.0.0.1 64:ff9b:0:0:0:1:7f00:1"},
	{"local-use translation", "64:ff9b:1:: 64:ff9b:1::127.0.0.1 64:ff9b:1::8.8.8.8 64:ff9b:1:7f00:0:100:: 64:ff9b:1:ffff:ffff:ffff:ffff:ffff"},
	{"public", "64:ff9b:0:ffff:ffff:ffff:ffff:ffff 64:ff9b:2::"},

	// 6to4 (RFC 3056).
	{"this host inside IPv6", "2002:: 2002:0:1::1"},
	{"loopback inside IPv6", "2002:7f00:1:: 2002:7f00:1::1 2002:7fff:ffff:ffff:ffff:ffff:ffff:ffff"},
	{"private inside IPv6", "2002:a00:1:: 2002:ac10:1:: 2002:c0a8:1::1"},
	{"link-local inside IPv6", "2002:a9fe:a9fe::"},
	{"cloud metadata inside IPv6", "2002:a83f:8110::1"},
	{"multicast inside IPv6", "2002:e000:1::"},
	{"public", "2002:808:808:: 2002:7eff:ffff:: 2002:8000:: 2001:ffff:7f00:1:: 2003:7f00:1::"},

	// Teredo (RFC 4380): its server, and its client with every bit inverted.
	{"loopback inside IPv6", "2001:0:7f00:1::f7f7:f7f7 2001:0:808:808::80ff:fffe"},
	{"private inside IPv6", "2001:0:a00:1::f7f7:f7f7 2001:0:808:808:8000:63bf:f5ff:fffe 2001:0:808:808::3f57:fefe"},
	{"link-local inside IPv6", "2001:0:a9fe:a9fe::f7f7:f7f7 2001:0:808:808::5601:5601"},
	{"this host inside IPv6", "2001::f7f7:f7f7 2001:0:808:808::ffff:ffff"},
	{"reserved inside IPv6", "2001:0:808:808::"},
	{"public", "2001:0:808:808::f7f7:f7f7 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:1::80ff:fffe"},

	// ISATAP (RFC 5214), behind whatever prefix.
	{"loopback inside IPv6", "2001:db8::5efe:127.0.0.1 2001:db8::200:5efe:7f00:1"},
	{"private inside IPv6", "2001:db8:1:2:0:5efe:10.0.0.1 2a00::200:5efe:192.168.0.1"},
	{"link-local inside IPv6", "2a00::5efe:169.254.169.254"},
	{"private inside IPv6", "2002:808:808::5efe:10.0.0.1"}, // within 6to4
	{"public", "2001:db8::5efe:8.8.8.8 2001:db8::200:5efe:8.8.8.8 2001:db8::100:5efe:127.0.0.1 2001:db8::5eff:127.0.0.1"},
	{"link-local", "fe80::5efe:8.8.8.8"},
}

func TestPrivate(t *testing.T) {
	count := 0
	for _, row := range privateTable {
		want := strings.TrimPrefix(row.what, "public")
		for addr := range strings.FieldsSeq(row.addrs) {
			count++
			ip := netip.MustParseAddr(addr)
			if got := Private(ip); got != want {
				t.Errorf("Private(%s) = %q, want %q", addr, got, want)
			}
			if ip.Is4() {
				mapped := netip.AddrFrom16(ip.As16())
				if got := Private(mapped); got != want {
					t.Errorf("Private(%v) = %q, want %q", mapped, got, want)
				}
			}
		}
	}
	if count < 150 {
		t.Errorf("%d addresses, want 150", count)
	}
	if got := Private(netip.Addr{}); got == "" {
		t.Error("no address passes")
	}
}

// Whatever is special stays so in every dress that IPv6 has for IPv4.
func TestPrivateEmbedded(t *testing.T) {
	for _, row := range privateTable {
		for addr := range strings.FieldsSeq(row.addrs) {
			ip := netip.MustParseAddr(addr)
			if !ip.Is4() {
				continue
			}
			for _, dressed := range dresses(ip.As4()) {
				if got, want := Private(dressed) != "", row.what != "public"; got != want {
					t.Errorf("Private(%v), which is %v inside: %v, want %v", dressed, ip, got, want)
				}
			}
		}
	}
}

// dresses returns the IPv6 addresses that stand for an IPv4 address.
func dresses(b [4]byte) (all []netip.Addr) {
	v4 := hex.EncodeToString(b[:])
	inverted := hex.EncodeToString(binary.BigEndian.AppendUint32(nil, ^binary.BigEndian.Uint32(b[:])))
	const public = "08080808"
	for _, text := range []string{
		strings.Repeat("0", 20) + "ffff" + v4,
		strings.Repeat("0", 16) + "ffff0000" + v4,
		"0064ff9b" + strings.Repeat("0", 16) + v4,
		"2002" + v4 + "00010000000000000001",
		"20010000" + v4 + "00000000" + "f7f7f7f7",
		"20010000" + public + "8000f000" + inverted,
		"2a00123400000001" + "00005efe" + v4,
		"2a00123400000001" + "02005efe" + v4,
	} {
		raw, err := hex.DecodeString(text)
		if err != nil {
			panic(err)
		}
		all = append(all, netip.AddrFrom16([16]byte(raw)))
	}
	return all
}

// FuzzPrivate compares Private with the same rules written down in another way.
func FuzzPrivate(f *testing.F) {
	for _, row := range privateTable {
		for addr := range strings.FieldsSeq(row.addrs) {
			ip := netip.MustParseAddr(addr)
			f.Add(ip.AsSlice())
			if ip.Is4() {
				for _, dressed := range dresses(ip.As4()) {
					f.Add(dressed.AsSlice())
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		got := Private(ip)
		if want := naivePrivate(ip); (got != "") != want {
			t.Fatalf("Private(%v) = %q, want special: %v", ip, got, want)
		}
		if ip.Is6() && Private(ip.WithZone("eth0")) != got {
			t.Fatalf("Private(%v) changes with a zone", ip)
		}
	})
}

// naivePrivate goes by the hexadecimal digits.
func naivePrivate(ip netip.Addr) bool {
	x := hex.EncodeToString(ip.AsSlice())
	if len(x) == 8 {
		return naivePrivate4(ip.As4())
	}
	quad := func(at int) [4]byte {
		b, err := hex.DecodeString(x[at : at+8])
		if err != nil {
			panic(err)
		}
		return [4]byte(b)
	}
	zeros := func(n int) string { return strings.Repeat("0", n) }
	begins := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(x, p) {
				return true
			}
		}
		return false
	}
	if begins(zeros(20) + "ffff") {
		return naivePrivate4(quad(24))
	}
	switch {
	case x == zeros(32), x == zeros(31)+"1",
		begins("fc", "fd", "ff"), begins("fe") && x[2] >= '8',
		begins("0064ff9b0001", "01000000000000"+"00", "01000000000000"+"01"),
		begins("200100020000", "2001001", "5f00"):
		return true
	}
	switch {
	case begins(zeros(24), zeros(16)+"ffff0000", "0064ff9b"+zeros(16)) && naivePrivate4(quad(24)),
		begins("2002") && naivePrivate4(quad(4)),
		(x[16:24] == "00005efe" || x[16:24] == "02005efe") && naivePrivate4(quad(24)):
		return true
	}
	if begins("20010000") {
		client := quad(24)
		for i := range client {
			client[i] = 255 - client[i]
		}
		return naivePrivate4(quad(8)) || naivePrivate4(client)
	}
	return false
}

func naivePrivate4(b [4]byte) bool {
	switch a, c := b[0], b[1]; {
	case a == 0, a == 10, a == 127, a >= 224,
		a == 100 && c >= 64 && c < 128,
		a == 169 && c == 254,
		a == 172 && c >= 16 && c < 32,
		a == 192 && c == 168,
		a == 192 && c == 0 && b[2] == 0,
		a == 198 && (c == 18 || c == 19),
		b == [4]byte{168, 63, 129, 16}:
		return true
	}
	return false
}

// A policy may know of further addresses that are special, and of some that are not.
func TestSpecial(t *testing.T) {
	own, taken := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.18.0.20")
	p, err := New(Policy{Special: func(ip netip.Addr) string {
		switch ip {
		case own:
			return "an address of this host"
		case taken:
			return ""
		}
		return Private(ip)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dest, client string
		allowed      bool
	}{
		{"192.0.2.1", "198.51.100.1", false}, {"192.0.2.1", "127.0.0.1", true}, {"192.0.2.2", "198.51.100.1", true},
		{"198.18.0.20", "198.51.100.1", true}, {"198.18.0.21", "198.51.100.1", false}, {"10.0.0.1", "198.51.100.1", false},
	} {
		req := &argyle.Request{
			Command: argyle.Connect, Dest: argyle.Addr{IP: netip.MustParseAddr(test.dest), Port: 80},
			Client: netip.AddrPortFrom(netip.MustParseAddr(test.client), 1000),
		}
		if d := p.Decide(req, netip.Addr{}); d.Allowed != test.allowed {
			t.Errorf("%s to %s: %+v", test.client, test.dest, d)
		}
	}
}
