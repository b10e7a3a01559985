package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// However redirect ends, the host is as it was.
func TestRedirectEnds(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	args := []string{"-x", w.serve(t), "--dns", "--to", "192.0.2.0/24"}
	kill := func(t *testing.T, pids ...int) {
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("SIGTERM", func(t *testing.T) { startRedirect(t, args...).stop(t) })
	t.Run("SIGKILL", func(t *testing.T) {
		r := startRedirect(t, args...)
		kill(t, r.cmd.Process.Pid)
		<-r.ended
		r.restored(t)
	})
	for name, mend := range map[string]func(t *testing.T){
		"cleanup": func(t *testing.T) {
			if got := mustRun(t, program(t, "redirect", "--cleanup")); !strings.HasPrefix(got, "taken back: ") {
				t.Errorf("--cleanup says %q", got)
			}
			if got := mustRun(t, program(t, "redirect", "--cleanup")); got != "nothing is left over\n" {
				t.Errorf("a second --cleanup says %q", got)
			}
		},
		"next start": func(t *testing.T) { startRedirectAs(t, args...).stop(t) },
	} {
		t.Run("SIGKILL of the keeper, too, and "+name, func(t *testing.T) {
			r := startRedirect(t, args...)
			kill(t, append(keepersOf(t, r.cmd.Process.Pid), r.cmd.Process.Pid)...)
			<-r.ended
			if hostState(t) == r.before {
				t.Fatal("nothing is left over that could be mended")
			}
			mend(t)
			r.restored(t)
		})
	}
}

// keepersOf are the processes that outlive one.
func keepersOf(t *testing.T, pid int) (pids []int) {
	t.Helper()
	text, err := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(text)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, child)
	}
	return pids
}

// While it runs there is no second one, and nothing that is there can be cleaned up. A plan changes nothing.
func TestRedirectOnce(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	args := []string{"-x", w.serve(t), "--to", "192.0.2.0/24"}
	before := hostState(t)
	plan := mustRun(t, program(t, append([]string{"redirect", "--plan"}, args...)...))
	if after := hostState(t); after != before {
		t.Errorf("--plan has changed\n%s", changes(before, after))
	}
	nobody := program(t, append([]string{"redirect", "--plan"}, args...)...)
	nobody.Dir, nobody.SysProcAttr.Credential = "/", &syscall.Credential{Uid: 65001, Gid: 65001}
	if got := mustRun(t, readable(t, nobody)); got != plan {
		t.Errorf("without root the plan is\n%s\nand with it\n%s", got, plan)
	}
	startRedirect(t, args...)
	for _, want := range []string{"priority 111", "fwmark 0x61726711", "table 61711"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan lacks %q:\n%s", want, plan)
		}
	}
	if rules := mustRun(t, command(t, peer(t, "ip"), "rule")); !strings.Contains(rules, "111:\tfrom all fwmark 0x61726711 lookup 61711") {
		t.Errorf("ip rule:\n%s", rules)
	}
	for _, second := range [][]string{append([]string{"redirect"}, args...), {"redirect", "--cleanup"}} {
		c := start(t, program(t, second...))
		if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), "running already") {
			t.Errorf("%q: exit status %d: %s", second, code, c.stderr.String())
		}
	}
	powerless := program(t, append([]string{"redirect"}, args...)...)
	powerless.Dir, powerless.SysProcAttr.Credential = "/", &syscall.Credential{Uid: 65001, Gid: 65001}
	c := start(t, readable(t, powerless))
	if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), "CAP_NET_ADMIN") {
		t.Errorf("without root: exit status %d: %s", code, c.stderr.String())
	}
}

// What is taken does not go past a dead proxy, nor past argyle.
func TestRedirectDeadProxy(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	w.both(t, func(t *testing.T, from *network, flags []string) {
		startRedirect(t, append(flags, "-x", "socks5h://"+outsideProxy+":9", "--to", "192.0.2.0/24")...)
		for range 3 {
			if _, err := visit(t, from, target4+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("TCP without a proxy: %v", err)
			}
		}
		mustRun(t, command(t, peer(t, "nft"), "flush", "ruleset"))
		if who, err := visit(t, from, target4+":7"); err == nil {
			t.Errorf("after nft flush ruleset %s has come", who)
		}
	})
	t.Run("REDIRECT", func(t *testing.T) {
		startRedirect(t, "-x", "socks5h://"+outsideProxy+":9", "--to", "192.0.2.0/24", "--method", "redirect")
		if who, err := visit(t, nil, target4+":7"); err == nil {
			t.Errorf("TCP without a proxy: %s has come", who)
		}
	})
	t.Run("no UDP", func(t *testing.T) {
		startRedirect(t, "-x", "http://"+outsideProxy+":9", "--to", "192.0.2.0/24", "--local", "--from", "inside")
		if err := visitUDP(t, nil, target4+":7"); !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP of a program without a way: %v", err)
		}
		if err := visitUDP(t, w.inside, target4+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP of a client without a way: %v", err)
		}
	})
}

