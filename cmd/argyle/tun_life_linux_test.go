package main

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However tun ends, the host is as it was.
func TestTunEnds(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	args := []string{"-x", w.serve(t)}
	kill := func(t *testing.T, pids ...int) {
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	sysctl(t, "net/ipv4/conf/outside/rp_filter", "1") // which is one more change
	t.Run("SIGTERM", func(t *testing.T) { startTun(t, args...).stop(t) })
	t.Run("SIGKILL", func(t *testing.T) {
		r := startTun(t, args...)
		kill(t, r.cmd.Process.Pid)
		<-r.ended
		r.restored(t)
	})
	for name, mend := range map[string]func(t *testing.T){
		"cleanup": func(t *testing.T) {
			if got := mustRun(t, program(t, "tun", "--cleanup")); !strings.HasPrefix(got, "taken back: ") {
				t.Errorf("--cleanup says %q", got)
			}
		},
		"next start": func(t *testing.T) { startTunAs(t, args...).stop(t) },
	} {
		t.Run("SIGKILL of the keeper, too, and "+name, func(t *testing.T) {
			r := startTun(t, args...)
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

// While it runs there is no second one. A plan changes nothing, and says what is done.
func TestTunOnce(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	args := []string{"-x", w.serve(t), "--except", spared4}
	before := hostState(t)
	plan := mustRun(t, nobody(t, program(t, append([]string{"tun", "--plan"}, args...)...)))
	if after := hostState(t); after != before {
		t.Errorf("--plan has changed\n%s", changes(before, after))
	}
	powerless := start(t, nobody(t, program(t, append([]string{"tun"}, args...)...)))
	if code := powerless.wait(t); code != 1 || !strings.Contains(powerless.stderr.String(), "setcap cap_net_admin+ep") {
		t.Errorf("without root: exit status %d: %s", code, powerless.stderr.String())
	}
	startTun(t, args...)
	done := mustRun(t, command(t, peer(t, "ip"), "rule")) + mustRun(t, command(t, peer(t, "ip"), "-6", "rule"))
	count := 0
	for line := range strings.Lines(plan) {
		words, found := strings.CutPrefix(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "ip -6"), " rule add priority ")
		if !found {
			words, found = strings.CutPrefix(strings.TrimSuffix(line, "\n"), "ip rule add priority ")
		}
		if !found {
			continue
		}
		count++
		priority, rest, _ := strings.Cut(words, " ")
		if !strings.Contains(done, priority+":\tfrom all "+rest) {
			t.Errorf("planned and not done: %s", line)
		}
	}
	if count != 14 {
		t.Errorf("%d rules are planned, want 14:\n%s", count, plan)
	}
	if table := mustRun(t, command(t, peer(t, "nft"), "list", "table", "inet", "argyle-tun")); !strings.Contains(plan, "table inet argyle-tun") ||
		!strings.Contains(table, spared4) {
		t.Errorf("nft list table: %s", table)
	}
	for _, second := range [][]string{append([]string{"tun"}, args...), {"tun", "--cleanup"}} {
		c := start(t, program(t, second...))
		if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), "running already") {
			t.Errorf("%q: exit status %d: %s", second, code, c.stderr.String())
		}
	}
}

// What is somebody else's is left to him.
func TestTunTaken(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	for want, line := range map[string]string{
		"priority":          "rule add priority 121 lookup 7",
		"routing table":     "route add 192.0.2.9/32 dev lo table 61720",
		"give another":      "tuntap add dev argyle0 mode tun",
		"overlaps the pool": "route add 198.18.0.0/16 via 10.85.2.2",
	} {
		t.Run(want, func(t *testing.T) {
			undo := strings.Replace(line, " add ", " del ", 1)
			mustRun(t, command(t, peer(t, "ip"), strings.Fields(line)...))
			before := hostState(t)
			c := start(t, program(t, "tun", "-x", proxy))
			if code := c.wait(t); code != 1 || !strings.Contains(c.stderr.String(), want) {
				t.Errorf("exit status %d: %s", code, c.stderr.String())
			}
			if after := hostState(t); after != before {
				t.Errorf("changed: %s", changes(before, after))
			}
			mustRun(t, command(t, peer(t, "ip"), strings.Fields(undo)...))
		})
	}
}

// Nothing goes past a dead proxy, and what it cannot carry is refused.
func TestTunDeadProxy(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	t.Run("TCP", func(t *testing.T) {
		startTun(t, "-x", "socks5h://"+outsideProxy+":9")
		for _, host := range []string{target4, target6} {
			if _, err := visit(t, nil, net.JoinHostPort(host, "7")); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("TCP to %s without a proxy: %v", host, err)
			}
		}
		if _, err := visit(t, w.inside, target4+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP of a client without a proxy: %v", err)
		}
	})
	t.Run("UDP", func(t *testing.T) {
		startTun(t, "-x", "http://"+outsideProxy+":9")
		for _, host := range []string{target4, target6} {
			if err := visitUDP(t, nil, net.JoinHostPort(host, "7")); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("UDP to %s without a way: %v", host, err)
			}
		}
	})
}

