package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// mapped asks the names of a gateway, by its socket or in its journal.
func (g *gatewayRun) mapped(t *testing.T, args ...string) string {
	t.Helper()
	return mustRun(t, program(t, append([]string{"gateway", "map", "--journal", g.journal}, args...)...))
}

// mappings are all names that it has.
func (g *gatewayRun) mappings(t *testing.T) (all []mapping) {
	t.Helper()
	if err := json.Unmarshal([]byte(g.mapped(t, "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// crash ends it by SIGKILL.
func (g *gatewayRun) crash(t *testing.T) {
	t.Helper()
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.wait(t)
}

// Whatever ends it, the host is as before and the names are kept.
func TestGatewayKilled(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	g := startGateway(t, "-x", w.serve(t), "--allow-private", "--nat64", "64:ff9b::/96")
	if hostState(t) == g.before {
		t.Error("nothing has changed: the test is about nothing")
	}
	first := w.standIn(t, w.four, "four.zone.test")
	for i := range 200 {
		w.standIn(t, w.six, fmt.Sprintf("name-%d.example", i))
	}
	g.mapped(t, "pin", "pinned.example", "198.18.0.99")
	before := g.mappings(t)
	if len(before) != 202 {
		t.Errorf("%d names", len(before))
	}
	g.crash(t)
	g.restored(t)
	if after := g.mappings(t); !sameMappings(before, after) {
		t.Errorf("the journal has %d names, or others, of %d", len(after), len(before))
	}
	g.start(t)
	if after := g.mappings(t); !sameMappings(before, after) {
		t.Errorf("%d names, or others, of %d are left", len(after), len(before))
	}
	// A client that still knows the address gets there without asking again.
	if who, err := visit(t, w.four, first+":7"); err != nil || !isOutside(who) {
		t.Errorf("an address from before: %q, %v", who, err)
	}
	if got := w.standIn(t, w.four, "four.zone.test"); got != first {
		t.Errorf("it was %s and is %s", first, got)
	}
}

// sameMappings compares names and addresses.
func sameMappings(a, b []mapping) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].IPv4 != b[i].IPv4 || a[i].IPv6 != b[i].IPv6 || a[i].Pinned != b[i].Pinned || a[i].Client != b[i].Client {
			return false
		}
	}
	return true
}

// A keeper that was killed as well leaves routes behind: --cleanup and the next start take them back.
func TestGatewayCleanup(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	url := w.serve(t)
	for _, how := range []string{"--cleanup", "the next start"} {
		g := startGateway(t, "-x", url)
		for _, pid := range childrenPIDs(t, g.cmd.Process.Pid) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		g.crash(t)
		if hostState(t) == g.before {
			t.Error("nothing is left behind: the test is about nothing")
		}
		if how != "--cleanup" {
			g.start(t)
			continue // its end compares
		}
		if out := mustRun(t, program(t, "gateway", "--cleanup")); !strings.Contains(out, "taken back") {
			t.Errorf("it says %q", out)
		}
		g.restored(t)
	}
}

// childrenPIDs are the children of a process.
func childrenPIDs(t *testing.T, pid int) (all []int) {
	t.Helper()
	for field := range strings.FieldsSeq(mustRun(t, command(t, peer(t, "pgrep"), "-P", fmt.Sprint(pid)))) {
		var child int
		if _, err := fmt.Sscan(field, &child); err != nil {
			t.Fatal(err)
		}
		all = append(all, child)
	}
	return all
}

// A plan is what then happens, and changes nothing.
func TestGatewayPlan(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	args := []string{"-x", w.serve(t), "--nat64", "64:ff9b::/96"}
	g := startGateway(t, args...)
	plan := mustRun(t, program(t, append([]string{"gateway", "--plan", "--journal", g.journal + "x",
		"--dns", gateway4, "--allow", "10.85.1.0/24"}, args...)...))
	for _, want := range []string{"ip route add local 198.18.0.0/15 dev lo", "ip -6 route add local 64:ff9b::/96 dev lo", "table inet argyle-gateway", "10.85.1.0/24"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan says nothing of %s:\n%s", want, plan)
		}
	}
}

// One client's flood takes nothing from another.
func TestGatewayFlood(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	g := startGateway(t, "-x", w.serve(t))
	mine := make(map[string]string)
	for i := range 20 {
		name := fmt.Sprintf("mine-%d.example", i)
		mine[name] = w.standIn(t, w.four, name)
	}
	const flood, share = 16_000, 14_334 // an eighth of seven eighths of the addresses of 198.18.0.0/15
	var refused int
	w.flood(t, flood, func(reply *dns.Msg) {
		if reply.Rcode == dns.RcodeSuccess {
			return
		}
		refused++
		if opt := reply.IsEdns0(); reply.Rcode != dns.RcodeServerFailure || opt == nil || len(opt.Option) != 1 || opt.Option[0].Option() != dns.EDNS0EDE {
			t.Fatalf("a refusal: %v", reply)
		}
	})
	if got := flood - refused; got < 10_000 || got > share {
		t.Errorf("the client has got %d names", got)
	}
	for name, addr := range mine {
		if got := w.standIn(t, w.four, name); got != addr {
			t.Errorf("%s was %s and is %s", name, addr, got)
		}
	}
	w.standIn(t, w.four, "another.example") // there is room
	addrs := make(map[netip.Addr]string)
	for _, m := range g.mappings(t) {
		if addrs[m.IPv4] != "" {
			t.Errorf("%v stands for %s and %s", m.IPv4, addrs[m.IPv4], m.Name)
		}
		addrs[m.IPv4] = m.Name
	}
}

