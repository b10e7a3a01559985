//go:build linux

package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/users"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// portIn is the port of an address, for rules.
func portIn(t testing.TB, addr string) uint16 {
	t.Helper()
	return addrOf(t, addr).Port
}

// named is an address by a name of its host.
func named(t testing.TB, name, addr string) string {
	t.Helper()
	return argyle.Addr{Name: name, Port: portIn(t, addr)}.String()
}

// sayer tells every client what it says, and ends the connection.
func sayer(t testing.TB, addr, text string) string {
	t.Helper()
	return serveTCP(t, addr, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, text) })
}

// said connects and returns all that comes.
func said(t testing.TB, d argyle.Dialer, dest string) string {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", dest)
	if err != nil {
		t.Errorf("%s: %v", dest, err)
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("%s: %v", dest, err)
	}
	return string(text)
}

// refuses wants a server not to reach dest, by that reply.
func refuses(t testing.TB, d argyle.Dialer, dest string, want wire.Reply) {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", dest)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", dest, err, want)
	}
}

// A parent is argyle serve behind the one that is tested.
type parent struct {
	*server
	ca string // file of its authority
}

// secret has every character that means something somewhere.
const secret = `p@s:s/w%41?hush hush#&+$x=`

// parentServer starts an upstream that wants a password, and knows a name.
func parentServer(t testing.TB) *parent {
	t.Helper()
	certFile, keyFile := certificate(t)
	path := configFile(t, fmt.Sprintf(`
listen: [{address: 127.0.0.1:0, name: parent}]
tls: {cert: %s, key: %s}
users: users
names: {hosts: {target.test: 127.0.0.1}}
rules: [{action: allow}]
`, certFile, keyFile))
	if err := users.Set(filepath.Join(filepath.Dir(path), "users"), user, secret); err != nil {
		t.Fatal(err)
	}
	return &parent{serveFile(t, 1, path, "-v"), certFile}
}

// Every scheme is a way out, with its login wherever that is written, and no
// secret is ever in a log.
func TestUpstreamSchemes(t *testing.T) {
	t.Parallel()
	up := parentServer(t)
	openUp := serveFile(t, 1, configFile(t, "listen: [127.0.0.1:0]\nnames: {hosts: {target.test: 127.0.0.1}}\n"))
	const here, there = "127.0.0.1", "target.test" // who looks the name up
	escaped := url.UserPassword(user, secret).String()
	ways := []struct {
		name string
		text string // UP, OPEN, CA and LOGIN stand for what they say
		at   *server
		user string
		seen string
	}{
		{"s4", "'socks4://OPEN'", openUp, "", here},
		{"s4a", "'socks4a://OPEN'", openUp, "", there},
		{"s5", "{chain: 'socks5://UP', user: ann, password: 'file:secret'}", up.server, user, here},
		{"s5h", "{chain: 'socks5h://UP', user: ann, password: '${FAR_PASSWORD}'}", up.server, user, there},
		{"bare", "{chain: 'UP', user: '${FAR_USER}', password: '${file:secret}'}", up.server, user, there},
		{"inURL", "'socks5h://LOGIN@UP'", up.server, user, there},
		{"byEnv", "'socks5h://ann:${FAR_PASSWORD}@UP'", up.server, user, there},
		{"byFile", "'socks5://${FAR_USER}:${file:secret}@UP'", up.server, user, here},
		{"whole", "'${FAR_URL}'", up.server, user, there},
		{"s5tls", "'socks5+tls://ann:${FAR_PASSWORD}@UP?ca=CA'", up.server, user, here},
		{"s5htls", "{chain: 'socks5h+tls://UP?ca=CA', user: ann, password: 'file:secret'}", up.server, user, there},
		{"http", "'http://ann:${FAR_PASSWORD}@UP'", up.server, user, there},
		{"http2", "{chain: 'http://UP', user: ann, password: 'file:secret'}", up.server, user, there},
		{"https", "'https://ann:${file:secret}@UP?ca=CA'", up.server, user, there},
		{"https2", "{chain: ['direct', 'https://UP?ca=CA'], user: ann, password: 'file:secret'}", up.server, user, there},
		{"dir", "'direct://'", nil, "", here},
		{"dir2", "{direct: {}}", nil, "", here},
	}
	values := strings.NewReplacer("UP", up.addr, "OPEN", openUp.addr, "CA", up.ca, "LOGIN", escaped)
	text := "names: {hosts: {target.test: 127.0.0.1}}\nupstreams:\n"
	rules := "rules:\n"
	dests := make([]string, len(ways))
	for i, way := range ways {
		dests[i] = mirror(t, "127.0.0.1:0")
		text += fmt.Sprintf("  %s: %s\n", way.name, values.Replace(way.text))
		rules += fmt.Sprintf("  - {port: %d, via: %s}\n", portIn(t, dests[i]), way.name)
	}
	wrong := map[string]string{
		"wrong5":    "{chain: 'socks5h://UP', user: ann, password: 'file:wrong'}",
		"wrongHTTP": "'http://ann:${file:wrong}@UP'",
		"wrongTLS":  "{chain: 'https://UP', user: ann, password: 'file:secret'}", // its authority is not known
		"wrongPort": "'socks5h://ann:${FAR_PASSWORD}@" + closedPort(t) + "'",
	}
	wrongDests := make(map[string]string)
	for name, way := range wrong {
		wrongDests[name] = mirror(t, "127.0.0.1:0")
		text += fmt.Sprintf("  %s: %s\n", name, values.Replace(way))
		rules += fmt.Sprintf("  - {port: %d, via: %s}\n", portIn(t, wrongDests[name]), name)
	}
	path := configFile(t, "listen: [127.0.0.1:0]\n"+text+rules)
	rewrite(t, filepath.Join(filepath.Dir(path), "secret"), secret+"\n")
	rewrite(t, filepath.Join(filepath.Dir(path), "wrong"), secret+"?")
	cmd := program(t, "serve", "--log-format", "json", "-v", "-v", "-c", path)
	cmd.Env = append(cmd.Env, "FAR_USER="+user, "FAR_PASSWORD="+secret, "FAR_URL=socks5h://"+escaped+"@"+up.addr)
	s := await(t, start(t, cmd), 1)
	s.files = s.openFiles()
	t.Cleanup(func() { s.stop(t) })

	for i, way := range ways {
		dest := named(t, "target.test", dests[i])
		conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest)
		if err != nil {
			t.Errorf("%s: %v", way.name, err)
			continue
		}
		hello(t, conn)
		conn.Close()
		line := s.sessionBy(t, "dest", dest)
		wantLine(t, line, map[string]any{"route": way.name, "up": 8.0, "down": 8.0, "err": nil})
		if way.at != nil {
			seen := argyle.AddrFrom(netip.MustParseAddrPort(dests[i])).String()
			if way.seen == there {
				seen = dest
			}
			wantLine(t, way.at.sessionBy(t, "dest", seen), map[string]any{"user": way.user, "err": nil})
		}
	}
	for name, dest := range wrongDests {
		if conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest); err == nil {
			conn.Close()
			t.Errorf("%s is a way out", name)
		}
		if line := s.sessionBy(t, "dest", dest); line["err"] == nil || line["route"] != name {
			t.Errorf("%v", line)
		}
	}
	// Configurations that cannot be taken have secrets, too.
	for i, bad := range []string{
		"'socks5h://ann:${FAR_PASSWORD}@127.0.0.1:99999'",
		"'socks9://ann:${FAR_PASSWORD}@127.0.0.1'",
		"{chain: 'socks5h://UP?ca=x', user: ann, password: 'file:secret'}",
		"{chain: 'socks5h://ann:${FAR_PASSWORD}@UP', pass: 'file:secret'}",
		"{group: ['socks5h://ann:${FAR_PASSWORD}@UP', 'nowhere'], pick: '${FAR_PASSWORD}'}",
		"'socks5h://ann:${FAR_PASSWORD}'", // whose host was forgotten
		"{chain: 'UP', user: '" + strings.ReplaceAll(secret, "$", "$$") + "', password: ['file:secret', '${FAR_PASSWORD}']}",
	} {
		rewrite(t, path, "upstreams:\n  bad: "+values.Replace(bad)+"\nproxy: ['${FAR_URL}', bad]\n")
		s.signal(t, syscall.SIGHUP)
		eventually(t, "the refusal of "+bad, func() bool { return len(s.lines("kept the old configuration")) > i })
	}
	noSecrets(t, s, secret, "hush")
	noSecrets(t, up.server, secret, "hush")
}

