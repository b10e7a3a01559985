//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// The world in which argyle run is tested. The user's network has a way to everything past the proxy, and so whatever
// leaves it is seen to leave:
//
//	user's program 10.85.N.2 ── 10.85.N.1, here: proxies at 203.0.113.1, resolvers, and the targets
//
// Every test runs without a wrapper, too: what fails there is the test's fault.
const (
	target4   = "192.0.2.10" // www.zone.test, four.zone.test
	target6   = "2001:db8::10"
	resolver4 = "9.9.9.9" // which run asks if it is not told of another one
	google4   = "8.8.8.8"
	resolver6 = "2001:db8::53"
)

// engineDirect is no engine: the program runs as it is.
const engineDirect = "direct"

// runEngines are those that hold a program.
var runEngines = []string{engineNetns, engineTun, engineSeccomp}

// shared is the folder that programs of both sides see; nobody outside the test does.
const shared = "/home"

// A runWorld is where the tests of one namespace take place.
type runWorld struct {
	uid      int // of the user, whom nobody else on this machine is
	networks atomic.Int32
	folders  atomic.Int32
}

// inRunWorld makes the world. It is true in there, as inNamespace is, and false where there is nothing left to do.
func inRunWorld(t *testing.T) (w *runWorld, ok bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can be another user")
	}
	if os.Getenv(inNamespaceOf) != t.Name() {
		// Most of them wait, most of the time.
		return nil, inNamespaceWith(t, []string{"-test.parallel=8"}, staticPrograms(t))
	}
	inNamespace(t)
	w = &runWorld{uid: 1<<20 + os.Getpid()}
	ip := peer(t, "ip")
	for _, addr := range []string{target4, target6, resolver4, google4, resolver6} {
		cmd := command(t, ip, "address", "add", addr, "dev", "lo")
		if strings.Contains(addr, ":") {
			cmd.Args = append(cmd.Args, "nodad")
		}
		mustRun(t, cmd)
	}
	sysctl(t, "net/ipv4/ip_local_port_range", relayPorts)
	w.mount(t)
	openTUN(t)
	w.addUser(t)
	cover(t, "/etc/resolv.conf", "nameserver "+resolver4+"\n")
	cover(t, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	startResolver(t)
	t.Cleanup(func() { w.endUser(t) })
	return w, true
}

// relayPorts are those that proxies take for datagrams, as the kernel chooses them. Nothing else is there.
const relayPorts = "40000 60999"

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// staticPrograms builds testdata/run/*/main.go, without cgo: a library that is loaded first never sees their calls. They
// are built outside of the namespace, where there is a compiler's cache.
func staticPrograms(t *testing.T) (env []string) {
	t.Helper()
	folder := t.TempDir()
	compiler := goCompiler(t)
	build := exec.Command(compiler, "build", "-trimpath", "-o", folder+"/", "./testdata/run/client", "./testdata/run/prober")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", build.Args, err, text)
	}
	sources, err := filepath.Abs("testdata/run")
	if err != nil {
		t.Fatal(err)
	}
	return []string{staticFolder + "=" + folder, sourceFolder + "=" + sources}
}

// What a test finds in its namespace.
const (
	staticFolder = "ARGYLE_TEST_STATIC_PROGRAMS"
	sourceFolder = "ARGYLE_TEST_SOURCES" // testdata/run
)

// goCompiler finds the go command, which need not be among the system's programs.
func goCompiler(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("go"); err == nil {
		return path
	}
	if path, err := exec.LookPath("/usr/local/go/bin/go"); err == nil {
		return path
	}
	missing(t, "go")
	return ""
}

