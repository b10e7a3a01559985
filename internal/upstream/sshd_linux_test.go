package upstream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// peer finds somebody else's program. A test that misses one is skipped, unless ARGYLE_PEERS=require.
func peer(t testing.TB, name string) string {
	t.Helper()
	for _, folder := range append([]string{"/usr/bin", "/usr/sbin"}, filepath.SplitList(os.Getenv("PATH"))...) {
		if path, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
			return path
		}
	}
	if os.Getenv("ARGYLE_PEERS") == "require" {
		t.Fatalf("%s is missing, and ARGYLE_PEERS=require", name)
	}
	t.Skipf("%s is missing", name)
	return ""
}

// run starts a program that ends with the test.
func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second // for pipes that a grandchild holds
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/usr/sbin:/bin:/sbin"}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%q:\n%.20000s", cmd.Args, log.String())
		}
	})
}

// sshd is OpenSSH's server.
type sshd struct {
	addr  string
	pid   int
	key   string // that it lets in
	known string // a known_hosts file with its keys
	keys  []ssh.PublicKey

	accepted *atomic.Int32 // connections
}

// startSSHD starts one with a host key of every kind, and more lines of configuration.
func startSSHD(t *testing.T, lines ...string) *sshd {
	t.Helper()
	path := peer(t, "sshd")
	s := new(sshd)
	var public string
	s.key, public = sshKey(t, "")
	port := freePort(t)
	config := append(lines, // the first of two that contradict counts
		"ListenAddress 127.0.0.1:"+port,
		"AuthorizedKeysFile "+writeFile(t, "authorized_keys", public),
		"StrictModes no", "UsePAM no", "PidFile none", "LogLevel VERBOSE", "PermitRootLogin yes",
		"MaxStartups 100", "MaxSessions 1",
	)
	for _, kind := range []string{"ed25519", "ecdsa"} {
		file, key := makeHostKey(t, kind)
		config = append(config, "HostKey "+file)
		s.keys = append(s.keys, key)
	}
	file := writeFile(t, "sshd_config", strings.Join(config, "\n"))
	cmd := exec.Command(path, "-D", "-e", "-f", file)
	if os.Getuid() == 0 {
		// Root's sshd insists on an empty /run/sshd. Here it is in a mount namespace.
		cmd = exec.Command("/bin/sh", "-c",
			`mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"`, "sh", path, "-D", "-e", "-f", file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	}
	run(t, cmd)
	s.pid = cmd.Process.Pid
	eventually(t, "sshd to listen", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	s.addr, s.accepted = countingProxy(t, "127.0.0.1:"+port)
	s.known = writeFile(t, "known_hosts", knownhosts.Line([]string{s.addr}, s.keys[0])+"\n"+knownhosts.Line([]string{s.addr}, s.keys[1]))
	return s
}

// makeHostKey makes one, and its file.
func makeHostKey(t testing.TB, kind string) (file string, public ssh.PublicKey) {
	t.Helper()
	if kind == "ecdsa" {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		public, err = ssh.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return writeFile(t, kind, string(pem.EncodeToMemory(block))), public
	}
	file, line := sshKey(t, "")
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return file, public
}

// rsaKey makes a key that no server of the tests has.
func rsaKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// freePort returns a port for a program that cannot choose one itself.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// countingProxy passes connections on and counts them.
func countingProxy(t testing.TB, to string) (addr string, count *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int32)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			all.Go(func() {
				far, err := net.Dial("tcp", to)
				if err != nil {
					near.Close()
					return
				}
				all.Go(func() { _, _ = io.Copy(far, near); far.Close() })
				_, _ = io.Copy(near, far)
				near.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String(), count
}

// dialer is a way out through the server, with its key and no agent.
func (s *sshd) dialer(t testing.TB) *SSH {
	t.Helper()
	d := &SSH{Addr: s.addr, Identity: []string{s.key}, KnownHosts: []string{s.known}}
	t.Cleanup(func() { d.Close() })
	return d
}

// sessions returns the processes that serve connections.
func (s *sshd) sessions() (pids []int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
	for _, word := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(word)
		pids = append(pids, pid)
	}
	return pids
}

// One URL does it all.
func TestSSHDURL(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	d, err := Chain([]string{"ssh://" + s.addr + "?identity=" + s.key + "&known_hosts=" + s.known})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(d) })
	for _, host := range []string{"127.0.0.1", "localhost"} {
		pingPong(t, sshTo(t, d, net.JoinHostPort(host, echo(t))))
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// An agent's key lets us in, as does a file with a passphrase whose key the agent has; without the agent the error
// says what to do.
func TestSSHDAgent(t *testing.T) {
	t.Parallel()
	agent, add := peer(t, "ssh-agent"), peer(t, "ssh-add")
	locked, public := sshKey(t, "sesame")
	open, openPublic := sshKey(t, "")
	s := startSSHD(t, "AuthorizedKeysFile "+writeFile(t, "keys", public+openPublic))
	socket := filepath.Join(t.TempDir(), "s")
	run(t, exec.Command(agent, "-D", "-a", socket))
	eventually(t, "the agent", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})

	d := &SSH{Addr: s.addr, KnownHosts: []string{s.known}, Agent: socket, Identity: []string{locked}}
	t.Cleanup(func() { d.Close() })
	_, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), locked+" has a passphrase and is not in the agent; put it there with: ssh-add "+locked) {
		t.Errorf("without a passphrase: %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "sesame") {
		t.Errorf("the passphrase is in %v", err)
	}

	askpass := writeFile(t, "askpass", "#!/bin/sh\necho sesame")
	if err := os.Chmod(askpass, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(add, locked)
	cmd.Env = []string{"SSH_AUTH_SOCK=" + socket, "SSH_ASKPASS=" + askpass, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0", "PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	pingPong(t, sshTo(t, d, dest))

	agents := &SSH{Addr: s.addr, KnownHosts: []string{s.known}, Agent: socket}
	t.Cleanup(func() { agents.Close() })
	pingPong(t, sshTo(t, agents, dest))
	file := &SSH{Addr: s.addr, KnownHosts: []string{s.known}, Identity: []string{open}}
	t.Cleanup(func() { file.Close() })
	pingPong(t, sshTo(t, file, dest))
}

// Strange keys are refused, with words that help.
func TestSSHDHostKeys(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	_, other := makeHostKey(t, "ed25519")
	host, port, _ := net.SplitHostPort(s.addr)
	empty := writeFile(t, "empty", "")
	wrong := writeFile(t, "wrong", knownhosts.Line([]string{s.addr}, other))
	strangeKind := writeFile(t, "kind", knownhosts.Line([]string{s.addr}, rsaKey(t)))
	revoked := writeFile(t, "revoked", "@revoked * "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.keys[0])))+
		"\n@revoked * "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.keys[1]))))
	fingerprints := []string{ssh.FingerprintSHA256(s.keys[0]), ssh.FingerprintSHA256(s.keys[1])}
	for _, tt := range []struct {
		file string
		want []string
	}{
		{empty, []string{"is not in " + empty, "ssh-keyscan -p " + port + " -t ", host + " >>" + empty}},
		{wrong, []string{"has changed, or somebody stands in between", wrong + ":1 has ssh-ed25519 " + ssh.FingerprintSHA256(other),
			"ssh-keygen -R '[" + host + "]:" + port + "' -f " + wrong, "ssh-keyscan -p " + port + " -t ed25519 " + host + " >>" + wrong, fingerprints[0]}},
		{strangeKind, []string{"keys of type ssh-rsa only"}},
		{revoked, []string{"is revoked in " + revoked}},
	} {
		d := &SSH{Addr: s.addr, Identity: []string{s.key}, KnownHosts: []string{tt.file}}
		_, err := d.DialContext(t.Context(), "tcp", "127.0.0.1:1")
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\ndoes not say %q", err, want)
			}
		}
		if tt.file == empty && !slices.ContainsFunc(fingerprints, func(f string) bool { return strings.Contains(fmt.Sprint(err), f) }) {
			t.Errorf("no fingerprint: %v", err)
		}
		if judge(err) != fault {
			t.Errorf("judged %v: %v", judge(err), err)
		}
		d.Close()
	}

	// The command of the error does what it says.
	keyscan := peer(t, "ssh-keyscan")
	out, err := exec.Command(keyscan, "-p", port, "-t", "ecdsa", host).Output()
	if err != nil {
		t.Fatal(err)
	}
	d := s.dialer(t)
	d.KnownHosts = []string{writeFile(t, "scanned", string(out))}
	pingPong(t, sshTo(t, d, net.JoinHostPort("127.0.0.1", echo(t))))
}

