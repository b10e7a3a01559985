package source

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
)

// Two hosts with two cables between them. The near one owns prefixes of which no
// interface has an address. Either cable leads to the far one's addresses: up0
// unless something asks for up1.
const nearLines = `link set lo up
link add up0 type veth peer name down0
link add up1 type veth peer name down1
link set down0 netns FAR
link set down1 netns FAR
address add 10.0.0.1/24 dev up0
address add 10.0.1.1/24 dev up1
address add 2001:db8:a::1/64 dev up0 nodad
address add 2001:db8:b::1/64 dev up1 nodad
link set up0 up
link set up1 up
route add default via 10.0.0.2 metric 100
route add default via 10.0.1.2 metric 200
-6 route add default via 2001:db8:a::2 metric 100
-6 route add default via 2001:db8:b::2 metric 200
rule add fwmark 42 lookup 100
route add default via 10.0.1.2 table 100
-6 rule add fwmark 42 lookup 100
-6 route add default via 2001:db8:b::2 table 100
route add local 192.0.2.0/24 dev lo
route add local 198.51.100.0/24 dev lo
-6 route add local 2001:db8:1::/64 dev lo
-6 route add local 2001:db8:2::/64 dev lo`

const farLines = `link set lo up
address add 203.0.113.1/32 dev lo
address add 203.0.113.2/32 dev lo
address add 2001:db8:f::1/128 dev lo nodad
address add 10.0.0.2/24 dev down0
address add 10.0.1.2/24 dev down1
address add 2001:db8:a::2/64 dev down0 nodad
address add 2001:db8:b::2/64 dev down1 nodad
link set down0 up
link set down1 up
route add 192.0.2.0/24 via 10.0.0.1
route add 198.51.100.0/24 via 10.0.1.1
-6 route add 2001:db8:1::/64 via 2001:db8:a::1
-6 route add 2001:db8:2::/64 via 2001:db8:b::1`

// cabled makes the two hosts.
func cabled(t *testing.T) (near, far *host) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "%v", err)
	}
	near, far = newHost(t), newHost(t)
	near.ip(t, strings.ReplaceAll(nearLines, "FAR", strconv.Itoa(far.thread)))
	far.ip(t, farLines)
	return near, far
}

// What a Source says is what the other end sees.
func TestRoutes(t *testing.T) {
	near, far := cabled(t)
	port := far.listen(t)
	pool := prefixes("192.0.2.0/24 2001:db8:1::/64")
	for _, c := range []struct {
		name       string
		source     *Source
		from4      string
		from6      string
		wantDevice string
	}{
		{"nothing", new(Source), "10.0.0.1/32", "2001:db8:a::1/128", ""},
		{"interface", &Source{Interface: "up1"}, "10.0.1.1/32", "2001:db8:b::1/128", "up1"},
		{"mark", &Source{Mark: 42}, "10.0.1.1/32", "2001:db8:b::1/128", ""},
		{"a mark that no rule knows", &Source{Mark: 7}, "10.0.0.1/32", "2001:db8:a::1/128", ""},
		{"addresses that no interface has", &Source{Addrs: pool}, "192.0.2.0/24", "2001:db8:1::/64", ""},
		{"one of each family", &Source{Addrs: prefixes("10.0.1.1 2001:db8:b::1")}, "10.0.1.1/32", "2001:db8:b::1/128", ""},
		// A socket that is bound to an interface hears what comes in by it, and no more.
		{"all together", &Source{Addrs: prefixes("198.51.100.0/24 2001:db8:2::/64"), Interface: "up1", Mark: 1 << 31, Pick: User},
			"198.51.100.0/24", "2001:db8:2::/64", "up1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for to, want := range map[string]string{"203.0.113.1": c.from4, "2001:db8:f::1": c.from6} {
				conn, seen := near.dial(t, c.source, net.JoinHostPort(to, port))
				if !netip.MustParsePrefix(want).Contains(seen) {
					t.Errorf("TCP to %s comes from %v, want %s", to, seen, want)
				}
				if got := uint32(option(t, conn, unix.SO_MARK)); got != c.source.Mark {
					t.Errorf("mark %d, want %d", got, c.source.Mark)
				}
				if got := device(t, conn); got != c.wantDevice {
					t.Errorf("bound to the interface %q, want %q", got, c.wantDevice)
				}
				if seen := near.ask(t, c.source, net.JoinHostPort(to, port)); !netip.MustParsePrefix(want).Contains(seen) {
					t.Errorf("UDP to %s comes from %v, want %s", to, seen, want)
				}
			}
		})
	}
}

// One address reaches two others with as many connections each as there are
// ports: the port is chosen where it need not be free for all of them.
func TestPortsDoNotRunOut(t *testing.T) {
	near, far := cabled(t)
	port := far.listen(t)
	const ports = 16
	near.do(t, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("50000 50015"), 0o644)
	})
	s := &Source{Addrs: prefixes("192.0.2.7")}
	for _, to := range []string{"203.0.113.1", "203.0.113.2"} {
		for range ports {
			near.dial(t, s, net.JoinHostPort(to, port))
		}
	}
}

// dial connects, and returns the address that the other end sees.
func (h *host) dial(t *testing.T, s *Source, to string) (conn net.Conn, seen netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h.do(t, func() (err error) {
		conn, err = (&argyle.Direct{Local: s.Local, Control: s.Control}).DialContext(ctx, "tcp", to)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return conn, parse(t, strings.TrimSpace(line))
}

// ask sends a datagram, and returns the address that the other end sees.
func (h *host) ask(t *testing.T, s *Source, to string) netip.Addr {
	t.Helper()
	dest, err := argyle.ParseAddr(to)
	if err != nil {
		t.Fatal(err)
	}
	var conn net.PacketConn
	h.do(t, func() (err error) {
		conn, err = (&argyle.Direct{Local: s.Local, Control: s.Control}).ListenPacket(t.Context(), "udp", "")
		return err
	})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.WriteTo([]byte("?"), dest); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, _, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(buf[:n]))
}

func parse(t *testing.T, seen string) netip.Addr {
	t.Helper()
	addr, err := netip.ParseAddrPort(seen)
	if err != nil {
		t.Fatal(err)
	}
	return addr.Addr().Unmap()
}

// device returns the interface that a connection is bound to.
func device(t *testing.T, conn net.Conn) (name string) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) { name, err = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE) })
	if cerr != nil || err != nil {
		t.Fatal(fmt.Errorf("%v, %w", cerr, err))
	}
	return name
}