// openTUN lets everybody make tun devices, as udev does on most systems.
func openTUN(t *testing.T) {
	t.Helper()
	const device, node = "/dev/net/tun", "/run/tun"
	if _, err := os.Stat(device); err != nil {
		missing(t, device)
	}
	if err := unix.Mknod(node, unix.S_IFCHR, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(node, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(node, device, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount over %s: %v", device, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(device, unix.MNT_DETACH) })
}

// mount makes folders that are empty but for what the user's programs need.
func (w *runWorld) mount(t *testing.T) {
	t.Helper()
	for _, folder := range []string{shared, "/run"} {
		if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "mode=0755"); err != nil {
			t.Fatalf("mount %s: %v", folder, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(folder, unix.MNT_DETACH) })
	}
	if err := os.Mkdir(filepath.Join(shared, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	static := os.Getenv(staticFolder)
	for name, source := range map[string]string{
		"argyle": testBinary(t), "client": static + "/client", "prober": static + "/prober",
	} {
		path := shared + "/bin/" + name
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mount %s: %v", path, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
}

// addUser gives the user an account, in this mount namespace only.
func (w *runWorld) addUser(t *testing.T) {
	t.Helper()
	for path, line := range map[string]string{
		"/etc/passwd": "user:x:%[1]d:%[1]d::" + shared + "/user:/bin/bash\n",
		"/etc/group":  "user:x:%[1]d:\n",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cover(t, path, string(text)+fmt.Sprintf(line, w.uid))
	}
	if err := os.Mkdir(shared+"/user", 0o755); err != nil {
		t.Fatal(err)
	}
}

// endUser wants all that the user has run to be over. What is not, it ends.
func (w *runWorld) endUser(t *testing.T) {
	if !t.Failed() {
		eventually(t, "the user's programs to end", func() bool { return len(processesOf(w.uid)) == 0 })
	}
	eventually(t, "the user's programs to be killed", func() bool {
		left := processesOf(w.uid)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	})
}

// processesOf finds the processes of a user, but for dead ones that nobody has waited for.
func processesOf(uid int) (pids []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		var stat unix.Stat_t
		if unix.Stat(folder, &stat) != nil {
			continue
		}
		status, err := os.ReadFile(folder + "/status")
		// A process that is not dumpable belongs to root, in /proc.
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", uid)) {
			continue
		}
		if strings.Contains(string(status), "\nState:\tZ") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(folder))
		pids = append(pids, pid)
	}
	return pids
}

// folder makes a folder of the user's.
func (w *runWorld) folder(t *testing.T) string {
	t.Helper()
	path := fmt.Sprintf("%s/user/%d", shared, w.folders.Add(1))
	if err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, w.uid, w.uid)); err != nil {
		t.Fatal(err)
	}
	return path
}

// file makes a file that is the user's, in a folder of its own.
func (w *runWorld) file(t *testing.T, name string, data []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(w.folder(t), name)
	if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chmod(path, mode), os.Chown(path, w.uid, w.uid)); err != nil {
		t.Fatal(err)
	}
	return path
}

// give copies a file of the test's, such as a key, to the user.
func (w *runWorld) give(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return w.file(t, filepath.Base(path), data, 0o600)
}

// network makes a network of the user's.
func (w *runWorld) network(t *testing.T) *network {
	t.Helper()
	n := int(w.networks.Add(1))
	return newNetwork(t, "user"+strconv.Itoa(n), n)
}

// A runProxy is one that the user has.
type runProxy struct {
	name string
	url  string
	udp  bool // it carries datagrams
	cuts bool // it ends a session at the first EOF, whichever way
	dead bool
}

// port is the one that connections to the proxy go to.
func (p *runProxy) port() string { return p.url[strings.LastIndexByte(p.url, ':')+1:] }

// argyleProxy starts our own server, for the user's networks.
func argyleProxy(t *testing.T) *runProxy {
	t.Helper()
	s := startServer(t, "-l", outerAddr+":0", "--allow", "10.85.0.0/16")
	var line *logLine
	eventually(t, "the server to listen where the user is", func() bool {
		line = s.logged(func(line logLine) bool { return strings.HasPrefix(line.Address, outerAddr+":") })
		return line != nil
	})
	return &runProxy{name: "argyle", url: "socks5h://" + line.Address, udp: true}
}

// A ride is a way to run a program: in a network, in an engine, through a proxy.
type ride struct {
	*runWorld
	net    *network
	engine string
	proxy  *runProxy
	flags  []string // more of argyle run
}

// with returns the same ride with more flags.
func (r *ride) with(flags ...string) *ride {
	more := *r
	more.flags = append(slices.Clone(r.flags), flags...)
	return &more
}

