package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// both runs a test for programs of the host and for clients of its network.
func (w *redirectWorld) both(t *testing.T, test func(t *testing.T, from *network, flags []string)) {
	t.Run("local", func(t *testing.T) { test(t, nil, nil) })
	t.Run("routed", func(t *testing.T) { test(t, w.inside, []string{"--from", "inside"}) })
}

func TestRedirect(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	for name, proxy := range w.proxies(t) {
		t.Run(name, func(t *testing.T) {
			w.both(t, func(t *testing.T, from *network, flags []string) {
				startRedirect(t, append(flags, "-x", proxy, "--to", "192.0.2.0/24", "--to", "2001:db8::/32", "--to", "198.51.100.0/24",
					"--except", spared4)...)
				w.testTargets(t, from, name == "argyle")
			})
		})
	}
}

// By REDIRECT, too, but connections are there before they are dialled.
func TestRedirectByREDIRECT(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	w.both(t, func(t *testing.T, from *network, flags []string) {
		startRedirect(t, append(flags, "-x", proxy, "--method", "redirect", "--to", "192.0.2.0/24", "--to", "2001:db8::/32",
			"--except", spared4)...)
		for _, host := range []string{target4, target6} {
			if who, err := visit(t, from, net.JoinHostPort(host, "7")); err != nil || !isOutside(who) {
				t.Errorf("TCP to %s: %q, %v", host, who, err)
			}
			if err := visitUDP(t, from, net.JoinHostPort(host, "7")); err != nil {
				t.Errorf("UDP to %s: %v", host, err)
			}
		}
		if who, err := visit(t, from, spared4+":7"); err != nil || isOutside(who) {
			t.Errorf("TCP to an exception: %q, %v", who, err)
		}
		if who, err := visit(t, from, target4+":81"); err == nil {
			t.Errorf("TCP to a closed port: %q", who)
		}
	})
}

// testTargets looks at what the proxy can reach, and what it cannot.
func (w *redirectWorld) testTargets(t *testing.T, from *network, own bool) {
	for _, host := range []string{target4, target6} {
		if who, err := visit(t, from, net.JoinHostPort(host, "7")); err != nil || !isOutside(who) {
			t.Errorf("TCP to %s: %q, %v", host, who, err)
		}
		if host == target6 && !own {
			continue
		}
		if err := visitUDP(t, from, net.JoinHostPort(host, "7")); err != nil {
			t.Errorf("UDP to %s: %v", host, err)
		}
	}
	if who, err := visit(t, from, spared4+":7"); err != nil || isOutside(who) {
		t.Errorf("TCP to an exception: %q, %v", who, err)
	}
	if _, err := visit(t, from, target4+":81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("TCP to a closed port: %v", err)
	}
	if _, err := visit(t, from, net.JoinHostPort(target6, "81")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("TCP to a closed port of IPv6: %v", err)
	}
	if !own {
		return // danted says nothing of those
	}
	if _, err := visit(t, from, unreachable+":80"); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("TCP to nowhere: %v", err)
	}
}

// isOutside reports whether an address is of the proxies' network.
func isOutside(who string) bool {
	return who != "" && !strings.HasPrefix(who, "10.85.1.") && !strings.HasPrefix(who, "fd00:85:1:") && who != "10.85.2.1" && who != "fd00:85:2::1"
}

// Names have addresses of the pool, and only those are taken.
func TestRedirectNames(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	w.both(t, func(t *testing.T, from *network, flags []string) {
		t.Run("all", func(t *testing.T) {
			startRedirect(t, append(flags, "-x", proxy, "--dns", "--resolver", outsideResolver+":53")...)
			w.testNames(t, from, true)
		})
		t.Run("some", func(t *testing.T) {
			startRedirect(t, append(flags, "-x", proxy, "--to", ".www.zone.test", "--to", "six.zone.test")...)
			w.testNames(t, from, false)
		})
		t.Run("redirect", func(t *testing.T) {
			startRedirect(t, append(flags, "-x", proxy, "--method", "redirect", "--to", "www.zone.test", "--to", "six.zone.test")...)
			w.testNames(t, from, false)
		})
	})
}

