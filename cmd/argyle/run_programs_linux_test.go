//go:build linux

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A rideTest is somebody's program, and what it has to do through a proxy.
type rideTest struct {
	name string
	udp  bool // needs a proxy that carries datagrams
	half bool // needs one that carries half a connection
	run  func(targets *runTargets, t *testing.T, r *ride)
}

var rideTests = []rideTest{
	{name: "curl", run: (*runTargets).curl},
	{name: "static Go", run: (*runTargets).staticGo},
	{name: "static Go, half a connection", half: true, run: (*runTargets).staticGoHalf},
	{name: "static Go, UDP", udp: true, run: (*runTargets).staticGoUDP},
	{name: "errors", run: (*runTargets).errors},
	{name: "git", run: (*runTargets).git},
	{name: "ssh", run: (*runTargets).ssh},
	{name: "bash", run: (*runTargets).bash},
	{name: "python", run: (*runTargets).python},
	{name: "corners", udp: true, run: (*runTargets).corners},
	{name: "java", run: (*runTargets).runJava},
	{name: "nmap", run: (*runTargets).nmap},
	{name: "dig", run: (*runTargets).dig},
	{name: "iperf3", run: (*runTargets).iperf3},
	{name: "apt-get", run: (*runTargets).apt},
	{name: "IPv6 only", run: (*runTargets).sixOnly},
	{name: "getaddrinfo", run: (*runTargets).getaddrinfo},
	{name: "gethostbyname", run: (*runTargets).gethostbyname},
	{name: "getnameinfo", run: (*runTargets).getnameinfo},
	{name: "sendto", udp: true, run: (*runTargets).sendto},
	{name: "v4 in v6", run: (*runTargets).mapped},
	{name: "v4 in v6, UDP", udp: true, run: (*runTargets).mappedUDP},
}

// Every program goes through our own server in each engine, and through other proxies in the first engine: from a call to
// the proxy all engines share one way.
func TestRunPrograms(t *testing.T) {
	w, ok := inRunWorld(t)
	if !ok {
		return
	}
	t.Run("all", func(t *testing.T) { // parallel tests inside are over before their servers are
		targets := startRunTargets(t, w)
		own := argyleProxy(t)
		proxies := []*runProxy{own, dantedProxy(t), microsocksProxy(t)}
		open, held := w.network(t), w.network(t)
		leaks := watch(t, held, proxies...)

		var rides []*ride
		rides = append(rides, &ride{runWorld: w, net: open, engine: engineDirect, proxy: &runProxy{name: "none", udp: true}})
		for _, engine := range runEngines {
			rides = append(rides, &ride{runWorld: w, net: held, engine: engine, proxy: own})
		}
		for _, proxy := range proxies[1:] {
			rides = append(rides, &ride{runWorld: w, net: held, engine: engineNetns, proxy: proxy})
		}
		for _, proxy := range proxies {
			t.Run("proxy "+proxy.name, func(t *testing.T) { testProxy(t, rides[0], proxy) })
		}
		t.Run("each", func(t *testing.T) {
			for _, r := range rides {
				t.Run(r.engine+" "+r.proxy.name, func(t *testing.T) {
					t.Parallel()
					targets.all(t, r)
				})
			}
		})
		for _, leak := range leaks.seen(t) {
			t.Errorf("past the proxy: %s", leak)
		}
	})
}

func (x *runTargets) all(t *testing.T, r *ride) {
	for _, p := range rideTests {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			switch {
			case p.udp && !r.proxy.udp:
				t.Skip("the proxy carries no datagrams")
			case p.half && r.proxy.cuts:
				t.Skip("the proxy ends a session at the first EOF")
			}
			p.run(x, t, r)
		})
	}
}

// testProxy wants a proxy to do for programs that know of it what is expected of it for those that do not.
func testProxy(t *testing.T, r *ride, proxy *runProxy) {
	for _, url := range []string{"http://www.zone.test/", "http://" + target4 + "/", "http://six.zone.test/"} {
		same(t, r.ok(t, "curl", "--silent", "--show-error", "--proxy", proxy.url, url), page)
	}
	if !proxy.udp {
		return
	}
	python := pythonWith(t, "socks")
	for _, host := range []string{target4, target6} {
		r.ok(t, python, "-c", knowingDatagrams, strings.TrimPrefix(proxy.url, "socks5h://"), host)
	}
}

// knowingDatagrams are PySocks'.
const knowingDatagrams = `
import socks, sys

host, port = sys.argv[1].split(":")
sock = socks.socksocket(type=socks.socket.SOCK_DGRAM)
sock.set_proxy(socks.SOCKS5, host, int(port))
sock.settimeout(10)
sock.sendto(b"a datagram", (sys.argv[2], 7))
data, _ = sock.recvfrom(100)
assert data == b"a datagram", data
`