// noSecrets looks for a secret, in all its dresses, and for a part of it, in all
// that a server has written.
func noSecrets(t testing.TB, s *server, secret, part string) {
	t.Helper()
	forms := []string{secret, part, url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("", secret).String()[1:]}
	for _, login := range []string{user + ":" + secret, user + ":" + secret + "?"} {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
			forms = append(forms, encoding.EncodeToString([]byte(login)))
		}
	}
	for line := range strings.Lines(s.stdout.String() + s.stderr.String()) {
		for _, form := range forms {
			if strings.Contains(line, form) {
				t.Errorf("%q is in %s", form, line)
			}
		}
	}
}

// User and password stand in place of those in the URL.
func TestUpstreamLoginInPlace(t *testing.T) {
	t.Parallel()
	up := parentServer(t)
	path := configFile(t, fmt.Sprintf(`
proxy: far
upstreams: {far: {chain: 'socks5h://eve:old@%s', user: ann, password: 'file:secret'}}
`, up.addr))
	rewrite(t, filepath.Join(filepath.Dir(path), "secret"), secret)
	dest := mirror(t, "127.0.0.1:0")
	c := start(t, program(t, "check", "-c", path))
	if code := c.wait(t); code != 0 {
		t.Fatalf("%d %s", code, c.stderr.String())
	}
	s := startServer(t, "-c", path)
	open(t, s.dialer(""), dest).Close()
	wantLine(t, up.sessionBy(t, "dest", dest), map[string]any{"user": user})
}

// Files in the URLs of proxies are relative to the configuration, as others.
func TestUpstreamFiles(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate(t)
	up := startServer(t, "--tls-cert", certFile, "--tls-key", keyFile)
	path := configFile(t, fmt.Sprintf("proxy: 'socks5h+tls://%s?ca=ca.pem'\n", up.addr))
	rewrite(t, filepath.Join(filepath.Dir(path), "ca.pem"), contents(t, certFile))
	c := start(t, program(t, "check", "-c", path)) // which runs in another folder
	if code := c.wait(t); code != 0 {
		t.Errorf("check ends with %d: %s", code, c.stderr.String())
	}
}

// A secret that is another after a reload is used for the next connections.
func TestUpstreamNewSecret(t *testing.T) {
	t.Parallel()
	up := parentServer(t)
	path := configFile(t, fmt.Sprintf(`
proxy: far
upstreams: {far: {chain: 'socks5h://%s', user: ann, password: 'file:secret'}}
`, up.addr))
	file := filepath.Join(filepath.Dir(path), "secret")
	rewrite(t, file, "old")
	s := startServer(t, "-c", path)
	dest := mirror(t, "127.0.0.1:0")
	if conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest); err == nil {
		conn.Close()
		t.Error("a wrong password is right")
	}
	rewrite(t, file, secret)
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	open(t, s.dialer(""), dest).Close()
}

// So is a certificate's authority that is another one.
func TestUpstreamNewFiles(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate(t)
	other, _ := certificate(t)
	up := startServer(t, "--tls-cert", certFile, "--tls-key", keyFile)
	file := copyOf(t, other)
	s := startServer(t, "-c", configFile(t, fmt.Sprintf("proxy: 'socks5h+tls://%s?ca=%s'\n", up.addr, file)))
	dest := mirror(t, "127.0.0.1:0")
	if conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest); err == nil {
		conn.Close()
		t.Error("the wrong authority is right")
	}
	rewrite(t, file, contents(t, certFile))
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	open(t, s.dialer(""), dest).Close()
}

// ssh:// goes out through OpenSSH's server, alone and as a part of chains, and
// only to the one that is known.
func TestUpstreamSSH(t *testing.T) {
	t.Parallel()
	box, stranger := startSSHD(t), startSSHD(t)
	near, far := startServer(t), startServer(t)
	dest := map[string]string{}
	rules := ""
	for _, name := range []string{"box", "other", "before", "behind", "unknown"} {
		dest[name] = mirror(t, "127.0.0.1:0")
		rules += fmt.Sprintf("  - {port: %d, via: %s}\n", portIn(t, dest[name]), name)
	}
	at := net.JoinHostPort(box.host, box.port)
	path := configFile(t, fmt.Sprintf(`
listen: [127.0.0.1:0]
names: {hosts: {localhost.test: 127.0.0.9}}
upstreams:
  box: "ssh://%[1]s?identity=%[2]s&known_hosts=%[3]s"
  other: {chain: "ssh://%[1]s?known_hosts=%[3]s&identity=%[2]s", user: "${USER}"}
  before: [box, "socks5h://%[4]s"]
  behind: ["http://%[5]s", box]
  unknown: "ssh://%[6]s?identity=%[2]s&known_hosts=%[3]s"
rules:
%[7]s`, at, box.key, box.knownHosts, far.addr, near.addr, net.JoinHostPort(stranger.host, stranger.port), rules))
	cmd := program(t, "serve", "--log-format", "json", "-v", "-c", path)
	cmd.Env = append(cmd.Env, "USER="+strings.TrimSpace(mustRun(t, command(t, peer(t, "id"), "-un"))))
	s := await(t, start(t, cmd), 1)
	up, _ := payload()
	for _, name := range []string{"box", "other", "before", "behind"} {
		conn, err := s.dialer("").DialContext(t.Context(), "tcp", named(t, "localhost", dest[name]))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		exchange(t, conn, up[:1<<20])
		conn.Close()
		wantLine(t, s.sessionBy(t, "dest", named(t, "localhost", dest[name])), map[string]any{"route": name, "err": nil})
	}
	far.sessionTo(t, named(t, "localhost", dest["before"]))
	if conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest["unknown"]); err == nil {
		conn.Close()
		t.Error("an unknown host key is taken")
	}
	if line := s.sessionBy(t, "dest", dest["unknown"]); !strings.Contains(fmt.Sprint(line["err"]), "key") {
		t.Errorf("%v", line)
	}
	s.end(t) // with its connections to sshd
	near.sessionTo(t, at)
}

// Chains are made of URLs and names, of chains too, in order.
func TestChainNames(t *testing.T) {
	t.Parallel()
	login := parentServer(t)
	first, last := startServer(t), startServer(t)
	path := configFile(t, fmt.Sprintf(`
names: {hosts: {target.test: 127.0.0.1}}
upstreams:
  first: http://%s
  login: {chain: 'socks5h://%s', user: ann, password: 'file:secret'}
  both: [first, login]
  all: [direct, both, 'socks4a://%s']
proxy: all
`, first.addr, login.addr, last.addr))
	rewrite(t, filepath.Join(filepath.Dir(path), "secret"), secret)
	s := startServer(t, "-c", path)
	target := mirror(t, "127.0.0.1:0")
	dest := named(t, "localhost", target)
	up, _ := payload()
	conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, conn, up[:1<<20])
	conn.Close()
	first.sessionTo(t, login.addr)
	wantLine(t, login.sessionBy(t, "dest", last.addr), map[string]any{"user": user})
	last.sessionTo(t, dest)
}

