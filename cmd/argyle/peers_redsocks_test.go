//go:build linux

package main

import (
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// redsocks is a gateway's: it takes the connections of the network behind it, which here is one more namespace.
//
//	curl eth0 10.85.0.2 ── inside 10.85.0.1 ── nft redirect ── redsocks ── argyle ── 203.0.113.1
func TestRedsocks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	client := networkBehind(t)
	for _, test := range []struct {
		name     string
		flags    []string
		settings string
		user     string
	}{
		{"socks5", nil, `type = socks5;`, ""},
		{"socks5 user", []string{"--users", usersFile(t)}, fmt.Sprintf(`type = socks5; login = "%s"; password = "%s";`, user, password), user},
		{"socks4", nil, `type = socks4;`, ""},
		{"http-connect", nil, `type = http-connect;`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t, test.flags...)
			redirect(t, redsocks(t, s, test.settings))
			dest := website(t, outerAddr+":0")
			if got := mustRun(t, client("curl", "--silent", "--show-error", "http://"+dest+"/")); got != page {
				t.Errorf("curl got %q", got)
			}
			if line := s.sessionTo(t, dest); line.User != test.user {
				t.Errorf("the session's user is %q", line.User)
			}
		})
	}
}

// redsocks returns the port that it takes redirected connections on.
func redsocks(t *testing.T, s *server, settings string) (port string) {
	t.Helper()
	config := writeFile(t, "redsocks.conf", fmt.Sprintf(`
base { log_info = on; log = "stderr"; daemon = off; redirector = iptables; }
redsocks { local_ip = 0.0.0.0; local_port = 12345; ip = 127.0.0.1; port = %s; %s }
`, s.port(), settings))
	_, port, _ = net.SplitHostPort(startListening(t, command(t, peer(t, "redsocks"), "-c", config)))
	return port
}

// redirect sends what comes from the network behind to a port of ours, until the test ends.
func redirect(t *testing.T, port string) {
	t.Helper()
	nft := peer(t, "nft")
	mustRun(t, command(t, nft, "-f", writeFile(t, "rules", `
table ip argyle {
	chain prerouting {
		type nat hook prerouting priority dstnat
		iifname inside meta l4proto tcp redirect to :`+port+`
	}
}
`)))
	t.Cleanup(func() { mustRun(t, command(t, nft, "delete table ip argyle")) })
}

// networkBehind makes a network namespace whose only way out is through this one, and returns what prepares a program in it.
func networkBehind(t *testing.T) (client func(words ...string) *exec.Cmd) {
	t.Helper()
	n := newNetwork(t, "inside", 0)
	return func(words ...string) *exec.Cmd { return n.command(t, words...) }
}

// A network is one behind ours: there, ours is 10.85.NUMBER.1 and fd00:85:NUMBER::1, and the way to everything.
type network struct {
	link string // to it, here
	pid  string // of a process in it
}

// newNetwork makes a network that is reached by a link.
func newNetwork(t *testing.T, link string, number int) *network {
	t.Helper()
	ip := peer(t, "ip")
	holder := start(t, command(t, peer(t, "unshare"), "--net", "sleep", "infinity"))
	n := &network{link, strconv.Itoa(holder.cmd.Process.Pid)}
	eventually(t, "the namespace behind", func() bool { return netnsOf(t, n.pid) != netnsOf(t, "self") })
	words := func(line string) []string {
		return strings.Fields(strings.NewReplacer("LINK", link, "NUMBER", strconv.Itoa(number), "PID", n.pid).Replace(line))
	}
	for _, line := range []string{
		"link add LINK type veth peer name eth0 netns PID",
		"address add 10.85.NUMBER.1/24 broadcast + dev LINK",
		"address add fd00:85:NUMBER::1/64 dev LINK nodad",
		"address add fe80::1/64 dev LINK nodad",
		"link set LINK up",
	} {
		mustRun(t, command(t, ip, words(line)...))
	}
	for _, line := range []string{
		"link set lo up",
		"address add 10.85.NUMBER.2/24 broadcast + dev eth0",
		"address add fd00:85:NUMBER::2/64 dev eth0 nodad",
		"link set eth0 up",
		"route add default via 10.85.NUMBER.1",
		"route add default via fd00:85:NUMBER::1",
	} {
		mustRun(t, n.command(t, append([]string{ip}, words(line)...)...))
	}
	return n
}

// command prepares a program in the network.
func (n *network) command(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	if !strings.Contains(words[0], "/") {
		words[0] = peer(t, words[0])
	}
	return command(t, peer(t, "nsenter"), append([]string{"--net", "--target", n.pid}, words...)...)
}
