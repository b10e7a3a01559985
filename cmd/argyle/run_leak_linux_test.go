//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A leakTest is a world of its own for the prober.
type leakTest struct {
	*ride
	leaks     *packetCapture
	resolvers *fakeResolvers
}

func newLeakTest(t *testing.T, w *runWorld, engine string, proxy *runProxy) *leakTest {
	t.Helper()
	n := w.network(t)
	x := &leakTest{ride: &ride{runWorld: w, net: n, engine: engine, proxy: proxy}}
	x.resolvers = abstractResolver(t, n, w.uid)
	all := fmt.Sprint(w.uid, " ", w.uid)
	pingers := n.command(t, "bash", "-c", "echo "+all+" >/proc/sys/net/ipv4/ping_group_range")
	mustRun(t, pingers)
	x.leaks = watch(t, n, proxy)
	return x
}

// dry wants that nothing has leaked.
func (x *leakTest) dry(t *testing.T) {
	t.Helper()
	for _, packet := range x.leaks.seen(t) {
		t.Errorf("past the proxy: %s", packet)
	}
	if x.engine == engineSeccomp {
		return // its program has the abstract sockets of its network: those of D-Bus, of X11, and of nobody who resolves names
	}
	for _, who := range x.resolvers.takeAskers() {
		t.Errorf("a resolver was asked by its abstract socket: %s", who)
	}
}

// A prober tries everything that an ordinary program can, and nothing of it may leave the network but to the proxy.
func TestRunLeaks(t *testing.T) {
	w, ok := inRunWorld(t)
	if !ok {
		return
	}
	t.Run("all", func(t *testing.T) { // parallel tests inside are over before their servers are
		paths := pathResolvers(t, w.uid)
		proxy := argyleProxy(t)
		// Nobody listens there; it is no port of a relay either.
		dead := &runProxy{name: "dead", url: "socks5h://" + outerAddr + ":9"}
		t.Run("capture", func(t *testing.T) {
			testLeaksAreSeen(t, newLeakTest(t, w, engineDirect, proxy), paths)
		})
		t.Run("capture, killed", func(t *testing.T) {
			x := newLeakTest(t, w, engineDirect, proxy)
			x.killed(t)
			testSomeAreSeen(t, x)
		})
		t.Run("capture, ended", func(t *testing.T) {
			x := newLeakTest(t, w, engineDirect, proxy)
			x.survived(t)
			testSomeAreSeen(t, x)
		})
		t.Run("environment", func(t *testing.T) {
			testLeaksAreSeen(t, newLeakTest(t, w, engineEnv, proxy), paths)
		})
		paths.takeAskers()
		t.Run("engines", func(t *testing.T) {
			for _, engine := range runEngines {
				for _, as := range []string{"self", "child", "grandchild", "thread"} {
					t.Run(engine+" "+as, func(t *testing.T) {
						t.Parallel()
						testNoLeak(t, newLeakTest(t, w, engine, proxy), as)
					})
				}
				t.Run(engine+", --direct", func(t *testing.T) {
					t.Parallel()
					x := newLeakTest(t, w, engine, proxy)
					x.ride = x.with("--direct", "192.0.2.0/24", "--direct", "2001:db8::/32")
					x.probe(t, "self")
					testSomeAreSeen(t, x) // argyle's own
				})
				t.Run(engine+", proxy dead", func(t *testing.T) {
					t.Parallel()
					testNoLeak(t, newLeakTest(t, w, engine, dead), "self")
				})
				t.Run(engine+", killed", func(t *testing.T) {
					t.Parallel()
					x := newLeakTest(t, w, engine, proxy)
					x.killed(t)
					x.dry(t)
				})
				t.Run(engine+", ended", func(t *testing.T) {
					t.Parallel()
					x := newLeakTest(t, w, engine, proxy)
					x.survived(t)
					x.dry(t)
				})
			}
		})
		for _, who := range paths.takeAskers() {
			t.Errorf("a resolver was asked by its socket: %s", who)
		}
	})
}

// testLeaksAreSeen proves the other tests: where nothing holds the program, all that it sends is captured.
func testLeaksAreSeen(t *testing.T, x *leakTest, paths *fakeResolvers) {
	paths.takeAskers()
	report := x.probe(t, "self")
	sent, want := sentBy(report)
	for _, name := range []string{
		"tcp4", "tcp6", "udp4", "udp6", "udp4 sendmmsg", "udp6 link-local", "multicast", "multicast 6", "broadcast", "dns udp",
		"dns tcp", "dns to nobody", "ping", "ping 6", "igmp", "unix resolve", "unix nscd", "unix avahi", "unix abstract",
	} {
		if !slices.Contains(sent, name) {
			t.Errorf("%s could not be sent where nothing hinders it:\n%s", name, report)
		}
	}
	want = append(want, google4+".53: ", resolver4+".53: ", resolver6+".53: ", "203.0.113.77.53: ",
		"224.0.0.251.", "ff02::fb.", "255.255.255.255.",
		"> "+target4+": ICMP echo request", "> "+target6+": ICMP6, echo request", "igmp v3 report")
	defer func() {
		if len(want) > 0 {
			t.Errorf("not captured: %q", want)
		}
	}()
	eventually(t, "the capture of all that was sent", func() bool { // the kernel has to find neighbours first
		captured := strings.Join(x.leaks.seen(t), "\n")
		want = slices.DeleteFunc(want, func(text string) bool { return strings.Contains(captured, text) })
		return len(want) == 0
	})
	if len(paths.takeAskers()) < 4 || len(x.resolvers.takeAskers()) < 1 {
		t.Error("nobody has asked the resolvers by their sockets")
	}
}

