package main

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

// All four combinations of families, by name, through each proxy.
func TestGateway(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	for name, proxy := range w.proxies(t) {
		t.Run(name, func(t *testing.T) {
			startGateway(t, "-x", proxy, "--allow-private")
			for family, from := range w.clients() {
				t.Run(family, func(t *testing.T) { w.testNames(t, from, name == "argyle") })
			}
		})
	}
}

// testNames has a client reach both servers by name.
func (w *gatewayWorld) testNames(t *testing.T, from *network, own bool) {
	for _, name := range []string{"four.zone.test", "six.zone.test"} {
		host := w.standIn(t, from, name)
		if who, err := visit(t, from, net.JoinHostPort(host, "7")); err != nil || !isOutside(who) {
			t.Errorf("TCP to %s: %q, %v", name, who, err)
		}
		if got := w.run(t, from, "curl", "--silent", "--show-error", "http://"+name+"/"); got != page {
			t.Errorf("curl got %q from %s", got, name)
		}
		if name == "six.zone.test" && !own {
			continue // danted has no UDP over IPv6
		}
		if err := visitUDP(t, from, net.JoinHostPort(host, "7")); err != nil {
			t.Errorf("UDP to %s: %v", name, err)
		}
		// The answers come from where the client has sent to.
		if got := w.run(t, from, "client", "udp", net.JoinHostPort(host, "7"), "100", "800"); got != "100\n" {
			t.Errorf("datagrams to %s: %q", name, got)
		}
	}
	for _, name := range []string{"four.zone.test", "six.zone.test"} {
		_, err := dial(t, from, net.JoinHostPort(w.standIn(t, from, name), "81"))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP to a closed port of %s: %v", name, err)
		}
	}
	if !own {
		return // danted says nothing of those
	}
	for name, want := range map[string]syscall.Errno{"nowhere.zone.test": syscall.EHOSTUNREACH, "unknown.zone.test": syscall.EHOSTUNREACH} {
		_, err := dial(t, from, net.JoinHostPort(w.standIn(t, from, name), "80"))
		if !errors.Is(err, want) {
			t.Errorf("TCP to %s: %v, want %v", name, err, want)
		}
	}
}

// What programs see: a shell, and a static one with a resolver of its own.
func TestGatewayPrograms(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	boxes := make(map[string]*sshd)
	w.outside.enter(t, func() {
		boxes["four.zone.test"], boxes["six.zone.test"] = startSSHDAt(t, target4+":22"), startSSHDAt(t, net.JoinHostPort(target6, "22"))
	})
	startGateway(t, "-x", w.serve(t), "--allow-private")
	for family, from := range w.clients() {
		for name, box := range boxes {
			t.Run(family+" "+name, func(t *testing.T) {
				words := box.client(t, "echo", "there").Args
				for i := range words {
					if words[i] == box.host {
						words[i] = name
					}
				}
				words[0] = "ssh"
				words = append(words[:1:1], append([]string{"-o", "HostKeyAlias=[" + box.host + "]:22"}, words[1:]...)...)
				if got := w.run(t, from, words...); got != "there\n" {
					t.Errorf("ssh: %q", got)
				}
				if got := w.run(t, from, "client", "half", name+":7"); !strings.HasSuffix(got, " half a connection") {
					t.Errorf("half a connection: %q", got)
				}
				if got := w.run(t, from, "client", "http", "http://"+name+"/"); got != page {
					t.Errorf("http: %q", got)
				}
				if got := w.run(t, from, "client", "errno", name+":81"); !strings.HasPrefix(got, "111 ") {
					t.Errorf("a closed port: %q", got)
				}
			})
		}
	}
}

// Literals of the other family: NAT64, a static map and the form of a name.
func TestGatewayLiterals(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	config := writeFile(t, "argyle.yaml", `
proxy: `+w.serve(t)+`
allow-private: true
gateway:
  dns: [10.85.1.1, "fd00:85:3::1"]
  allow: [10.85.1.0/24, "fd00:85:3::/64"]
  nat64: ["64:ff9b::/96", {prefix: "fd00:64::/48", name: other}]
  map:
    198.19.255.10: "`+target6+`"
    203.0.113.99: six.zone.test
    "fd00:ffff::4": "`+target4+`"
  literals: v6.lan
rules:
  - {listener: other, to: `+spared4+`, action: deny}
  - {action: allow}
`)
	startGatewayIn(t, t.TempDir(), "-c", config)
	embedded := "64:ff9b::c000:20a"
	for _, test := range []struct {
		what string
		from *network
		dest string
	}{
		{"NAT64", w.six, embedded},
		{"another prefix", w.six, "fd00:64:0:c000:2:a00::"},
		{"map", w.four, "198.19.255.10"},
		{"map to a name", w.four, "203.0.113.99"},
		{"map of IPv6", w.six, "fd00:ffff::4"},
		{"name of IPv6", w.four, w.standIn(t, w.four, "2001-db8--10.v6.lan")},
		{"name of IPv4", w.six, w.standIn(t, w.six, "192-0-2-10.v6.lan")},
	} {
		if who, err := visit(t, test.from, net.JoinHostPort(test.dest, "7")); err != nil || !isOutside(who) {
			t.Errorf("%s: TCP to %s: %q, %v", test.what, test.dest, who, err)
		}
		if err := visitUDP(t, test.from, net.JoinHostPort(test.dest, "7")); err != nil {
			t.Errorf("%s: UDP to %s: %v", test.what, test.dest, err)
		}
		if _, err := dial(t, test.from, net.JoinHostPort(test.dest, "81")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: TCP to a closed port of %s: %v", test.what, test.dest, err)
		}
	}
	if _, err := visit(t, w.six, "[64:ff9b::c000:24d]:7"); err != nil {
		t.Errorf("what another prefix must not reach: %v", err)
	}
	if _, err := visit(t, w.six, "[fd00:64:0:c000:2:4d00::]:7"); err == nil {
		t.Error("a rule about a prefix does not hold")
	}
	reply := askGateway(t, w.six, gateway6, "ipv4only.arpa", dns.TypeAAAA)
	if len(reply.Answer) != 2 || recordAddr(reply.Answer[0]) != netip.MustParseAddr("64:ff9b::192.0.0.170") {
		t.Errorf("ipv4only.arpa: %v", reply)
	}
}
