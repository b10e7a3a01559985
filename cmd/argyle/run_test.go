package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
	"github.com/argyle-socks/argyle/proxy"
)

func TestParsePublish(t *testing.T) {
	for text, want := range map[string]portForward{
		"8080:80":         {listen: netip.MustParseAddrPort("127.0.0.1:8080"), dest: netip.MustParseAddrPort("127.0.0.1:80")},
		"8080:80/tcp":     {listen: netip.MustParseAddrPort("127.0.0.1:8080"), dest: netip.MustParseAddrPort("127.0.0.1:80")},
		"5353:53/udp":     {udp: true, listen: netip.MustParseAddrPort("127.0.0.1:5353"), dest: netip.MustParseAddrPort("127.0.0.1:53")},
		"0.0.0.0:8080:80": {listen: netip.MustParseAddrPort("0.0.0.0:8080"), dest: netip.MustParseAddrPort("127.0.0.1:80")},
		"[::1]:8080:80":   {listen: netip.MustParseAddrPort("[::1]:8080"), dest: netip.MustParseAddrPort("127.0.0.1:80")},
	} {
		if got, err := parsePublish(text); err != nil || got != want {
			t.Errorf("parsePublish(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", ":", "80", "80:", ":80", "0:80", "80:0", "80:65536", "a:1:2", "1:2:3", "80:80/sctp", "::1:80:80x"} {
		if got, err := parsePublish(text); err == nil {
			t.Errorf("parsePublish(%q) = %v, want an error", text, got)
		} else if !strings.Contains(err.Error(), "--publish") {
			t.Errorf("parsePublish(%q): the error %q does not name the flag", text, err)
		}
	}
}

// decide asks the policy that flags and file make where a program's request goes.
func decide(t *testing.T, f *runFlags, common *commonFlags, dest string) (way string, err error) {
	t.Helper()
	file, err := f.file(common)
	if err != nil {
		t.Fatal(err)
	}
	log, err := runLogger(common)
	if err != nil {
		t.Fatal(err)
	}
	world := newWorld(log)
	names, err := openNames(dnsFake, fakedns.Options{Share: -1}, argyle.Addr{Name: "resolver.example", Port: 53}, capturePolicy{world}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer names.close()
	world.addresses = shownAddresses{}
	set, err := world.build(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	world.now.Store(set)
	addr, err := argyle.ParseAddr(dest)
	if err != nil {
		t.Fatal(err)
	}
	req := &argyle.Request{Command: argyle.Connect, Dest: addr, Client: netip.MustParseAddrPort("10.111.0.2:40000"), Inbound: "run"}
	route, err := capturePolicy{world}.Route(t.Context(), req)
	if err != nil {
		return "", err
	}
	if !route.Dest.IsZero() && addr.Name != "" {
		t.Errorf("%s: the name became %v", dest, route.Dest)
	}
	return nameOf(route.Dialer), nil
}

func TestRunRules(t *testing.T) {
	t.Setenv("NO_PROXY", "intra.example, 10.9.0.0/16, *.star.example, 192.168.*, foo*bar, <local>")
	notRouted := []string{"10.0.0.0/8", "198.18.0.0/15", "192.0.0.0/24", "0.0.0.0/8", "240.0.0.0/4"} // no name is in there
	f := &runFlags{captureFlags: captureFlags{direct: append(notRouted, "192.0.2.0/24", ".direct.example"), deny: []string{"203.0.113.0/24", ".bad.example"}}}
	common := &commonFlags{proxies: []string{"socks5h://gw.example:1080"}, logFormat: "text"}
	const way = "socks5h://gw.example:1080"
	for dest, want := range map[string]string{
		"www.example:443":         way,
		"198.51.100.1:443":        way,
		"192.0.2.9:443":           "direct",
		"direct.example:443":      "direct",
		"www.direct.example:443":  "direct",
		"intra.example:80":        "direct",
		"a.intra.example:80":      "direct",
		"a.star.example:80":       "direct",
		"11.9.1.1:80":             way,
		"10.9.1.1:80":             "direct",
		"127.0.0.1:80":            way, // that of the proxy
		"203.0.113.9:443":         "",
		"www.bad.example:443":     "",
		"[2001:db8::1]:443":       way,
		"direct.example.evil:443": way,
	} {
		got, err := decide(t, f, common, dest)
		if got != want || (want == "") != (err != nil) {
			t.Errorf("%s goes to %q, %v, want %q", dest, got, err, want)
		}
	}
}

// A configuration for a server holds for a program, too: what is about its
// clients is passed over, its rules and upstreams are not.
func TestRunConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "argyle.yaml")
	err := os.WriteFile(path, []byte(`
listen: [0.0.0.0:1080]
allow: [192.0.2.0/24]
upstreams: {office: socks5h://gw.example}
rules:
  - {action: deny, port: 25}
  - {to: [.corp.example, 10.0.0.0/8], via: office}
  - {action: allow}
tests:
  - {connect: "mail.example:25", from: 192.0.2.1, expect: deny}
  - {connect: "www.example:443", from: 192.0.2.1, expect: allow}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	common := &commonFlags{config: path, logFormat: "text"}
	f := &runFlags{captureFlags: captureFlags{deny: []string{".bad.example"}}}
	for dest, want := range map[string]string{
		"a.corp.example:443": "office",
		"10.1.1.1:443":       "office",
		"other.example:443":  "direct", // the network matches no name
		"mail.example:25":    "",
		"bad.example:443":    "",
	} {
		got, err := decide(t, f, common, dest)
		if got != want || (want == "") != (err != nil) {
			t.Errorf("%s goes to %q, %v, want %q", dest, got, err, want)
		}
	}
}

func TestRunNeedsAProxy(t *testing.T) {
	t.Setenv("ALL_PROXY", "")
	t.Setenv("all_proxy", "")
	if _, err := new(runFlags).file(new(commonFlags)); err == nil || !strings.Contains(err.Error(), "ALL_PROXY") {
		t.Errorf("file() = %v, want an error that tells of -x and ALL_PROXY", err)
	}
	t.Setenv("all_proxy", "gw.example")
	file, err := new(runFlags).file(new(commonFlags))
	if err != nil || !slices.Equal(file.Proxy, []config.ProxyURL{"gw.example"}) {
		t.Errorf("file() = %v, %v, want the proxy of all_proxy", file, err)
	}
}

// carriesUDP asks nobody: only what can never carry datagrams counts.
func TestCarriesUDP(t *testing.T) {
	for url, want := range map[string]bool{
		"socks5h://gw.example":     true,
		"socks5://gw.example":      true,
		"direct://":                true,
		"socks4a://gw.example":     false,
		"http://gw.example":        false,
		"ssh://gw.example":         false,
		"socks5h+tls://gw.example": true,
	} {
		t.Setenv("ALL_PROXY", url)
		file, err := new(runFlags).file(new(commonFlags))
		if err != nil {
			t.Fatal(err)
		}
		log, err := runLogger(&commonFlags{logFormat: "text"})
		if err != nil {
			t.Fatal(err)
		}
		world := newWorld(log)
		set, err := world.build(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		world.now.Store(set)
		if got := set.carriesUDP(); got != want {
			t.Errorf("%s: carriesUDP() = %t, want %t", url, got, want)
		}
	}
}

// A resolver is asked through the way out, over connections that serve several
// questions; one that has ended meanwhile is replaced.
func TestAskedThrough(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{Listener: ln, MaxTCPQueries: 3, NotifyStartedFunc: func() { close(started) }}
	server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg).SetReply(query)
		for range 40 {
			answer.Answer = append(answer.Answer, &dns.TXT{
				Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET},
				Txt: []string{"forty times twenty-five bytes make a thousand"},
			})
		}
		_ = w.WriteMsg(answer)
	})
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	<-started
	defer func() {
		_ = server.Shutdown()
		<-done
	}()
	dials := new(countedDirect)
	r := &askedThrough{
		policy: proxy.PolicyFunc(func(context.Context, *argyle.Request) (argyle.Dialer, error) { return dials, nil }),
		dest:   argyle.AddrOf(ln.Addr()),
	}
	defer r.close()
	for range 7 {
		query := new(dns.Msg).SetQuestion("big.example.", dns.TypeTXT)
		answer, err := r.exchange(t.Context(), query)
		if err != nil || len(answer.Answer) != 40 {
			t.Fatalf("exchange: %v, %v", answer, err)
		}
	}
	if n := dials.n; n != 3 {
		t.Errorf("%d connections for 7 questions, of which one bears 3, want 3", n)
	}
	packed, err := new(dns.Msg).SetQuestion("big.example.", dns.TypeTXT).Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(r.answer(t.Context(), netip.AddrPort{}, netip.AddrPort{}, packed)); err != nil || !reply.Truncated {
		t.Errorf("answer for a datagram: %v, truncated %t, want true", err, reply.Truncated)
	}
	if got := r.answer(t.Context(), netip.AddrPort{}, netip.AddrPort{}, []byte("nonsense")); got != nil {
		t.Errorf("answer to nonsense: %q, want none", got)
	}
}

// countedDirect counts the connections.
type countedDirect struct {
	argyle.Direct
	n int
}

func (d *countedDirect) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.n++
	return d.Direct.DialContext(ctx, network, address)
}