// Who is connected to this host stays so, wherever he comes from, and whoever comes is answered. What a program has begun
// before goes on.
func TestTunVisitors(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	talking := func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }
	home := serveTCP(t, "10.85.2.1:0", talking)
	homeUDP := udpEcho(t, "10.85.2.1:0")
	var away string
	w.outside.enter(t, func() { away = serveTCP(t, target4+":0", talking) })
	knock := func() net.Conn {
		var conn net.Conn
		var err error
		far := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(target4)}}
		w.outside.enter(t, func() { conn, err = far.Dial("tcp", home) })
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
	early, begun := knock(), dialTCP(t, away)
	for _, conn := range []net.Conn{early, begun} {
		if err := talk(conn); err != nil {
			t.Fatal(err)
		}
	}
	startTun(t, "-x", proxy)
	for name, conn := range map[string]net.Conn{"early": early, "late": knock(), "begun": begun} {
		for range 3 {
			if err := talk(conn); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	var udp net.Conn
	var err error
	w.outside.enter(t, func() {
		udp, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(target4)}}).Dial("udp", homeUDP)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if err := talk(udp); err != nil {
		t.Errorf("UDP of a visitor: %v", err)
	}
}

func dialTCP(t *testing.T, dest string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", dest, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// After SIGTERM, what is there goes on, and nothing new begins.
func TestTunDrains(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	r := startTun(t, "-x", w.serve(t))
	conn := dialTCP(t, target4+":7")
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new connections to be refused", func() bool {
		_, err := visit(t, nil, target4+":7")
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(all), " goodbye") {
		t.Errorf("the session has %q, %v", all, err)
	}
	conn.Close()
	if code := r.wait(t); code != 0 {
		t.Errorf("the exit status is %d", code)
	}
	r.restored(t)
}

// Without IPv6, IPv4 alone is taken.
func TestTunIPv4(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	sysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
	startTun(t, "-x", w.serve(t))
	if who, err := visit(t, nil, target4+":7"); err != nil || !isOutside(who) {
		t.Errorf("TCP: %q, %v", who, err)
	}
	if who := askWho(t, nil, "www.zone.test"); !isOutside(who) {
		t.Errorf("by name: %q", who)
	}
}

// TestTunUsage looks at command lines that are wrong.
func TestTunUsage(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--mtu 100", "--mtu 100: want 1280 to 65535"},
		{"--dns on", "--dns"},
		{"--name a/b", "--name"},
		{"--name abcdefghijklmnop", "at most 15"},
		{"--route 10.0.0.0/33", `--route "10.0.0.0/33": want a network`},
		{"--route .corp", "--route"},
		{"--except www.example", "--except"},
		{"--ping a/b", "--ping"},
		{"--fd 3 --route 10.0.0.0/8", "--fd"},
		{"--fd 99", "--fd"},
		{"--resolver x", "--resolver"},
		{"extra", "unknown command"},
	} {
		c := start(t, program(t, append([]string{"tun", "-x", "socks5h://127.0.0.1:1"}, strings.Fields(test.args)...)...))
		if code := c.wait(t); code != 2 || !strings.Contains(c.stderr.String(), test.want) || strings.Count(c.stderr.String(), "\n") != 1 {
			t.Errorf("%q: exit status %d: %s", test.args, code, c.stderr.String())
		}
	}
}
