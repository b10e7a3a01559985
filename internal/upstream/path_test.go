package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
	"github.com/argyle-socks/argyle/socks/wire"
)

// pathOf is a path through hops by their URLs.
func pathOf(t testing.TB, mode Mode, length int, urls ...string) *Path {
	t.Helper()
	var hops []Hop
	for _, url := range urls {
		hop, err := Options{}.Hop(url)
		if err != nil {
			t.Fatal(err)
		}
		hops = append(hops, hop)
	}
	p := Options{}.Path(mode, length, hops...)
	t.Cleanup(func() { p.Close() })
	return p
}

// downHops returns which hops a path has found dead.
func downHops(p *Path) (down []int) {
	for hop := range p.Hops {
		if p.health(hop).state() != up {
			down = append(down, hop)
		}
	}
	return down
}

// A dynamic path leaves out what is dead, wherever it is, and asks the living in order; the next request knows.
func TestPathDynamic(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	gone := nowhere(t)
	for _, tt := range []struct {
		name string
		dead []int
	}{
		{"none", nil}, {"first", []int{0}}, {"middle", []int{1}}, {"last", []int{2}},
		{"first two", []int{0, 1}}, {"last two", []int{1, 2}}, {"ends", []int{0, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var urls []string
			var servers []*server
			for hop, scheme := range []string{"socks5h://", "http://", "socks4a://"} {
				if slices.Contains(tt.dead, hop) {
					urls = append(urls, scheme+gone)
					continue
				}
				s := startServer(t, listen(t), false)
				servers = append(servers, s)
				urls = append(urls, scheme+s.addr)
			}
			p := pathOf(t, Dynamic, 0, urls...)
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if err := exchange(ctx, p, dest); err != nil {
					t.Fatal(err)
				}
				cancel()
				for i, s := range servers {
					want := dest
					if i+1 < len(servers) {
						want = servers[i+1].addr
					}
					asked := s.asked()
					if len(asked) == 0 || asked[len(asked)-1] != want {
						t.Errorf("living hop %d was asked for %q, want %s", i, asked, want)
					}
				}
			}
			if down := downHops(p); !slices.Equal(down, tt.dead) {
				t.Errorf("down are %v, want %v", down, tt.dead)
			}
		})
	}
}

// What a path cannot do, and whom it blames.
func TestPathErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t, listen(t), false)
	locked := startServer(t, listen(t), true)
	gone := nowhere(t)
	for _, tt := range []struct {
		name string
		mode Mode
		urls []string
		want error // "": any
		text string
		says verdict
		down []int
	}{
		{"destination refuses", Dynamic, []string{s.addr, "http://" + s.addr}, syscall.EHOSTUNREACH, "proxy answered 502", final, nil},
		{"destination refuses, at SOCKS", Dynamic, []string{s.addr, s.addr}, syscall.ECONNREFUSED, "", final, nil},
		{"all dead", Dynamic, []string{gone, "http://" + gone}, syscall.ECONNREFUSED, "too few live hops in dynamic(", fault, []int{0, 1}},
		{"strict, first dead", Strict, []string{gone, s.addr}, syscall.ECONNREFUSED, gone, fault, []int{0}},
		{"strict, last dead", Strict, []string{s.addr, gone}, wire.ConnectionRefused, gone, fault, []int{1}},
		{"strict, login refused", Strict, []string{s.addr, "socks5h://ann:sesame@" + locked.addr}, nil, "login refused", fault, []int{1}},
		{"none", Dynamic, nil, nil, "no hops", doubtful, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := pathOf(t, tt.mode, 0, tt.urls...)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := p.DialContext(ctx, "tcp", gone)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || judge(err) != tt.says {
				t.Errorf("%v, judged %d", err, judge(err))
			}
			if err != nil && strings.Contains(err.Error(), "sesame") {
				t.Errorf("the password is in %v", err)
			}
			if down := downHops(p); !slices.Equal(down, tt.down) {
				t.Errorf("down are %v, want %v", down, tt.down)
			}
		})
	}
	if _, err := (Options{}).Hop("direct://"); err == nil {
		t.Error("direct is a hop")
	}
	if _, err := (Options{}).Hop("socks6://ann:sesame@gw"); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Error(err)
	}
	p := pathOf(t, Dynamic, 0, "socks5h://ann:sesame@gw", "http://far")
	if got := p.String(); got != "dynamic(socks5h://gw:1080, http://far:8080)" {
		t.Error(got)
	}
}

// A black hole is left out, wherever it is, and costs its time once.
func TestPathBlackHole(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	for _, place := range []int{0, 1, 2} {
		for _, scheme := range []string{"socks5h://", "http://"} {
			t.Run(scheme, func(t *testing.T) {
				t.Parallel()
				urls := []string{startMortal(t).addr, startMortal(t).addr, startMortal(t).addr}
				urls[place] = scheme + blackHole(t)
				p := pathOf(t, Dynamic, 0, urls...)
				for i := range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), 2400*time.Millisecond)
					began := time.Now()
					if err := exchange(ctx, p, dest); err != nil {
						t.Fatalf("place %d, request %d: %v", place, i, err)
					}
					cancel()
					if took := time.Since(began); i > 0 && took > 800*time.Millisecond {
						t.Errorf("place %d, request %d took %v", place, i, took)
					}
				}
				if down := downHops(p); !slices.Equal(down, []int{place}) {
					t.Errorf("place %d: down are %v", place, down)
				}
			})
		}
	}
}