// Whatever single type of key is known is the one that the server has to show (golang/go#29286); an authority makes it
// show a certificate.
func TestSSHDKeyTypes(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	for _, key := range s.keys {
		d := s.dialer(t)
		d.KnownHosts = []string{writeFile(t, "one", knownhosts.Line([]string{s.addr}, key))}
		sshTo(t, d, net.JoinHostPort("127.0.0.1", echo(t)))
		hashed := s.dialer(t)
		hashed.KnownHosts = []string{writeFile(t, "hashed", knownhosts.HashHostname(knownhosts.Normalize(s.addr))+" "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))}
		sshTo(t, hashed, net.JoinHostPort("127.0.0.1", echo(t)))
	}

	keygen := peer(t, "ssh-keygen")
	authority, public := sshKey(t, "")
	host, line := sshKey(t, "")
	if err := os.WriteFile(host+".pub", []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(keygen, "-s", authority, "-I", "host", "-h", "-n", "127.0.0.1", "-V", "+1h", host+".pub").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	certified := startSSHD(t, "HostKey "+host, "HostCertificate "+host+"-cert.pub")
	d := certified.dialer(t)
	ip, port, _ := net.SplitHostPort(certified.addr)
	d.KnownHosts = []string{writeFile(t, "authority", "@cert-authority ["+ip+"]:"+port+" "+strings.TrimSpace(public))}
	sshTo(t, d, net.JoinHostPort("127.0.0.1", echo(t)))
}