// testNames asks for names and visits them.
func (w *redirectWorld) testNames(t *testing.T, from *network, all bool) {
	for _, test := range []struct {
		words string
		fake  bool
		want  string // without the pool
	}{
		{"www.zone.test A", true, ""},
		{"www.zone.test AAAA", true, ""},
		{"+tcp www.zone.test A", true, ""},
		{"six.zone.test A", true, ""},
		{"four.zone.test A", all, target4},
		{"+tcp four.zone.test A", all, target4},
		{"zone.test TXT", false, `"the zone of the tests"`},
		{"-x " + target4, false, "www.zone.test."},
		{"@127.0.0.53 www.zone.test A", true, ""},
		{"@198.51.100.53 www.zone.test A", true, ""},
	} {
		words := append([]string{peer(t, "dig"), "+short", "+time=3", "+tries=2"}, strings.Fields(test.words)...)
		if !test.fake && strings.Contains(test.words, "@") || from != nil && strings.Contains(test.words, "@127") {
			continue // it has no such resolver, or asks one of its own
		}
		got := strings.TrimSpace(mustRun(t, from.program(t, words...)))
		fake := strings.HasPrefix(got, "198.1") || strings.HasPrefix(got, "fd")
		if fake != test.fake || !fake && got != test.want {
			t.Errorf("dig %s: %q", test.words, got)
		}
	}
	for _, url := range []string{"http://www.zone.test/", "http://six.zone.test/", "-4 http://six.zone.test/", "-6 http://www.zone.test/"} {
		words := append([]string{peer(t, "curl"), "--silent", "--show-error", "--max-time", "10"}, strings.Fields(url)...)
		if got := mustRun(t, from.program(t, words...)); got != page {
			t.Errorf("curl %s got %q", url, got)
		}
	}
	pool := strings.TrimSpace(mustRun(t, from.program(t, peer(t, "dig"), "+short", "www.zone.test", "A")))
	if got := strings.TrimSpace(mustRun(t, from.program(t, peer(t, "dig"), "+short", "-x", pool))); got != "www.zone.test." {
		t.Errorf("the name of %s is %q", pool, got)
	}
	if who, err := visit(t, from, pool+":7"); err != nil || !isOutside(who) {
		t.Errorf("TCP to an address of the pool: %q, %v", who, err)
	}
	if err := visitUDP(t, from, pool+":7"); err != nil {
		t.Errorf("UDP to an address of the pool: %v", err)
	}
	if _, err := visit(t, from, "198.19.255.1:7"); err == nil {
		t.Error("an address of the pool that stands for no name is somebody's")
	}
	if who, err := visit(t, from, target4+":7"); err != nil || isOutside(who) {
		t.Errorf("TCP to an address that is not of the pool: %q, %v", who, err)
	}
}

// program prepares a program in the network; a nil network is this host.
func (n *network) program(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	if n == nil {
		return command(t, words[0], words[1:]...)
	}
	return n.command(t, words...)
}

// Of the host's programs only some are taken.
func TestRedirectPrograms(t *testing.T) {
	w, ok := inRedirectWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	group, path := newControlGroup(t)
	for _, test := range []struct {
		name  string
		flags []string
		taken []string
	}{
		{"uid", []string{"--uid", "65001"}, as(t, 65001, 65009)},
		{"gid", []string{"--gid", "65002"}, as(t, 65009, 65002)},
		{"cgroup", []string{"--cgroup", path}, inControlGroup(t, group)},
		{"cgroup by folder", []string{"--cgroup", group}, inControlGroup(t, group)},
		{"any", []string{"--cgroup", group, "--uid", "65001"}, as(t, 65001, 65009)},
	} {
		t.Run(test.name, func(t *testing.T) {
			startRedirect(t, append(test.flags, "-x", proxy, "--to", "192.0.2.0/24", "--to", "www.zone.test")...)
			for _, dest := range []string{target4, "www.zone.test"} {
				if who := askWho(t, test.taken, dest); !isOutside(who) {
					t.Errorf("%s: %q has come", dest, who)
				}
				if who := askWho(t, as(t, 65009, 65009), dest); isOutside(who) {
					t.Errorf("%s by another program: %q has come", dest, who)
				}
			}
		})
	}
}

// as is what runs a program as another user.
func as(t *testing.T, uid, gid int) []string {
	t.Helper()
	return []string{peer(t, "setpriv"), "--clear-groups", "--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(gid)}
}

// askWho has a program ask the target who has come.
func askWho(t *testing.T, as []string, dest string) string {
	t.Helper()
	words := append(as, peer(t, "ncat"), "-4", dest, "7")
	return strings.TrimSpace(mustRun(t, command(t, words[0], words[1:]...)))
}

// newControlGroup makes a control group, and returns its folder.
func newControlGroup(t *testing.T) (folder, path string) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
			continue
		}
		folder, err := os.MkdirTemp(root, "argyle-test-") //nolint:usetesting // a control group is made there and nowhere else
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() {
			eventually(t, "the control group to be empty", func() bool { return os.Remove(folder) == nil })
		})
		inner := filepath.Join(folder, "inner")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { eventually(t, "the control group to be empty", func() bool { return os.Remove(inner) == nil }) })
		return folder, strings.TrimPrefix(folder, root)
	}
	missing(t, "cgroup2")
	return "", ""
}

// inControlGroup is what runs a program in one below a control group.
func inControlGroup(t *testing.T, folder string) []string {
	t.Helper()
	return []string{peer(t, "bash"), "-c", "echo $$ > " + folder + `/inner/cgroup.procs && exec "$@"`, "bash"}
}
