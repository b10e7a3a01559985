//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A packetCapture sees what leaves a network of the user's.
type packetCapture struct {
	*child
	net   *network
	marks int
}

// watch captures, at our end, all that comes from a network but does not go to the proxies, nor is the kernel's own: to
// find its neighbours, to join its groups, and to say that a program has stopped to receive datagrams from a proxy.
func watch(t *testing.T, n *network, proxies ...*runProxy) *packetCapture {
	t.Helper()
	toProxy := "udp dst portrange " + strings.ReplaceAll(relayPorts, " ", "-") + " or icmp[0] = 3"
	for _, p := range proxies {
		toProxy += " or tcp dst port " + p.port()
	}
	filter := "not arp and not (ip6 and ip6[6] = 0) and not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)" +
		" and not (dst host " + outerAddr + " and (" + toProxy + "))"
	// Its buffer holds frames of the greatest length that is captured: with the usual one, it holds eight.
	cmd := command(t, peer(t, "tcpdump"), "-Z", "root", "-i", n.link, "-Q", "in", "-n", "-t", "-l",
		"--immediate-mode", "-s", "160", "-B", "8192", filter)
	c := &packetCapture{child: start(t, cmd), net: n}
	eventually(t, "tcpdump to listen", func() bool {
		return strings.Contains(c.stderr.String(), "listening on "+n.link)
	})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		c.wait(t)
		if said := c.stderr.String(); !strings.Contains(said, "\n0 packets dropped by kernel") {
			t.Errorf("tcpdump has not seen everything: %s", said)
		}
	})
	return c
}

// markAddr is nobody's.
const markAddr = "198.51.100.99"

// seen returns what it has captured. It sends something itself, and waits for that: the link keeps the order.
func (c *packetCapture) seen(t *testing.T) (packets []string) {
	t.Helper()
	c.marks++
	mustRun(t, c.net.command(t, "bash", "-c", fmt.Sprintf("echo >/dev/udp/%s/%d", markAddr, c.marks)))
	mark := fmt.Sprintf("> %s.%d: ", markAddr, c.marks)
	eventually(t, "the capture to see its mark", func() bool { return strings.Contains(c.stdout.String(), mark) })
	for line := range strings.Lines(c.stdout.String()) {
		if !strings.Contains(line, "> "+markAddr+".") {
			packets = append(packets, strings.TrimSpace(line))
		}
	}
	return packets
}

// fakeResolvers are sockets of services that look names up. The user's programs may not connect to them.
type fakeResolvers struct {
	uid    int
	mu     sync.Mutex
	askers []string
}

// takeAskers returns who has connected since it was called last.
func (f *fakeResolvers) takeAskers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	askers := f.askers
	f.askers = nil
	return askers
}

// note writes down who has connected.
func (f *fakeResolvers) note(conn net.Conn) {
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return
	}
	defer file.Close()
	peer, err := unix.GetsockoptUcred(int(file.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || int(peer.Uid) != f.uid {
		return // the programs that the test itself runs may
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", peer.Pid))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.askers = append(f.askers, fmt.Sprintf("%q at %v", strings.ReplaceAll(string(line), "\x00", " "), conn.LocalAddr()))
}

func (f *fakeResolvers) serve(t *testing.T, lns ...net.Listener) {
	var all sync.WaitGroup
	for _, ln := range lns {
		all.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				f.note(conn)
				conn.Close()
			}
		})
	}
	t.Cleanup(func() {
		for _, ln := range lns {
			ln.Close()
		}
		all.Wait()
	})
}

// pathResolvers listens where nss-resolve, nscd and mDNS do.
func pathResolvers(t *testing.T, uid int) *fakeResolvers {
	t.Helper()
	f := &fakeResolvers{uid: uid}
	for _, path := range []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/avahi-daemon/socket"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		f.serve(t, ln)
	}
	return f
}

// abstractResolver listens at an abstract socket of a network.
func abstractResolver(t *testing.T, n *network, uid int) *fakeResolvers {
	t.Helper()
	f := &fakeResolvers{uid: uid}
	var ln net.Listener
	err := inNetwork(n, func() (err error) {
		ln, err = net.Listen("unix", "@argyle-test-resolver")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, ln)
	return f
}

// inNetwork does something in a network. What it opens there stays there.
func inNetwork(n *network, do func() error) error {
	there, err := os.Open("/proc/" + n.pid + "/ns/net")
	if err != nil {
		return err
	}
	defer there.Close()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	// The thread has to come back: the end of one is the end of the children that it has started.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	done := do()
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
	return done
}