// The proxy itself, and the rules, may be about what is taken.
func TestRedirectOwnSockets(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	w.serve(t)
	w.outside.enter(t, func() { serveNames(t, "127.0.0.53:53") })
	stub(t)
	for name, args := range map[string][]string{
		"proxy among the destinations": {"-x", "socks5h://" + outsideProxy + ":1080", "--to", "0.0.0.0/0", "--to", "::/0"},
		"proxy by name":                {"-x", "socks5h://gw.zone.test:1080", "--to", "0.0.0.0/0", "--dns"},
		"name looked up here":          {"-x", "socks5://gw.zone.test:1080", "--to", "0.0.0.0/0", "--dns"},
	} {
		t.Run(name, func(t *testing.T) {
			startRedirect(t, args...)
			if who, err := visit(t, nil, target4+":7"); err != nil || !isOutside(who) {
				t.Errorf("TCP: %q, %v", who, err)
			}
			if err := visitUDP(t, nil, target4+":7"); err != nil {
				t.Errorf("UDP: %v", err)
			}
			if who := askWho(t, nil, "www.zone.test"); !isOutside(who) {
				t.Errorf("by name: %q", who)
			}
		})
	}
	t.Run("rules", func(t *testing.T) {
		startRedirect(t, "-x", "socks5h://"+outsideProxy+":1080", "--to", "0.0.0.0/0", "--dns",
			"--direct", "192.0.2.0/24", "--direct", ".www.zone.test", "--deny", spared4+"/32", "--deny", "four.zone.test")
		if who, err := visit(t, nil, target4+":7"); err != nil || isOutside(who) {
			t.Errorf("TCP to --direct: %q, %v", who, err)
		}
		if who := askWho(t, nil, "www.zone.test"); isOutside(who) {
			t.Errorf("TCP to --direct by name: %q", who)
		}
		if who, err := visit(t, nil, spared4+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP to --deny: %q, %v", who, err)
		}
		c := start(t, command(t, peer(t, "ncat"), "-4", "four.zone.test", "7"))
		if code := c.wait(t); code == 0 || !strings.Contains(c.stderr.String(), "refused") {
			t.Errorf("TCP to --deny by name: exit status %d: %s", code, c.stderr.String())
		}
	})
}

// stub is a resolver of this host, which asks others itself, as any program: what it gets may be one of our answers.
func stub(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	up, done := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(up) }}
	server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		if answer, _, err := new(dns.Client).Exchange(query, outsideResolver+":53"); err == nil {
			_ = w.WriteMsg(answer)
		}
	})
	go func() { done <- server.ActivateAndServe() }()
	<-up
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-done
	})
	cover(t, "/etc/resolv.conf", "nameserver 127.0.0.53\n")
}

// Who is connected to this host stays so, wherever he comes from, and whoever comes is answered.
func TestRedirectVisitors(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	home := serveTCP(t, "10.85.2.1:0", func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) })
	knock := func() net.Conn {
		var conn net.Conn
		var err error
		w.outside.enter(t, func() { conn, err = net.Dial("tcp", home) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	talk := func(conn net.Conn) error {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 5))
		return err
	}
	early := knock()
	if err := talk(early); err != nil {
		t.Fatal(err)
	}
	startRedirect(t, "-x", proxy, "--to", "0.0.0.0/0", "--local", "--from", "inside")
	for name, conn := range map[string]net.Conn{"early": early, "late": knock()} {
		for range 3 {
			if err := talk(conn); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if who, err := visit(t, w.inside, target4+":7"); err != nil || !isOutside(who) {
		t.Errorf("TCP of a client: %q, %v", who, err)
	}
}

func TestRedirectMany(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	startRedirect(t, "-x", w.serve(t), "--to", "192.0.2.0/24", "--local", "--from", "10.85.1.0/24")
	var all sync.WaitGroup
	var conns []net.Conn
	for i := range 200 {
		from := []*network{nil, w.inside}[i%2]
		from.enter(t, func() {
			conn, err := net.Dial("tcp", target4+":7")
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		})
	}
	for i, conn := range conns {
		all.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = conn.Write([]byte(strconv.Itoa(i)))
			_ = conn.(*net.TCPConn).CloseWrite()
			text, err := io.ReadAll(conn)
			if who, rest, _ := strings.Cut(string(text), " "); err != nil || rest != strconv.Itoa(i) || !isOutside(who) {
				t.Errorf("connection %d: %q, %v", i, text, err)
			}
		})
	}
	all.Wait()
}

// TestRedirectUsage looks at command lines that are wrong.
func TestRedirectUsage(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", "--to"},
		{"--to 10.0.0.0/33", `--to "10.0.0.0/33": want a network`},
		{"--to a/b", "want a network"},
		{"--to 10.0.0.0/8 --except .corp", "--dns"},
		{"--dns --from nowhere0", `--from "nowhere0": want a network`},
		{"--dns --from lo", "interface that clients come in by"},
		{"--dns --from 10.0.0.0/8 --uid 5", "--local"},
		{"--dns --uid nobody-of-that-name", "--uid"},
		{"--dns --gid -1", "--gid"},
		{"--dns --method nat", "want tproxy or redirect"},
		{"--dns --resolver x", "--resolver"},
	} {
		c := start(t, program(t, append([]string{"redirect", "-x", "socks5h://127.0.0.1:1"}, strings.Fields(test.args)...)...))
		if code := c.wait(t); code != 2 || !strings.Contains(c.stderr.String(), test.want) || strings.Count(c.stderr.String(), "\n") != 1 {
			t.Errorf("%q: exit status %d: %s", test.args, code, c.stderr.String())
		}
	}
}

func TestTargets(t *testing.T) {
	got, err := parseTargets("--to", []string{"10.1.2.3/8", "[2001:db8::1]", "::ffff:192.0.2.1", ".Corp.Example.", "www.example"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "[10.0.0.0/8 2001:db8::1/128 192.0.2.1/32] [.corp.example www.example]"; fmt.Sprint(got.prefixes, got.names) != want {
		t.Errorf("got %v %v, want %s", got.prefixes, got.names, want)
	}
	for name, want := range map[string]bool{
		"corp.example": true, "a.corp.example": true, "xcorp.example": false, "www.example": true, "a.www.example": false, "": false,
	} {
		if got.named(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