// flood has the client of IPv6 ask for that many names.
func (w *gatewayWorld) flood(t *testing.T, count int, got func(*dns.Msg)) {
	t.Helper()
	var conn net.Conn
	var err error
	w.six.enter(t, func() { conn, err = net.Dial("tcp", net.JoinHostPort(gateway6, "53")) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream := &dns.Conn{Conn: conn}
	for i := range count {
		query := new(dns.Msg).SetQuestion(fmt.Sprintf("flood-%d.example.", i), dns.TypeAAAA)
		query.SetEdns0(1232, false)
		_ = stream.SetDeadline(time.Now().Add(patience))
		if err := stream.WriteMsg(query); err != nil {
			t.Fatal(err)
		}
		reply, err := stream.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		got(reply)
	}
}

// Who is not allowed gets no answers, and nothing is relayed. Neither are packets to addresses that stand for nothing.
func TestGatewayRefuses(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	g := startGatewayIn(t, t.TempDir(), "-x", w.serve(t), "--dns", gateway4, "--dns", gateway6, "--allow", "10.85.1.0/24",
		"--allow-private", "--nat64", "64:ff9b::/96", "--resolver", outsideResolver+":53")
	host := w.standIn(t, w.four, "four.zone.test")
	if reply := askGateway(t, w.six, gateway6, "four.zone.test", dns.TypeAAAA); reply.Rcode != dns.RcodeRefused || len(reply.Answer) != 0 {
		t.Errorf("a stranger's query: %v", reply)
	}
	six := g.mapped(t, "get", host, "--json")
	var known mapping
	if err := json.Unmarshal([]byte(six), &known); err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{known.IPv6.String(), "64:ff9b::c000:20a"} {
		if _, err := dial(t, w.six, net.JoinHostPort(dest, "7")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a stranger's connection to %s: %v", dest, err)
		}
		if err := visitUDP(t, w.six, net.JoinHostPort(dest, "7")); err == nil {
			t.Errorf("a stranger's datagram to %s came back", dest)
		}
	}
	if _, err := dial(t, nil, host+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection of a local program, which is not allowed: %v", err)
	}

	before := proxySessions(g)
	unknown := "198.19.0.200"
	if host == unknown {
		unknown = "198.19.0.201"
	}
	if _, err := dial(t, w.four, unknown+":7"); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a connection to an address that stands for nothing: %v", err)
	}
	if err := visitUDP(t, w.four, unknown+":7"); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a datagram to an address that stands for nothing: %v", err)
	}
	if after := proxySessions(g); after != before {
		t.Errorf("%d sessions more", after-before)
	}
}

// proxySessions counts the sessions that the gateway's log has.
func proxySessions(g *gatewayRun) int { return strings.Count(g.stderr.String(), `"msg":"session"`) }

// A client from elsewhere does not reach the gateway's own neighbourhood by it.
func TestGatewayPrivate(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	website(t, "127.0.0.1:80")
	website(t, outerAddr+":80")
	config := writeFile(t, "argyle.yaml", `
proxy: direct
names: {servers: [`+outsideResolver+`], hosts: {rebound.example: [127.0.0.1], own.example: [`+outerAddr+`]}}
gateway:
  dns: [10.85.1.1, "fd00:85:3::1"]
  allow: [10.85.1.0/24, "fd00:85:3::/64", 127.0.0.0/8]
  nat64: "64:ff9b::/96"
  literals: v6.lan
`)
	startGatewayIn(t, t.TempDir(), "-c", config)
	for _, dest := range []string{"127.0.0.1", "169.254.169.254", "10.85.1.2", "10.85.1.1", outerAddr} {
		six := netip.MustParseAddr(dest).As4()
		embedded := netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 12: six[0], six[1], six[2], six[3]})
		if _, err := dial(t, w.six, net.JoinHostPort(embedded.String(), "80")); err == nil {
			t.Errorf("%s can be reached by NAT64", dest)
		}
	}
	for _, name := range []string{"rebound.example", "own.example", "127-0-0-1.v6.lan", "0--1.v6.lan"} {
		if _, err := dial(t, w.four, net.JoinHostPort(w.standIn(t, w.four, name), "80")); err == nil {
			t.Errorf("%s can be reached", name)
		}
	}
	if who, err := visit(t, w.six, net.JoinHostPort(w.standIn(t, w.six, "four.zone.test"), "7")); err != nil {
		t.Errorf("what is not private: %q, %v", who, err)
	}
	if _, err := visit(t, w.six, "[64:ff9b::c000:20a]:7"); err != nil {
		t.Errorf("what is not private, by NAT64: %v", err)
	}
	var local net.Conn
	var err error
	if local, err = dial(t, nil, net.JoinHostPort(w.standIn(t, w.four, "own.example"), "80")); err != nil {
		t.Errorf("a local program reaches its host: %v", err)
	} else {
		local.Close()
	}
}

