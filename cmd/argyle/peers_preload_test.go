//go:build linux

package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A wrapper runs a program with a library between it and the system's sockets. All of them go around the proxy for what they
// take for the local network, so the destination is the namespace's address that is not loopback's.
type wrapper struct {
	name    string
	program string
	env     string // the variable that names the configuration
	config  string // HOST and PORT stand for the proxy's
	more    []string
}

var (
	tsocks = wrapper{"tsocks", "tsocks", "TSOCKS_CONF_FILE", `
server = HOST
server_port = PORT
server_type = 5
`, nil}
	tsocks4 = wrapper{"tsocks socks4", "tsocks", "TSOCKS_CONF_FILE", `
server = HOST
server_port = PORT
server_type = 4
`, nil}
	torsocks = wrapper{"torsocks", "torsocks", "TORSOCKS_CONF_FILE", `
TorAddress HOST
TorPort PORT
OnionAddrRange 127.42.42.0/24
`, nil}
	proxychains = wrapper{"proxychains strict", "proxychains4", "PROXYCHAINS_CONF_FILE", `
strict_chain
proxy_dns
[ProxyList]
socks5 HOST PORT
`, nil}
	proxychains4 = wrapper{"proxychains strict socks4", "proxychains4", "PROXYCHAINS_CONF_FILE", `
strict_chain
proxy_dns
[ProxyList]
socks4 HOST PORT
`, nil}
	proxychainsDynamic = wrapper{"proxychains dynamic, one dead", "proxychains4", "PROXYCHAINS_CONF_FILE", `
dynamic_chain
proxy_dns
[ProxyList]
socks5 127.0.0.1 9
socks5 HOST PORT
`, nil}
	// Dante also adds direct routes for its interfaces, and falls back to them when the proxy does not answer.
	dante = wrapper{"socksify", "socksify", "SOCKS_CONF", `
resolveprotocol: fake
route {
	from: 0.0.0.0/0 to: 0.0.0.0/0 via: HOST port = PORT
	proxyprotocol: socks_v5
	command: connect bind udpassociate
	method: none
}
`, []string{"SOCKS_AUTOADD_LANROUTES=no", "SOCKS_DIRECTROUTE_FALLBACK=no"}}
	dante4 = wrapper{"socksify socks4", "socksify", "SOCKS_CONF",
		strings.ReplaceAll(strings.ReplaceAll(dante.config, "socks_v5", "socks_v4"), " udpassociate", ""), dante.more}
)

// command prepares a program inside the wrapper.
func (w wrapper) command(t testing.TB, s *server, words ...string) *exec.Cmd {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.addr)
	config := writeFile(t, "wrapper.conf", strings.NewReplacer("HOST", host, "PORT", port).Replace(w.config))
	cmd := command(t, peer(t, w.program), append([]string{peer(t, words[0])}, words[1:]...)...)
	cmd.Env = append(append(cmd.Env, w.env+"="+config), w.more...)
	return cmd
}

func TestPreloaded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := startServer(t)
	site := website(t, outerAddr+":0")
	_, port, _ := net.SplitHostPort(site)
	named := net.JoinHostPort(outerName, port)
	first := startServer(t)
	chain := proxychains
	chain.name = "proxychains strict, two servers"
	chain.config = strings.Replace(chain.config, "socks5", "http 127.0.0.1 "+first.port()+"\nsocks5", 1)

	for _, test := range []struct {
		wrapper wrapper
		dest    string
	}{
		{tsocks, site},
		{tsocks4, site},
		{torsocks, site},    // for a name it would use Tor's own command, RESOLVE
		{proxychains, site}, // it reads /etc/hosts itself
		{proxychains4, site},
		{proxychainsDynamic, site},
		{chain, site},
		{dante, named},
		{dante4, site},
	} {
		t.Run(test.wrapper.name, func(t *testing.T) {
			before := s.sessions(test.dest)
			got := mustRun(t, test.wrapper.command(t, s, "curl", "--silent", "--show-error", "http://"+test.dest+"/"))
			if !strings.Contains(got, page) {
				t.Errorf("curl got %q", got)
			}
			eventually(t, "another session in the server's log", func() bool { return s.sessions(test.dest) > before })
		})
	}
	first.sessionTo(t, s.addr)
}

// A file is fetched and another stored, each over a connection that the FTP server makes to the address that BIND returned.
func TestActiveFTP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := startServer(t)
	for _, wrapper := range []wrapper{dante, dante4} {
		t.Run(wrapper.name, func(t *testing.T) {
			addr, folder := ftpServer(t)
			data := randomBytes(300_000)
			if err := os.WriteFile(filepath.Join(folder, "there"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := wrapper.command(t, s, "lftp", "-c", strings.Join([]string{
				"set ftp:passive-mode off", "set net:max-retries 1", "set net:timeout 10",
				"open ftp://" + addr, "get there", "put there -o back",
			}, "; "))
			mustRun(t, cmd)
			for _, path := range []string{filepath.Join(cmd.Dir, "there"), filepath.Join(folder, "back")} {
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes, %v", path, len(got), err)
				}
			}
			for _, want := range []struct{ up, down int64 }{{0, int64(len(data))}, {int64(len(data)), 0}} {
				s.session(t, "of BIND", func(line logLine) bool {
					return line.Cmd == "bind" && line.Up == want.up && line.Down == want.down
				})
			}
		})
	}
}

// ftpServer starts pyftpdlib, which takes data connections only to the address that the control connection comes from.
func ftpServer(t testing.TB) (addr, folder string) {
	t.Helper()
	python := pythonWith(t, "pyftpdlib")
	folder = t.TempDir()
	return startListening(t, command(t, python, "-m", "pyftpdlib", "-i", outerAddr, "-p", "0", "-d", folder, "-w")), folder
}

const datagrams = `
import socket, sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
for size in 1, 1000, 9000:
    sock.sendto(b"x" * size, (sys.argv[1], int(sys.argv[2])))
    data, sender = sock.recvfrom(65536)
    assert data == b"x" * size and sender == (sys.argv[1], int(sys.argv[2])), (len(data), sender)
`

func TestSocksifyUDP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := startServer(t)
	host, port, _ := net.SplitHostPort(udpEcho(t, outerAddr+":0"))
	mustRun(t, dante.command(t, s, "python3", "-c", datagrams, host, port))
	s.session(t, "of UDP ASSOCIATE", func(line logLine) bool {
		return line.Cmd == "udp" && line.Up == 10001 && line.Down == 10001
	})
}
