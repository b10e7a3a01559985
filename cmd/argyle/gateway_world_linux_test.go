package main

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The world in which gateway is tested. Its clients have one family each, and so do the servers, which are behind the proxies.
// Clients know of nothing but the gateway.
//
//	four 10.85.1.2 ──┐                             ┌── 10.85.2.2: proxies, 192.0.2.10, 2001:db8::10
//	                 ├── this host, the gateway ── outside
//	six fd00:85:3::2 ┘
type gatewayWorld struct {
	*redirectWorld
	four, six *network
}

// Where the gateway answers names, and what stands for them.
const (
	gateway4 = "10.85.1.1"
	gateway6 = "fd00:85:3::1"
	pool6    = "fd12:3456:789a::/64"
)

// inGatewayWorld makes the world. It is true in there, as inNamespace is.
func inGatewayWorld(t *testing.T) (w *gatewayWorld, ok bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root has a gateway")
	}
	if os.Getenv(inNamespaceOf) != t.Name() {
		inNamespaceWith(t, nil, staticPrograms(t))
		return nil, false
	}
	outer, ok := inRedirectWorld(t)
	w = &gatewayWorld{outer, outer.inside, newNetwork(t, "sixes", 3)}
	mustRun(t, w.four.command(t, "sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1"))
	mustRun(t, w.six.command(t, "ip", "-4", "address", "flush", "dev", "eth0"))
	settle(t)
	// What is past the gateway is not for clients: they must not reach it by themselves.
	sysctl(t, "net/ipv4/ip_forward", "0")
	sysctl(t, "net/ipv6/conf/all/forwarding", "0")
	return w, ok
}

// settle waits until all addresses of this host are sure to be its own.
func settle(t *testing.T) {
	t.Helper()
	eventually(t, "the addresses to be sure", func() bool {
		text, err := command(t, peer(t, "ip"), "address").Output()
		return err == nil && !strings.Contains(string(text), "tentative")
	})
}

// A gatewayRun is argyle gateway.
type gatewayRun struct {
	*child
	before  string // what of the host it may change
	args    []string
	journal string
}

// startGateway starts the program, which answers both clients, and waits until it serves. At the end of the test it obeys
// SIGTERM, and the host is as it was.
func startGateway(t *testing.T, args ...string) *gatewayRun {
	t.Helper()
	return startGatewayIn(t, t.TempDir(), append([]string{
		"--dns", gateway4, "--dns", gateway6, "--allow", "10.85.1.0/24", "--allow", "fd00:85:3::/64",
		"--resolver", outsideResolver + ":53",
	}, args...)...)
}

// startGatewayIn has it keep its names in a folder, and leaves all else to args.
func startGatewayIn(t *testing.T, folder string, args ...string) *gatewayRun {
	t.Helper()
	g := &gatewayRun{before: hostState(t), args: args, journal: filepath.Join(folder, "gateway.journal")}
	g.start(t)
	t.Cleanup(func() {
		if g.cmd.ProcessState == nil {
			g.stop(t)
		}
	})
	return g
}

func (g *gatewayRun) start(t *testing.T) {
	t.Helper()
	g.child = start(t, program(t, append([]string{"gateway", "-v", "--log-format", "json", "--journal", g.journal}, g.args...)...))
	eventually(t, "the gateway to begin", func() bool {
		select {
		case <-g.ended:
			t.Fatalf("the gateway ended: %v: %s", g.err, g.stderr.String())
		default:
		}
		return strings.Contains(g.stderr.String(), `"msg":"gateway"`)
	})
}

// stop ends it by SIGTERM.
func (g *gatewayRun) stop(t *testing.T) {
	t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("the gateway is gone before its time: %v", err)
	}
	if code := g.wait(t); code != 0 {
		t.Errorf("the exit status is %d", code)
	}
	g.restored(t)
}

func (g *gatewayRun) restored(t *testing.T) {
	t.Helper()
	(&redirection{before: g.before}).restored(t)
}

// askGateway asks the gateway's DNS server, and returns the reply.
func askGateway(t *testing.T, from *network, server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	var conn net.Conn
	var err error
	from.enter(t, func() { conn, err = net.Dial("udp", net.JoinHostPort(server, "53")) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := &dns.Client{Timeout: patience}
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	query.SetEdns0(1232, false)
	reply, _, err := client.ExchangeWithConn(query, &dns.Conn{Conn: conn})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return reply
}

// standIn returns the address that stands for a name, of the family of the client.
func (w *gatewayWorld) standIn(t *testing.T, from *network, name string) string {
	t.Helper()
	server, qtype := gateway4, dns.TypeA
	if from == w.six {
		server, qtype = gateway6, dns.TypeAAAA
	}
	reply := askGateway(t, from, server, name, qtype)
	if len(reply.Answer) != 1 {
		t.Fatalf("%s: %v", name, reply)
	}
	return recordAddr(reply.Answer[0]).String()
}

func recordAddr(record dns.RR) netip.Addr {
	var ip net.IP
	switch record := record.(type) {
	case *dns.A:
		ip = record.A
	case *dns.AAAA:
		ip = record.AAAA
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

// client prepares a program of a client, which asks the gateway for names.
func (w *gatewayWorld) client(t *testing.T, from *network, words ...string) *exec.Cmd {
	t.Helper()
	server := gateway4
	if from == w.six {
		server = gateway6
	}
	if words[0] == "client" {
		words[0] = filepath.Join(os.Getenv(staticFolder), "client")
	} else {
		words[0] = peer(t, words[0])
	}
	resolv := writeFile(t, "resolv.conf", "nameserver "+server+"\n")
	if err := os.Chmod(resolv, 0o644); err != nil {
		t.Fatal(err)
	}
	inner := `umount /etc/resolv.conf; mount --bind ` + resolv + ` /etc/resolv.conf && exec "$@"`
	return from.command(t, slices.Concat([]string{"unshare", "--mount", "sh", "-c", inner, "sh"}, words)...)
}

// run has a client's program end well, and returns what it printed.
func (w *gatewayWorld) run(t *testing.T, from *network, words ...string) string {
	t.Helper()
	return mustRun(t, w.client(t, from, words...))
}

// clients are both of them.
func (w *gatewayWorld) clients() map[string]*network {
	return map[string]*network{"v4": w.four, "v6": w.six}
}

// dial makes a connection of a client.
func dial(t *testing.T, from *network, address string) (conn net.Conn, err error) {
	t.Helper()
	from.enter(t, func() { conn, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp", address) })
	return conn, err
}
