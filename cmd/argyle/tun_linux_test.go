package main

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/tun"
)

// inTunWorld is the world of redirect, where the way to the targets is the default route.
func inTunWorld(t *testing.T) (w *redirectWorld, ok bool) {
	t.Helper()
	if w, ok = inRedirectWorld(t); !ok {
		return nil, false
	}
	for _, line := range []string{
		"route del 192.0.2.0/24", "route del 198.51.100.0/24", "route del 2001:db8::/32",
		"route add default via 10.85.2.2", "route add default via fd00:85:2::2",
	} {
		mustRun(t, command(t, peer(t, "ip"), strings.Fields(line)...))
	}
	return w, true
}

// startTun starts the program, which leaves the host as it was when it ends.
func startTun(t *testing.T, args ...string) *redirection {
	t.Helper()
	before := hostState(t)
	r := runTunnel(t, program(t, append([]string{"tun", "-v", "--log-format", "json"}, args...)...))
	r.before = before
	return r
}

// runTunnel starts argyle tun and waits until it takes packets.
func runTunnel(t *testing.T, cmd *exec.Cmd) *redirection {
	t.Helper()
	r := &redirection{child: start(t, cmd)}
	eventually(t, "tun to begin", func() bool {
		select {
		case <-r.ended:
			t.Fatalf("tun ended: %v: %s", r.err, r.stderr.String())
		default:
		}
		return strings.Contains(r.stderr.String(), `"msg":"taking packets"`)
	})
	t.Cleanup(func() {
		select {
		case <-r.ended:
		default:
			r.stop(t)
		}
	})
	return r
}

func TestTun(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	for name, proxy := range w.proxies(t) {
		t.Run(name, func(t *testing.T) {
			startTun(t, "-x", proxy, "--except", spared4)
			w.testTargets(t, nil, name == "argyle")
		})
	}
}

// Names have addresses that stand for them, whatever resolver is asked, and the proxy looks them up.
func TestTunNames(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	startTun(t, "-x", w.serve(t))
	for _, words := range []string{"www.zone.test A", "six.zone.test AAAA", "@198.51.100.53 www.zone.test A", "+tcp www.zone.test A"} {
		fake := strings.TrimSpace(mustRun(t, command(t, peer(t, "dig"), append([]string{"+short"}, strings.Fields(words)...)...)))
		if net.ParseIP(fake) == nil || fake == target4 || fake == target6 {
			t.Errorf("%s: %q is no address that stands for a name", words, fake)
			continue
		}
		if who, err := visit(t, nil, net.JoinHostPort(fake, "7")); err != nil || !isOutside(who) {
			t.Errorf("TCP to %s, which is %s: %q, %v", fake, words, who, err)
		}
		if err := visitUDP(t, nil, net.JoinHostPort(fake, "7")); err != nil {
			t.Errorf("UDP to %s, which is %s: %v", fake, words, err)
		}
	}
	if _, err := visit(t, nil, "198.18.77.77:7"); err == nil {
		t.Error("an address that stands for no name is somebody's")
	}
	if got := mustRun(t, command(t, peer(t, "curl"), "--silent", "http://www.zone.test/")); got != page {
		t.Errorf("curl got %q", got)
	}
}

// What is taken, and what becomes of it.
func TestTunRules(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	dead := "socks5h://" + outsideProxy + ":9"
	for _, test := range []struct {
		name    string
		flags   []string
		refused bool
		outside bool
	}{
		{"all", []string{"-x", proxy}, false, true},
		{"another network", []string{"-x", dead, "--route", "203.0.113.0/24"}, false, false},
		{"its network", []string{"-x", proxy, "--route", "192.0.2.0/24"}, false, true},
		{"direct", []string{"-x", dead, "--direct", "192.0.2.0/24"}, false, false},
		{"denied", []string{"-x", proxy, "--deny", "192.0.2.0/24"}, true, false},
		{"dead proxy", []string{"-x", dead}, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			startTun(t, test.flags...)
			who, err := visit(t, nil, target4+":7")
			switch {
			case test.refused && !errors.Is(err, syscall.ECONNREFUSED):
				t.Errorf("TCP: %q, %v, want it refused", who, err)
			case !test.refused && (err != nil || isOutside(who) != test.outside):
				t.Errorf("TCP: %q, %v", who, err)
			}
		})
	}
}