// Whom a chain goes through is no destination: rules, and the protection of
// private addresses, are about where its client wants to go, also where the
// chain begins with a way out of this host, or looks the next proxy up.
func TestChainIsNoDestination(t *testing.T) {
	t.Parallel()
	near := startServer(t)
	far := startServer(t, "-c", configFile(t, "names: {hosts: {public.test: 127.0.0.9}}\n"))
	chains := []struct{ name, chain string }{
		{"named", "[near, far]"},
		{"address", "[here, far]"},
		{"group", "[pool, far]"},
		{"lookup", "['socks5://" + near.addr + "', 'socks5h://" + named(t, "far.test", far.addr) + "']"},
		{"after", "[here, 'socks5h://" + named(t, "far.test", far.addr) + "']"},
		{"lively", "{chain: ['socks5://" + near.addr + "', 'socks5h://" + named(t, "far.test", far.addr) + "'], mode: dynamic}"},
	}
	text := fmt.Sprintf(`
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.1}]
names: {hosts: {far.test: 127.0.0.1}}
upstreams:
  near: socks5h://%s
  far: socks5h://%s
  here: {direct: {address: 127.0.0.5}}
  pool: {group: [here]}
`, near.addr, far.addr)
	ports, networks := "rules:\n", ""
	byPort, byNetwork := make([]string, len(chains)), make([]string, len(chains))
	for i, c := range chains {
		byPort[i], byNetwork[i] = mirror(t, "127.0.0.9:0"), mirror(t, fmt.Sprintf("127.0.0.%d:0", 11+i))
		text += fmt.Sprintf("  %s: %s\n", c.name, c.chain)
		ports += fmt.Sprintf("  - {port: %d, via: %s}\n", portIn(t, byPort[i]), c.name)
		networks += fmt.Sprintf("  - {to: 127.0.0.%d, via: %s}\n", 11+i, c.name)
	}
	s := serveFile(t, 1, configFile(t, text+ports+networks))
	through := func(client string) *socks.Dialer {
		return &socks.Dialer{Addr: s.addr, Forward: &balancer{header: proxyHeader(t, 2, client)}}
	}
	for i, c := range chains {
		for _, try := range []struct{ client, dest string }{
			{"127.0.0.1:1", byPort[i]},
			{"127.0.0.1:2", byNetwork[i]},
			{"192.0.2.7:3", named(t, "public.test", byPort[i])}, // the far proxy looks it up
		} {
			conn, err := through(try.client).DialContext(t.Context(), "tcp", try.dest)
			if err != nil {
				t.Errorf("%s, from %s to %s: %v", c.name, try.client, try.dest, err)
				continue
			}
			hello(t, conn)
			conn.Close()
			far.sessionTo(t, try.dest)
		}
		refuses(t, through("192.0.2.7:4"), byNetwork[i][:len("127.0.0.1")]+":1", wire.NotAllowed)
	}
}

// The name of an upstream may be any word of the configuration.
func TestUpstreamNames(t *testing.T) {
	t.Parallel()
	up := startServer(t)
	dest := mirror(t, "127.0.0.1:0")
	for name, text := range map[string]string{
		"random":      "{chain: 'socks5h://%s', mode: random}",
		"round-robin": "{group: ['socks5h://%s'], pick: round-robin}",
		"ann":         "{chain: 'http://%s', user: ann, password: hush}",
		"1s":          "{group: ['socks5h://%s'], check: 1s}",
	} {
		path := configFile(t, "upstreams:\n  '"+name+"': "+fmt.Sprintf(text, up.addr)+"\nproxy: '"+name+"'\n")
		c := start(t, program(t, "check", "-c", path))
		if code := c.wait(t); code != 0 {
			t.Errorf("an upstream called %s: check ends with %d, %.100s", name, code, c.stderr.String())
			continue
		}
		s := startServer(t, "-c", path)
		open(t, s.dialer(""), dest).Close()
		wantLine(t, s.sessionBy(t, "dest", dest), map[string]any{"err": nil})
	}
}

// counts says how many sessions to a destination each member has had, once all
// that are wanted have ended.
func counts(t testing.TB, members []*server, dest string, want int) (each []int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d sessions to %s", want, dest), func() bool {
		total := 0
		each = each[:0]
		for _, m := range members {
			n := m.sessions(dest)
			each = append(each, n)
			total += n
		}
		return total >= want
	})
	return each
}

// The members of a group are chosen as it says.
func TestGroupPicks(t *testing.T) {
	t.Parallel()
	var members []*server
	var urls []string
	for range 3 {
		m := startServer(t)
		members, urls = append(members, m), append(urls, "'socks5h://"+m.addr+"'")
	}
	all := strings.Join(urls, ", ")
	picks := []string{"failover", "round-robin", "random", "sticky-user", "sticky-destination"}
	dests := make(map[string]string)
	upstreams, rules := "", ""
	for _, pick := range picks {
		dests[pick] = mirror(t, "127.0.0.1:0")
		upstreams += fmt.Sprintf("  by-%s: {group: [%s], pick: %[1]s}\n", pick, all)
		rules += fmt.Sprintf("  - {port: %d, via: by-%s}\n", portIn(t, dests[pick]), pick)
	}
	names := []string{"ann", "bob", "eve"}
	sticky := make(map[string]string) // a destination of each user's own
	for _, name := range names {
		sticky[name] = mirror(t, "127.0.0.1:0")
		rules += fmt.Sprintf("  - {port: %d, user: %s, via: by-sticky-user}\n", portIn(t, sticky[name]), name)
	}
	s := startServer(t, "-c", configFile(t, "users: users\nupstreams:\n"+upstreams+"rules:\n"+rules, names...))

	const requests = 6
	for pick, dest := range dests {
		for range requests {
			open(t, s.dialer("ann"), dest).Close()
		}
		each := counts(t, members, dest, requests)
		slices.Sort(each)
		ok := slices.Equal(each, []int{0, 0, requests})
		switch pick {
		case "round-robin":
			ok = slices.Equal(each, []int{2, 2, 2})
		case "random":
			ok = true // it may be anything
		case "failover":
			ok = ok && members[0].sessions(dest) == requests
		}
		if !ok {
			t.Errorf("%s: %v", pick, each)
		}
	}
	// Two users may have the same member, but none has two.
	for name, dest := range sticky {
		for range 3 {
			open(t, s.dialer(name), dest).Close()
		}
		each := counts(t, members, dest, 3)
		slices.Sort(each)
		if !slices.Equal(each, []int{0, 0, 3}) {
			t.Errorf("%s is sent by %v", name, each)
		}
	}
	for _, line := range s.lines("session") {
		if route := fmt.Sprint(line["route"]); !strings.Contains(route, "socks5h://127.0.0.1:") {
			t.Errorf("the log does not name the member: %v", line)
		}
	}
}

