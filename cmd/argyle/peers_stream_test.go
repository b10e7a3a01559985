//go:build linux

package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
)

// streamClients join standard input and output to a host and port through a proxy, so they are what OpenSSH wants for its
// ProxyCommand too. The words in capitals stand for the proxy and the destination.
var streamClients = []struct {
	name    string
	command string
	byName  bool // the destination's name goes to the proxy
}{
	{"nc socks4", "nc -N -X 4 -x PROXY HOST PORT", false},
	{"nc socks5", "nc -N -X 5 -x PROXY HOST PORT", true},
	{"nc http", "nc -N -X connect -x PROXY HOST PORT", true},
	{"ncat socks4", "ncat --proxy-dns local --proxy-type socks4 --proxy PROXY HOST PORT", false},
	{"ncat socks4a", "ncat --proxy-dns remote --proxy-type socks4 --proxy PROXY HOST PORT", true},
	{"ncat socks5", "ncat --proxy-dns remote --proxy-type socks5 --proxy PROXY HOST PORT", true},
	{"ncat http", "ncat --proxy-dns remote --proxy-type http --proxy PROXY HOST PORT", true},
	{"socat socks4", "socat -t10 - SOCKS4:127.0.0.1:HOST:PORT,socksport=PROXYPORT", false},
	{"socat socks4a", "socat -t10 - SOCKS4A:127.0.0.1:HOST:PORT,socksport=PROXYPORT", true},
	{"socat http", "socat -t10 - PROXY:127.0.0.1:HOST:PORT,proxyport=PROXYPORT", true},
	{"argyle socks4a", "argyle connect -x socks4a://PROXY HOST PORT", true},
	{"argyle socks5", "argyle connect -x PROXY HOST PORT", true},
	{"argyle http", "argyle connect -x http://PROXY HOST PORT", true},
}

// streamCommand fills a line of streamClients in.
func streamCommand(t testing.TB, line string, s *server, host, port string) []string {
	t.Helper()
	words := strings.Fields(strings.NewReplacer(
		"PROXYPORT", s.port(), "PROXY:", "PROXY:", "PROXY", s.addr, "HOST", host, "PORT", port).Replace(line))
	if words[0] == "argyle" {
		return append(programWords(t), words[1:]...)
	}
	words[0] = peer(t, words[0])
	return words
}

// A megabyte goes through, the half-close after it too, and all of it comes back.
func TestStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, client := range streamClients {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			data := randomBytes(1 << 20)
			host, port, _ := net.SplitHostPort(echo(t, "127.0.0.1:0"))
			if client.byName {
				host = "localhost"
			}
			words := streamCommand(t, client.command, s, host, port)
			cmd := command(t, words[0], words[1:]...)
			cmd.Stdin = bytes.NewReader(data)
			if got := mustRun(t, cmd); got != string(data) {
				t.Errorf("%d bytes came back, not the %d that were sent", len(got), len(data))
			}
			line := s.sessionTo(t, net.JoinHostPort(host, port))
			if want := int64(len(data)); line.Up != want || line.Down != want {
				t.Errorf("the session's log says %d bytes up and %d down, not %d", line.Up, line.Down, want)
			}
		})
	}
}

func TestProxyCommand(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	box := startSSHD(t)
	t.Run("through", func(t *testing.T) {
		for _, client := range streamClients {
			t.Run(client.name, func(t *testing.T) {
				t.Parallel()
				box.via(t, strings.Join(streamCommand(t, client.command, s, "%h", "%p"), " "))
			})
		}
	})
	dest := net.JoinHostPort(box.host, box.port)
	eventually(t, "a session of each in the server's log", func() bool { return s.sessions(dest) == len(streamClients) })
}
