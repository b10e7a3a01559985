//go:build linux

package main

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A proxyUpstream is a proxy that argyle connect goes through.
type proxyUpstream struct {
	name string
	url  string
	cuts bool // it ends a session at the first EOF, whichever way; git's protocol needs more
}

func TestConnect(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	t.Run("peers", func(t *testing.T) { // parallel tests inside are over before their servers are
		box := startSSHD(t)
		repository := startGitDaemon(t)
		for _, up := range append(peerUpstreams(t, box), ownUpstreams(t)...) {
			t.Run(up.name, func(t *testing.T) {
				t.Parallel()
				if up.cuts {
					t.Run("nobody ends early", func(t *testing.T) { testNobodyEndsEarly(t, up.url) })
				} else {
					t.Run("client ends first", func(t *testing.T) { testClientEndsFirst(t, up.url) })
					t.Run("server ends first", func(t *testing.T) { testServerEndsFirst(t, up.url) })
					t.Run("gitProxy", func(t *testing.T) { repository.cloneThrough(t, up.url) })
				}
				t.Run("ProxyCommand", func(t *testing.T) {
					box.via(t, strings.ReplaceAll(connectThrough(t, up.url), "%", "%%")+" %h %p")
				})
			})
		}
	})
}

// peerUpstreams starts everybody else's proxies.
func peerUpstreams(t *testing.T, box *sshd) []proxyUpstream {
	t.Helper()
	microsocks := peer(t, "microsocks")
	danted(t, "1080", "none")
	startListening(t, box.client(t, "-N", "-D", "127.0.0.1:1082"))
	account := url.UserPassword(user, password).String() + "@"
	upstreams := []proxyUpstream{
		{name: "danted socks5h", url: "socks5h://127.0.0.1:1080"},
		{name: "danted socks5", url: "socks5://127.0.0.1:1080"},
		{name: "danted socks4", url: "socks4://127.0.0.1:1080"},
		{name: "ssh -D socks5h", url: "socks5h://127.0.0.1:1082"},
		{name: "ssh -D socks4a", url: "socks4a://127.0.0.1:1082"},
		{name: "microsocks", url: "socks5h://" +
			startListening(t, command(t, microsocks, "-i", "127.0.0.1", "-p", "0")), cuts: true},
		{name: "microsocks user", url: "socks5h://" + account +
			startListening(t, command(t, microsocks, "-i", "127.0.0.1", "-p", "0", "-u", user, "-P", password)), cuts: true},
	}
	if os.Getuid() == 0 { // nobody else can read the accounts
		coverAccounts(t)
		danted(t, "1081", "username")
		upstreams = append(upstreams, proxyUpstream{name: "danted user", url: "socks5h://" + account + "127.0.0.1:1081"})
	}
	return upstreams
}

// ownUpstreams starts our own, which speaks everything.
func ownUpstreams(t *testing.T) []proxyUpstream {
	t.Helper()
	certFile, keyFile := certificate(t)
	s := startServer(t, "--users", usersFile(t), "--tls-cert", certFile, "--tls-key", keyFile)
	open := startServer(t)
	proxy := url.UserPassword(user, password).String() + "@" + s.addr
	ca := "?ca=" + certFile
	return []proxyUpstream{
		{name: "argyle socks4", url: "socks4://" + open.addr},
		{name: "argyle socks4a", url: "socks4a://" + open.addr},
		{name: "argyle socks5", url: "socks5://" + proxy},
		{name: "argyle socks5h", url: "socks5h://" + proxy},
		{name: "argyle socks5h+tls", url: "socks5h+tls://" + proxy + ca},
		{name: "argyle http", url: "http://" + proxy},
		{name: "argyle https", url: "https://" + proxy + ca},
	}
}

// danted starts Dante's server, which does not choose a port itself.
func danted(t *testing.T, port, method string) { dantedAt(t, "127.0.0.1", port, method) }

func dantedAt(t *testing.T, host, port, method string) {
	t.Helper()
	me, err := osuser.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, "danted.conf", `
logoutput: stderr
internal: `+host+` port = `+port+`
external: lo
external.rotation: route
user.privileged: `+me.Username+`
user.unprivileged: `+me.Username+`
clientmethod: none
socksmethod: `+method+`
client pass { from: 0/0 to: 0/0 log: error }
socks pass { from: 0/0 to: 0/0 log: error connect disconnect }
`)
	startListening(t, command(t, peer(t, "danted"), "-N", "1", "-f", config, "-p", filepath.Join(t.TempDir(), "pid")))
}

// coverAccounts gives this namespace a system account for Dante, which knows no other users. The machine's stay as they are.
func coverAccounts(t *testing.T) {
	t.Helper()
	for path, line := range map[string]string{
		"/etc/passwd": user + ":x:65533:65533::/:/usr/sbin/nologin\n",
		// mkpasswd's hash of password
		"/etc/shadow": user + ":$6$argyle$FV4TSsDp5mU7ObFf3imZa/gwfn/Hvi/P6C8dlDxWi5aHA2taVxG3wo52yuubSOYh7v5LWpD1Y1OoN3Tw1e19G0:19000::::::\n",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cover(t, path, string(text)+line)
	}
}