// wrapper is what stands before the words of the program.
func (r *ride) wrapper(t testing.TB) []string {
	words := []string{peer(t, "env")}
	if r.engine == engineDirect {
		return words
	}
	words = append(words, programEnv...)
	words = append(words, shared+"/bin/argyle", "run", "-x", r.proxy.url, "--engine", r.engine)
	return append(append(words, r.flags...), "--")
}

// command prepares a program of the user's.
func (r *ride) command(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	return r.bare(t, append(r.wrapper(t), r.program(t, words)...)...)
}

// program finds a program that is not named by its path.
func (r *ride) program(t *testing.T, words []string) []string {
	t.Helper()
	if strings.Contains(words[0], "/") {
		return words
	}
	return append([]string{peer(t, words[0])}, words[1:]...)
}

// bare prepares a program of the user's that nothing is put before.
func (r *ride) bare(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	cmd := r.net.command(t, words...)
	id := strconv.Itoa(r.uid)
	i := slices.Index(cmd.Args, "--target")
	cmd.Args = slices.Insert(cmd.Args, i, "--setuid", id, "--setgid", id)
	cmd.Dir = r.folder(t)
	cmd.Env = []string{"HOME=" + cmd.Dir, "TMPDIR=" + cmd.Dir, "PATH=/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL=C.UTF-8"}
	return cmd
}

// ok runs a program, which has to end well and to say nothing on standard error, and nobody for it.
func (r *ride) ok(t *testing.T, words ...string) (stdout string) {
	t.Helper()
	return r.okFor(t, r.command(t, words...))
}

func (r *ride) okFor(t *testing.T, cmd *exec.Cmd) (stdout string) {
	t.Helper()
	c := start(t, cmd)
	if code := c.wait(t); code != 0 {
		t.Fatalf("%q: exit status %d", cmd.Args, code)
	}
	if said := c.stderr.String(); said != "" {
		t.Errorf("%q says %q", cmd.Args, said)
	}
	return c.stdout.String()
}

// startResolver answers for zone.test, which is what the world knows.
func startResolver(t *testing.T) {
	t.Helper()
	var started []chan struct{}
	for _, host := range []string{resolver4, google4, resolver6} {
		for _, network := range []string{"udp", "tcp"} {
			up, done := make(chan struct{}), make(chan error, 1)
			server := &dns.Server{
				Addr: net.JoinHostPort(host, "53"), Net: network, Handler: dns.HandlerFunc(answerQuery),
				NotifyStartedFunc: func() { close(up) },
			}
			go func() { done <- server.ListenAndServe() }()
			started = append(started, up)
			t.Cleanup(func() {
				_ = server.Shutdown()
				if err := <-done; err != nil {
					t.Errorf("resolver: %v", err)
				}
			})
		}
	}
	for _, up := range started {
		<-up
	}
}

// zone is all that there is.
var zone = []string{
	"zone.test. 60 IN SOA ns.zone.test. root.zone.test. 1 60 60 60 60",
	"zone.test. 60 IN MX 10 mail.zone.test.",
	"zone.test. 60 IN TXT \"the zone of the tests\"",
	"www.zone.test. 60 IN A " + target4,
	"www.zone.test. 60 IN AAAA " + target6,
	"four.zone.test. 60 IN A " + target4,
	"gw.zone.test. 60 IN A " + outsideProxy,
	"six.zone.test. 60 IN AAAA " + target6,
	"nowhere.zone.test. 60 IN A " + unreachable,
	"10.2.0.192.in-addr.arpa. 60 IN PTR www.zone.test.",
	"0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR www.zone.test.",
}

func answerQuery(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg).SetReply(query)
	answer.Rcode = dns.RcodeNameError
	for _, text := range zone {
		record, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if !strings.EqualFold(record.Header().Name, query.Question[0].Name) {
			continue
		}
		answer.Rcode = dns.RcodeSuccess
		if record.Header().Rrtype == query.Question[0].Qtype {
			answer.Answer = append(answer.Answer, record)
		}
	}
	_ = w.WriteMsg(answer) // or the client asks again
}
