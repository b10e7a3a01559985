package transparent

import (
	"context"
	"net/netip"
	"testing"

	"github.com/argyle-socks/argyle"
)

// testRealm is IPv4 addresses after a prefix of 96 bits.
func testRealm(inbound, prefix string) Realm {
	p := netip.MustParsePrefix(prefix)
	return Realm{
		Inbound: inbound,
		Dest: func(ip netip.Addr) (netip.Addr, bool) {
			if !p.Contains(ip) {
				return netip.Addr{}, false
			}
			six := ip.As16()
			return netip.AddrFrom4([4]byte(six[12:])), true
		},
		Source: func(ip netip.Addr) (netip.Addr, bool) {
			if !ip.Is4() {
				return netip.Addr{}, false
			}
			six, four := p.Addr().As16(), ip.As4()
			copy(six[12:], four[:])
			return netip.AddrFrom16(six), true
		},
	}
}

func TestLocated(t *testing.T) {
	s := &Server{
		Inbound: "usual",
		Realms:  []Realm{testRealm("a", "fd00:a::/96"), testRealm("b", "fd00:b::/96")},
		Name: func(ip netip.Addr) (string, bool) {
			return map[string]string{"198.18.0.20": "www.example", "198.18.0.21": "2001:db8::5", "198.18.0.22": "192.0.2.5"}[ip.String()],
				netip.MustParsePrefix("198.18.0.0/15").Contains(ip)
		},
	}
	for dest, want := range map[string]string{
		"[fd00:a::a00:5]:80": "10.0.0.5:80 a",
		"[fd00:b::a00:5]:80": "10.0.0.5:80 b",
		"[fd00:c::a00:5]:80": "[fd00:c::a00:5]:80 usual",
		"198.18.0.20:80":     "www.example:80 usual",
		"198.18.0.21:80":     "[2001:db8::5]:80 usual",
		"198.18.0.22:80":     "192.0.2.5:80 usual",
		"192.0.2.1:80":       "192.0.2.1:80 usual",
	} {
		got, inbound, err := s.located(argyle.AddrFrom(netip.MustParseAddrPort(dest)))
		if err != nil || got.String()+" "+inbound != want {
			t.Errorf("%s: %v %s, %v, want %s", dest, got, inbound, err, want)
		}
		if got.Name != "" && got.IP.IsValid() || got.Name == "2001:db8::5" {
			t.Errorf("%s: an address that is a name: %+v", dest, got)
		}
	}
	if _, _, err := s.located(argyle.AddrFrom(netip.MustParseAddrPort("198.18.0.99:80"))); err == nil {
		t.Error("an address that stands for nothing stands for something")
	}
}

// A client has a flow for each realm, and hears each by addresses of that.
func TestFlowsOfRealms(t *testing.T) {
	calls := make(chan argyle.Request, 8)
	s := &PacketServer{
		Inbound: "usual",
		Realms:  []Realm{testRealm("a", "fd00:a::/96"), testRealm("b", "fd00:b::/96")},
		Name: func(ip netip.Addr) (string, bool) {
			return "2001:db8::5", ip == netip.MustParseAddr("fd00::5")
		},
		Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			calls <- *call.Request()
			conn, err := call.AcceptPacket()
			if err != nil {
				t.Error(err)
				return
			}
			_, _, _ = conn.ReadFrom(make([]byte, 10))
			_, _, _ = conn.ReadFrom(make([]byte, 10)) // until the end
		}),
	}
	s.begin(nil)
	src := netip.MustParseAddrPort("[2001:db8::1]:1000")
	flows := make(map[string]*flow)
	for dst, inbound := range map[string]string{"[fd00:a::a00:5]:7": "a", "[fd00:b::a00:5]:7": "b", "[fd00::5]:7": "usual"} {
		p := packet{src: src, dst: netip.MustParseAddrPort(dst), payload: []byte("x")}
		s.received([]packet{p})
		if req := <-calls; req.Inbound != inbound {
			t.Errorf("what goes to %s comes in by %s", dst, req.Inbound)
		}
		realm, dest, err := s.located(p.dst)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		flows[inbound] = s.flow(p, realm, dest)
		s.mu.Unlock()
	}
	for _, test := range []struct{ inbound, from, want string }{
		{"a", "10.0.0.5:7", "[fd00:a::a00:5]:7"},
		{"a", "10.9.9.9:9", "[fd00:a::a09:909]:9"}, // endpoint-independent
		{"b", "10.0.0.5:7", "[fd00:b::a00:5]:7"},
		{"usual", "[2001:db8::5]:7", "[fd00::5]:7"}, // an address that stands for this one
		{"usual", "[2001:db8::6]:8", "[2001:db8::6]:8"},
	} {
		got, ok := flows[test.inbound].source(argyle.AddrFrom(netip.MustParseAddrPort(test.from)))
		if !ok || got.String() != test.want {
			t.Errorf("%s: what comes from %s comes from %v, %t, want %s", test.inbound, test.from, got, ok, test.want)
		}
	}
	if got, ok := flows["a"].source(argyle.AddrFrom(netip.MustParseAddrPort("[2001:db8::5]:7"))); ok {
		t.Errorf("a sender that no address of the realm stands for comes from %v", got)
	}
	s.Close()
	s.wg.Wait()
	s.end()
}