// payload is what goes up and what comes down: the same in every test, since making it takes longer than moving it.
var payload = sync.OnceValues(func() (up, down []byte) { return randomBytes(8 << 20), randomBytes(1 << 20) })

func testNobodyEndsEarly(t *testing.T, proxy string) {
	up, down := payload()
	c := startConnect(t, proxy, func(conn *net.TCPConn) {
		got := make([]byte, len(up))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, up) {
			t.Errorf("the server did not get what was sent: %v", err)
		}
		_, _ = conn.Write(down)
		_, _ = io.Copy(io.Discard, conn) // until the client ends it
	})
	c.send(t, up)
	c.expect(t, down)
	c.end(t)
}

func testClientEndsFirst(t *testing.T, proxy string) {
	up, down := payload()
	c := startConnect(t, proxy, func(conn *net.TCPConn) {
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, up) {
			t.Errorf("the server got %d bytes, %v, not the %d that were sent", len(got), err, len(up))
		}
		_, _ = conn.Write(down)
	})
	c.send(t, up)
	c.end(t)
	c.expect(t, down)
}

func testServerEndsFirst(t *testing.T, proxy string) {
	up, down := payload()
	c := startConnect(t, proxy, func(conn *net.TCPConn) {
		_, _ = conn.Write(down)
		_ = conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, up) {
			t.Errorf("the server got %d bytes, %v, not the %d that were sent", len(got), err, len(up))
		}
	})
	c.expect(t, down)
	c.send(t, up)
	c.end(t)
}

// A connection is argyle connect to a server of the test.
type connection struct {
	*child
	stdin  io.WriteCloser
	served chan struct{} // closed when the server has done its part
}

func startConnect(t *testing.T, proxy string, serve func(*net.TCPConn)) *connection {
	t.Helper()
	served := make(chan struct{})
	host, port, _ := net.SplitHostPort(serveTCP(t, outerAddr+":0", func(conn *net.TCPConn) {
		serve(conn)
		close(served)
	}))
	cmd := program(t, "connect", "-x", proxy, host, port)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &connection{start(t, cmd), stdin, served}
}

func (c *connection) send(t *testing.T, data []byte) {
	t.Helper()
	if _, err := c.stdin.Write(data); err != nil {
		t.Error(err)
	}
}

// expect waits for what the server sent.
func (c *connection) expect(t *testing.T, data []byte) {
	t.Helper()
	eventually(t, "what the server sent", func() bool { return c.stdout.Len() >= len(data) })
	if c.stdout.String() != string(data) {
		t.Error("the client got something else than the server sent")
	}
}

// end closes standard input and waits for both sides to finish. The client may well be the first: what it sent can be on
// its way still.
func (c *connection) end(t *testing.T) {
	t.Helper()
	c.stdin.Close()
	if code := c.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	select {
	case <-c.served:
	case <-time.After(patience):
		t.Error("the server waits for more")
	}
}

// connectThrough is a shell's words for argyle connect, to which host and port are to be added.
func connectThrough(t *testing.T, proxy string) string {
	t.Helper()
	return strings.Join(programWords(t), " ") + " connect -x '" + proxy + "'"
}

// A gitDaemon serves one repository by git's own protocol.
type gitDaemon struct{ git, addr, head string }

func startGitDaemon(t *testing.T) *gitDaemon {
	t.Helper()
	git := peer(t, "git")
	base := t.TempDir()
	folder := filepath.Join(base, "repository")
	mustRun(t, command(t, git, "init", "--quiet", folder))
	mustRun(t, command(t, git, "-C", folder, "-c", "user.name=t", "-c", "user.email=t@test", "commit", "--quiet", "--allow-empty", "-m", "one"))
	head := mustRun(t, command(t, git, "-C", folder, "rev-parse", "HEAD"))
	addr := inetd(t, outerAddr+":0", func() *exec.Cmd {
		return command(t, git, "daemon", "--inetd", "--export-all", "--base-path="+base)
	})
	return &gitDaemon{git, addr, head}
}

// cloneThrough clones with a core.gitProxy, which is a program without arguments of its own: git adds host and port.
func (d *gitDaemon) cloneThrough(t *testing.T, proxy string) {
	t.Helper()
	folder := t.TempDir()
	script := writeFile(t, "proxy", "#!/bin/sh\necho \"$1:$2\" >"+folder+"/asked\nexec "+connectThrough(t, proxy)+" \"$1\" \"$2\"\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(folder, "clone")
	mustRun(t, command(t, d.git, "-c", "core.gitProxy="+script, "clone", "--quiet", "git://"+d.addr+"/repository", clone))
	if head := mustRun(t, command(t, d.git, "-C", clone, "rev-parse", "HEAD")); head != d.head {
		t.Errorf("cloned %q, not %q", head, d.head)
	}
	if asked, _ := os.ReadFile(filepath.Join(folder, "asked")); string(asked) != d.addr+"\n" {
		t.Errorf("git asked its proxy for %q", asked)
	}
}
