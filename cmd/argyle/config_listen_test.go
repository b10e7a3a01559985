//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/httpconnect"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// serveFile is argyle serve with the listeners of a configuration. At the end
// it has to have closed all its sockets, and to obey SIGTERM.
func serveFile(t testing.TB, listeners int, path string, args ...string) *server {
	t.Helper()
	s := launch(t, listeners, append([]string{"-c", path}, args...)...)
	s.files = s.openFiles()
	t.Cleanup(func() { s.stop(t) })
	return s
}

// sessionBy waits for the first session in the log with a value, and returns its
// line with all its keys.
func (s *server) sessionBy(t testing.TB, key, value string) (line map[string]any) {
	t.Helper()
	eventually(t, fmt.Sprintf("a session with %s %s in the log", key, value), func() bool {
		for _, l := range s.lines("session") {
			if l[key] == value {
				line = l
				return true
			}
		}
		return false
	})
	return line
}

// wantLine compares some keys of a log line.
func wantLine(t testing.TB, line map[string]any, want map[string]any) {
	t.Helper()
	for key, value := range want {
		if line[key] != value {
			t.Errorf("%s is %v, want %v: %v", key, line[key], value, line)
		}
	}
}

// by wants a rule to have allowed a session.
func by(t testing.TB, line map[string]any, rule string) {
	t.Helper()
	if why := fmt.Sprint(line["why"]); !strings.Contains(why, strconv.Quote(rule)) || line["err"] != nil {
		t.Errorf("not by the rule %s: %v", rule, line)
	}
}

// exchange sends data to a mirror and wants it back.
func exchange(t testing.TB, conn net.Conn, data []byte) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	back := make([]byte, len(data))
	n, err := io.ReadFull(conn, back)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back, equal: %v, %v", n, bytes.Equal(back, data), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A balancer is a way to a server that begins every connection with a PROXY
// header.
type balancer struct {
	argyle.Direct
	header []byte
}

func (b *balancer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := b.Direct.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(b.header); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// from is a way out with a local address.
func from(ip string) *argyle.Direct {
	return &argyle.Direct{Local: func(context.Context, netip.Addr) (netip.Addr, error) { return netip.ParseAddr(ip) }}
}

// proxyHeader is a PROXY header as somebody else's library writes it.
func proxyHeader(t testing.TB, version byte, client string) []byte {
	t.Helper()
	source := netip.MustParseAddrPort(client)
	to := netip.MustParseAddrPort("198.51.100.1:1080")
	if source.Addr().Is6() {
		to = netip.MustParseAddrPort("[2001:db8:ffff::1]:1080")
	}
	header := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(source), net.TCPAddrFromAddrPort(to))
	b, err := header.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Behind a balancer clients are who its header says, in every protocol, for the
// log, for rules, and byte for byte.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, certFile, keyFile := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(2)})
	s := serveFile(t, 1, configFile(t, fmt.Sprintf(`
listen: [{address: 127.0.0.1:0, name: balanced, proxy-protocol: 127.0.0.0/8}]
tls: {cert: %s, key: %s}
rules:
  - {name: four, client: 192.0.2.0/24, action: allow, private: true}
  - {name: six, client: "2001:db8::/32", action: allow, private: true}
`, certFile, keyFile)))
	dest := mirror(t, "127.0.0.1:0")
	up, _ := payload()
	port := 5000
	for _, head := range []struct {
		version    byte
		host, rule string
		data       []byte
	}{
		{1, "192.0.2.7", "four", up[:100]},
		{2, "192.0.2.7", "four", up},
		{1, "2001:db8::7", "six", up[:100]},
		{2, "2001:db8::7", "six", up[:100]},
		{2, "::ffff:192.0.2.8", "four", up[:100]},
	} {
		for name, way := range map[string]func(b *balancer, config *tls.Config) argyle.Dialer{
			"SOCKS 5": func(b *balancer, config *tls.Config) argyle.Dialer {
				return &socks.Dialer{Addr: s.addr, Forward: b, TLS: config}
			},
			"SOCKS 4": func(b *balancer, config *tls.Config) argyle.Dialer {
				return &socks.Dialer{Addr: s.addr, Forward: b, TLS: config, Version: 4}
			},
			"CONNECT": func(b *balancer, config *tls.Config) argyle.Dialer {
				return &httpconnect.Dialer{Addr: s.addr, Forward: b, TLS: config}
			},
		} {
			for _, config := range []*tls.Config{nil, ca.config()} {
				port++
				t.Run(fmt.Sprintf("%s %v TLS %v version %d", name, head.host, config != nil, head.version), func(t *testing.T) {
					client := net.JoinHostPort(head.host, strconv.Itoa(port))
					conn, err := way(&balancer{header: proxyHeader(t, head.version, client)}, config).DialContext(t.Context(), "tcp", dest)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					exchange(t, conn, head.data)
					conn.Close()
					line := s.sessionBy(t, "client", argyle.AddrFrom(netip.MustParseAddrPort(client)).String())
					by(t, line, head.rule)
					n := float64(len(head.data))
					wantLine(t, line, map[string]any{"inbound": "balanced", "dest": dest, "up": n, "down": n})
				})
			}
		}
	}

	// Whom no rule names is refused, although his balancer is of this host.
	for _, refusal := range []struct {
		name string
		got  func(net.Conn) any
		want any
	}{
		{"SOCKS 5", func(c net.Conn) any { return rep5(t, c, argyle.Connect, addrOf(t, dest)) }, wire.NotAllowed},
		{"SOCKS 4", func(c net.Conn) any { return cd4(t, c, argyle.Connect, addrOf(t, dest)) }, wire.Rejected},
		{"CONNECT", func(c net.Conn) any { return statusOf(t, c, "CONNECT", dest, "") }, http.StatusForbidden},
		{"GET", func(c net.Conn) any { return statusOf(t, c, "GET", "http://"+dest+"/", "") }, http.StatusForbidden},
	} {
		port++
		client := "198.51.100.9:" + strconv.Itoa(port)
		conn := dialRaw(t, s.addr)
		if _, err := conn.Write(proxyHeader(t, 2, client)); err != nil {
			t.Fatal(err)
		}
		if got := refusal.got(conn); got != refusal.want {
			t.Errorf("%s: %v, want %v", refusal.name, got, refusal.want)
		}
		conn.Close()
		if line := s.sessionBy(t, "client", client); line["err"] == nil {
			t.Errorf("%s: %v", refusal.name, line)
		}
	}
}

