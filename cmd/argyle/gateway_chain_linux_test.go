package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Two gateways, one behind the other (RFC 3089, section 4): the first sends names on to a proxy of the second, by IPv6.
//
//	four ── this host: gateway 1 ── SOCKS over IPv6 ── proxy in outside ── targets
func TestGatewayChained(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	near := ""
	w.outside.enter(t, func() {
		far := startServer(t, "--allow-private")
		startServer(t, "-l", "[fd00:85:2::2]:1081", "--allow", "fd00:85:2::/64", "--allow-private", "-x", "socks5h://"+far.addr)
		near = "socks5h://[fd00:85:2::2]:1081"
	})
	startGateway(t, "-x", near, "--allow-private")
	for family, from := range w.clients() {
		for _, name := range []string{"four.zone.test", "six.zone.test"} {
			host := w.standIn(t, from, name)
			if who, err := visit(t, from, net.JoinHostPort(host, "7")); err != nil || !isOutside(who) {
				t.Errorf("%s: TCP to %s: %q, %v", family, name, who, err)
			}
			if err := visitUDP(t, from, net.JoinHostPort(host, "7")); err != nil {
				t.Errorf("%s: UDP to %s: %v", family, name, err)
			}
		}
	}
}

// Two gateways that both take packets: the second one's clients are the first one's proxy connections, and the first one's
// host is the second one's client.
//
//	four ── gateway 1 in a network of its own ── this host: gateway 2 ── outside
func TestGatewayBehindGateway(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	startGateway(t, "-x", w.serve(t), "--allow-private")
	// A second gateway in the network of the client of IPv4, for its own programs. It dials by itself, and finds names and
	// addresses at the first.
	inner := start(t, w.four.command(t, slices.Concat(programWords(t), []string{
		"gateway", "-c", writeFile(t, "argyle.yaml", `
proxy: direct
names: {servers: [`+gateway4+`]}
gateway: {dns: 127.0.0.1, ipv4: 100.127.0.0/16}
`), "--journal", filepath.Join(t.TempDir(), "inner.journal"), "-v", "--log-format", "json"})...))
	eventually(t, "the inner gateway to begin", func() bool { return strings.Contains(inner.stderr.String(), `"msg":"gateway"`) })
	for _, name := range []string{"four.zone.test", "six.zone.test"} {
		addr := strings.TrimSpace(mustRun(t, w.four.command(t, "dig", "+short", "@127.0.0.1", name, "A")))
		if !strings.HasPrefix(addr, "100.127.") {
			t.Fatalf("%s is %q", name, addr)
		}
		if got := w.run(t, w.four, "client", "half", addr+":7"); !strings.HasSuffix(got, " half a connection") {
			t.Errorf("%s by two gateways: %q", name, got)
		}
		if got := w.run(t, w.four, "client", "udp", addr+":7", "10", "500"); got != "10\n" {
			t.Errorf("%s by two gateways, over UDP: %q", name, got)
		}
		if got := w.run(t, w.four, "client", "errno", addr+":81"); !strings.HasPrefix(got, "111 ") {
			t.Errorf("a closed port of %s by two gateways: %q", name, got)
		}
	}
	if err := inner.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := inner.wait(t); code != 0 {
		t.Errorf("the inner gateway's exit status is %d", code)
	}
}

// Two customers have the same private network, and names of their own. Names are looked up at the far end.
func TestGatewayCustomers(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	for i, customer := range []string{"cust-a", "cust-b"} {
		its := newNetwork(t, customer, 10+i)
		mustRun(t, its.command(t, "ip", "address", "add", "10.0.0.5/8", "dev", "lo"))
		config := writeFile(t, "argyle.yaml", fmt.Sprintf(`
allow: [10.85.0.0/16, 127.0.0.0/8]
allow-private: true
names: {hosts: {db.%s.example: [10.0.0.5]}}
`, customer))
		its.enter(t, func() {
			startServer(t, "-c", config, "-l", fmt.Sprintf("10.85.%d.2:1080", 10+i))
			serveTCP(t, "10.0.0.5:7", tellOf(customer))
			udpEcho(t, "10.0.0.5:7")
		})
	}
	config := writeFile(t, "argyle.yaml", `
upstreams:
  cust-a: socks5h://10.85.10.2
  cust-b: socks5h://10.85.11.2
proxy: cust-a
gateway:
  dns: []
  nat64:
    - {prefix: "fd00:a::/96", name: cust-a}
    - {prefix: "fd00:b::/96", name: cust-b}
rules:
  - {to: .cust-a.example, via: cust-a}
  - {to: .cust-b.example, via: cust-b}
  - {listener: cust-a, to: 10.0.0.0/8, via: cust-a}
  - {listener: cust-b, to: 10.0.0.0/8, via: cust-b}
`)
	settle(t)
	startGatewayIn(t, t.TempDir(), "-c", config, "--dns", gateway4, "--dns", gateway6, "--allow", "10.85.1.0/24", "--allow", "fd00:85:3::/64")
	for customer, prefix := range map[string]string{"cust-a": "fd00:a::", "cust-b": "fd00:b::"} {
		for family, from := range w.clients() {
			w.meets(t, from, family+" by name", w.standIn(t, from, "db."+customer+".example"), customer)
		}
		w.meets(t, w.six, "by address", prefix+"a00:5", customer)
	}
	// Both at once by one socket, whose answers come from where they should.
	for _, prefix := range []string{"fd00:a::", "fd00:b::"} {
		if err := visitUDP(t, w.six, "["+prefix+"a00:5]:7"); err != nil {
			t.Errorf("UDP by %s: %v", prefix, err)
		}
	}
	if _, err := dial(t, w.six, "[fd00:a::a01:101]:7"); err == nil {
		t.Error("an address that nobody has was reached")
	}
}

// meets reports who answers at an address.
func (w *gatewayWorld) meets(t *testing.T, from *network, what, host, want string) {
	t.Helper()
	conn, err := dial(t, from, net.JoinHostPort(host, "7"))
	if err != nil {
		t.Errorf("%s: %s: %v", what, want, err)
		return
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != want {
		t.Errorf("%s: at %s is %q, %v, want %s", what, host, got, err, want)
	}
}

// tellOf says the same to everybody.
func tellOf(text string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) }
}
