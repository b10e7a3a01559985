package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// The world in which redirect is tested: this host has clients behind it, and the world is behind its other link, with the
// proxies and all that they can reach. All of that can be reached past the proxies as well, and shows who has come.
//
//	clients 10.85.1.2 ── inside 10.85.1.1, this host, outside 10.85.2.1 ── 10.85.2.2: proxies, 192.0.2.10, 2001:db8::10
type redirectWorld struct {
	inside, outside *network
}

const (
	outsideProxy    = "10.85.2.2"
	outsideResolver = "192.0.2.53"
	spared4         = "192.0.2.77"
)

// inRedirectWorld makes the world. It is true in there, as inNamespace is.
func inRedirectWorld(t *testing.T) (w *redirectWorld, ok bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root has control groups and users")
	}
	if !inNamespace(t) {
		return nil, false
	}
	ip := peer(t, "ip")
	w = &redirectWorld{newNetwork(t, "inside", 1), newNetwork(t, "outside", 2)}
	sysctl(t, "net/ipv4/ip_forward", "1")
	sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	for _, line := range []string{
		"route add 192.0.2.0/24 via 10.85.2.2", "route add 198.51.100.0/24 via 10.85.2.2", "route add 2001:db8::/32 via fd00:85:2::2",
	} {
		mustRun(t, command(t, ip, strings.Fields(line)...))
	}
	for _, line := range []string{
		"address add " + target4 + " dev lo", "address add " + spared4 + " dev lo", "address add " + outsideResolver + " dev lo",
		"address add " + target6 + " dev lo nodad", "route add unreachable " + unreachable,
	} {
		mustRun(t, w.outside.command(t, append([]string{ip}, strings.Fields(line)...)...))
	}
	eventually(t, "the addresses to be sure", func() bool {
		text, err := exec.Command(ip, "address").Output()
		return err == nil && !strings.Contains(string(text), "tentative")
	})
	cover(t, "/etc/resolv.conf", "nameserver "+outsideResolver+"\n")
	cover(t, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	w.outside.enter(t, func() {
		for _, host := range []string{target4, target6, spared4} {
			serveTCP(t, net.JoinHostPort(host, "7"), tellAndEcho)
			udpEcho(t, net.JoinHostPort(host, "7"))
		}
		website(t, target4+":80")
		website(t, net.JoinHostPort(target6, "80"))
		serveNames(t, outsideResolver+":53")
	})
	return w, true
}

// enter calls f in the network: what it opens and starts belongs there.
func (n *network) enter(t *testing.T, f func()) {
	t.Helper()
	if n == nil {
		f()
		return
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	there, err := os.Open("/proc/" + n.pid + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // the thread is of no use to anybody
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// tellAndEcho reads to the end, and then says who has sent that, and what.
func tellAndEcho(conn *net.TCPConn) {
	all, err := io.ReadAll(conn)
	if err != nil {
		return // the test is over
	}
	fmt.Fprintf(conn, "%v ", conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
	_, _ = conn.Write(all)
}

// serveNames answers for the zone of the tests.
func serveNames(t *testing.T, at string) {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: ln}, {PacketConn: conn}} {
		up, done := make(chan struct{}), make(chan error, 1)
		s.Handler, s.NotifyStartedFunc = dns.HandlerFunc(answerQuery), func() { close(up) }
		go func() { done <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			_ = s.Shutdown()
			if err := <-done; err != nil {
				t.Errorf("resolver: %v", err)
			}
		})
	}
}

// proxies starts one of each kind, and returns their URLs.
func (w *redirectWorld) proxies(t *testing.T) map[string]string {
	t.Helper()
	urls := map[string]string{"argyle": w.serve(t), "danted": "socks5h://" + outsideProxy + ":1085"}
	w.outside.enter(t, func() { dantedAt(t, outsideProxy, "1085", "none") })
	return urls
}

// serve starts argyle serve outside, and returns its URL.
func (w *redirectWorld) serve(t *testing.T, args ...string) (url string) {
	t.Helper()
	w.outside.enter(t, func() {
		startServer(t, append([]string{"-l", outsideProxy + ":1080", "--allow", "10.85.0.0/16", "--allow", "127.0.0.0/8", "--allow-private"}, args...)...)
	})
	return "socks5h://" + outsideProxy + ":1080"
}

// A redirection is argyle redirect.
type redirection struct {
	*child
	before string // what of the host it may change
}

// startRedirect starts the program and waits until it takes connections. At the end of the test it obeys SIGTERM, and the host
// is as it was.
func startRedirect(t *testing.T, args ...string) *redirection {
	t.Helper()
	before := hostState(t)
	r := startRedirectAs(t, args...)
	r.before = before
	return r
}

// startRedirectAs is startRedirect where the host is not as it should be.
func startRedirectAs(t *testing.T, args ...string) *redirection {
	t.Helper()
	r := new(redirection)
	r.child = start(t, redirectProgram(t, args...))
	r.await(t)
	t.Cleanup(func() {
		select {
		case <-r.ended:
		default:
			r.stop(t)
		}
	})
	return r
}

func redirectProgram(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return program(t, append([]string{"redirect", "-v", "--log-format", "json"}, args...)...)
}

func (r *redirection) await(t *testing.T) {
	t.Helper()
	eventually(t, "redirect to begin", func() bool {
		select {
		case <-r.ended:
			t.Fatalf("redirect ended: %v: %s", r.err, r.stderr.String())
		default:
		}
		return strings.Contains(r.stderr.String(), `"msg":"redirecting"`)
	})
}

// stop ends it by SIGTERM.
func (r *redirection) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("redirect is gone before its time: %v", err)
	}
	if code := r.wait(t); code != 0 {
		t.Errorf("the exit status is %d", code)
	}
	if r.before != "" {
		r.restored(t)
	}
}