// The header comes with what follows, or in pieces; a balancer may speak for
// itself; and who sends no header, or half of one, is not served.
func TestProxyProtocolBytes(t *testing.T) {
	t.Parallel()
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.0/8}]
rules: [{action: allow, private: true}]
`))
	dest := mirror(t, "127.0.0.1:0")
	greeting, err := wire.Greeting{Methods: []wire.Method{wire.NoAuth}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	request, err := wire.Request{Command: argyle.Connect, Dest: addrOf(t, dest)}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	const word = "what comes after"
	all := slices.Concat(greeting, request, []byte(word))
	wantWord := func(conn net.Conn) {
		t.Helper()
		answer := read(t, conn, 2+10+len(word))
		if wire.Reply(answer[3]) != wire.Succeeded || !bytes.HasSuffix(answer, []byte(word)) {
			t.Errorf("% x", answer)
		}
		conn.Close()
	}

	one := dialRaw(t, s.addr)
	if _, err := one.Write(append(proxyHeader(t, 1, "192.0.2.7:1001"), all...)); err != nil {
		t.Fatal(err)
	}
	wantWord(one)
	pieces := dialRaw(t, s.addr)
	for _, b := range append(proxyHeader(t, 2, "192.0.2.7:1002"), all...) {
		if _, err := pieces.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	wantWord(pieces)
	for _, client := range []string{"192.0.2.7:1001", "192.0.2.7:1002"} {
		wantLine(t, s.sessionBy(t, "client", client), map[string]any{"inbound": "127.0.0.1:0", "dest": dest})
	}
	for _, header := range []string{"PROXY UNKNOWN\r\n", "PROXY UNKNOWN 192.0.2.9 192.0.2.1 1 2\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		conn := dialRaw(t, s.addr)
		if _, err := conn.Write(append([]byte(header), all...)); err != nil {
			t.Fatal(err)
		}
		client := conn.LocalAddr().String()
		wantWord(conn)
		s.sessionBy(t, "client", client)
	}

	before := len(s.lines("session"))
	for name, text := range map[string]string{
		"SOCKS 5":                string(all),
		"SOCKS 4":                "\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
		"HTTP":                   "CONNECT " + dest + " HTTP/1.1\r\n\r\n",
		"TLS":                    "\x16\x03\x01\x00\x05hello",
		"an address that is one": "PROXY TCP4 192.0.2.700 192.0.2.1 1 2\r\n" + string(all),
		"a port that is none":    "PROXY TCP4 192.0.2.7 192.0.2.1 1 70000\r\n" + string(all),
		"another family":         "PROXY TCP4 2001:db8::1 192.0.2.1 1 2\r\n" + string(all),
		"a line without end":     "PROXY " + strings.Repeat("x", 200),
		"version 3":              "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00",
		"longer than 4096":       "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		conn := dialRaw(t, s.addr)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s is answered %q, %v", name, got, err)
		}
	}
	if got := len(s.lines("session")); got != before {
		t.Errorf("%d sessions without a header", got-before)
	}
}

// A header from elsewhere is believed in no protocol, and who sends none from
// there is served as who he is.
func TestProxyProtocolUntrusted(t *testing.T) {
	t.Parallel()
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.1}]
rules: [{client: 192.0.2.7, action: allow, private: true}, {client: 127.0.0.2, to: 127.0.0.1, action: allow}]
`))
	dest := mirror(t, "127.0.0.1:0")
	stranger := from("127.0.0.2")
	for version := byte(1); version <= 2; version++ {
		for _, after := range []string{"\x05\x01\x00", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "CONNECT " + dest + " HTTP/1.1\r\n\r\n"} {
			conn, err := stranger.DialContext(t.Context(), "tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write(append(proxyHeader(t, version, "192.0.2.7:4711"), after...)); err != nil {
				t.Fatal(err)
			}
			// Version 1 begins with a letter, as HTTP does, and is no request.
			got, err := io.ReadAll(conn)
			if len(got) > 0 && !bytes.HasPrefix(got, []byte("HTTP/1.1 400 ")) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("version %d and %q are answered %q, %v", version, after, got, err)
			}
			conn.Close()
		}
	}
	if sessions := s.lines("session"); sessions != nil {
		t.Errorf("%v", sessions)
	}
	conn := open(t, &socks.Dialer{Addr: s.addr, Forward: stranger}, dest)
	client := conn.LocalAddr().String()
	conn.Close()
	if line := s.sessionBy(t, "client", client); !strings.HasPrefix(client, "127.0.0.2:") || line["err"] != nil {
		t.Errorf("%v", line)
	}
}