// same wants an output to be some text, but for white space around it.
func same(t *testing.T, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func (x *runTargets) curl(t *testing.T, r *ride) {
	fetch := []string{"curl", "--silent", "--show-error", "--cacert", x.ca}
	for _, url := range []string{
		"http://www.zone.test/", "https://www.zone.test/", "http://" + target4 + "/", "http://[" + target6 + "]/",
	} {
		same(t, r.ok(t, append(fetch, url)...), page)
	}
}

func (x *runTargets) staticGo(t *testing.T, r *ride) {
	client := shared + "/bin/client"
	same(t, r.ok(t, client, "http", "http://www.zone.test/"), page)
	r.ok(t, client, "tcp", x.echo, "2000000")
	r.ok(t, client, "many", x.echo, "50")
	for line := range strings.Lines(r.ok(t, client, "lookup", "www.zone.test")) {
		if !strings.Contains(line, "[") || strings.Contains(line, "[]") {
			t.Errorf("a name has the addresses %q", line)
		}
	}
}

func (x *runTargets) staticGoHalf(t *testing.T, r *ride) {
	same(t, r.ok(t, shared+"/bin/client", "half", x.half), "half a connection")
}

func (x *runTargets) staticGoUDP(t *testing.T, r *ride) {
	client := shared + "/bin/client"
	same(t, r.ok(t, client, "udp", x.udp, "1000", "1200"), "1000")
	same(t, r.ok(t, client, "udp", "four.zone.test:7", "10", "40"), "10")
	same(t, r.ok(t, client, "udp", net.JoinHostPort(target6, "7"), "10", "1200"), "10")
}

// errors are those of the destination, not of the way there.
func (x *runTargets) errors(t *testing.T, r *ride) {
	client := shared + "/bin/client"
	same(t, r.ok(t, client, "errno", x.closed), "111 connection refused")
	same(t, r.ok(t, client, "errno", unreachable+":80"), "113 no route to host")
	same(t, r.ok(t, client, "errno", x.echo), "connected")
}

func (x *runTargets) git(t *testing.T, r *ride) {
	git := peer(t, "git")
	cmd := r.command(t, git, "-c", "http.sslCAInfo="+x.ca, "clone", "--quiet", "https://www.zone.test/git/repository", "clone")
	r.okFor(t, cmd)
	show := r.bare(t, git, "rev-parse", "HEAD")
	show.Dir = filepath.Join(cmd.Dir, "clone")
	same(t, r.okFor(t, show), x.head)
}

func (x *runTargets) ssh(t *testing.T, r *ride) {
	box := *x.box
	box.host = "four.zone.test"
	prepared := box.client(t, "-o", "LogLevel=error", "-l", "root", "cat")
	cmd := r.command(t, prepared.Args...)
	data := randomBytes(256 << 10)
	cmd.Stdin = strings.NewReader(string(data))
	if got := r.okFor(t, cmd); got != string(data) {
		t.Errorf("cat at the other end gave back %d bytes, not the %d that it got", len(got), len(data))
	}
}

func (x *runTargets) bash(t *testing.T, r *ride) {
	const script = `exec 3<>/dev/tcp/four.zone.test/7 && echo a shell >&3 && read -r line <&3 && echo "$line"`
	same(t, r.ok(t, "bash", "-c", script), "a shell")
}

func (x *runTargets) python(t *testing.T, r *ride) {
	same(t, r.ok(t, "python3", "-c", script(t, "several.py"), "http://www.zone.test/", "four.zone.test", "7"), page+"\nall")
}

func (x *runTargets) corners(t *testing.T, r *ride) {
	same(t, r.ok(t, "python3", "-c", script(t, "corners.py"), target4, "7", resolver4), "all")
	if r.engine == engineDirect {
		return
	}
	vsock := "import socket\ntry: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\nexcept OSError: print('refused')"
	same(t, r.ok(t, "python3", "-c", vsock), "refused")
}

// script returns the text of a program, whose file not every user can read.
func script(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(os.Getenv(sourceFolder) + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (x *runTargets) runJava(t *testing.T, r *ride) {
	same(t, r.ok(t, "java", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-XX:+UseSerialGC", "-cp", x.java,
		"Several", "http://www.zone.test/", "four.zone.test", "7"), page)
}

// nmap tells an open port, a closed one and one that does not answer.
func (x *runTargets) nmap(t *testing.T, r *ride) {
	got := r.ok(t, "nmap", "-sT", "-Pn", "-n", "-p", "80,81,82", "--max-retries", "1",
		"--initial-rtt-timeout", "2s", "--max-rtt-timeout", "2s", target4)
	for _, state := range []string{"80/tcp open", "81/tcp closed", "82/tcp filtered"} {
		if !regexp.MustCompile(`(?m)^` + strings.ReplaceAll(state, " ", ` +`) + ` `).MatchString(got) {
			t.Errorf("nmap does not find %s:\n%s", state, got)
		}
	}
}

func (x *runTargets) dig(t *testing.T, r *ride) {
	ask := func(words ...string) string {
		t.Helper()
		return r.ok(t, append([]string{"dig", "+short", "+time=10", "+tries=1"}, words...)...)
	}
	for _, where := range [][]string{nil, {"@" + google4}, {"@" + google4, "+tcp"}} {
		four := strings.TrimSpace(ask(append(where, "www.zone.test", "A")...))
		if ip := net.ParseIP(four); ip == nil || ip.To4() == nil {
			t.Errorf("dig %q: A is %q", where, four)
		}
		six := strings.TrimSpace(ask(append(where, "www.zone.test", "AAAA")...))
		if ip := net.ParseIP(six); ip == nil || ip.To4() != nil {
			t.Errorf("dig %q: AAAA is %q", where, six)
		}
		same(t, ask(append(where, "zone.test", "MX")...), "10 mail.zone.test.")
	}
	same(t, ask("-x", target4), "www.zone.test.")
	// An address that stands for a name does so while argyle runs; here, it has two.
	for name := range strings.Lines(r.ok(t, "bash", "-c", "dig +short -x $(dig +short www.zone.test)")) {
		same(t, name, "www.zone.test.")
	}
}

// iperf3 sends and receives.
func (x *runTargets) iperf3(t *testing.T, r *ride) {
	for _, direction := range []string{"--get-server-output", "--reverse"} {
		port := strconv.Itoa(int(x.iperf.Add(1)))
		server := start(t, command(t, peer(t, "iperf3"), "--server", "--one-off", "--bind", target4, "--port", port))
		eventually(t, "iperf3 to listen", func() bool { return listeningAddr(server.cmd.Process.Pid) != "" })
		got := r.ok(t, "iperf3", "--client", "four.zone.test", "--port", port, "--bytes", "16M", direction)
		if !strings.Contains(got, "receiver") {
			t.Errorf("iperf3 says %q", got)
		}
		server.wait(t)
	}
}

// apt fetches a list and a package.
func (x *runTargets) apt(t *testing.T, r *ride) {
	home := r.folder(t)
	config := r.file(t, "apt.conf", []byte(strings.ReplaceAll(`
Dir::State "HOME/state";
Dir::State::status "HOME/status";
Dir::Cache "HOME/cache";
Dir::Log "HOME";
Dir::Etc "HOME/etc";
Dir::Etc::parts "/dev/null/";
Acquire::Languages "none";
APT::Architecture "amd64";
APT::Architectures "amd64";
`, "HOME", home)), 0o644)
	for _, err := range []error{
		os.MkdirAll(home+"/state/lists/partial", 0o755),
		os.MkdirAll(home+"/cache/archives/partial", 0o755),
		os.MkdirAll(home+"/etc/preferences.d", 0o755),
		os.WriteFile(home+"/status", nil, 0o644),
		os.WriteFile(home+"/etc/sources.list", []byte("deb [trusted=yes] http://www.zone.test/apt/ ./\n"), 0o644),
		exec.Command("/bin/chown", "-R", strconv.Itoa(r.uid)+":"+strconv.Itoa(r.uid), home).Run(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	apt := func(words ...string) {
		t.Helper()
		cmd := r.command(t, append([]string{"apt-get", "-qq"}, words...)...)
		cmd.Env = append(cmd.Env, "APT_CONFIG="+config)
		cmd.Dir = home
		r.okFor(t, cmd)
	}
	apt("update")
	apt("download", "tiny")
	if info, err := os.Stat(home + "/tiny_1_all.deb"); err != nil || info.Size() < 200_000 {
		t.Errorf("the package: %v, %v", info, err)
	}
}

func (x *runTargets) sixOnly(t *testing.T, r *ride) {
	same(t, r.ok(t, "curl", "--silent", "--show-error", "--cacert", x.ca, "https://six.zone.test/"), page)
	r.ok(t, shared+"/bin/client", "tcp", net.JoinHostPort(target6, "7"), "1000")
}

func (x *runTargets) getaddrinfo(t *testing.T, r *ride) {
	for _, name := range []string{"www.zone.test", "four.zone.test", "six.zone.test", target4} {
		same(t, r.ok(t, x.c+"/getaddrinfo", name, "7"), "an echo")
	}
}

func (x *runTargets) gethostbyname(t *testing.T, r *ride) {
	same(t, r.ok(t, x.c+"/gethostbyname", "four.zone.test", "7"), "an echo")
}

func (x *runTargets) getnameinfo(t *testing.T, r *ride) {
	names := strings.Fields(r.ok(t, x.c+"/getnameinfo", "www.zone.test"))
	if names = slices.Compact(names); len(names) != 1 || names[0] != "www.zone.test" {
		t.Errorf("the addresses of www.zone.test have the names %q", names)
	}
}

func (x *runTargets) sendto(t *testing.T, r *ride) {
	same(t, r.ok(t, x.c+"/sendto", target4, "7"), "sendto\nsendmsg\nsendmmsg\nsendmmsg\nsend\nwrite")
}

func (x *runTargets) mapped(t *testing.T, r *ride) {
	same(t, r.ok(t, x.c+"/mapped", target4, "7"), "mapped")
}

func (x *runTargets) mappedUDP(t *testing.T, r *ride) {
	same(t, r.ok(t, x.c+"/mapped", target4, "7", "udp"), "mapped\n::ffff:"+target4)
}