// What lies over the pool is refused at the start, and told of later.
func TestGatewayOverlap(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	ip := peer(t, "ip")
	g := startGateway(t, "-x", w.serve(t))
	mustRun(t, command(t, ip, "address", "add", "198.18.7.1/24", "dev", "inside"))
	eventually(t, "the gateway to tell of the address", func() bool {
		return strings.Contains(g.stderr.String(), `"network":"198.18.7.0/24"`) || strings.Contains(g.stderr.String(), `"network":"198.18.7.1/24"`)
	})
	second := start(t, program(t, "gateway", "-x", "direct://", "--dns", "127.0.0.1:5353", "--journal", g.journal+"2.journal"))
	if code := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), "running already") {
		t.Errorf("a second one: %d, %s", code, second.stderr.String())
	}
	mustRun(t, command(t, ip, "address", "del", "198.18.7.1/24", "dev", "inside"))
	g.stop(t)

	mustRun(t, command(t, ip, "route", "add", "198.18.0.0/16", "via", outsideProxy))
	defer mustRun(t, command(t, ip, "route", "del", "198.18.0.0/16"))
	third := start(t, program(t, "gateway", "-x", "direct://", "--dns", "127.0.0.1:5353", "--journal", g.journal))
	if code := third.wait(t); code != 1 || !strings.Contains(third.stderr.String(), "198.18.0.0/16, which overlaps the pool 198.18.0.0/15") {
		t.Errorf("with a route over the pool: %d, %s", code, third.stderr.String())
	}
}

// With verify, what does not exist does not exist.
func TestGatewayVerify(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	startGateway(t, "-x", w.serve(t), "--verify", "--allow-private")
	if reply := askGateway(t, w.four, gateway4, "unknown.zone.test", dns.TypeA); reply.Rcode != dns.RcodeNameError {
		t.Errorf("a name that there is not: %v", reply)
	}
	if reply := askGateway(t, w.four, gateway4, "zone.test", dns.TypeA); reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 0 {
		t.Errorf("a name without an address: %v", reply)
	}
	if who, err := visit(t, w.four, w.standIn(t, w.four, "six.zone.test")+":7"); err != nil || !isOutside(who) {
		t.Errorf("a name of the other family: %q, %v", who, err)
	}
	if got := w.run(t, w.six, "client", "lookup", "unknown.zone.test"); got != "" {
		t.Errorf("a program finds %q", got)
	}
	if reply := askGateway(t, w.four, gateway4, "zone.test", dns.TypeMX); len(reply.Answer) != 1 {
		t.Errorf("MX: %v", reply)
	}
}

// A domain has a resolver of its own, and clients have the families that the configuration gives them.
func TestGatewayZones(t *testing.T) {
	w, ok := inGatewayWorld(t)
	if !ok {
		return
	}
	config := writeFile(t, "argyle.yaml", `
proxy: `+w.serve(t)+`
gateway:
  dns: [10.85.1.1, "fd00:85:3::1"]
  allow: [10.85.1.0/24, "fd00:85:3::/64"]
  families: [{client: 10.85.1.0/24, families: v4}, auto]
  verify: true
  resolvers: {zone.test: "`+outsideResolver+`:53"}
`)
	startGatewayIn(t, t.TempDir(), "-c", config, "--resolver", outsideProxy+":54") // where nobody is
	for _, test := range []struct {
		from   *network
		server string
		qtype  uint16
		want   int
	}{
		{w.four, gateway4, dns.TypeA, 1}, {w.four, gateway4, dns.TypeAAAA, 0},
		{w.six, gateway6, dns.TypeA, 0}, {w.six, gateway6, dns.TypeAAAA, 1},
	} {
		reply := askGateway(t, test.from, test.server, "four.zone.test", test.qtype)
		if reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != test.want {
			t.Errorf("%s of %s: %v", dns.Type(test.qtype), test.server, reply)
		}
	}
	if reply := askGateway(t, w.four, gateway4, "unknown.zone.test", dns.TypeA); reply.Rcode != dns.RcodeNameError {
		t.Errorf("a name that there is not: %v", reply)
	}
	if reply := askGateway(t, w.four, gateway4, "www.elsewhere.example", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("a name that the other resolver would know: %v", reply)
	}
}