// restored waits until the host is as it was: at once after SIGTERM, and as soon as the keeper has seen it after SIGKILL.
func (r *redirection) restored(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for after := hostState(t); after != r.before; after = hostState(t) {
		if time.Now().After(deadline) {
			t.Errorf("%s", changes(r.before, after))
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

// changes are the lines that are in one text only.
func changes(before, after string) string {
	var all strings.Builder
	for _, side := range []struct{ sign, text, other string }{{"-", before, after}, {"+", after, before}} {
		others := strings.Split(side.other, "\n")
		for line := range strings.Lines(side.text) {
			if !slices.Contains(others, strings.TrimSuffix(line, "\n")) {
				all.WriteString(side.sign + line)
			}
		}
	}
	return all.String()
}

// hostState is all that redirect and tun could change of a host.
func hostState(t *testing.T) string {
	t.Helper()
	// The kernel itself is still looking whether addresses are others'.
	eventually(t, "the addresses to be sure", func() bool {
		return !strings.Contains(mustRun(t, command(t, peer(t, "ip"), "address")), "tentative")
	})
	var all strings.Builder
	for _, line := range []string{
		"nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip link", "ip address",
	} {
		words := strings.Fields(line)
		text, err := command(t, peer(t, words[0]), words[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		fmt.Fprintf(&all, "# %s\n%s", line, text)
	}
	for _, pattern := range []string{"/etc/resolv.conf", "/proc/sys/net/ipv[46]/conf/*/*", "/proc/sys/net/ipv[46]/*forward*", "/run/argyle/*@*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if text, err := os.ReadFile(path); err == nil && !strings.HasPrefix(path, "/run") || mine(t, path) {
				fmt.Fprintf(&all, "# %s\n%s", path, text)
			}
		}
	}
	return all.String()
}

// mine reports whether a record is of this namespace: others have tests, too.
func mine(t *testing.T, path string) bool {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &stat); err != nil {
		t.Fatal(err)
	}
	return strings.HasSuffix(path, fmt.Sprintf("@%d.json", stat.Ino))
}

// visit sends hello over a connection and returns who has come to the target, as it says. A nil network is this host.
func visit(t *testing.T, from *network, dest string) (who string, err error) {
	t.Helper()
	var conn net.Conn
	from.enter(t, func() { conn, err = (&net.Dialer{Timeout: patience}).Dial("tcp", dest) })
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	hello := randomBytes(300_000)
	go func() {
		_, _ = conn.Write(hello) // what is missing is missed below
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	all, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	who, rest, _ := strings.Cut(string(all), " ")
	if !bytes.Equal([]byte(rest), hello) {
		return who, fmt.Errorf("%d bytes came back, and they are others", len(rest))
	}
	return who, nil
}

// visitUDP sends datagrams until one comes back, or there is an error.
func visitUDP(t *testing.T, from *network, dest string) (err error) {
	t.Helper()
	var conn net.Conn
	from.enter(t, func() { conn, err = net.Dial("udp", dest) })
	if err != nil {
		return err
	}
	defer conn.Close()
	hello, buf := randomBytes(1000), make([]byte, 2000)
	for range 20 {
		if _, err := conn.Write(hello); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err == nil && !bytes.Equal(buf[:n], hello) {
			err = errors.New("another datagram has come back")
		}
		return err
	}
	return os.ErrDeadlineExceeded
}

// readable prepares a program that is run by somebody who may not read our folders.
func readable(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	text, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "argyle-") //nolint:usetesting // nobody else may read that of a test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	cmd.Path = filepath.Join(folder, "argyle")
	if err := errors.Join(os.Chmod(folder, 0o755), os.WriteFile(cmd.Path, text, 0o755)); err != nil { //nolint:gosec // for all
		t.Fatal(err)
	}
	return cmd
}