// A group by failover leaves a member that has died, and comes back to it.
func TestGroupFailover(t *testing.T) {
	t.Parallel()
	first, second := launch(t, 1, "-l", "127.85.1.1:0"), startServer(t) // a port that nobody takes meanwhile
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
upstreams: {pool: {group: ['socks5h://%s', 'socks5h://%s'], check: {every: 200ms}}}
proxy: pool
`, first.addr, second.addr)))
	dest := mirror(t, "127.0.0.1:0")
	open(t, s.dialer(""), dest).Close()
	first.sessionTo(t, dest)
	first.kill()
	open(t, s.dialer(""), dest).Close()
	second.sessionTo(t, dest)
	if line := s.waitLog(t, "upstream is down", 1); line["group"] != "pool" || !strings.Contains(fmt.Sprint(line["upstream"]), first.addr) {
		t.Errorf("%v", line)
	}
	again := launch(t, 1, "-l", first.addr)
	s.waitLog(t, "upstream is up", 1)
	open(t, s.dialer(""), dest).Close()
	again.sessionTo(t, dest)
	again.kill()
}

// A dynamic chain leaves out what is dead, a strict one tells of it, and a
// random one draws as many as it should.
func TestChainModes(t *testing.T) {
	t.Parallel()
	one, two := startServer(t), startServer(t)
	dead := closedPort(t)
	ways := []string{"lively", "exact", "dead-first", "drawn", "all-dead"}
	dests := make(map[string]string)
	rules := ""
	for _, name := range ways {
		dests[name] = mirror(t, "127.0.0.1:0")
		rules += fmt.Sprintf("  - {port: %d, via: %s}\n", portIn(t, dests[name]), name)
	}
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
upstreams:
  one: socks5h://%s
  two: http://%s
  dead: socks5h://%s
  lively: {chain: [one, dead, two], mode: dynamic}
  exact: {chain: [one, dead, two], mode: strict}
  dead-first: [dead, one]
  drawn: {chain: [one, two], mode: random, length: 1}
  all-dead: {chain: [dead], mode: dynamic}
rules:
%s`, one.addr, two.addr, dead, rules)))
	for range 3 {
		open(t, s.dialer(""), dests["lively"]).Close()
	}
	if n := counts(t, []*server{two}, dests["lively"], 3)[0]; n != 3 {
		t.Errorf("%d of 3 came out of the last", n)
	}
	one.sessionTo(t, two.addr)
	if line := s.waitLog(t, "hop is down", 1); !strings.Contains(fmt.Sprint(line["hop"]), dead) {
		t.Errorf("%v", line)
	}
	refuses(t, s.dialer(""), dests["exact"], wire.ConnectionRefused) // what one says of dead
	refuses(t, s.dialer(""), dests["dead-first"], wire.ConnectionRefused)
	refuses(t, s.dialer(""), dests["all-dead"], wire.ConnectionRefused)
	if line := s.sessionBy(t, "dest", dests["exact"]); !strings.Contains(fmt.Sprint(line["err"]), one.addr) {
		t.Errorf("the log does not say who told so: %v", line)
	}
	for range 8 {
		open(t, s.dialer(""), dests["drawn"]).Close()
	}
	if each := counts(t, []*server{one, two}, dests["drawn"], 8); each[0]+each[1] != 8 {
		t.Errorf("%v", each)
	}
}

// packetTo sends a datagram and returns who answers.
func packetTo(t testing.TB, conn net.PacketConn, dest argyle.Addr) net.Addr {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteTo([]byte("hello"), dest); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := conn.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("%q came back from %v: %v", buf[:n], from, err)
	}
	return from
}

// UDP goes through the upstream of its rule. A name is the upstream's to look
// up, unless a rule about networks comes before: then it gets the address that
// was decided about.
func TestUDPUpstream(t *testing.T) {
	t.Parallel()
	// The two servers mean different hosts by the same name.
	here := udpEcho(t, "127.0.0.1:0")
	there := udpEcho(t, net.JoinHostPort("127.0.0.66", fmt.Sprint(portIn(t, here))))
	up := startServer(t, "-c", configFile(t, "names: {hosts: {echo.test: 127.0.0.66, first.test: 127.0.0.66}}\n"))
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
names: {hosts: {echo.test: 127.0.0.1, first.test: 127.0.0.1, inner.test: 10.1.2.3}}
upstreams: {up: 'socks5h://%s'}
rules:
  - {to: first.test, command: udp, via: up}
  - {to: 10.0.0.0/8, action: deny}
  - {command: udp, via: up}
`, up.addr)))
	conn, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	inner := argyle.Addr{Name: "inner.test", Port: 9}
	for range 2 {
		if _, err := conn.WriteTo([]byte("stray"), inner); err != nil {
			t.Fatal(err)
		}
	}
	port := portIn(t, here)
	for _, tt := range []struct {
		dest argyle.Addr
		want string
	}{
		{addrOf(t, here), here},
		{argyle.Addr{Name: "echo.test", Port: port}, here},
		{argyle.Addr{Name: "first.test", Port: port}, there},
		{argyle.Addr{Name: "echo.test", Port: port}, here},
	} {
		if got := packetTo(t, conn, tt.dest); got.String() != tt.want {
			t.Errorf("%v is %v, want %s", tt.dest, got, tt.want)
		}
	}
	conn.Close()
	line := s.sessionBy(t, "cmd", "udp")
	wantLine(t, line, map[string]any{"route": "up", "up": 20.0, "down": 20.0, "dropped": 2.0, "err": nil})
	wantLine(t, up.sessionBy(t, "cmd", "udp"), map[string]any{"route": "direct", "up": 20.0, "down": 20.0})
}

// So it is with connections.
func TestNamesAndNetworks(t *testing.T) {
	t.Parallel()
	dest := mirror(t, "127.0.0.1:0")
	up := startServer(t, "-c", configFile(t, "names: {hosts: {echo.test: 127.0.0.1, first.test: 127.0.0.1, inner.test: 127.0.0.1}}\n"))
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
names: {hosts: {echo.test: 127.0.0.1, first.test: 10.9.9.9, inner.test: 10.1.2.3, some.test: [10.1.2.3, 127.0.0.1]}}
upstreams: {up: 'socks5h://%s'}
rules:
  - {to: first.test, via: up}
  - {to: 10.0.0.0/8, action: deny}
  - {via: up}
`, up.addr)))
	for name, seen := range map[string]string{"first.test": named(t, "first.test", dest), "echo.test": dest, "some.test": dest} {
		before := up.sessions(seen)
		open(t, s.dialer(""), named(t, name, dest)).Close()
		eventually(t, name+" as "+seen, func() bool { return up.sessions(seen) == before+1 })
	}
	refuses(t, s.dialer(""), named(t, "inner.test", dest), wire.NotAllowed)
	refuses(t, s.dialer(""), named(t, "none.invalid", dest), wire.HostUnreachable)
}