// Datagrams do not come by way of a balancer: they are taken from the client
// in the header, and from nobody else.
func TestProxyProtocolUDP(t *testing.T) {
	t.Parallel()
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.1}]
rules: [{client: 127.0.0.6, action: allow}]
`))
	echo := udpEcho(t, "127.0.0.1:0")
	client := func(ip string) argyle.Direct {
		return argyle.Direct{Local: func(_ context.Context, remote netip.Addr) (netip.Addr, error) {
			if remote.IsUnspecified() && remote.Is4() { // a socket for datagrams
				return netip.ParseAddr(ip)
			}
			return netip.Addr{}, nil
		}}
	}
	d := &socks.Dialer{Addr: s.addr, Forward: &balancer{client("127.0.0.6"), proxyHeader(t, 2, "127.0.0.6:4711")}}
	conn, err := d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	helloPacket(t, conn, addrOf(t, echo))
	conn.Close()
	wantLine(t, s.sessionBy(t, "cmd", "udp"), map[string]any{"client": "127.0.0.6:4711", "up": 5.0, "down": 5.0})

	stranger := &socks.Dialer{Addr: s.addr, Forward: &balancer{client("127.0.0.7"), proxyHeader(t, 2, "127.0.0.6:4712")}}
	if conn, err = stranger.ListenPacket(t.Context(), "udp", ""); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.WriteTo([]byte("stray"), addrOf(t, echo)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, from, err := conn.ReadFrom(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes from %v: %v", n, from, err)
	}
}

// Connections that a balancer keeps open and silent, before the header or in
// the midst of it, hold nobody up.
func TestProxyProtocolSilent(t *testing.T) {
	t.Parallel()
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.0/8}]
rules: [{action: allow, private: true}]
timeouts: {handshake: 1h}
`))
	header := proxyHeader(t, 2, "192.0.2.7:4711")
	for i := range 300 {
		conn := dialRaw(t, s.addr)
		if _, err := conn.Write(header[:i%len(header)]); err != nil {
			t.Fatal(err)
		}
	}
	dest := mirror(t, "127.0.0.1:0")
	began := time.Now()
	for n := range 20 {
		open(t, &socks.Dialer{Addr: s.addr, Forward: &balancer{header: proxyHeader(t, 1, fmt.Sprintf("192.0.2.8:%d", 1000+n))}}, dest).Close()
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("20 clients took %v", took)
	}
}

// Limits of clients are those of the client in the header, one for each /64.
func TestProxyProtocolLimits(t *testing.T) {
	t.Parallel()
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.0/8}]
limits: {client: {sessions: 2}}
rules: [{action: allow, private: true}]
`))
	dest := mirror(t, "127.0.0.1:0")
	dial := func(client string) (net.Conn, error) {
		d := &socks.Dialer{Addr: s.addr, Forward: &balancer{header: proxyHeader(t, 2, client)}}
		conn, err := d.DialContext(t.Context(), "tcp", dest)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return conn, err
	}
	var first net.Conn
	for _, c := range []struct {
		client string
		full   bool
	}{
		{"192.0.2.7:1", false},
		{"192.0.2.7:2", false},
		{"192.0.2.7:3", true},
		{"192.0.2.8:1", false},
		{"[2001:db8:1::1]:1", false},
		{"[2001:db8:1::2]:1", false},
		{"[2001:db8:1::3]:1", true},
		{"[2001:db8:1:1::1]:1", false},
	} {
		conn, err := dial(c.client)
		switch {
		case c.full && !errors.Is(err, wire.GeneralFailure), !c.full && err != nil:
			t.Errorf("%s: %v", c.client, err)
		}
		if first == nil {
			first = conn
		}
	}
	if line := s.sessionBy(t, "client", "192.0.2.7:3"); !strings.Contains(fmt.Sprint(line["err"]), "192.0.2.7 has 2 sessions") {
		t.Errorf("%v", line)
	}
	first.Close()
	s.sessionBy(t, "client", "192.0.2.7:1")
	if _, err := dial("192.0.2.7:4"); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

// The kernel moves the bytes behind a header, too: there are pipes for splice.
func TestProxyProtocolSplices(t *testing.T) {
	t.Parallel()
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, proxy-protocol: 127.0.0.0/8}]
rules: [{action: allow, private: true}]
`))
	pipes := func() (n int) {
		for _, name := range openFiles(s.cmd.Process.Pid) {
			if strings.HasPrefix(name, "pipe:") {
				n++
			}
		}
		return n
	}
	before := pipes()
	d := &socks.Dialer{Addr: s.addr, Forward: &balancer{header: proxyHeader(t, 2, "192.0.2.7:4711")}}
	conn, err := d.DialContext(t.Context(), "tcp", spring(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 1<<20)
	eventually(t, "a pipe", func() bool {
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
		return pipes() > before
	})
}