// testSomeAreSeen wants any of them.
func testSomeAreSeen(t *testing.T, x *leakTest) {
	eventually(t, "a capture", func() bool { return len(x.leaks.seen(t)) > 10 })
}

// sentBy reads what the prober says: the tries that went well, and the ports in a capture that prove it.
func sentBy(report string) (names, ports []string) {
	for line := range strings.Lines(report) {
		port, rest, _ := strings.Cut(line, " ")
		name, result, _ := strings.Cut(strings.TrimSpace(rest), ": ")
		if result != "sent" {
			continue
		}
		names = append(names, name)
		if usesPort(name) {
			ports = append(ports, "."+port+": ")
		}
	}
	return names, ports
}

// usesPort reports whether a try of the prober goes to the port that it says.
func usesPort(name string) bool {
	for _, other := range []string{"sctp", "udplite", "dns", "ping", "raw", "packet", "unix", "igmp", "getent", "inherited"} {
		if strings.HasPrefix(name, other) {
			return false
		}
	}
	return true
}

// probe runs the prober to its end.
func (x *leakTest) probe(t *testing.T, as string) (report string) {
	t.Helper()
	c := start(t, x.command(t, shared+"/bin/prober", "-as", as))
	if code := c.wait(t); code != 0 {
		t.Errorf("the prober ends with %d", code)
	}
	return c.stdout.String()
}

func testNoLeak(t *testing.T, x *leakTest, as string) {
	report := x.probe(t, as)
	x.dry(t)
	if n := strings.Count(report, "\n"); n < 50 {
		t.Errorf("the prober has made %d tries:\n%s", n, report)
	}
	if x.proxy.dead {
		return
	}
	if strings.Contains(report, "inherited descriptors: descriptor") {
		t.Errorf("the program has inherited a socket:\n%s", report)
	}
	if t.Failed() {
		t.Logf("the prober says\n%s", report)
	}
}

// waiting starts a prober that waits, with words before it. It lets go of our pipes, which are to end with argyle.
func (x *leakTest) waiting(t *testing.T, prefix ...string) (c *child, goOn func() (report string)) {
	t.Helper()
	folder := x.folder(t)
	out, fifo := filepath.Join(folder, "out"), filepath.Join(folder, "fifo")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Chown(fifo, x.uid, x.uid)); err != nil {
		t.Fatal(err)
	}
	before := processesOf(x.uid)
	c = start(t, x.command(t, append(prefix, peer(t, "sh"), "-c", `exec "$@" >/dev/null 2>&1`, "sh",
		shared+"/bin/prober", "-wait", fifo, "-out", out)...))
	read := func() string {
		text, _ := os.ReadFile(out)
		return string(text)
	}
	eventually(t, "the prober to be ready", func() bool { return strings.HasPrefix(read(), "ready\n") })
	return c, func() string {
		t.Helper()
		x.letGo(t, fifo, before)
		return read()
	}
}

// letGo lets the prober at the other end of a fifo go on, and waits until it has ended; it may have ended already.
func (x *leakTest) letGo(t *testing.T, fifo string, others []int) {
	t.Helper()
	proberOf := func() (pid int) {
		for _, pid := range processesOf(x.uid) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			words := strings.Split(string(line), "\x00")
			if !slices.Contains(others, pid) && words[0] == shared+"/bin/prober" && slices.Contains(words, fifo) {
				return pid
			}
		}
		return 0
	}
	eventually(t, "the prober to hear that it may go on", func() bool {
		file, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			file.Close()
		}
		return err == nil || proberOf() == 0
	})
	eventually(t, "the prober to end", func() bool { return proberOf() == 0 })
}

// killed kills argyle, and has the program try afterwards. It may have ended, too.
func (x *leakTest) killed(t *testing.T) {
	t.Helper()
	var prefix []string
	if x.engine == engineDirect { // somebody has to be killed
		prefix = []string{peer(t, "sh"), "-c", `"$@" & wait`, "sh"}
	}
	c, goOn := x.waiting(t, prefix...)
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatal("argyle does not die")
	}
	t.Logf("the prober has made %d tries after that", strings.Count(goOn(), "\n"))
}

// survived has the program leave a descendant behind, for which argyle does not wait.
func (x *leakTest) survived(t *testing.T) {
	t.Helper()
	c, goOn := x.waiting(t, peer(t, "setsid"), "--fork")
	if code := c.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	t.Logf("the prober has made %d tries after that", strings.Count(goOn(), "\n"))
}
