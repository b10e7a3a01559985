//go:build linux

package main

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// runTargets are what the programs talk to.
type runTargets struct {
	*runWorld
	ca      string // of the website with TLS
	box     *sshd
	head    string // of the repository at /git/repository
	echo    string // over TCP, at once
	half    string // over TCP, once its client has ended
	udp     string
	closed  string
	dropped string
	c       string // folder of what testdata/run/*.c has become
	java    string // folder of classes
	iperf   atomic.Int32
}

// dantedProxy starts Dante's server.
func dantedProxy(t *testing.T) *runProxy {
	t.Helper()
	dantedAt(t, outerAddr, "1080", "none")
	return &runProxy{name: "danted", url: "socks5h://" + outerAddr + ":1080", udp: true}
}

func microsocksProxy(t *testing.T) *runProxy {
	t.Helper()
	addr := startListening(t, command(t, peer(t, "microsocks"), "-i", outerAddr, "-p", "0"))
	return &runProxy{name: "microsocks", url: "socks5h://" + addr, cuts: true}
}

func startRunTargets(t *testing.T, w *runWorld) *runTargets {
	t.Helper()
	x := &runTargets{runWorld: w, box: startSSHDAt(t, target4+":22")}
	x.iperf.Store(5200)
	x.box.key, x.box.knownHosts = w.give(t, x.box.key), w.file(t, "known_hosts", x.knownHosts(t), 0o600)
	x.startWebsite(t)
	for _, host := range []string{target4, target6} {
		serveTCP(t, net.JoinHostPort(host, "7"), func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) })
		udpEcho(t, net.JoinHostPort(host, "7"))
	}
	x.echo, x.udp = net.JoinHostPort(target4, "7"), net.JoinHostPort(target4, "7")
	x.half = echo(t, target4+":0")
	x.closed, x.dropped = target4+":81", target4+":82"
	mustRun(t, command(t, peer(t, "nft"), "-f", writeFile(t, "rules", `
table inet targets {
	chain input {
		type filter hook input priority filter
		ip daddr `+target4+` tcp dport 82 drop
	}
}
`)))
	sysctl(t, "net/ipv4/ip_forward", "1") // to say that there is no way to it
	mustRun(t, command(t, peer(t, "ip"), "route", "add", "unreachable", unreachable+"/32"))
	x.compile(t)
	return x
}

// unreachable is an address that this host says is.
const unreachable = "198.51.100.1"

// knownHosts is what the user knows of the server: its key, by address and by name.
func (x *runTargets) knownHosts(t *testing.T) []byte {
	t.Helper()
	line, err := os.ReadFile(x.box.knownHosts)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(string(line), " ")
	return []byte("four.zone.test," + target4 + " " + key)
}

// startWebsite serves a page, a repository and packages, with and without TLS, over IPv4 and IPv6.
func (x *runTargets) startWebsite(t *testing.T) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", servePage)
	mux.Handle("/git/", x.repository(t))
	mux.Handle("/apt/", http.StripPrefix("/apt/", http.FileServer(http.Dir(x.packages(t)))))
	certFile, keyFile := certificate(t, "www.zone.test", "six.zone.test")
	x.ca = x.give(t, certFile)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{target4, target6} {
		for _, port := range []string{"80", "443"} {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if err != nil {
				t.Fatal(err)
			}
			if port == "443" {
				ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}})
			}
			serveHTTP(t, ln, mux)
		}
	}
}

// repository serves one by git's own program for that.
func (x *runTargets) repository(t *testing.T) http.Handler {
	t.Helper()
	git, base := peer(t, "git"), t.TempDir()
	folder := filepath.Join(base, "repository")
	mustRun(t, command(t, git, "init", "--quiet", folder))
	if err := os.WriteFile(filepath.Join(folder, "data"), randomBytes(300_000), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, command(t, git, "-C", folder, "add", "data"))
	mustRun(t, command(t, git, "-C", folder, "-c", "user.name=t", "-c", "user.email=t@test", "commit", "--quiet", "-m", "one"))
	x.head = mustRun(t, command(t, git, "-C", folder, "rev-parse", "HEAD"))
	return &cgi.Handler{
		Path: strings.TrimSpace(mustRun(t, command(t, git, "--exec-path"))) + "/git-http-backend",
		Root: "/git",
		Env:  []string{"GIT_PROJECT_ROOT=" + base, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER="},
	}
}

// packages makes an apt repository of one package.
func (x *runTargets) packages(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	tree := filepath.Join(folder, "tree")
	control := "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: t <t@test>\nDescription: of the tests\n"
	for _, err := range []error{
		os.MkdirAll(filepath.Join(tree, "DEBIAN"), 0o755),
		os.WriteFile(filepath.Join(tree, "DEBIAN", "control"), []byte(control), 0o644),
		os.WriteFile(filepath.Join(tree, "data"), randomBytes(200_000), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, command(t, peer(t, "dpkg-deb"), "--build", "--root-owner-group", tree, filepath.Join(folder, "tiny.deb")))
	sum, _, _ := strings.Cut(mustRun(t, command(t, peer(t, "sha256sum"), filepath.Join(folder, "tiny.deb"))), " ")
	info, err := os.Stat(filepath.Join(folder, "tiny.deb"))
	if err != nil {
		t.Fatal(err)
	}
	index := control + "Filename: ./tiny.deb\nSHA256: " + sum + "\nSize: " + strconv.FormatInt(info.Size(), 10) + "\n"
	if err := os.WriteFile(filepath.Join(folder, "Packages"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	return folder
}

// compile makes programs of testdata/run.
func (x *runTargets) compile(t *testing.T) {
	t.Helper()
	sources := os.Getenv(sourceFolder)
	x.c, x.java = x.folder(t), x.folder(t)
	list, _ := filepath.Glob(filepath.Join(sources, "*.c"))
	for _, source := range list {
		out := filepath.Join(x.c, strings.TrimSuffix(filepath.Base(source), ".c"))
		mustRun(t, command(t, peer(t, "gcc"), "-O1", "-pthread", "-o", out, source))
	}
	mustRun(t, command(t, peer(t, "javac"), "-d", x.java, filepath.Join(sources, "Several.java")))
	for _, folder := range []string{x.c, x.java} {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