// BIND waits at the upstream of its rule.
func TestBindUpstream(t *testing.T) {
	t.Parallel()
	up := startServer(t)
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
upstreams: {up: 'socks5h://%s'}
rules: [{command: bind, via: up, timeouts: {bind: 2s}}, {command: bind-reply, to: 127.0.0.3, action: deny}]
`, up.addr)))
	ln, err := s.dialer("").Listen(t.Context(), "tcp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	visitor := dialRaw(t, ln.Addr().String())
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != visitor.LocalAddr().String() {
		t.Errorf("the peer is %v, not %v", conn.RemoteAddr(), visitor.LocalAddr())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(visitor, visitor)
		visitor.Close()
	}()
	data, _ := payload()
	exchange(t, conn, data[:1<<20])
	conn.Close()
	<-done
	for _, server := range []*server{s, up} {
		line := server.sessionBy(t, "cmd", "bind")
		wantLine(t, line, map[string]any{"up": float64(1 << 20), "down": float64(1 << 20), "err": nil})
		if server == s && line["route"] != "up" {
			t.Errorf("%v", line)
		}
	}
	// A denied peer is sent away. The upstream waits for no other.
	if ln, err = s.dialer("").Listen(t.Context(), "tcp", "0.0.0.0:9"); err != nil {
		t.Fatal(err)
	}
	denied, err := from("127.0.0.3").DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer denied.Close()
	gone(t, denied)
	if conn, err := ln.Accept(); err == nil {
		t.Errorf("%v is let in", conn.RemoteAddr())
		conn.Close()
	}
	ln.Close()
	// The rules allow nothing but BIND.
	refuses(t, s.dialer(""), up.addr, wire.NotAllowed)
}

// A zoneServer is a DNS server on loopback, and what it has been asked.
type zoneServer struct {
	addr    string
	records map[string][]string // by name: addresses

	mu    sync.Mutex
	asked []string // "name type"
}

func startDNS(t testing.TB, records map[string][]string) *zoneServer {
	t.Helper()
	return startDNSAt(t, "127.0.0.1:0", records)
}

func startDNSAt(t testing.TB, addr string, records map[string][]string) *zoneServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	z := &zoneServer{addr: conn.LocalAddr().String(), records: records}
	started, ended := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{PacketConn: conn, Handler: z, NotifyStartedFunc: func() { close(started) }}
	go func() { ended <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return z
}

func (z *zoneServer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg).SetReply(query)
	question := query.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	z.mu.Lock()
	z.asked = append(z.asked, name+" "+dns.TypeToString[question.Qtype])
	z.mu.Unlock()
	addrs, found := z.records[name]
	if !found {
		answer.Rcode = dns.RcodeNameError
	}
	for _, text := range addrs {
		kind := dns.TypeA
		if strings.Contains(text, ":") {
			kind = dns.TypeAAAA
		}
		if kind != question.Qtype {
			continue
		}
		record, err := dns.NewRR(fmt.Sprintf("%s 60 IN %s %s", question.Name, dns.TypeToString[kind], text))
		if err == nil {
			answer.Answer = append(answer.Answer, record)
		}
	}
	_ = w.WriteMsg(answer)
}

// questions returns what has been asked.
func (z *zoneServer) questions() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.asked)
}

// Names are looked up where the configuration says, and what they mean is
// decided about.
func TestNames(t *testing.T) {
	t.Parallel()
	// One port at several addresses tells them apart.
	port := portIn(t, sayer(t, "127.0.0.1:0", "one"))
	for ip, text := range map[string]string{"127.0.0.7": "seven", "127.0.0.8": "eight", "::1": "six", "127.0.0.9": "nine"} {
		sayer(t, net.JoinHostPort(ip, fmt.Sprint(port)), text)
	}
	general := startDNS(t, map[string][]string{
		"web.example":         {"::1", "127.0.0.1"},
		"old.example":         {"127.0.0.1"},
		"corp.example":        {"127.0.0.9"},
		"notcorp.example":     {"127.0.0.1"},
		"bad.example":         {"127.0.0.9"},
		"part.example":        {"127.0.0.9", "127.0.0.1"},
		"six.example":         {"::1"},
		"printer.lan":         {"127.0.0.9"},
		"inner.deep.example":  {"127.0.0.9"},
		"hosts.inner.example": {"127.0.0.9"},
	})
	corp := startDNS(t, map[string][]string{"corp.example": {"127.0.0.8"}, "git.corp.example": {"127.0.0.8"}})
	deep := startDNS(t, map[string][]string{"x.deep.corp.example": {"127.0.0.1"}})
	path := configFile(t, fmt.Sprintf(`
listen: [127.0.0.1:0]
names:
  servers: ["udp://%s"]
  split: {corp.example: "%s", deep.corp.example: ["%s"]}
  hosts: {printer.lan: 127.0.0.7, Two.lan: ["::1", 127.0.0.7]}
  prefer: ipv4-only
rules:
  - {name: nine, to: 127.0.0.9, action: deny}
  - {action: allow}
`, general.addr, corp.addr, deep.addr))
	s := launch(t, 1, "-c", path)
	t.Cleanup(func() { s.end(t) })
	at := func(name string) string { return argyle.Addr{Name: name, Port: port}.String() }
	for name, want := range map[string]string{
		"web.example":         "one",
		"old.example":         "one",
		"notcorp.example":     "one",
		"part.example":        "one", // by the address that is allowed
		"corp.example":        "eight",
		"git.corp.example":    "eight",
		"GIT.Corp.Example":    "eight",
		"x.deep.corp.example": "one",
		"printer.lan":         "seven",
		"PRINTER.lan":         "seven",
		"two.lan":             "seven",
	} {
		if got := said(t, s.dialer(""), at(name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]wire.Reply{
		"bad.example":          wire.NotAllowed,
		"none.example":         wire.HostUnreachable,
		"other.corp.example":   wire.HostUnreachable, // nobody else is asked
		"y.deep.corp.example":  wire.HostUnreachable,
		"six.example":          wire.HostUnreachable, // it has no IPv4 address
		"127.0.0.9":            wire.NotAllowed,
		"::ffff:127.0.0.9":     wire.NotAllowed,
		"hosts.inner.example.": wire.NotAllowed,
	} {
		dest := at(name)
		if ip, err := netip.ParseAddr(name); err == nil {
			dest = argyle.Addr{IP: ip, Port: port}.String()
		}
		refuses(t, s.dialer(""), dest, want)
	}
	for _, question := range slices.Concat(general.questions(), corp.questions(), deep.questions()) {
		if strings.HasSuffix(question, "AAAA") {
			t.Errorf("asked for %s", question)
		}
	}
	for _, question := range general.questions() {
		if strings.Contains(question, ".corp.example") || strings.HasPrefix(question, "corp.example") || strings.Contains(question, ".lan") {
			t.Errorf("the general server was asked for %s", question)
		}
	}
	if got := corp.questions(); len(got) != 3 { // the answers are kept
		t.Errorf("%q", got)
	}
	if got := deep.questions(); len(got) != 2 {
		t.Errorf("%q", got)
	}

	// A reload puts another resolver in place.
	rewrite(t, path, strings.NewReplacer("ipv4-only", "ipv6", "printer.lan: 127.0.0.7", "printer.lan: 127.0.0.8").Replace(contents(t, path)))
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	for name, want := range map[string]string{"printer.lan": "eight", "web.example": "six", "six.example": "six", "old.example": "one", "two.lan": "six"} {
		if got := said(t, s.dialer(""), at(name)); got != want {
			t.Errorf("after the reload %s is %q, want %q", name, got, want)
		}
	}
}

// The time for the way to a destination has the look-up in it, also where rules
// want to know the address first.
func TestDialTimeoutLookup(t *testing.T) {
	t.Parallel()
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	for _, text := range []string{
		"{timeouts: {dial: 500ms}, rules: [{action: allow}]}",
		"{timeouts: {dial: 500ms}, rules: [{to: 10.0.0.0/8, action: deny}, {action: allow}]}",
		"{rules: [{action: allow, timeouts: {dial: 500ms}}]}",
		"{rules: [{to: 10.0.0.0/8, action: deny}, {action: allow, timeouts: {dial: 500ms}}]}",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			s := launch(t, 1, "-c", configFile(t, fmt.Sprintf("{listen: ['127.0.0.1:0'], names: {servers: %q}, %s", mute.LocalAddr(), text[1:])))
			t.Cleanup(func() { s.end(t) })
			began := time.Now()
			_, err := s.dialer("").DialContext(t.Context(), "tcp", "slow.example:80")
			if took := time.Since(began); !errors.Is(err, wire.TTLExpired) || took > 1500*time.Millisecond {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

// The system's search list makes no other name of the one that rules have let
// through. Names of the hosts file are found.
func TestNoSearchList(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	cover(t, "/etc/resolv.conf", "nameserver 127.0.0.1\nsearch hidden.example\n")
	z := startDNSAt(t, "127.0.0.1:53", map[string][]string{"secret.hidden.example": {outerAddr}})
	s := launch(t, 1, "-l", "127.0.0.1:0", "-c", configFile(t, "rules: [{to: .hidden.example, action: deny}, {action: allow}]\n"))
	_, port, _ := net.SplitHostPort(mirror(t, outerAddr+":0"))
	refuses(t, s.dialer(""), "secret:"+port, wire.HostUnreachable)
	open(t, s.dialer(""), outerName+":"+port).Close()
	_, port, _ = net.SplitHostPort(mirror(t, "127.0.0.1:0"))
	open(t, s.dialer(""), "localhost:"+port).Close()
	for _, question := range z.questions() {
		if strings.HasPrefix(question, "secret.hidden") {
			t.Errorf("%s was asked for", question)
		}
	}
	s.end(t)
}

// Sets are read again when their files change. One that is broken leaves the
// old, and the log says where it is.
func TestSetFiles(t *testing.T) {
	t.Parallel()
	path := configFile(t, `
names: {hosts: {a.test: 127.0.0.1, b.test: 127.0.0.1, www.b.test: 127.0.0.1, c.test: 127.0.0.1, nine.test: 127.0.0.9}}
sets:
  blocked: {entries: [never.test], file: lists/blocked.txt}
  office: {file: lists/office.txt}
rules:
  - {name: blocked, to: "set:blocked", action: deny}
  - {name: office, client: "set:office", action: allow}
`)
	lists := filepath.Join(filepath.Dir(path), "lists")
	mustRun(t, command(t, "/bin/mkdir", lists))
	blocked, office := filepath.Join(lists, "blocked.txt"), filepath.Join(lists, "office.txt")
	rewrite(t, blocked, "# what is blocked\na.test\n")
	rewrite(t, office, "192.0.2.0/24\n127.0.0.0/31\n")
	s := startServer(t, "-c", path)
	dest := mirror(t, "127.0.0.1:0")
	nine := mirror(t, "127.0.0.9:"+fmt.Sprint(portIn(t, dest)))
	another := &socks.Dialer{Addr: s.addr, Forward: from("127.0.0.2")}
	wants := func(d *socks.Dialer, denied string, allowed ...string) {
		t.Helper()
		for name := range strings.FieldsSeq(denied) {
			refuses(t, d, named(t, name, dest), wire.NotAllowed)
		}
		for _, name := range allowed {
			open(t, d, named(t, name, dest)).Close()
		}
	}
	took := 0
	change := func(path, text string) {
		t.Helper()
		took++
		rewrite(t, path, text)
		s.waitLog(t, "took the new sets", took)
	}
	wants(s.dialer(""), "a.test never.test", "b.test", "www.b.test", "c.test")
	refuses(t, another, named(t, "b.test", dest), wire.NotAllowed)

	change(blocked, ".b.test\n0.0.0.0 c.test # a hosts file\n127.0.0.9\n")
	wants(s.dialer(""), "b.test www.b.test c.test never.test nine.test", "a.test")
	refuses(t, s.dialer(""), nine, wire.NotAllowed)

	change(office, "127.0.0.2\n")
	wants(another, "b.test", "a.test")
	refuses(t, s.dialer(""), named(t, "a.test", dest), wire.NotAllowed)

	rewrite(t, blocked, "a.test\n\n  10.0.0.0/99 # no such network\n")
	line := s.waitLog(t, "kept the old sets", 1)
	if text := fmt.Sprint(line["err"]); !strings.Contains(text, blocked+":3:3: ") || line["level"] != "ERROR" {
		t.Errorf("%v", line)
	}
	wants(another, "b.test www.b.test c.test", "a.test")
	// A reload does not take it either.
	s.signal(t, syscall.SIGHUP)
	if line := s.waitLog(t, "kept the old configuration", 1); !strings.Contains(fmt.Sprint(line["err"]), blocked+":3:3: ") {
		t.Errorf("%v", line)
	}
	wants(another, "b.test www.b.test c.test", "a.test")
	change(blocked, "a.test\n")
	wants(another, "a.test", "b.test", "nine.test")
	if got := s.lines("kept the old sets"); len(got) != 1 {
		t.Errorf("the broken set is told of %d times", len(got))
	}
}

// sources is a server that tells its clients where they come from.
func sources(t testing.TB, addr string) string {
	t.Helper()
	return serveTCP(t, addr, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, argyle.AddrOf(conn.RemoteAddr()).IP.String())
	})
}

// A rule says from which addresses its connections come, whole prefixes that no
// interface has included, for each command.
func TestSource(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip := peer(t, "ip")
	for _, line := range []string{
		"address add 203.0.113.2/32 dev lo",
		"route add local 192.0.2.0/24 dev lo",
		"-6 address add 2001:db8::1/128 dev lo nodad", // or it could not be used yet
		"-6 route add local 2001:db8:1::/64 dev lo",
	} {
		mustRun(t, command(t, ip, strings.Fields(line)...))
	}
	whole, single, each, turn, marked, plain := sources(t, outerAddr+":0"), sources(t, outerAddr+":0"), sources(t, outerAddr+":0"),
		sources(t, outerAddr+":0"), sources(t, outerAddr+":0"), sources(t, outerAddr+":0")
	six := sources(t, "[2001:db8::1]:0")
	echo := udpEcho(t, outerAddr+":0")
	names := []string{"ann", "bob", "eve"}
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
users: users
upstreams:
  pool: {direct: {address: [192.0.2.0/25, "2001:db8:1::/64"], pick: user}}
  marked: {direct: {interface: lo, mark: 7}}
rules:
  - {port: %d, action: allow, source: [192.0.2.0/24, "2001:db8:1::/64"]}
  - {port: %d, action: allow, source: 203.0.113.2}
  - {port: %d, via: pool}
  - {port: %d, action: allow, source: {address: 192.0.2.8/30, pick: turn}}
  - {port: %d, via: marked}
  - {port: %d, action: allow, source: [192.0.2.0/24, "2001:db8:1::/64"]}
  - {command: udp, action: allow, source: 192.0.2.77}
  - {command: bind, action: allow, source: 203.0.113.2}
  - {action: allow}
`, portIn(t, whole), portIn(t, single), portIn(t, each), portIn(t, turn), portIn(t, marked), portIn(t, six)), names...))
	ann := s.dialer("ann")
	prefix := netip.MustParsePrefix("192.0.2.0/24")
	seen := make(map[string]bool)
	for range 8 {
		got := said(t, ann, whole)
		if addr, err := netip.ParseAddr(got); err != nil || !prefix.Contains(addr) {
			t.Errorf("of a prefix it comes from %q", got)
		}
		seen[got] = true
	}
	if len(seen) < 3 {
		t.Errorf("of a prefix: %v", slices.Collect(maps.Keys(seen)))
	}
	if got := said(t, ann, six); !netip.MustParsePrefix("2001:db8:1::/64").Contains(netip.MustParseAddr(got)) {
		t.Errorf("to IPv6 it comes from %q", got)
	}
	if got := said(t, ann, single); got != "203.0.113.2" {
		t.Errorf("it comes from %q", got)
	}
	if got := said(t, ann, plain); got != outerAddr {
		t.Errorf("without a source it comes from %q", got)
	}
	if got := said(t, ann, marked); got != outerAddr {
		t.Errorf("by an interface it comes from %q", got)
	}
	of := make(map[string]string)
	for range 3 {
		for _, name := range names {
			got := said(t, s.dialer(name), each)
			if of[name] == "" {
				of[name] = got
			}
			if got != of[name] || !netip.MustParsePrefix("192.0.2.0/25").Contains(netip.MustParseAddr(got)) {
				t.Errorf("%s comes from %q, before from %q", name, got, of[name])
			}
		}
	}
	if of["ann"] == of["bob"] && of["bob"] == of["eve"] {
		t.Errorf("all come from %s", of["ann"])
	}
	var turns []string
	for range 4 {
		turns = append(turns, said(t, ann, turn))
	}
	if turns[0] == turns[1] || turns[0] != turns[2] || turns[1] != turns[3] { // a /30 has two hosts
		t.Errorf("in turn: %q", turns)
	}

	conn, err := ann.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	packetTo(t, conn, addrOf(t, echo))
	ln, err := ann.Listen(t.Context(), "tcp", outerAddr+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := argyle.AddrOf(ln.Addr()).IP.String(); got != "203.0.113.2" {
		t.Errorf("BIND waits at %q", got)
	}
}

