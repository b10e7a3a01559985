//go:build linux

package main

import (
	"net"
	"testing"
)

// Debian's PySocks over TCP and UDP. Three datagrams: the first one makes the association, the others use it.
const pySocks = `
import socket, socks, sys

proxy, host, tcp, udp = sys.argv[1].split(":"), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
account = sys.argv[5:7] or [None, None]

stream = socks.create_connection((host, tcp), timeout=10, proxy_type=socks.SOCKS5, proxy_addr=proxy[0],
                                 proxy_port=int(proxy[1]), proxy_rdns=True,
                                 proxy_username=account[0], proxy_password=account[1])
stream.sendall(b"a stream")
stream.shutdown(socket.SHUT_WR)
assert stream.makefile("rb").read() == b"a stream"

packets = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
packets.set_proxy(socks.SOCKS5, proxy[0], int(proxy[1]), True, *account)
packets.settimeout(10)
for size in 1, 1000, 60000:
    packets.sendto(b"x" * size, (host, udp))
    data, sender = packets.recvfrom(65536)
    assert data == b"x" * size and sender == ("127.0.0.1", udp), (len(data), sender)
`

func TestPySocks(t *testing.T) {
	t.Parallel()
	python := pythonWith(t, "socks")
	users := usersFile(t)
	for _, test := range []struct {
		name    string
		flags   []string
		account []string
	}{
		{"open", nil, nil},
		{"user", []string{"--users", users}, []string{user, password}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, test.flags...)
			_, tcp, _ := net.SplitHostPort(echo(t, "127.0.0.1:0"))
			_, udp, _ := net.SplitHostPort(udpEcho(t, "127.0.0.1:0"))
			mustRun(t, command(t, python, append([]string{"-c", pySocks, s.addr, "localhost", tcp, udp}, test.account...)...))
			s.sessionTo(t, "localhost:"+tcp)
		})
	}
}

// pythonWith finds a Python that has a module.
func pythonWith(t testing.TB, module string) string {
	t.Helper()
	python := peer(t, "python3")
	if start(t, command(t, python, "-c", "import "+module)).wait(t) != 0 {
		missing(t, "Python's "+module)
	}
	return python
}