// curl writes a header of its own to the proxy that it asks for a page.
func TestProxyProtocolCurl(t *testing.T) {
	t.Parallel()
	curl := peer(t, "curl")
	s := serveFile(t, 1, configFile(t, `
listen: [{address: 127.0.0.1:0, name: balanced, proxy-protocol: 127.0.0.0/8}]
rules: [{client: 127.0.0.3, action: allow}]
`))
	site := website(t, "127.0.0.1:0")
	got := mustRun(t, command(t, curl, "--silent", "--show-error", "--fail", "--haproxy-protocol", "--interface", "127.0.0.3",
		"--proxy", "http://"+s.addr, "http://"+site+"/"))
	if got != page {
		t.Errorf("curl got %q", got)
	}
	line := s.sessionBy(t, "dest", site)
	if client := fmt.Sprint(line["client"]); !strings.HasPrefix(client, "127.0.0.3:") || line["inbound"] != "balanced" {
		t.Errorf("%v", line)
	}
}

// headerServer reads a PROXY header from every connection, sends it to the
// channel, and mirrors what follows.
func headerServer(t testing.TB) (addr string, headers <-chan *proxyproto.Header) {
	t.Helper()
	all := make(chan *proxyproto.Header, 16)
	return serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		r := bufio.NewReader(conn)
		header, err := proxyproto.Read(r)
		if err != nil {
			t.Errorf("the destination reads no header: %v", err)
			return
		}
		all <- header
		_, _ = io.Copy(conn, r)
	}), all
}

// A destination that wants a header learns from it who the client is.
func TestSendProxy(t *testing.T) {
	t.Parallel()
	one, headers1 := headerServer(t)
	two, headers2 := headerServer(t)
	named, headers3 := headerServer(t)
	bare := mirror(t, "127.0.0.1:0")
	socket := filepath.Join(t.TempDir(), "argyle.sock")
	portOf := func(addr string) uint16 { return addrOf(t, addr).Port }
	s := serveFile(t, 3, configFile(t, fmt.Sprintf(`
listen:
  - {address: 127.0.0.1:0}
  - {address: 127.0.0.2:0, proxy-protocol: 127.0.0.1}
  - unix:%s
upstreams: {near: {direct: {address: 127.0.0.4}}}
rules:
  - {port: %d, action: allow, send-proxy: 1, private: true}
  - {port: %d, action: allow, send-proxy: 2, private: true}
  - {port: %d, via: near, send-proxy: 2}
  - {action: allow}
`, socket, portOf(one), portOf(two), portOf(named))))
	ways := []argyle.Dialer{
		s.dialer(""),
		&socks.Dialer{Addr: s.addr, Version: 4},
		&httpconnect.Dialer{Addr: s.addr},
	}
	for _, d := range ways {
		for _, dest := range []struct {
			addr    string
			version byte
			headers <-chan *proxyproto.Header
		}{{one, 1, headers1}, {two, 2, headers2}, {named, 2, headers3}} {
			open(t, d, dest.addr).Close()
			header := <-dest.headers
			line := s.sessionBy(t, "client", header.SourceAddr.String())
			if header.Version != dest.version || header.Command != proxyproto.PROXY || line["dest"] != dest.addr ||
				header.DestinationAddr.String() != dest.addr {
				t.Errorf("%T: version %d from %v to %v, the session is %v", d, header.Version, header.SourceAddr, header.DestinationAddr, line)
			}
			if line["up"] != 8.0 || line["down"] != 8.0 {
				t.Errorf("the header counts: %v", line)
			}
		}
		open(t, d, bare).Close() // without one, or the mirror would send it back
	}

	// A balancer's client goes on to the next one.
	for _, client := range []string{"192.0.2.7:4711", "[2001:db8::7]:4711"} {
		d := &socks.Dialer{Addr: s.addrs()[1], Forward: &balancer{header: proxyHeader(t, 2, client)}}
		for dest, headers := range map[string]<-chan *proxyproto.Header{one: headers1, two: headers2} {
			open(t, d, dest).Close()
			header := <-headers
			if got := argyle.AddrOf(header.SourceAddr).String(); got != client {
				t.Errorf("version %d says %s, want %s", header.Version, got, client)
			}
			if got := argyle.AddrOf(header.DestinationAddr).String(); got != dest {
				t.Errorf("version %d is for %s, want %s", header.Version, got, dest)
			}
		}
	}
	// A client on a unix socket has no address to tell.
	for dest, headers := range map[string]<-chan *proxyproto.Header{one: headers1, two: headers2} {
		open(t, &socks.Dialer{Addr: "unix:" + socket}, dest).Close()
		if header := <-headers; !header.Command.IsLocal() && header.TransportProtocol != proxyproto.UNSPEC {
			t.Errorf("version %d says %v", header.Version, header.SourceAddr)
		}
	}
}

