package source

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
)

// Two hosts with two cables between them. The near one owns prefixes of which no
// interface has an address; the far one listens on an address that either cable
// leads to, by up0 unless something asks for up1.
const (
	farHost4 = "203.0.113.1"
	farHost6 = "2001:db8:f::1"
)

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
-6 route add local 2001:db8:1::/64 dev lo
route add local 192.0.2.0/24 dev lo`

const farLines = `link set lo up
address add ` + farHost4 + `/32 dev lo
address add ` + farHost6 + `/128 dev lo nodad
address add 10.0.0.2/24 dev down0
address add 10.0.1.2/24 dev down1
address add 2001:db8:a::2/64 dev down0 nodad
address add 2001:db8:b::2/64 dev down1 nodad
link set down0 up
link set down1 up
route add 192.0.2.0/24 via 10.0.0.1
-6 route add 2001:db8:1::/64 via 2001:db8:a::1`

// What a Source says is what the other end sees.
func TestRoutes(t *testing.T) {
	needIP(t)
	far := newHost(t)
	unshare(t)
	ip(t, strings.ReplaceAll(nearLines, "FAR", strconv.Itoa(far.thread)))
	far.do(func() { ip(t, farLines) })
	port := far.listen(t)

	pool := prefixes("192.0.2.0/24 2001:db8:1::/64")
	for _, c := range []struct {
		name      string
		source    *Source
		from4     string
		from6     string
		interface_ string
	}{
		{"nothing", new(Source), "10.0.0.1/32", "2001:db8:a::1/128", ""},
		{"interface", &Source{Interface: "up1"}, "10.0.1.1/32", "2001:db8:b::1/128", "up1"},
		{"mark", &Source{Mark: 42}, "10.0.1.1/32", "2001:db8:b::1/128", ""},
		{"another mark", &Source{Mark: 7}, "10.0.0.1/32", "2001:db8:a::1/128", ""},
		{"addresses that no interface has", &Source{Addrs: pool}, "192.0.2.0/24", "2001:db8:1::/64", ""},
		{"one of an interface", &Source{Addrs: prefixes("10.0.1.1 2001:db8:b::1")}, "10.0.1.1/32", "2001:db8:b::1/128", ""},
		{"everything", &Source{Addrs: pool, Interface: "up1", Mark: 1 << 31, Pick: User}, "192.0.2.0/24", "2001:db8:1::/64", "up1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A subtest has a thread of its own, which is not in the namespace.
			for to, want := range map[string]string{farHost4: c.from4, farHost6: c.from6} {
				conn := far.dial(t, c.source, net.JoinHostPort(to, port))
				from := argyle.AddrOf(conn.LocalAddr()).IP
				if !netip.MustParsePrefix(want).Contains(from) {
					t.Errorf("to %s from %v, want %s", to, from, want)
				}
				if got := option(t, conn, unix.SO_MARK); uint32(got) != c.source.Mark {
					t.Errorf("mark %d, want %d", uint32(got), c.source.Mark)
				}
				if got := device(t, conn); got != c.interface_ {
					t.Errorf("interface %q, want %q", got, c.interface_)
				}
			}
		})
	}
}
