package main

import (
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
)

// What the command line says is checked as the file is.
func TestGatewayFlags(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // part of the error; "" for none
	}{
		{[]string{"--dns", "127.0.0.1"}, ""},
		{[]string{"--dns", "192.0.2.1:53", "--allow", "192.0.2.0/24", "--nat64", "64:ff9b::/96"}, ""},
		{nil, "Give --dns"},
		{[]string{"--dns", "localhost:53"}, `--dns "localhost:53": want an address`},
		{[]string{"--dns", "192.0.2.1:53"}, "--dns: 192.0.2.1:53 is not loopback: say gateway.allow"},
		{[]string{"--dns", "127.0.0.1", "--allow", "all"}, "--allow"},
		{[]string{"--dns", "127.0.0.1", "--nat64", "64:ff9b::/97"}, "--nat64: 64:ff9b::/97: want"},
	} {
		f := new(gatewayFlags)
		common := &commonFlags{proxies: []string{"gw"}}
		for i := 0; i+1 < len(test.args); i += 2 {
			value := test.args[i+1]
			switch test.args[i] {
			case "--dns":
				f.listen = append(f.listen, value)
			case "--allow":
				f.allow = append(f.allow, value)
			case "--nat64":
				f.nat64 = append(f.nat64, value)
			}
		}
		_, err := f.file(common)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%q: %v, want %s", test.args, err, test.want)
		}
	}
}

// The clients of serve are not those of the gateway, but rules may name its listeners.
func TestGatewayFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "argyle.yaml")
	text := `
listen: {address: ":1080", name: proxy, auth: none}
allow: 203.0.113.0/24
gateway: {dns: 192.0.2.1, allow: 192.0.2.0/24}
rules: [{listener: proxy, action: deny}, {listener: gateway, action: allow}]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := new(gatewayFlags).file(&commonFlags{config: path, proxies: []string{"direct://"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Allow) != 1 || file.Allow[0].String() != "192.0.2.0/24" || file.AllowPrivate {
		t.Errorf("it lets in %v, private %t", file.Allow, file.AllowPrivate)
	}
}

func TestJournalPath(t *testing.T) {
	for _, test := range []struct {
		file config.File
		flag string
		want string
	}{
		{config.File{}, "", "/var/lib/argyle/gateway.journal"},
		{config.File{State: "/srv/state"}, "", "/srv/state/gateway.journal"},
		{config.File{State: "/srv/state", Gateway: &config.Gateway{Journal: "/srv/names"}}, "", "/srv/names"},
		{config.File{State: "/srv/state"}, "/tmp/names", "/tmp/names"},
	} {
		if got := journalPath(&test.file, test.flag); filepath.ToSlash(got) != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
	if got := controlPath("/srv/gateway.journal"); got != "/srv/gateway.sock" {
		t.Errorf("the socket is %s", got)
	}
}

// What is asked of a gateway that runs, and of a journal, has the same answers.
func TestMappings(t *testing.T) {
	pool, err := fakedns.Open(fakedns.Options{IPv6: netip.MustParsePrefix("fd00::/64"), Key: []byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	own := &poolMappings{pool}
	for name, m := range map[string]mappings{"pool": own, "socket": controlOf(t, own)} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			v4, v6, err := pool.Addrs(netip.MustParseAddr("192.0.2.7"), "www."+name+".example")
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"www." + name + ".example", "WWW." + name + ".example.", v4.String(), v6.String()} {
				one, err := m.get(ctx, key)
				if err != nil || one.Name != "www."+name+".example" || one.IPv4 != v4 || one.IPv6 != v6 || one.Pinned {
					t.Errorf("%s: %+v, %v", key, one, err)
				}
				if one.Client.String() != "192.0.2.7/32" {
					t.Errorf("%s was brought by %v", key, one.Client)
				}
			}
			addr := netip.MustParseAddr(map[string]string{"pool": "198.18.0.50", "socket": "198.18.0.51"}[name])
			one, err := m.pin(ctx, "pinned."+name, addr)
			if err != nil || one.IPv4 != addr || !one.Pinned || one.Client.IsValid() {
				t.Errorf("pinned: %+v, %v", one, err)
			}
			if _, err := m.pin(ctx, "other."+name, addr); err == nil || !strings.Contains(err.Error(), "stand for pinned."+name) {
				t.Errorf("an address that is taken: %v", err)
			}
			if one, err := m.pin(ctx, "www."+name+".example", netip.Addr{}); err != nil || one.IPv4 != v4 {
				t.Errorf("pinned where it was: %+v, %v", one, err)
			}
			if err := m.unpin(ctx, "pinned."+name); err != nil {
				t.Error(err)
			}
			if err := m.unpin(ctx, "pinned."+name); err == nil || !strings.Contains(err.Error(), "is not pinned") {
				t.Errorf("unpinned twice: %v", err)
			}
			if _, err := m.get(ctx, "nobody/ %"); err == nil || !strings.Contains(err.Error(), errNoMapping.Error()) {
				t.Errorf("a name that there is not: %v", err)
			}
			if all, err := m.list(ctx); err != nil || len(all) == 0 {
				t.Errorf("%d names, %v", len(all), err)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// controlOf serves mappings, and returns a client of those.
func controlOf(t *testing.T, m mappings) mappings {
	t.Helper()
	ln, err := listenUnix(filepath.Join(t.TempDir(), "sock"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(controlHandler(m))
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	t.Cleanup(s.Close)
	return newControlClient(ln.Addr().String())
}

func TestPrintMappings(t *testing.T) {
	var w strings.Builder
	if err := printMappings(&w, []mapping{{Name: "www.example", IPv4: netip.MustParseAddr("198.18.0.20"), IPv6: netip.MustParseAddr("fd00::14"), Pinned: true}}, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(w.String(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "NAME ") || strings.Index(lines[1], "198.18.0.20") != strings.Index(lines[0], "IPV4") {
		t.Errorf("%q", lines)
	}
}