// The datagrams of a rule with a source come from there.
func TestSourceUDP(t *testing.T) {
	t.Parallel()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := startServer(t, "-c", configFile(t, `
rules:
  - {command: udp, port: 1-65534, action: allow, source: 127.0.0.77}
  - {action: allow}
`))
	conn, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteTo([]byte("hello"), addrOf(t, server.LocalAddr().String())); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(patience))
	_, mapping, err := server.ReadFrom(make([]byte, 100))
	if err != nil || argyle.AddrOf(mapping).IP.String() != "127.0.0.77" {
		t.Errorf("it comes from %v: %v", mapping, err)
	}
}

// Timeouts are those of the rule that allowed a session.
func TestRuleTimeouts(t *testing.T) {
	t.Parallel()
	quiet, other := mirror(t, "127.0.0.1:0"), mirror(t, "127.0.0.1:0")
	busy, general := spring(t), mirror(t, "127.0.0.1:0")
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
timeouts: {session: 2s}
rules:
  - {port: %d, action: allow, timeouts: {idle: 1s}}
  - {port: %d, action: allow, timeouts: {session: 1s}}
  - {port: %d, action: allow, timeouts: {session: off}}
  - {command: bind, action: allow, timeouts: {bind: 1s}}
  - {action: allow}
`, portIn(t, quiet), portIn(t, busy), portIn(t, other))))
	began := time.Now()
	other1, general1 := open(t, s.dialer(""), other), open(t, s.dialer(""), general)
	quiet1 := open(t, s.dialer(""), quiet)
	ln, err := s.dialer("").Listen(t.Context(), "tcp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	busy1, err := s.dialer("").DialContext(t.Context(), "tcp", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer busy1.Close()
	gone(t, busy1)
	if line := s.sessionBy(t, "dest", busy); !strings.Contains(fmt.Sprint(line["err"]), "lasted as long as it may") || line["dur"].(float64) < 0.9e9 {
		t.Errorf("%v", line)
	}
	gone(t, quiet1)
	if line := s.sessionBy(t, "dest", quiet); !strings.Contains(fmt.Sprint(line["err"]), "idle for too long") || line["dur"].(float64) < 0.9e9 {
		t.Errorf("%v", line)
	}
	if _, err := ln.Accept(); !errors.Is(err, wire.TTLExpired) {
		t.Errorf("BIND without a peer: %v", err)
	}
	if took := time.Since(began); took < time.Second || took > 4*time.Second {
		t.Errorf("a second took %v", took)
	}
	gone(t, general1)
	if line := s.sessionBy(t, "dest", general); !strings.Contains(fmt.Sprint(line["err"]), "lasted as long as it may") || line["dur"].(float64) < 1.9e9 {
		t.Errorf("%v", line)
	}
	hello(t, other1)
}

// A session that was refused is so in the log, however long its client stays
// for the answer.
func TestRefusedReason(t *testing.T) {
	t.Parallel()
	s := startServer(t, "-c", configFile(t, "rules: [{action: allow, timeouts: {session: 1s}}]\n"))
	dest := closedPort(t)
	if got := rep5(t, dialRaw(t, s.addr), argyle.Connect, addrOf(t, dest)); got != wire.ConnectionRefused {
		t.Errorf("%v", got)
	}
	if line := s.sessionBy(t, "dest", dest); !strings.Contains(fmt.Sprint(line["err"]), "refused") {
		t.Errorf("%v", line)
	}
}

// A rule says whether its sessions are in the log, and at which level.
func TestRuleLog(t *testing.T) {
	t.Parallel()
	levels := []string{"off", "debug", "info", "warn", "error"}
	allowed, denied := make(map[string]string), make(map[string]string)
	rules := ""
	for _, level := range levels {
		allowed[level], denied[level] = mirror(t, "127.0.0.1:0"), closedPort(t)
		rules += fmt.Sprintf("  - {port: %d, action: allow, log: %s}\n  - {port: %d, action: deny, log: %[2]s}\n",
			portIn(t, allowed[level]), level, portIn(t, denied[level]))
	}
	last := mirror(t, "127.0.0.1:0")
	path := configFile(t, "listen: [127.0.0.1:0]\nrules:\n"+rules+"  - {action: allow, log: error}\n")
	for _, flags := range []string{"", "-v", "-q"} {
		args := append([]string{"serve", "--log-format", "json", "-c", path}, strings.Fields(flags)...)
		cmd := program(t, args...)
		c := start(t, cmd)
		s := &server{child: c}
		if flags == "-q" { // it does not say where it listens
			eventually(t, "the server to listen", func() bool { s.addr = listeningAddr(cmd.Process.Pid); return s.addr != "" })
		} else {
			s = await(t, c, 1)
		}
		for _, level := range levels {
			open(t, s.dialer(""), allowed[level]).Close()
			refuses(t, s.dialer(""), denied[level], wire.NotAllowed)
		}
		open(t, s.dialer(""), last).Close()
		s.end(t) // with all sessions
		for _, level := range levels {
			want := map[string]bool{"debug": flags == "-v", "info": flags != "-q", "warn": true, "error": true}[level]
			for _, dest := range []string{allowed[level], denied[level]} {
				lines := slices.DeleteFunc(s.lines("session"), func(l map[string]any) bool { return l["dest"] != dest })
				if (len(lines) == 1) != want || want && lines[0]["level"] != strings.ToUpper(level) {
					t.Errorf("with %q and log: %s there is %v", flags, level, lines)
				}
			}
		}
	}
}

// The sessions of a rule count together against its limits, and those of a
// client against that of clients.
func TestRuleLimits(t *testing.T) {
	t.Parallel()
	paced, few, dest := mirror(t, "127.0.0.1:0"), mirror(t, "127.0.0.1:0"), mirror(t, "127.0.0.1:0")
	s := startServer(t, "-c", configFile(t, fmt.Sprintf(`
limits: {client: {sessions: 3}}
rules:
  - {name: paced, port: %d, action: allow, limits: {rate: 2/s}}
  - {name: few, port: %d, action: allow, limits: {sessions: 2}}
  - {action: allow}
`, portIn(t, paced), portIn(t, few))))
	// A third within the second; on a busy machine it may come too late.
	eventually(t, "three sessions in less than half a second", func() bool {
		began := time.Now()
		for range 2 {
			conn, err := s.dialer("").DialContext(t.Context(), "tcp", paced)
			if err != nil {
				return false // of the rate, nothing is left from the try before
			}
			conn.Close()
		}
		conn, err := s.dialer("").DialContext(t.Context(), "tcp", paced)
		if err == nil {
			conn.Close()
			if took := time.Since(began); took < 450*time.Millisecond {
				t.Errorf("a third after %v", took)
			}
			return false
		}
		if !errors.Is(err, wire.GeneralFailure) {
			t.Errorf("%v, want REP 1", err)
		}
		return true
	})
	eventually(t, "another second", func() bool {
		conn, err := s.dialer("").DialContext(t.Context(), "tcp", paced)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	eventually(t, "their ends", func() bool { return s.openFiles() <= s.files })

	another := &socks.Dialer{Addr: s.addr, Forward: from("127.0.0.2")}
	open(t, s.dialer(""), few)
	open(t, another, few)
	refuses(t, another, few, wire.GeneralFailure)
	refuses(t, s.dialer(""), few, wire.GeneralFailure)
	open(t, another, dest)
	open(t, another, dest)
	refuses(t, another, dest, wire.GeneralFailure)
	raw, err := another.Forward.DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if got := statusOf(t, raw, "CONNECT", dest, ""); got != 503 {
		t.Errorf("CONNECT: %d", got)
	}
	open(t, s.dialer(""), dest)
	for _, part := range []string{"rule paced wants more than 2 new sessions per 1s", "rule few has 2 sessions", "127.0.0.2 has 3 sessions"} {
		eventually(t, "a line that says "+part, func() bool {
			return slices.ContainsFunc(s.lines("session"), func(line map[string]any) bool {
				return line["err"] != nil && strings.Contains(fmt.Sprint(line["err"]), part)
			})
		})
	}
}

// What comes back is asked about, too: a datagram of a denied source does not
// arrive, and a denied peer of a BIND makes room for the next.
func TestReplyRules(t *testing.T) {
	t.Parallel()
	s := startServer(t, "-c", configFile(t, `
rules:
  - {command: udp-reply, to: 127.0.0.3, action: deny}
  - {command: bind-reply, to: [127.0.0.3, 127.0.0.5], port: 1024-65535, action: deny}
  - {action: allow}
`))
	var socks [3]net.PacketConn
	for i, ip := range []string{"127.0.0.1", "127.0.0.3", "127.0.0.4"} {
		conn, err := net.ListenPacket("udp", ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		socks[i] = conn
	}
	conn, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteTo([]byte("hello"), addrOf(t, socks[0].LocalAddr().String())); err != nil {
		t.Fatal(err)
	}
	_, mapping, err := socks[0].ReadFrom(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // decided about, and known
		for _, i := range []int{1, 2, 0} {
			if _, err := socks[i].WriteTo([]byte{byte(i)}, mapping); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []byte{2, 0} {
			b := make([]byte, 10)
			if n, from, err := conn.ReadFrom(b); err != nil || n != 1 || b[0] != want {
				t.Errorf("%d came from %v, want %d: %v", b[:n], from, want, err)
			}
		}
	}
	// Where it may be sent to, it may not answer from.
	if _, err := conn.WriteTo([]byte("ask"), addrOf(t, socks[1].LocalAddr().String())); err != nil {
		t.Fatal(err)
	}
	if _, mapping, err = socks[1].ReadFrom(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{1, 2} {
		if _, err := socks[i].WriteTo([]byte{byte(i)}, mapping); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 10)
	if n, from, err := conn.ReadFrom(b); err != nil || n != 1 || b[0] != 2 {
		t.Errorf("%d came from %v: %v", b[:n], from, err)
	}
	conn.Close()
	wantLine(t, s.sessionBy(t, "cmd", "udp"), map[string]any{"dropped": 3.0, "down": 5.0})

	ln, err := s.dialer("").Listen(t.Context(), "tcp", "0.0.0.0:9")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	at := ln.Addr().String()
	for _, ip := range []string{"127.0.0.3", "127.0.0.5"} {
		denied, err := from(ip).DialContext(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		gone(t, denied)
		denied.Close()
	}
	visitor, err := from("127.0.0.4").DialContext(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer visitor.Close()
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if peer.RemoteAddr().String() != visitor.LocalAddr().String() {
		t.Errorf("the peer is %v, want %v", peer.RemoteAddr(), visitor.LocalAddr())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(visitor, visitor)
	}()
	hello(t, peer)
	peer.Close()
	<-done
}

// What a limit has counted, it goes on counting after a reload, by whatever the
// limit is then.
func TestReloadLimits(t *testing.T) {
	t.Parallel()
	byRule, byUser := mirror(t, "127.0.0.1:0"), mirror(t, "127.0.0.1:0")
	text := func(n int, before string) string {
		return fmt.Sprintf(`
users: users
limits: {users: {ann: {sessions: %[1]d}}}
rules:
  %[4]s
  - {user: ann, port: %[3]d, action: allow}
  - {name: few, port: %[2]d, action: allow, limits: {sessions: %[1]d}}
`, n, portIn(t, byRule), portIn(t, byUser), before)
	}
	path := configFile(t, text(2, ""), "ann", "bob")
	s := startServer(t, "-c", path)
	reload := func(n int, before string) {
		t.Helper()
		rewrite(t, path, text(n, before))
		taken := len(s.lines("took the new configuration"))
		s.signal(t, syscall.SIGHUP)
		s.waitLog(t, "took the new configuration", taken+1)
	}
	for _, tt := range []struct{ user, dest string }{{"ann", byUser}, {"bob", byRule}} {
		d := s.dialer(tt.user)
		conns := []net.Conn{open(t, d, tt.dest), open(t, d, tt.dest)}
		refuses(t, d, tt.dest, wire.GeneralFailure)
		reload(2, "- {port: 1, action: deny}") // the rule is another one by its number
		refuses(t, d, tt.dest, wire.GeneralFailure)
		reload(3, "")
		conns = append(conns, open(t, d, tt.dest))
		refuses(t, d, tt.dest, wire.GeneralFailure)
		reload(1, "")
		for range 3 {
			refuses(t, d, tt.dest, wire.GeneralFailure)
			hello(t, conns[0]) // those who are too many stay
			hello(t, conns[len(conns)-1])
			if len(conns) > 1 {
				before := s.sessions(tt.dest)
				conns[0].Close()
				conns = conns[1:]
				eventually(t, "its end", func() bool { return s.sessions(tt.dest) > before })
			}
		}
		before := s.sessions(tt.dest)
		conns[0].Close()
		eventually(t, "the last one's end", func() bool { return s.sessions(tt.dest) > before })
		open(t, d, tt.dest).Close()
		reload(2, "")
	}
}

// An association counts once against the limit of its rule, also after a reload.
func TestReloadLimitsUDP(t *testing.T) {
	t.Parallel()
	const text = "rules: [{name: few, command: udp, action: allow, limits: {sessions: 1}}, {action: deny, port: %d}]\n"
	path := configFile(t, fmt.Sprintf(text, 1))
	s := startServer(t, "-c", path)
	conn, err := s.dialer("").ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	helloPacket(t, conn, addrOf(t, udpEcho(t, "127.0.0.1:0")))
	rewrite(t, path, fmt.Sprintf(text, 2))
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	helloPacket(t, conn, addrOf(t, udpEcho(t, "127.0.0.1:0")))
}

// A configuration that is not taken changes no limit either.
func TestReloadRefusedLimits(t *testing.T) {
	t.Parallel()
	const text = "rules: [{name: few, action: allow, limits: {sessions: %d}}]\n%s"
	path := configFile(t, fmt.Sprintf(text, 2, ""))
	s := startServer(t, "-c", path)
	dest := mirror(t, "127.0.0.1:0")
	first, second := open(t, s.dialer(""), dest), open(t, s.dialer(""), dest)
	refuses(t, s.dialer(""), dest, wire.GeneralFailure)
	for i, n := range []int{5, 1} {
		rewrite(t, path, fmt.Sprintf(text, n, "tests: [{connect: 'a.example:1', expect: deny}]\n"))
		kept := len(s.lines("kept the old configuration"))
		s.signal(t, syscall.SIGHUP)
		s.waitLog(t, "kept the old configuration", kept+1)
		if i == 0 {
			refuses(t, s.dialer(""), dest, wire.GeneralFailure)
			continue
		}
		first.Close()
		eventually(t, "room for another", func() bool {
			conn, err := s.dialer("").DialContext(t.Context(), "tcp", dest)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	hello(t, second)
	if taken := s.lines("took the new configuration"); taken != nil {
		t.Errorf("%v", taken)
	}
}