// So does a web server whose pages are asked for by absolute URLs.
func TestSendProxyHTTP(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })}
	served := make(chan error)
	go func() { served <- site.Serve(&proxyproto.Listener{Listener: ln}) }()
	t.Cleanup(func() {
		site.Close()
		<-served
	})
	s := startServer(t, "-c", configFile(t, "rules: [{action: allow, send-proxy: 2}]\n"))
	conn := dialRaw(t, s.addr)
	r := bufio.NewReader(conn)
	for range 2 { // over one connection of the client's
		ask(t, conn, http.MethodGet, "http://"+ln.Addr().String()+"/", "")
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != conn.LocalAddr().String() {
			t.Errorf("the website sees %q, want %v: %v", body, conn.LocalAddr(), err)
		}
	}
}

// reachable makes a folder that other users may look into.
func reachable(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// On a unix socket the owner of the client's process is the user, whatever it
// says of itself, and no password is needed.
func TestUID(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	site := website(t, "127.0.0.1:0")
	elsewhere := mirror(t, "127.0.0.1:0")
	me := fmt.Sprintf("uid:%d", os.Getuid())
	s := serveFile(t, 2, configFile(t, fmt.Sprintf(`
listen:
  - {address: "unix:%[1]s/open", name: local, mode: 0666, auth: uid}
  - {address: "unix:%[1]s/closed", mode: "0660", auth: uid}
users: {file: users, groups: {mine: ["%[2]s"]}}
rules:
  - {name: me, listener: local, user: "%[2]s", auth: uid, to: 127.0.0.1, port: %[3]d, action: allow}
  - {name: mine, group: mine, action: allow}
`, dir, me, addrOf(t, site).Port), user))
	for name, want := range map[string]os.FileMode{"open": 0o666, "closed": 0o660} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	socket := "unix:" + dir + "/open"
	for i, d := range []argyle.Dialer{
		&socks.Dialer{Addr: socket},
		&socks.Dialer{Addr: socket, Version: 4, User: "mallory"},
		&httpconnect.Dialer{Addr: socket},
		&socks.Dialer{Addr: "unix:" + dir + "/closed"},
	} {
		open(t, d, elsewhere).Close()
		line := s.waitLog(t, "session", i+1)
		by(t, line, "mine")
		wantLine(t, line, map[string]any{"user": me, "client": "unix"})
	}
	conn := dialRaw(t, socket)
	if got := statusOf(t, conn, "GET", "http://"+site+"/", ""); got != http.StatusOK {
		t.Errorf("GET: %d", got)
	}
	conn.Close()
	line := s.sessionBy(t, "dest", site)
	by(t, line, "me")
	wantLine(t, line, map[string]any{"user": me, "inbound": "local"})

	// Somebody else is somebody else.
	if os.Getuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	curl := peer(t, "curl")
	const nobody = 65534
	cmd := command(t, curl, "--silent", "--show-error", "--proxy", "socks5h://localhost"+dir+"/open", "http://"+site+"/")
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	c := start(t, cmd)
	if code := c.wait(t); code != curlProxy || !strings.Contains(c.stderr.String(), "(2)") {
		t.Errorf("curl of another user ends with %d %q", code, c.stderr.String())
	}
	line = s.sessionBy(t, "user", fmt.Sprintf("uid:%d", nobody))
	if line["err"] == nil {
		t.Errorf("%v", line)
	}
	// The mode keeps him out of the other socket.
	cmd = command(t, curl, "--silent", "--show-error", "--proxy", "socks5h://localhost"+dir+"/closed", "http://"+site+"/")
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	if c := start(t, cmd); c.wait(t) == 0 {
		t.Errorf("another user passes a mode of 0660: %q", c.stdout.String())
	}
}

// Where a unix socket wants a password, the owner of the process is nobody.
func TestUIDNotEnough(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dest := mirror(t, "127.0.0.1:0")
	s := serveFile(t, 1, configFile(t, fmt.Sprintf(`
listen: [{address: "unix:%s/socket", mode: 0600, auth: [password]}]
users: users
rules: [{name: known, user: "*", action: allow}]
`, dir), user))
	socket := "unix:" + dir + "/socket"
	if got := method5(t, dialRaw(t, socket), wire.NoAuth); got != wire.NoAcceptable {
		t.Errorf("without a password the server chooses %v", got)
	}
	if got := cd4(t, dialRaw(t, socket), argyle.Connect, addrOf(t, dest)); got != wire.Rejected {
		t.Errorf("SOCKS 4: %v", got)
	}
	if got := statusOf(t, dialRaw(t, socket), "CONNECT", dest, ""); got != http.StatusProxyAuthRequired {
		t.Errorf("CONNECT: %d", got)
	}
	open(t, &socks.Dialer{Addr: socket, User: user, Password: password}, dest).Close()
	line := s.waitLog(t, "session", 1)
	by(t, line, "known")
	wantLine(t, line, map[string]any{"user": user})
}

// A listener that leaves it to the client whether to log in has two kinds of
// them, whom rules tell apart. Each listener has its own ways.
func TestListenerAuth(t *testing.T) {
	t.Parallel()
	members, anybody, none := mirror(t, "127.0.0.1:0"), mirror(t, "127.0.0.1:0"), mirror(t, "127.0.0.1:0")
	s := serveFile(t, 3, configFile(t, fmt.Sprintf(`
listen:
  - {address: 127.0.0.1:0, name: both, auth: [password, none]}
  - {address: 127.0.0.2:0, name: nobody, auth: none}
  - {address: "[::1]:0", name: usual}
users: users
rules:
  - {name: members, user: "*", auth: password, port: %d, action: allow}
  - {name: anonymous, auth: none, port: %d, action: allow}
  - {name: all, port: %d, action: allow}
`, addrOf(t, members).Port, addrOf(t, none).Port, addrOf(t, anybody).Port), user))
	both, nobody, usual := s.addrs()[0], s.addrs()[1], s.addrs()[2]
	// A way is what a client may do, and who it is then.
	for name, way := range map[string]struct {
		d    argyle.Dialer
		user string
	}{
		"SOCKS 5":           {&socks.Dialer{Addr: both}, ""},
		"SOCKS 5 as ann":    {&socks.Dialer{Addr: both, User: user, Password: password}, user},
		"SOCKS 4":           {&socks.Dialer{Addr: both, Version: 4}, ""},
		"SOCKS 4 as ann":    {&socks.Dialer{Addr: both, Version: 4, User: user}, ""}, // a USERID says nothing
		"CONNECT":           {&httpconnect.Dialer{Addr: both}, ""},
		"CONNECT as ann":    {&httpconnect.Dialer{Addr: both, User: user, Password: password}, user},
		"nobody":            {&socks.Dialer{Addr: nobody}, ""},
		"nobody as ann":     {&socks.Dialer{Addr: nobody, User: user, Password: password}, ""},
		"nobody by CONNECT": {&httpconnect.Dialer{Addr: nobody, User: user, Password: password}, ""},
		"usual as ann":      {&socks.Dialer{Addr: usual, User: user, Password: password}, user},
	} {
		for dest, want := range map[string]bool{members: way.user != "", none: way.user == "", anybody: true} {
			before := len(s.lines("session"))
			conn, err := way.d.DialContext(t.Context(), "tcp", dest)
			if (err == nil) != want || err != nil && !errors.Is(err, argyle.ErrNotAllowed) && !strings.HasPrefix(name, "SOCKS 4") {
				t.Errorf("%s to %s: %v", name, dest, err)
			}
			if err == nil {
				hello(t, conn)
				conn.Close()
			}
			wantLine(t, s.waitLog(t, "session", before+1), map[string]any{"user": way.user, "dest": dest})
		}
	}

	// Who tries to log in, and cannot, is not let in as anonymous.
	before := len(s.lines("session"))
	conn := dialRaw(t, both)
	if got := method5(t, conn, wire.NoAuth, wire.UserPass); got != wire.UserPass {
		t.Errorf("the server chooses %v", got)
	}
	write(t, conn, wire.Login{User: user, Password: "wrong"})
	if got := read(t, conn, 2); got[1] != 1 {
		t.Errorf("a wrong password: status %d", got[1])
	}
	gone(t, conn)
	for method, target := range map[string]string{"CONNECT": anybody, "GET": "http://" + anybody + "/"} {
		if got := statusOf(t, dialRaw(t, both), method, target, basic(user, "wrong")); got != http.StatusProxyAuthRequired {
			t.Errorf("%s with a wrong password: %d", method, got)
		}
	}
	if got := method5(t, dialRaw(t, usual), wire.NoAuth); got != wire.NoAcceptable {
		t.Errorf("where there are users, the server chooses %v", got)
	}
	if got := len(s.lines("session")); got != before {
		t.Errorf("%d sessions with a wrong password", got-before)
	}
}

// listenNotify is what systemd listens on. Its messages come to the channel.
func listenNotify(t testing.TB, name string) <-chan string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	messages := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			messages <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return messages
}

