package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func TestTun(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	for name, proxy := range w.proxies(t) {
		t.Run(name, func(t *testing.T) {
			startTun(t, "-x", proxy, "--except", spared4)
			w.testTargets(t, nil, name == "argyle")
			for _, near := range []string{outsideProxy, "fd00:85:2::2"} {
				if who, err := visit(t, nil, net.JoinHostPort(near, "7")); err != nil || isOutside(who) {
					t.Errorf("TCP to a local network: %q, %v", who, err)
				}
			}
			if who, err := visit(t, w.inside, target4+":7"); err != nil || !isOutside(who) {
				t.Errorf("TCP of a client that this host routes for: %q, %v", who, err)
			}
		})
	}
}

// Datagrams of any size go and come, and from whoever has seen where the first came from.
func TestTunUDP(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	w.outside.enter(t, func() { answerFromElsewhere(t, target4+":9", spared4+":9") })
	for _, flags := range [][]string{nil, {"--mtu", "1500"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			startTun(t, append(flags, "-x", proxy)...)
			for _, host := range []string{target4, target6} {
				testDatagrams(t, net.JoinHostPort(host, "7"))
			}
			conn, err := net.ListenUDP("udp4", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			from, err := askFrom(conn, netip.MustParseAddrPort(target4+":9"))
			if err != nil || from.String() != spared4+":9" {
				t.Errorf("the answer is from %v, %v", from, err)
			}
		})
	}
}

// testDatagrams sends 1,000 datagrams, a few at a time, and has all of them back.
func testDatagrams(t *testing.T, dest string) {
	t.Helper()
	conn, err := net.Dial("udp", dest)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const count, window = 1000, 20
	payload := func(i int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(i)), bytes.Repeat([]byte{byte(i)}, i*13%9000)...)
	}
	missing := make(map[int]bool)
	for i := range count {
		missing[i] = true
	}
	buf := make([]byte, 1<<16)
	for first := 0; first < count; first += window {
		for tries := 0; ; tries++ {
			var sent int
			for i := first; i < first+window; i++ {
				if missing[i] {
					sent++
					if _, err := conn.Write(payload(i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if sent == 0 {
				break
			}
			if tries == 10 {
				t.Fatalf("%s: %d datagrams from %d on are missing", dest, sent, first)
			}
			for ; sent > 0; sent-- {
				_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
				n, err := conn.Read(buf)
				if err != nil {
					break
				}
				i := int(binary.BigEndian.Uint32(buf))
				if !bytes.Equal(buf[:n], payload(i)) {
					t.Fatalf("datagram %d came back with %d bytes", i, n)
				}
				delete(missing, i)
			}
		}
	}
}

// answerFromElsewhere answers datagrams to one address from another.
func answerFromElsewhere(t *testing.T, at, from string) {
	t.Helper()
	in, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.ListenPacket("udp", from)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, client, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = out.WriteTo(buf[:n], client)
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-done
		out.Close()
	})
}

// askFrom sends hello until there is an answer, and returns where that is from.
func askFrom(conn *net.UDPConn, to netip.AddrPort) (from netip.AddrPort, err error) {
	buf := make([]byte, 100)
	for range 10 {
		if _, err = conn.WriteToUDPAddrPort([]byte("hello"), to); err != nil {
			return from, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, from, err = conn.ReadFromUDPAddrPort(buf); err == nil {
			return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), nil
		}
	}
	return from, err
}

// Look-ups come to us wherever they go, and whichever way they want to leave by.
func TestTunNames(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	t.Run("fake", func(t *testing.T) {
		startTun(t, "-x", proxy, "--resolver", outsideResolver+":53")
		for words, want := range map[string]string{
			"www.zone.test A": "198.1", "www.zone.test AAAA": "fd", "+tcp www.zone.test A": "198.1", "six.zone.test A": "198.1",
			"@" + outsideProxy + " www.zone.test A": "198.1", "@fd00:85:2::2 www.zone.test A": "198.1", "zone.test TXT": `"the zone`,
		} {
			if got := mustRun(t, dig(t, words)); !strings.HasPrefix(got, want) {
				t.Errorf("dig %s: %q, want %s…", words, got, want)
			}
		}
		for _, url := range []string{"http://www.zone.test/", "-4 http://six.zone.test/", "-6 http://www.zone.test/"} {
			words := append([]string{"--silent", "--show-error", "--max-time", "10"}, strings.Fields(url)...)
			if got := mustRun(t, command(t, peer(t, "curl"), words...)); got != page {
				t.Errorf("curl %s got %q", url, got)
			}
		}
		if _, err := visit(t, nil, "198.19.255.1:7"); err == nil {
			t.Error("an address of the pool that stands for no name is somebody's")
		}
		answer, err := askBy(t, unix.IP_UNICAST_IF, "outside")
		if err != nil || !strings.HasPrefix(answer, "198.1") {
			t.Errorf("by a socket that prefers another interface: %q, %v", answer, err)
		}
		if answer, err := askBy(t, unix.SO_BINDTODEVICE, "outside"); err == nil {
			t.Errorf("by a socket that is bound to another interface: %q", answer)
		}
	})
	t.Run("proxy", func(t *testing.T) {
		startTun(t, "-x", proxy, "--dns", "proxy", "--resolver", outsideResolver+":53")
		if got := mustRun(t, dig(t, "@192.0.2.1 www.zone.test A")); got != target4+"\n" {
			t.Errorf("dig: %q", got)
		}
	})
	t.Run("nobody on loopback", func(t *testing.T) {
		cover(t, "/etc/resolv.conf", "nameserver 127.0.0.1\nnameserver ::1\n")
		startTun(t, "-x", proxy)
		for _, words := range []string{"www.zone.test A", "@::1 www.zone.test A", "+tcp www.zone.test A"} {
			if got := mustRun(t, dig(t, words)); !strings.HasPrefix(got, "198.1") {
				t.Errorf("dig %s: %q", words, got)
			}
		}
	})
	t.Run("off", func(t *testing.T) {
		startTun(t, "-x", proxy, "--dns", "off")
		if got := mustRun(t, dig(t, "www.zone.test A")); got != target4+"\n" {
			t.Errorf("dig: %q", got)
		}
	})
}

// askBy asks for a name by a socket that has chosen its interface.
func askBy(t *testing.T, option int, link string) (answer string, err error) {
	t.Helper()
	index, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	dialer := &net.Dialer{Timeout: 2 * time.Second, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) {
			if option == unix.SO_BINDTODEVICE {
				err = unix.BindToDevice(int(fd), link)
				return
			}
			swapped := binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(index.Index)))
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, option, int(swapped))
		})
		return errors.Join(err, cerr)
	}}
	client := &dns.Client{Dialer: dialer, Timeout: 2 * time.Second}
	got, _, err := client.Exchange(new(dns.Msg).SetQuestion("www.zone.test.", dns.TypeA), outsideResolver+":53")
	if err != nil || len(got.Answer) == 0 {
		return "", fmt.Errorf("no answer: %w", err)
	}
	return got.Answer[0].(*dns.A).A.String(), nil
}

