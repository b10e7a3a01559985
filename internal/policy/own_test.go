package policy

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestOwnListeners(t *testing.T) {
	iface := interfaceAddrs(t)
	tests := []struct {
		listen   []string
		own      []string
		stranger []string
	}{
		{nil, nil, []string{"127.0.0.1:1080", "0.0.0.0:1080"}},
		{
			[]string{"127.0.0.1:1080"},
			// Linux takes an unspecified destination for loopback.
			[]string{"127.0.0.1:1080", "[::ffff:127.0.0.1]:1080", "0.0.0.0:1080", "[::]:1080"},
			[]string{"127.0.0.1:1081", "127.0.0.2:1080", "[::1]:1080", "8.8.8.8:1080"},
		},
		{
			[]string{"[::1]:1080"},
			[]string{"[::1]:1080", "[::]:1080", "0.0.0.0:1080"},
			[]string{"[::1]:1081", "127.0.0.1:1080", "[2001:db8::1]:1080"},
		},
		{
			[]string{"[fe80::1%eth0]:1080"},
			[]string{"[fe80::1%eth0]:1080", "[fe80::1]:1080"},
			[]string{"[fe80::2%eth0]:1080"},
		},
		{
			[]string{"0.0.0.0:1080"},
			append([]string{"127.0.0.1:1080", "127.8.9.10:1080", "[::ffff:127.0.0.1]:1080", "0.0.0.0:1080"}, withPort(iface, 1080)...),
			append([]string{"127.0.0.1:1081", "8.8.8.8:1080", "[2001:db8::1]:1080"}, withPort(iface, 1081)...),
		},
		{
			[]string{"[::]:1080"},
			append([]string{"127.0.0.1:1080", "[::1]:1080", "[::]:1080"}, withPort(iface, 1080)...),
			append([]string{"[::1]:1081", "[2001:db8::1]:1080", "203.0.113.1:1080"}, withPort(iface, 1081)...),
		},
		{
			[]string{"127.0.0.1:1080", "[::1]:2080", "127.0.0.1:3080"},
			[]string{"127.0.0.1:1080", "[::1]:2080", "127.0.0.1:3080"},
			[]string{"127.0.0.1:2080", "[::1]:1080"},
		},
	}
	for _, tt := range tests {
		l := new(Listeners)
		for _, addr := range tt.listen {
			l.Add(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		}
		l.Add(&net.UnixAddr{Name: "/run/argyle.sock", Net: "unix"})
		for _, addr := range tt.own {
			if !l.Contains(netip.MustParseAddrPort(addr)) {
				t.Errorf("listening on %v, %s is a stranger", tt.listen, addr)
			}
		}
		for _, addr := range tt.stranger {
			if l.Contains(netip.MustParseAddrPort(addr)) {
				t.Errorf("listening on %v, %s is its own", tt.listen, addr)
			}
		}
	}
}

// interfaceAddrs returns the addresses of this host that others may know it by.
func interfaceAddrs(t *testing.T) (all []netip.Addr) {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, _ := netip.AddrFromSlice(n.IP); ip.IsValid() && !slices.Contains(all, ip.Unmap()) {
			all = append(all, ip.Unmap())
		}
	}
	return all
}

func withPort(ips []netip.Addr, port uint16) (all []string) {
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip, port).String())
	}
	return all
}