// A hundred sessions at once go over one connection.
func TestSSHDHundred(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	d := s.dialer(t)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	var all, ready sync.WaitGroup
	ready.Add(100)
	for range 100 {
		all.Go(func() {
			conn, err := d.DialContext(t.Context(), "tcp", dest)
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			ready.Wait() // all are there at once
			payload := make([]byte, 100<<10)
			_, _ = rand.Read(payload)
			go func() {
				_, _ = conn.Write(payload)
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// The end of the process that serves us ends its channels, and the next dial has another.
func TestSSHDKilled(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	d := s.dialer(t)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	for range 3 {
		conn := sshTo(t, d, dest)
		pingPong(t, conn)
		pids := s.sessions()
		if len(pids) != 1 {
			t.Fatalf("sessions: %v", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		// At once, most likely before we know.
		pingPong(t, sshTo(t, d, dest))
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("what it served: %v", err)
		}
		d.Close()
		eventually(t, "the sessions to end", func() bool { return len(s.sessions()) == 0 })
	}
}

func TestSSHDRefusals(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	closed := ln.Addr().String()
	ln.Close()
	port := echo(t)
	s := startSSHD(t, "PermitOpen 127.0.0.1:"+port+" "+closed, "AllowTcpForwarding local")
	d := s.dialer(t)
	_, err := d.DialContext(t.Context(), "tcp", closed)
	if !errors.Is(err, syscall.EHOSTUNREACH) || socks.ReplyFor(err) != wire.HostUnreachable {
		t.Errorf("a refused connection: %v", err)
	}
	_, err = d.DialContext(t.Context(), "tcp", "127.0.0.1:1")
	if !errors.Is(err, argyle.ErrNotAllowed) || socks.ReplyFor(err) != wire.NotAllowed {
		t.Errorf("one that is not allowed: %v", err)
	}
	pingPong(t, sshTo(t, d, "127.0.0.1:"+port))
	if _, err := d.Listen(t.Context(), "tcp", "127.0.0.1:0"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("listen: %v", err)
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What comes to a port at the server comes to us, once.
func TestSSHDListen(t *testing.T) {
	t.Parallel()
	s := startSSHD(t)
	d := s.dialer(t)
	wish := freePort(t)
	for _, peer := range []string{"127.0.0.1:0", "localhost:" + wish, "127.0.0.1:" + wish} {
		ln, err := d.Listen(t.Context(), "tcp", peer)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(peer, ":"+wish) && !strings.HasSuffix(ln.Addr().String(), ":"+wish) {
			t.Errorf("%v, not the port %s", ln.Addr(), wish)
		}
		far, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		near, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if near.RemoteAddr().String() != far.LocalAddr().String() {
			t.Errorf("%v came, not %v", near.RemoteAddr(), far.LocalAddr())
		}
		ln.Close()
		_, _ = io.WriteString(far, "hello")
		_ = far.(*net.TCPConn).CloseWrite()
		_ = near.SetDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(near); string(got) != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		_, _ = io.WriteString(near, "good bye")
		near.Close()
		if got, err := io.ReadAll(far); string(got) != "good bye" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		far.Close()
		eventually(t, "the port to be closed", func() bool {
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	}
	ln, err := d.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan error)
	go func() { _, err := ln.Accept(); waits <- err }()
	ln.Close()
	if err := <-waits; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// SOCKS behind SSH, and SSH behind SOCKS, and two SSH.
func TestSSHDChains(t *testing.T) {
	t.Parallel()
	s, proxy := startSSHD(t), startServer(t, listen(t), false)
	ssh := "ssh://" + s.addr + "?identity=" + s.key + "&known_hosts=" + s.known
	dest := net.JoinHostPort("localhost", echo(t))
	for _, tt := range []struct {
		urls []string
		asks string // of the SOCKS server
	}{
		{[]string{ssh, "socks5h://" + proxy.addr}, dest},
		{[]string{"socks5h://" + proxy.addr, ssh}, s.addr},
		{[]string{ssh, ssh}, ""},
	} {
		d, err := Chain(tt.urls)
		if err != nil {
			t.Fatal(err)
		}
		conn := sshTo(t, d, dest)
		pingPong(t, conn)
		conn.Close()
		if asked := proxy.asked(); strings.Join(asked, " ") != tt.asks {
			t.Errorf("%q: the server was asked for %q", tt.urls, asked)
		}
		Close(d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, _ := Chain([]string{ssh, "socks5h://127.0.0.1:1"})
	t.Cleanup(func() { Close(d) })
	if _, err := d.DialContext(ctx, "tcp", dest); judge(err) != fault || !strings.Contains(err.Error(), "through ssh://") {
		t.Errorf("a dead proxy behind ssh: %v", err)
	}
}