// The proxy itself, and the rules, may be about what is taken.
func TestTunOwnSockets(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	w.serve(t)
	w.outside.enter(t, func() { serveNames(t, "127.0.0.53:53") })
	stub(t)
	for name, args := range map[string][]string{
		"proxy by name":                      {"-x", "socks5h://gw.zone.test:1080"},
		"name looked up here":                {"-x", "socks5://gw.zone.test:1080"},
		"resolver asked by the proxy":        {"-x", "socks5h://gw.zone.test:1080", "--dns", "proxy", "--resolver", outsideResolver + ":53"},
		"strict reverse path, proxy by name": {"-x", "socks5h://gw.zone.test:1080"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "strict") {
				sysctl(t, "net/ipv4/conf/outside/rp_filter", "1")
			}
			startTun(t, args...)
			if who, err := visit(t, nil, target4+":7"); err != nil || !isOutside(who) {
				t.Errorf("TCP: %q, %v", who, err)
			}
			if who := askWho(t, nil, "www.zone.test"); !isOutside(who) {
				t.Errorf("by name: %q", who)
			}
		})
	}
	t.Run("rules", func(t *testing.T) {
		startTun(t, "-x", "socks5h://"+outsideProxy+":1080",
			"--direct", target4, "--direct", ".www.zone.test", "--deny", spared4+"/32", "--deny", "four.zone.test")
		if who, err := visit(t, nil, target4+":7"); err != nil || isOutside(who) {
			t.Errorf("TCP to --direct: %q, %v", who, err)
		}
		if err := visitUDP(t, nil, target4+":7"); err != nil {
			t.Errorf("UDP to --direct: %v", err)
		}
		if who := askWho(t, nil, "www.zone.test"); isOutside(who) {
			t.Errorf("TCP to --direct by name: %q", who)
		}
		if who, err := visit(t, nil, spared4+":7"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP to --deny: %q, %v", who, err)
		}
		if who, err := visit(t, nil, net.JoinHostPort(target6, "7")); err != nil || !isOutside(who) {
			t.Errorf("TCP to what no rule is about: %q, %v", who, err)
		}
	})
}

// With --route all else goes its own way.
func TestTunRoute(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	mustRun(t, command(t, peer(t, "ip"), "route", "add", "192.0.2.0/24", "via", "10.85.2.2")) // as broad as --route
	mustRun(t, command(t, peer(t, "ip"), "route", "add", spared4, "via", "10.85.2.2"))        // narrower
	startTun(t, "-x", proxy, "--route", "192.0.2.0/24", "--route", "10.0.0.0/8", "--except", "192.0.2.64/26")
	if who, err := visit(t, nil, target4+":7"); err != nil || !isOutside(who) {
		t.Errorf("TCP to --route: %q, %v", who, err)
	}
	for what, dest := range map[string]string{
		"all else": net.JoinHostPort(target6, "7"), "--except": spared4 + ":7", "a local network inside --route": outsideProxy + ":7",
	} {
		if who, err := visit(t, nil, dest); err != nil || isOutside(who) {
			t.Errorf("TCP to %s: %q, %v", what, who, err)
		}
	}
	if got := mustRun(t, dig(t, "www.zone.test A")); got != target4+"\n" {
		t.Errorf("dig: %q", got)
	}
}