// Echo requests are answered only where the operator has said so.
func TestTunPing(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	startTun(t, "-x", w.serve(t), "--ping", target4, "--ping", target6, "--ping", ".zone.test", "--deny", target6)
	ping := func(dest string) error {
		return command(t, peer(t, "ping"), "-c1", "-W5", dest).Run()
	}
	for dest, answered := range map[string]bool{target4: true, "www.zone.test": true, spared4: false, target6: false} {
		if err := ping(dest); (err == nil) != answered {
			t.Errorf("ping %s: %v", dest, err)
		}
	}
}

// Many at once, and datagrams of one socket to two destinations have one mapping.
func TestTunMany(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	startTun(t, "-x", w.serve(t))
	var visits sync.WaitGroup
	for range 200 {
		visits.Go(func() {
			if who, err := visit(t, nil, target4+":7"); err != nil || !isOutside(who) {
				t.Errorf("TCP: %q, %v", who, err)
			}
		})
	}
	visits.Wait()
	conn, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 100)
	for n := range 1000 {
		dest := &net.UDPAddr{IP: net.ParseIP([]string{target4, spared4}[n%2]), Port: 7}
		if _, err := conn.WriteTo(fmt.Appendf(nil, "%d", n), dest); err != nil {
			t.Fatal(err)
		}
		got, from, err := conn.ReadFrom(buf)
		if err != nil || string(buf[:got]) != fmt.Sprint(n) || from.String() != dest.String() {
			t.Fatalf("datagram %d to %v: %q from %v, %v", n, dest, buf[:got], from, err)
		}
	}
}

// However it ends, the host is as it was.
func TestTunEnds(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	startTun(t, "-x", proxy).stop(t)
	r := startTun(t, "-x", proxy)
	second := start(t, program(t, "tun", "-x", proxy))
	if code := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), "running") {
		t.Errorf("a second one: exit status %d: %s", code, second.stderr.String())
	}
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.wait(t)
	r.restored(t)
	if said := mustRun(t, program(t, "tun", "--cleanup")); !strings.Contains(said, "nothing") {
		t.Errorf("--cleanup says %q", said)
	}
	before := hostState(t)
	plan := mustRun(t, program(t, "tun", "-x", proxy, "--plan"))
	if !strings.Contains(plan, "ip -6 rule add") || !strings.Contains(plan, "tuntap add dev argyle0") {
		t.Errorf("the plan is\n%s", plan)
	}
	if after := hostState(t); after != before {
		t.Errorf("--plan has changed\n%s", changes(before, after))
	}
}

// A device that somebody else has made needs no rights, and nothing else of the host is touched.
func TestTunGiven(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	device, err := tun.Make("given0")
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	for _, line := range []string{
		"link set given0 mtu 1500 up", "address add 10.99.0.1/24 dev given0", "route add 192.0.2.0/24 dev given0", "route add 198.51.100.0/24 dev given0",
	} {
		mustRun(t, command(t, peer(t, "ip"), strings.Fields(line)...))
	}
	before := hostState(t)
	cmd := readable(t, program(t, "tun", "-v", "--log-format", "json", "-x", proxy, "--fd", "3"))
	cmd.Dir = "/"
	cmd.ExtraFiles = append(cmd.ExtraFiles, device.File)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	r := runTunnel(t, cmd)
	if after := hostState(t); after != before {
		t.Errorf("it has changed\n%s", changes(before, after))
	}
	if who, err := visit(t, nil, target4+":7"); err != nil || !isOutside(who) {
		t.Errorf("TCP: %q, %v", who, err)
	}
	if err := visitUDP(t, nil, target4+":7"); err != nil {
		t.Errorf("UDP: %v", err)
	}
	if _, err := visit(t, nil, target4+":81"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
	r.stop(t)
}