// next waits for a message.
func next(t testing.TB, messages <-chan string) string {
	t.Helper()
	select {
	case text := <-messages:
		return text
	case <-time.After(patience):
		t.Fatal("systemd is told nothing")
		return ""
	}
}

// systemd is told when the program listens, reads its configuration again, and
// stops.
func TestNotify(t *testing.T) {
	t.Parallel()
	for _, abstract := range []bool{false, true} {
		dir := t.TempDir()
		name := filepath.Join(dir, "notify")
		if abstract {
			name = "@" + name
		}
		messages := listenNotify(t, name)
		path := configFile(t, fmt.Sprintf("listen: 'unix:%s/socket'\nrules: [{action: allow}]\n", dir))
		cmd := program(t, "serve", "--log-format", "json", "-c", path)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=1000", "WATCHDOG_PID=1") // of another process
		c := start(t, cmd)
		if got := next(t, messages); got != "READY=1" {
			t.Fatalf("first it says %q", got)
		}
		open(t, &socks.Dialer{Addr: "unix:" + dir + "/socket"}, mirror(t, "127.0.0.1:0")).Close()
		s := await(t, c, 1)

		for _, text := range []string{"rules: [{action: allow}]\nlisten: 'unix:" + dir + "/socket'\n", "rules: [{action: alow}]\n"} {
			rewrite(t, path, text)
			before := monotonic(t)
			s.signal(t, syscall.SIGHUP)
			got := next(t, messages)
			after := monotonic(t)
			number, ok := strings.CutPrefix(got, "RELOADING=1\nMONOTONIC_USEC=")
			usec, err := strconv.ParseInt(strings.TrimSuffix(number, "\n"), 10, 64)
			if !ok || err != nil || usec < before || usec > after {
				t.Errorf("at SIGHUP it says %q, between %d and %d", got, before, after)
			}
			if got := next(t, messages); got != "READY=1" {
				t.Errorf("after SIGHUP it says %q", got)
			}
			// The change of the file may be seen besides.
			for len(messages) > 0 {
				<-messages
			}
		}
		s.waitLog(t, "kept the old configuration", 1)
		s.signal(t, syscall.SIGTERM)
		for {
			got := next(t, messages)
			if got == "STOPPING=1" {
				break
			}
			if !strings.HasPrefix(got, "RELOADING=1\n") && got != "READY=1" {
				t.Errorf("at SIGTERM it says %q", got)
			}
		}
		if code := s.wait(t); code != 0 {
			t.Errorf("exit status %d", code)
		}
	}
}