func TestTunRouteNames(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	startTun(t, "-x", w.serve(t), "--route", "203.0.113.0/25", "--dns", "fake")
	if who := askWho(t, nil, "www.zone.test"); !isOutside(who) {
		t.Errorf("by name: %q", who)
	}
	if who, err := visit(t, nil, target4+":7"); err != nil || isOutside(who) {
		t.Errorf("by address: %q, %v", who, err)
	}
}

// Echo requests are answered where that is wanted and allowed, and refused elsewhere.
func TestTunPing(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	startTun(t, "-x", w.serve(t), "--ping", "192.0.2.0/24", "--ping", target6, "--ping", ".zone.test", "--deny", spared4)
	name := strings.TrimSpace(mustRun(t, dig(t, "www.zone.test A")))
	other := strings.TrimSpace(mustRun(t, dig(t, "elsewhere.test A")))
	for _, host := range []string{target4, target6, name} {
		if err := ping(t, nil, host); err != nil {
			t.Errorf("ping %s: %v", host, err)
		}
	}
	for _, host := range []string{spared4, other, "198.51.100.9", "2001:db8:1::9"} {
		if err := ping(t, nil, host); !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.EACCES) {
			t.Errorf("ping %s: %v, want an error", host, err)
		}
	}
}

// A device that somebody else has made serves those behind it, without any rights.
func TestTunFD(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	proxy := w.serve(t)
	ip := peer(t, "ip")
	for name, flags := range map[string]uint16{"plain": 0, "vnet header": unix.IFF_VNET_HDR} {
		t.Run(name, func(t *testing.T) {
			var file *os.File
			w.inside.enter(t, func() { file = makeTUN(t, "tun7", unix.IFF_TUN|unix.IFF_NO_PI|flags) })
			for _, line := range []string{
				"link set tun7 mtu 1400 up", "address add 192.0.0.2/32 dev tun7", "-6 address add fd00:77::1/128 dev tun7 nodad",
				"route add 192.0.2.0/24 dev tun7", "-6 route add 2001:db8::/32 dev tun7", "route add 198.18.0.0/15 dev tun7",
			} {
				mustRun(t, w.inside.command(t, append([]string{ip}, strings.Fields(line)...)...))
			}
			before := hostState(t)
			cmd := nobody(t, program(t, "tun", "--log-format", "json", "-v", "--fd", "3", "-x", proxy))
			cmd.ExtraFiles = []*os.File{file}
			r := awaitTun(t, cmd)
			file.Close()
			for _, host := range []string{target4, target6} {
				if who, err := visit(t, w.inside, net.JoinHostPort(host, "7")); err != nil || !isOutside(who) {
					t.Errorf("TCP to %s: %q, %v", host, who, err)
				}
				if err := visitUDP(t, w.inside, net.JoinHostPort(host, "7")); err != nil {
					t.Errorf("UDP to %s: %v", host, err)
				}
			}
			got := mustRun(t, w.inside.command(t, peer(t, "dig"), "+short", "@192.0.2.1", "www.zone.test", "A"))
			if who, err := visit(t, w.inside, strings.TrimSpace(got)+":7"); err != nil || !isOutside(who) {
				t.Errorf("TCP to a name: %q: %q, %v", got, who, err)
			}
			if !strings.Contains(r.stderr.String(), fmt.Sprintf(`"offload":%t`, flags != 0)) {
				t.Errorf("whether there are headers is not seen: %s", r.stderr.String())
			}
			r.stop(t)
			if after := hostState(t); after != before {
				t.Errorf("changed: %s", changes(before, after))
			}
		})
	}
	t.Run("other files", func(t *testing.T) {
		tap := makeTUN(t, "tap7", unix.IFF_TAP|unix.IFF_NO_PI)
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		for want, file := range map[string]*os.File{"tap": tap, "no tun device": null} {
			cmd := program(t, "tun", "--fd", "3", "-x", proxy)
			cmd.ExtraFiles = []*os.File{file}
			c := start(t, cmd)
			if code := c.wait(t); code != 2 || !strings.Contains(c.stderr.String(), want) {
				t.Errorf("want %q: exit status %d: %s", want, code, c.stderr.String())
			}
		}
	})
}

func TestTunMany(t *testing.T) {
	w, ok := inTunWorld(t)
	if !ok {
		return
	}
	startTun(t, "-x", w.serve(t))
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			conn, err := net.DialTimeout("tcp", target4+":7", patience)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = conn.Write([]byte(strconv.Itoa(i)))
			_ = conn.(*net.TCPConn).CloseWrite()
			text, err := io.ReadAll(conn)
			if who, rest, _ := strings.Cut(string(text), " "); err != nil || rest != strconv.Itoa(i) || !isOutside(who) {
				t.Errorf("connection %d: %q, %v", i, text, err)
			}
		})
	}
	all.Wait()
}
