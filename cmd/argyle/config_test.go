//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/upstream"
	"github.com/argyle-socks/argyle/internal/users"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// configFile writes a configuration into a folder with a users file, for as
// many users, and returns its path.
func configFile(t testing.TB, text string, names ...string) string {
	t.Helper()
	path := writeFile(t, "argyle.yaml", text)
	for _, name := range names {
		if err := users.Set(filepath.Join(filepath.Dir(path), "users"), name, password); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// rewrite puts another text in the place of a file, at once.
func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// spring sends bytes for as long as somebody takes them.
func spring(t testing.TB) string {
	return serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		buf := make([]byte, 64<<10)
		for {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	})
}

// drink takes bytes from dest through the server until the test is over, and
// counts them.
func drink(t testing.TB, s *server, user, dest string, count *atomic.Int64) (stop func()) {
	t.Helper()
	conn, err := s.dialer(user).DialContext(t.Context(), "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		take(conn, count)
	}()
	return func() {
		conn.Close()
		<-done
	}
}

// take takes bytes until there is an end of them, and counts them.
func take(conn net.Conn, count *atomic.Int64) {
	buf := make([]byte, 16<<10)
	for {
		n, err := conn.Read(buf)
		count.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// measure returns the bytes per second of each counter over a time.
func measure(counts []*atomic.Int64, d time.Duration) (rates []float64) {
	before := make([]int64, len(counts))
	begin := time.Now()
	for i, c := range counts {
		before[i] = c.Load()
	}
	time.Sleep(d)
	took := time.Since(begin).Seconds()
	for i, c := range counts {
		rates = append(rates, float64(c.Load()-before[i])/took)
	}
	return rates
}

// within reports whether got is want, a few per cent more or less.
func within(got, want, percent float64) bool { return math.Abs(got-want) <= want*percent/100 }

// Three users with 1, 2 and 5 connections share a rule's 30 Mbit/s: each has a
// third, within 10 %.
func TestSharedBandwidth(t *testing.T) {
	names := []string{"ann", "bob", "eve"}
	s := startServer(t, "-c", configFile(t, `
users: users
rules: [{action: allow, limits: {down: 30Mbit/s}}]
`, names...))
	dest := spring(t)
	counts := make([]*atomic.Int64, len(names))
	for i, connections := range []int{1, 2, 5} {
		counts[i] = new(atomic.Int64)
		for range connections {
			defer drink(t, s, names[i], dest, counts[i])()
		}
	}
	measure(counts, time.Second) // what the sockets' buffers take at the beginning
	rates := measure(counts, 4*time.Second)
	total := rates[0] + rates[1] + rates[2]
	t.Logf("%.2f, %.2f and %.2f of %.2f Mbit/s", rates[0]*8e-6, rates[1]*8e-6, rates[2]*8e-6, total*8e-6)
	if !within(total, 30e6/8, 5) {
		t.Errorf("%.2f Mbit/s in all", total*8e-6)
	}
	for i, rate := range rates {
		if !within(rate, total/3, 10) {
			t.Errorf("%s has %.2f of %.2f Mbit/s", names[i], rate*8e-6, total*8e-6)
		}
	}
}

// Limits of 10 Mbit/s down and 20 Mbit/s up hold within 5 %, in plain and inside
// TLS.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate(t)
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
tls: {cert: %s, key: %s}
rules: [{action: allow, limits: {session-down: 10Mbit/s, session-up: 20Mbit/s}}]
`, certFile, keyFile)))
	source := spring(t)
	for _, url := range []string{"socks5h://" + s.addr, "socks5h+tls://" + s.addr + "?ca=" + certFile} {
		way, err := upstream.Chain([]string{url})
		if err != nil {
			t.Fatal(err)
		}
		holds := func(direction, dest string, limit float64, count *atomic.Int64, carry func(net.Conn)) {
			t.Run(direction+" by "+url, func(t *testing.T) {
				t.Parallel()
				conn, err := way.DialContext(t.Context(), "tcp", dest)
				if err != nil {
					t.Fatal(err)
				}
				var carrier sync.WaitGroup
				carrier.Go(func() { carry(conn) })
				defer carrier.Wait()
				defer conn.Close()
				measure([]*atomic.Int64{count}, 500*time.Millisecond)
				rate := measure([]*atomic.Int64{count}, 4*time.Second)[0]
				t.Logf("%.2f Mbit/s", rate*8e-6)
				if !within(rate, limit/8, 5) {
					t.Errorf("%.2f Mbit/s, want %.2f", rate*8e-6, limit*1e-6)
				}
			})
		}
		var down, up atomic.Int64
		holds("down", source, 10e6, &down, func(conn net.Conn) { take(conn, &down) })
		pit := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { take(conn, &up) })
		holds("up", pit, 20e6, &up, func(conn net.Conn) {
			for buf := make([]byte, 64<<10); ; {
				if _, err := conn.Write(buf); err != nil {
					return
				}
			}
		})
	}
}

// A hundred reloads under a thousand live sessions lose none of them and refuse
// nobody.
func TestReloadKeepsSessions(t *testing.T) {
	// The rule, its way out, its limit and its times are other ones each time.
	text := func(i int) string {
		return fmt.Sprintf(`
rules: [{name: r%[1]d, via: way%[1]d, log: off, timeouts: {idle: %[2]dm}, limits: {sessions: %[3]d}}]
upstreams: {way%[1]d: {group: [direct, 'socks5h://127.0.0.1:%[2]d'], pick: failover}}
`, i, i+1, i+5000)
	}
	path := configFile(t, text(0))
	s := startServer(t, "-c", path)
	dest := mirror(t, "127.0.0.1:0")
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = open(t, s.dialer(""), dest)
	}
	stop := make(chan struct{})
	var comers sync.WaitGroup
	var served atomic.Int64
	for range 4 {
		comers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest)
				if err != nil {
					t.Errorf("refused during a reload: %v", err)
					return
				}
				conn.Close()
				served.Add(1)
			}
		})
	}
	for i := range 100 {
		rewrite(t, path, text(i))
		s.signal(t, syscall.SIGHUP)
		eventually(t, "the reload", func() bool { return strings.Count(s.stderr.String(), "took the new configuration") > i })
	}
	close(stop)
	comers.Wait()
	for _, conn := range conns {
		hello(t, conn)
		conn.Close()
	}
	if served.Load() == 0 {
		t.Error("nobody came meanwhile")
	}
	t.Logf("%d sessions were begun meanwhile", served.Load())
	if bad := s.lines("kept the old configuration"); bad != nil {
		t.Errorf("%v", bad)
	}
}

// A configuration that cannot be taken leaves the old one in force, and the
// log points at what is wrong.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	const good = "listen: 127.0.0.1:0\nrules:\n  - {name: first, action: allow}\n"
	path := configFile(t, good)
	s := launch(t, 1, "-c", path)
	defer s.kill()
	dest := mirror(t, "127.0.0.1:0")
	for i, bad := range []struct{ text, err string }{
		{"rules:\n  - {action: alow}\n", "argyle.yaml:2:14: "},
		{"rules:\n  - {action: allow}\nupstream: {}\n", "argyle.yaml:3:1: "},
		{"rules: [\n", "argyle.yaml:"},
		{"listen: ['192.0.2.77:1']\nrules: [{action: allow}]\n", "argyle.yaml:1:10: "}, // not an address of this host
		{"users: nowhere\nrules: [{action: allow}]\n", "argyle.yaml:1:8: "},
		{"rules: [{action: deny}]\ntests: [{connect: 'a.example:1', expect: allow}]\n", "argyle.yaml:2:9: "},
		{"rules: [{via: gw}]\nupstreams: {gw: 'socks6://gw'}\n", "argyle.yaml:2:"},
	} {
		rewrite(t, path, bad.text)
		s.signal(t, syscall.SIGHUP)
		eventually(t, "the refusal of "+bad.text, func() bool { return len(s.lines("kept the old configuration")) > i })
		text := fmt.Sprint(s.lines("kept the old configuration")[i]["err"])
		if !strings.Contains(text, bad.err) {
			t.Errorf("%q: %s, want %s", bad.text, text, bad.err)
		}
		open(t, s.dialer(""), dest).Close()
	}
	for _, line := range s.lines("session") {
		if !strings.Contains(fmt.Sprint(line["why"]), `"first"`) {
			t.Errorf("a session by another rule: %v", line)
		}
	}
	rewrite(t, path, strings.Replace(good, "first", "second", 1)) // and the watch takes the next good one
	eventually(t, "the new configuration", func() bool { return len(s.lines("took the new configuration")) > 0 })
}

// With end-refused a reload ends the sessions that the new rules refuse, and no
// others.
func TestReloadEndsRefused(t *testing.T) {
	t.Parallel()
	const text = "users: users\nreload: {sessions: end-refused}\nrules:\n%s  - {action: allow}\n"
	path := configFile(t, fmt.Sprintf(text, ""), "ann", "bob")
	s := startServer(t, "-c", path)
	dest := mirror(t, "127.0.0.1:0")
	ann, bob := open(t, s.dialer("ann"), dest), open(t, s.dialer("bob"), dest)
	defer bob.Close()
	rewrite(t, path, fmt.Sprintf(text, "  - {name: leaver, user: ann, action: deny}\n"))
	s.signal(t, syscall.SIGHUP)
	_ = ann.SetReadDeadline(time.Now().Add(patience))
	if _, err := ann.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("ann's session: %v", err)
	}
	line := s.session(t, "ann's session", func(l logLine) bool { return l.User == "ann" })
	if !strings.Contains(line.Err, "ended by a reload") || !strings.Contains(line.Err, "leaver") {
		t.Errorf("it ended with %q", line.Err)
	}
	hello(t, bob)
}

// Listeners come and go with a reload; those that stay are not touched.
func TestReloadListeners(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := func(sockets ...string) string {
		all := "rules: [{action: allow}]\nlisten:\n"
		for _, name := range sockets {
			all += "  - unix:" + filepath.Join(dir, name) + "\n"
		}
		return all
	}
	path := configFile(t, text("a", "b"))
	s := launch(t, 2, "-c", path)
	dest := mirror(t, "127.0.0.1:0")
	by := func(name string) *socks.Dialer { return &socks.Dialer{Addr: "unix:" + filepath.Join(dir, name)} }
	first, second := open(t, by("a"), dest), open(t, by("b"), dest)
	rewrite(t, path, text("b", "c"))
	s.signal(t, syscall.SIGHUP)
	eventually(t, "the third listener", func() bool { return len(s.lines("listening")) == 3 })
	eventually(t, "the end of the first listener", func() bool {
		_, err := net.Dial("unix", filepath.Join(dir, "a"))
		return err != nil
	})
	hello(t, first)
	hello(t, second)
	third, again := open(t, by("c"), dest), open(t, by("b"), dest)
	for _, conn := range []net.Conn{first, second, third, again} {
		hello(t, conn)
		conn.Close()
	}
	s.signal(t, syscall.SIGTERM)
	if code := s.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// What a user has used of his quota outlives the server, killed or not.
func TestQuota(t *testing.T) {
	t.Parallel()
	path := configFile(t, `
users: users
state: state
limits: {user: {quota: 1MB/total}}
`, "ann", "bob")
	dest := spring(t)
	take := func(s *server, user string, n int64) (int64, error) {
		conn, err := s.dialer(user).DialContext(t.Context(), "tcp", dest)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return io.CopyN(io.Discard, conn, n)
	}
	s := launch(t, 1, "-c", path, "-l", "127.0.0.1:0")
	if n, err := take(s, "ann", 600_000); err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	time.Sleep(5 * time.Second) // what may be lost
	s.kill()
	s = startServer(t, "-c", path)
	n, err := take(s, "ann", 1_000_000)
	if err == nil || n > 400_000 {
		t.Errorf("%d bytes more, %v", n, err)
	}
	if n, err := take(s, "ann", 1); err == nil {
		t.Errorf("%d bytes after the quota", n)
	}
	if n, err := take(s, "bob", 600_000); err != nil {
		t.Errorf("bob: %d bytes, %v", n, err)
	}
}

// What limits refuse is told as our own limit, and passes when there is room.
func TestSessionLimit(t *testing.T) {
	t.Parallel()
	s := startServer(t, "-c", configFile(t, "users: users\nlimits: {users: {ann: {sessions: 2}}}\n", "ann", "bob"))
	dest := mirror(t, "127.0.0.1:0")
	first, second := open(t, s.dialer("ann"), dest), open(t, s.dialer("ann"), dest)
	defer second.Close()
	if _, err := s.dialer("ann").DialContext(t.Context(), "tcp", dest); !errors.Is(err, wire.GeneralFailure) {
		t.Errorf("a third session: %v", err)
	}
	open(t, s.dialer("bob"), dest).Close()
	first.Close()
	eventually(t, "room for another", func() bool {
		conn, err := s.dialer("ann").DialContext(t.Context(), "tcp", dest)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// An upstream dies under load, with two healthy ones left: no request fails.
func TestUpstreamDies(t *testing.T) {
	for _, pick := range []string{"failover", "round-robin", "random", "least-sessions", "lowest-latency", "sticky-destination"} {
		t.Run(pick, func(t *testing.T) {
			var members []*server
			var urls []string
			for range 3 {
				m := launch(t, 1, "-l", "127.0.0.1:0")
				members, urls = append(members, m), append(urls, "'socks5h://"+m.addr+"'")
			}
			s := startServer(t, "-c", configFile(t, fmt.Sprintf(
				"upstreams: {pool: {group: [%s], pick: %s, check: 1s}}\nproxy: pool\n", strings.Join(urls, ", "), pick)))
			dest := mirror(t, "127.0.0.1:0")
			var clients sync.WaitGroup
			var served atomic.Int64
			for range 8 {
				clients.Go(func() {
					for range 100 {
						conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest)
						if err != nil {
							t.Errorf("a request failed: %v", err)
							return
						}
						conn.Close()
						served.Add(1)
					}
				})
			}
			eventually(t, "some load", func() bool { return served.Load() > 100 })
			members[0].kill()
			clients.Wait()
			if n := served.Load(); n != 800 {
				t.Errorf("%d of 800 requests were served", n)
			}
			for _, m := range members[1:] {
				m.kill()
			}
		})
	}
}