// A last hop that talks nonsense is left out; one that gives an answer, be it without a reason, is not.
func TestPathLastHop(t *testing.T) {
	t.Parallel()
	s := startServer(t, listen(t), false)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	_, nonsense, _ := net.SplitHostPort(dest) // it sends the greeting back
	p := pathOf(t, Dynamic, 0, s.addr, "127.0.0.1:"+nonsense)
	if err := exchange(t.Context(), p, dest); err != nil || !slices.Equal(downHops(p), []int{1}) {
		t.Errorf("%v, down are %v", err, downHops(p))
	}

	fails := startCarrier(t, new(proxy.Proxy), dialerFunc(func(context.Context, string, string) (net.Conn, error) { return nil, errTest }))
	for _, url := range []string{"socks5h://" + fails.Addr, "socks4a://" + fails.Addr} {
		p := pathOf(t, Dynamic, 0, s.addr, url)
		s.asked()
		if err := request(t, dialTo{p, dest}, patience); err == nil || len(downHops(p)) > 0 {
			t.Errorf("%s: %v, down are %v", url, err, downHops(p))
		}
		if got := s.asked(); !slices.Equal(got, []string{fails.Addr}) {
			t.Errorf("%s: asked for %q", url, got)
		}
	}
}

// A random path has as many hops as it should, all of them different, of all that live.
func TestPathRandom(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	var urls []string
	var servers []*server
	for range 5 {
		s := startServer(t, listen(t), false)
		servers = append(servers, s)
		urls = append(urls, s.addr)
	}
	urls = append(urls, "http://"+nowhere(t))
	p := pathOf(t, RandomHops, 3, urls...)
	ends := make(map[int]int)
	for range 100 {
		for _, s := range servers {
			s.asked()
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := exchange(ctx, p, dest); err != nil {
			t.Fatal(err)
		}
		cancel()
		if len(downHops(p)) == 0 {
			continue // the dead one was not drawn yet
		}
		asked := 0
		for i, s := range servers {
			for _, to := range s.asked() {
				asked++
				if to == dest {
					ends[i]++
				}
			}
		}
		if asked < 3 {
			t.Errorf("%d hops", asked)
		}
	}
	if len(ends) != len(servers) || !slices.Equal(downHops(p), []int{5}) {
		t.Errorf("the last hops were %v, down are %v", ends, downHops(p))
	}

	few := pathOf(t, RandomHops, 3, urls[0], urls[1], urls[5])
	if err := request(t, dialTo{few, dest}, patience); err == nil || !strings.Contains(err.Error(), "too few live hops") {
		t.Errorf("fewer hops than wanted: %v", err)
	}
	all := pathOf(t, RandomHops, 0, urls[0], urls[1])
	if err := request(t, dialTo{all, dest}, patience); err != nil {
		t.Error(err)
	}
}

// A dead hop is tried again after its time, by one request.
func TestPathComesBack(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	first, second := nowhere(t), startServer(t, listen(t), false)
	p := pathOf(t, Dynamic, 0, first, second.addr)
	exchangeWith := func() {
		t.Helper()
		if err := exchange(t.Context(), p, dest); err != nil {
			t.Fatal(err)
		}
	}
	exchangeWith()
	ln, err := net.Listen("tcp", first)
	if err != nil {
		t.Skip(err)
	}
	back := startServer(t, ln, false)
	eventually(t, "its time", func() bool { return p.health(0).state() == due })
	second.asked()
	exchangeWith()
	if got := back.asked(); !slices.Equal(got, []string{second.addr}) || len(downHops(p)) > 0 {
		t.Errorf("asked for %q, down are %v", got, downHops(p))
	}
}

// UDP and BIND go as far as the last hop can.
func TestPathUDPAndBind(t *testing.T) {
	t.Parallel()
	a, b := startMortal(t), startMortal(t)
	web := startServer(t, listen(t), false)
	gone := nowhere(t)
	dest := udpEcho(t)
	for _, urls := range [][]string{{a.addr}, {a.addr, b.addr}, {gone, a.addr, "http://" + gone, b.addr}} {
		p := pathOf(t, Dynamic, 0, urls...)
		conn, err := p.ListenPacket(t.Context(), "udp", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.WriteTo([]byte("ping"), dest); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		if n, _, err := conn.ReadFrom(buf); string(buf[:n]) != "ping" {
			t.Errorf("%q, %v", buf[:n], err)
		}
		conn.Close()

		ln, err := p.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		far, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		near, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(far, far); far.Close() }()
		pingPong(t, near)
		near.Close()
		ln.Close()
	}
	for _, urls := range [][]string{{a.addr, "http://" + b.addr}, {"http://" + web.addr, b.addr}, {"socks4a://" + a.addr, b.addr}} {
		p := pathOf(t, Dynamic, 0, urls...)
		if _, err := p.ListenPacket(t.Context(), "udp", ""); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%q: %v", urls, err)
		}
		if down := downHops(p); len(down) > 0 {
			t.Errorf("%q: down are %v", urls, down)
		}
	}
}