// monotonic is CLOCK_MONOTONIC in microseconds.
func monotonic(t testing.TB) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

// From when it says that it listens, the program obeys signals: SIGHUP does not
// end it.
func TestEarlySignal(t *testing.T) {
	t.Parallel()
	path := configFile(t, "listen: [127.0.0.1:0]\n")
	for range 5 {
		cmd := program(t, "serve", "-c", path)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var says []string
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			says = append(says, lines.Text())
			sig := syscall.SIGHUP
			if len(says) > 1 {
				sig = syscall.SIGTERM
			}
			_ = cmd.Process.Signal(sig) // it may have ended
		}
		if err := cmd.Wait(); err != nil || len(says) < 2 || !strings.Contains(says[1], "took the new configuration") {
			t.Fatalf("it ends with %v: %q", err, says)
		}
	}
}

// The watchdog hears from the program twice in its time, until it stops, also
// while it waits for sessions to end.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	messages := listenNotify(t, dir+"/notify")
	cmd := program(t, "serve", "--log-format", "json", "-l", "127.0.0.1:0")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+dir+"/notify", "WATCHDOG_USEC=200000")
	s := await(t, start(t, cmd), 1)
	conn := open(t, s.dialer(""), mirror(t, "127.0.0.1:0"))
	heard := func(n int) {
		t.Helper()
		began := time.Now()
		for count := 0; count < n; {
			if next(t, messages) == "WATCHDOG=1" {
				count++
			}
		}
		if took := time.Since(began); took > time.Duration(n)*200*time.Millisecond+2*time.Second {
			t.Errorf("%d times in %v", n, took)
		}
	}
	heard(5)
	s.signal(t, syscall.SIGTERM)
	for next(t, messages) != "STOPPING=1" {
	}
	heard(5)
	conn.Close()
	if code := s.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// A certificate is an identity that rules know: by its name, by how it is
// known, and by the groups that the name is in.
func TestCertificateRules(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, certFile, keyFile := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(2)})
	certOf := func(name string) tls.Certificate {
		pair, _, _ := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name}})
		return pair
	}
	bob, eve, carol, ann := certOf("bob"), certOf("eve"), certOf("carol"), certOf(user)
	dest := mirror(t, "127.0.0.1:0")
	for _, listener := range []string{"", ", auth: [certificate, password]"} {
		s := serveFile(t, 1, configFile(t, fmt.Sprintf(`
listen: [{address: 127.0.0.1:0%s}]
tls: {cert: %s, key: %s, client-ca: %s}
users: {file: users, groups: {staff: [carol]}}
rules:
  - {name: bob, auth: certificate, user: bob, action: allow}
  - {name: ann, auth: certificate, user: ann, action: allow}
  - {name: staff, group: staff, action: allow}
`, listener, certFile, keyFile, ca.file), user, "bob"))
		for i, tt := range []struct {
			cert tls.Certificate
			user string
			rule string // "" is a refusal
		}{
			{bob, "bob", "bob"}, {eve, "eve", ""}, {carol, "carol", "staff"}, {ann, user, "ann"},
		} {
			for j, d := range []argyle.Dialer{
				&socks.Dialer{Addr: s.addr, TLS: ca.config(tt.cert)},
				&httpconnect.Dialer{Addr: s.addr, TLS: ca.config(tt.cert)},
			} {
				conn, err := d.DialContext(t.Context(), "tcp", dest)
				if err == nil {
					conn.Close()
				}
				line := s.waitLog(t, "session", 2*i+j+1)
				wantLine(t, line, map[string]any{"user": tt.user})
				if tt.rule != "" {
					by(t, line, tt.rule)
				} else if !errors.Is(err, argyle.ErrNotAllowed) {
					t.Errorf("%s: %v", tt.user, err)
				}
			}
		}
		// His password makes nobody a holder of a certificate.
		for _, config := range []*tls.Config{nil, ca.config()} {
			d := s.dialer("bob")
			d.TLS = config
			if _, err := d.DialContext(t.Context(), "tcp", dest); !errors.Is(err, wire.NotAllowed) {
				t.Errorf("bob by password: %v", err)
			}
		}
	}
}

// Where certificates are one way to be known, and none is needed, clients in TLS
// may do without, as clients outside may.
func TestCertificateOptional(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, certFile, keyFile := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(2)})
	bob, _, _ := ca.issue(t, x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "bob"}})
	s := serveFile(t, 1, configFile(t, fmt.Sprintf(`
listen: [{address: 127.0.0.1:0, auth: [certificate, none]}]
tls: {cert: %s, key: %s, client-ca: %s}
rules: [{action: allow}]
`, certFile, keyFile, ca.file)))
	dest := mirror(t, "127.0.0.1:0")
	open(t, &socks.Dialer{Addr: s.addr}, dest).Close()
	wantLine(t, s.waitLog(t, "session", 1), map[string]any{"user": ""})
	open(t, &socks.Dialer{Addr: s.addr, TLS: ca.config(bob)}, dest).Close()
	wantLine(t, s.waitLog(t, "session", 2), map[string]any{"user": "bob"})
	open(t, &socks.Dialer{Addr: s.addr, TLS: ca.config()}, dest).Close()
	wantLine(t, s.waitLog(t, "session", 3), map[string]any{"user": ""})
}

// The time for a handshake is that of the configuration in force when the client
// came.
func TestHandshakeTimeout(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate(t)
	const text = `
listen: [{address: 127.0.0.1:0, name: bare}, {address: 127.0.0.2:0, proxy-protocol: 127.0.0.1}]
tls: {cert: %s, key: %s}
timeouts: {handshake: %s}
`
	path := configFile(t, fmt.Sprintf(text, certFile, keyFile, "1s"))
	s := serveFile(t, 2, path)
	said := []string{
		"",
		"\x05",
		"\x05\x01\x00",
		"\x04\x01\x00\x50\x7f\x00",
		"CONNECT a.example:80 HTTP/1.1\r\nHost: a",
		"\x16\x03\x01\x00\x80\x01",
	}
	silent := func(addr, header string) (all []net.Conn) {
		for _, text := range said {
			conn := dialRaw(t, addr)
			if _, err := io.WriteString(conn, header+text); err != nil {
				t.Fatal(err)
			}
			all = append(all, conn)
		}
		return all
	}
	header := string(proxyHeader(t, 1, "127.0.0.1:4711"))
	began := time.Now()
	early := append(silent(s.addr, ""), silent(s.addrs()[1], header)...)
	early = append(early, silent(s.addrs()[1], header[:8])[0])
	cut := func(began time.Time, conn net.Conn, said string) {
		t.Helper()
		gone(t, conn)
		if took := time.Since(began); took < 900*time.Millisecond || took > 5*time.Second {
			t.Errorf("%q is cut after %v", said, took)
		}
	}
	for i, conn := range early {
		cut(began, conn, said[i%len(said)])
	}

	// A reload is for those who come then. Its answer tells that this one has
	// come before.
	began = time.Now()
	before := dialRaw(t, s.addr)
	if _, err := io.WriteString(before, "\x05\x01\x00"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(before, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, fmt.Sprintf(text, certFile, keyFile, "1h"))
	s.signal(t, syscall.SIGHUP)
	s.waitLog(t, "took the new configuration", 1)
	reloaded := time.Now()
	late := append(silent(s.addr, ""), silent(s.addrs()[1], header)...)
	cut(began, before, "a greeting")
	for i, conn := range late {
		_ = conn.SetReadDeadline(reloaded.Add(2500 * time.Millisecond))
		rest, err := io.ReadAll(conn)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the reload %q is cut after %v: %q, %v", said[i%len(said)], time.Since(reloaded), rest, err)
		}
	}
	// Who has said what it wants is not bound.
	dest := mirror(t, "127.0.0.1:0")
	hello(t, open(t, &socks.Dialer{Addr: s.addr}, dest))
}