// A group can be the first hop, and a path a member of a group; both know whose fault it is.
func TestPathAndGroup(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	a, b, far := startMortal(t), startMortal(t), startMortal(t)
	first := groupOf(t, RoundRobin, a.addr, b.addr)
	hop, err := Options{}.Hop("http://" + nowhere(t))
	if err != nil {
		t.Fatal(err)
	}
	last, err := Options{}.Hop(far.addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &Path{Mode: Dynamic, Hops: []Hop{FirstHop(first), hop, last}}
	g := &Group{Name: "outer", Members: []*Member{{Dialer: p}}}
	for range 4 {
		if err := exchange(t.Context(), g, dest); err != nil {
			t.Fatal(err)
		}
	}
	if down := downHops(p); !slices.Equal(down, []int{1}) || a.calls.Load() == 0 || b.calls.Load() == 0 || far.calls.Load() != 4 {
		t.Errorf("down are %v; %d %d %d", down, a.calls.Load(), b.calls.Load(), far.calls.Load())
	}
	if err := probe(t.Context(), p); err != nil || far.calls.Load() != 4 {
		t.Errorf("probe: %v", err)
	}
	wrong := &Path{Mode: Strict, Hops: []Hop{last, FirstHop(first)}}
	if err := request(t, wrong, patience); err == nil || !strings.Contains(err.Error(), "g cannot be reached through another proxy") {
		t.Error(err)
	}
	far.kill()
	a.kill()
	b.kill()
	if err := request(t, dialTo{g, dest}, patience); judge(err) != fault || g.Status()[0].Up {
		t.Errorf("%v, %+v", err, g.Status())
	}
}

// The ways through a path stay the same, so that they share connections to SSH servers.
func TestPathSharesSSH(t *testing.T) {
	t.Parallel()
	s, far := startSSH(t), startMortal(t)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	p := pathOf(t, Dynamic, 0, "http://"+nowhere(t), "ssh://ann:"+sshPassword+"@"+s.addr+"?known_hosts="+s.known, far.addr)
	for range 5 {
		if err := exchange(t.Context(), p, dest); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestParseModeAndPick(t *testing.T) {
	for name, want := range map[string]Mode{"": Strict, "strict": Strict, "dynamic": Dynamic, "random": RandomHops} {
		if got, err := ParseMode(name); got != want || err != nil {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	for name, want := range map[string]Pick{"": Failover, "sticky-destination": StickyHost} {
		if got, err := ParsePick(name); got != want || err != nil {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	if _, err := ParseMode("x"); err == nil {
		t.Error("a mode x")
	}
	if _, err := ParsePick("x"); err == nil {
		t.Error("a choice x")
	}
}

// Options reach what URLs make: checks, resolver, base.
func TestOptions(t *testing.T) {
	t.Parallel()
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	s := startMortal(t)
	_, port, _ := net.SplitHostPort(s.addr)
	resolver := resolverFunc(func(host string) string {
		if host == "gw.test" || host == "dest.test" {
			return "127.0.0.1"
		}
		return ""
	})
	d, err := Options{Resolver: resolver}.Chain([]string{"socks5://gw.test:" + port})
	if err != nil {
		t.Fatal(err)
	}
	if err := exchange(t.Context(), d, strings.Replace(dest, "127.0.0.1", "dest.test", 1)); err != nil {
		t.Error(err)
	}
	var based string
	base := dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		based = address
		return new(net.Dialer).DialContext(ctx, network, s.addr)
	})
	for _, build := range []func(Options) (argyle.Dialer, error){
		func(o Options) (argyle.Dialer, error) { return o.Chain([]string{"socks5h://gw"}) },
		func(o Options) (argyle.Dialer, error) {
			hop, err := o.Hop("socks5h://gw")
			return o.Path(Dynamic, 0, hop), err
		},
	} {
		d, err := build(Options{Base: &base})
		if err != nil {
			t.Fatal(err)
		}
		if err := exchange(t.Context(), d, dest); err != nil || based != "gw:1080" {
			t.Errorf("%q: %v", based, err)
		}
		based = ""
		d, err = build(Options{Checks: Checks{First: nobody}, Resolver: resolver})
		if err != nil {
			t.Fatal(err)
		}
		if err := exchange(t.Context(), d, dest); err == nil {
			t.Error("the check is lost")
		}
	}
}

// resolverFunc knows some names.
type resolverFunc func(host string) string

func (f resolverFunc) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	ip, err := netip.ParseAddr(f(host))
	if err != nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{ip}, nil
}
