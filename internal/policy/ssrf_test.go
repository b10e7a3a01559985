package policy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/proxy"
)

// forbidden are the spellings of addresses that a client from elsewhere has no business with, one field each.
var forbidden = map[string]string{
	"dotted decimal": "127.0.0.1 127.0.0.53 127.1.2.3 127.255.255.255 0.0.0.0 0.0.0.1 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 " +
		"192.168.0.1 100.64.0.1 100.100.100.200 169.254.169.254 169.254.170.2 168.63.129.16 192.0.0.192 198.18.0.1 224.0.0.1 239.255.255.250 255.255.255.255",
	"short":          "127.1 127.0.1 10.1 192.168.1 0 169.254.43518 127.1. 0.1",
	"decimal":        "2130706433 2852039166 3232235521 167772161 02130706433 2130706433. 4294967295 6425673729",
	"octal":          "0177.0.0.1 0177.1 017700000001 0251.0376.0251.0376 0300.0250.0.1 00000177.0.0.1 0177.0000.0000.0001 012.0.0.1",
	"hexadecimal":    "0x7f.0.0.1 0x7f.1 0x7f000001 0X7F000001 0x7F.0x0.0x0.0x1 0xa9fea9fe 0xa9.0xfe.0xa9.0xfe 0x7f.0.1 0x0 0x 0x100000000",
	"mixed":          "0x7f.0.0.01 127.0.0x1 0177.0.0x0.1 127.0.0.0x1 10.0x0.0.1 0x7f.01.1 127.0.0.01 127.000.000.001 127.0.0.1. 127.0.0.1.. .127.0.0.1 127..0.1",
	"too much":       "127.0.0.256 256.0.0.1 383.0.0.1 127.0.0.1.1 1.127.0.0.1 127.65536 99999999999",
	"with rubbish":   "127.0.0.1%eth0 127.0.0.1%25 %31%32%37.0.0.1 127%2e0%2e0%2e1 127.0.0.1/8 127.0.0.1:80 user@127.0.0.1 127.0.0.1\\x http://127.0.0.1 -127.0.0.1 +127.0.0.1 127.0.0.1,8.8.8.8",
	"brackets":       "[127.0.0.1] [::1] [::ffff:127.0.0.1] [[::1]] [::1 ::1] [fe80::1%eth0] [::1%25eth0] []",
	"IPv6":           "::1 :: 0:0:0:0:0:0:0:1 0000:0000:0000:0000:0000:0000:0000:0001 ::0001 0::1 ::0.0.0.1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 FE80::1 febf::1 fec0::1 ff02::1 ff0e::1 100::1 5f00::1",
	"mapped":         "::ffff:127.0.0.1 ::FFFF:127.0.0.1 ::ffff:7f00:1 0:0:0:0:0:ffff:7f00:0001 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe ::ffff:0.0.0.0 ::ffff:192.168.0.1 ::ffff:127.0.0.1%eth0 ::ffff:7f00:1%1",
	"compatible":     "::127.0.0.1 ::7f00:1 ::10.0.0.1 ::169.254.169.254",
	"NAT64":          "64:ff9b::127.0.0.1 64:ff9b::7f00:1 64:FF9B::a9fe:a9fe 64:ff9b::10.0.0.1 0064:ff9b:0:0:0:0:192.168.0.1 64:ff9b::0.0.0.0 64:ff9b:1::127.0.0.1 64:ff9b:1:7f00:0:100::",
	"6to4":           "2002:7f00:1:: 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1 2002:c0a8:1::1 2002:0:0::1",
	"Teredo":         "2001:0:7f00:1::f7f7:f7f7 2001:0:808:808::80ff:fffe 2001:0:a9fe:a9fe::f7f7:f7f7 2001:0:808:808::5601:5601 2001::f7f7:f7f7",
	"ISATAP":         "2a00::5efe:127.0.0.1 2a00::200:5efe:7f00:1 2001:db8:1:2:0:5efe:10.0.0.1 2a00::5efe:169.254.169.254 fe80::5efe:8.8.8.8",
	"SIIT":           "::ffff:0:127.0.0.1 ::ffff:0:7f00:1 ::ffff:0:10.0.0.1 ::ffff:0:169.254.169.254",
	"zones":          "fe80::1%lo fe80::a9fe:a9fe%1 ::1%lo ::1%0 ff02::1%eth0 fd00::1%eth0 64:ff9b::127.0.0.1%x",
	"other scripts":  "１２７.０.０.１ 127。0。0。1 127．0．0．1 ①②⑦.⓪.⓪.① ₁₂₇.0.0.1 1２7.0.0.1 ０x7f000001 ２１３０７０６４３３ 127.0.0.１ ｌｏｃａｌｈｏｓｔ ⓛⓞⓒⓐⓛⓗⓞⓢⓣ localhoſt l\u00adocalhost localhost。 a。localhost ｌocalhost． [::１] ：：1",
	"loopback names": "localhost LOCALHOST LocalHost. localhost.. .localhost a.localhost A.B.LocalHost. x.localhost.",
	"names": "loopback.test LOOPBACK.TEST loopback.test. any.test private.test metadata.test azure.test six.test any6.test mapped.test compatible.test siit.test " +
		"nat64.test 6to4.test teredo.test isatap.test ula.test link.test both.test",
	"names of rubbish":  "127.0.0.1#x 127.0.0.1?x 127.0.0.1;x 127.0.0.1,x 127.0.0.1&x",
	"names that change": "flip.test flop.test late.test mixed.test six-flip.test across.test dual.test",
}

// changing are names that mean something else at every look-up.
var changing = map[string]string{
	"flip.test":     "203.0.113.9 | 127.0.0.1",
	"flop.test":     "127.0.0.1 | 203.0.113.9",
	"late.test":     "203.0.113.9 | 203.0.113.9 | 203.0.113.9 | 127.0.0.1",
	"mixed.test":    "203.0.113.9 127.0.0.1 | 127.0.0.1 203.0.113.9",
	"six-flip.test": "2001:db8::1 ::1 | ::ffff:127.0.0.1 | 64:ff9b::7f00:1",
	"across.test":   "203.0.113.9 ::1 | 127.0.0.1 2001:db8::1",
	"dual.test":     "203.0.113.9 2001:db8::9 | 127.0.0.1 ::1 | 10.0.0.1 fd00::1",
}

// attempts are the ways in which a client's text becomes a request.
func attempts(host string, port uint16) (all []argyle.Addr) {
	if addr, err := argyle.ParseHost(host, port); err == nil {
		all = append(all, addr)
	}
	all = append(all, argyle.Addr{Name: host, Port: port}) // as a way in might, by mistake
	for _, text := range []string{net.JoinHostPort(host, fmt.Sprint(port)), host + fmt.Sprintf(":%d", port)} {
		if addr, err := argyle.ParseAddr(text); err == nil {
			all = append(all, addr)
		}
	}
	return all
}

// No spelling of a forbidden address gets a client from elsewhere anywhere, whatever the rules, as long as none names the address.
func TestForbiddenSpellings(t *testing.T) {
	to := newTarget(t)
	names := maps.Clone(privateNames)
	maps.Copy(names, changing)
	names["LOOPBACK.TEST"] = names["loopback.test"]
	policies := anything(resolver(t, names))
	count, refused := 0, 0
	for _, kind := range slices.Sorted(maps.Keys(forbidden)) {
		for host := range strings.FieldsSeq(forbidden[kind]) {
			count++
			for i := range policies {
				policy := policies[i]
				var seen public
				policy.Own = seen.stop
				p := made(t, policy)
				for _, dest := range attempts(host, to.port) {
					for range 4 {
						for _, cmd := range []argyle.Command{argyle.Connect, argyle.Bind, argyle.Associate} {
							req := request(t, "192.0.2.1", cmd, "")
							req.Dest = dest
							refused++
							wantRefused(t, p, req, fmt.Sprintf("policy %d: %s: %v %s as %v", i, kind, cmd, host, dest))
						}
					}
				}
				seen.onlyPublic(t)
			}
		}
	}
	to.wantNothing(t)
	t.Logf("%d spellings, %d refusals", count, refused)
	if count < 150 {
		t.Errorf("%d spellings, want 150", count)
	}
}

// wantRefused has a request routed and used, and fails if it gets anywhere. An ASSOCIATE is used by sending a datagram.
func wantRefused(t *testing.T, p *Policy, req *argyle.Request, where string) {
	t.Helper()
	route, err := p.Route(t.Context(), req)
	if err == nil && req.Command == argyle.Associate {
		err = sendDatagram(t, route, req)
	} else if err == nil {
		err = use(t, route, req)
	}
	var dns *net.DNSError
	if err == nil || !errors.Is(err, argyle.ErrNotAllowed) && !errors.As(err, &dns) {
		t.Errorf("%s: %v", where, err)
	}
}

// sendDatagram asks, as the way out would, about the addresses that a datagram's name means: the look-up of a packet
// connection is not waited for here, see TestRebindingDatagrams.
func sendDatagram(t *testing.T, route proxy.Route, req *argyle.Request) error {
	t.Helper()
	direct := route.Dialer.(*argyle.Direct)
	ips := []netip.Addr{req.Dest.IP}
	if req.Dest.Name != "" {
		var err error
		if ips, err = direct.Resolver.LookupNetIP(t.Context(), "ip", req.Dest.Name); err != nil {
			return err
		}
	}
	ctx := argyle.WithRequest(t.Context(), req)
	var err error
	for _, ip := range ips {
		if err = direct.Check(ctx, "udp", netip.AddrPortFrom(ip, req.Dest.Port)); err == nil {
			return nil
		}
	}
	return err
}

// onlyPublic fails if a private address has passed as a public one.
func (p *public) onlyPublic(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addr := range p.all {
		if what := Private(addr.Addr()); what != "" {
			t.Errorf("%v has passed, which is %s", addr, what)
		}
	}
}

// Nor is it sent to an upstream as something else: only what names mean there is the upstream's knowledge.
func TestForbiddenByUpstream(t *testing.T) {
	for _, rules := range [][]Rule{nil, {{}}, {{Dests: []string{"*"}}}} {
		p := made(t, Policy{Rules: rules, Ways: map[string]Way{"": {Dialer: new(otherWay)}}})
		for kind, hosts := range forbidden {
			if strings.HasPrefix(kind, "names") {
				continue
			}
			for host := range strings.FieldsSeq(hosts) {
				for _, dest := range attempts(host, 80) {
					req := request(t, "192.0.2.1", argyle.Connect, "")
					req.Dest = dest
					wantRefused(t, p, req, kind+": "+host)
				}
			}
		}
	}
}

// A rule that names one private network opens that and nothing else.
func TestForbiddenBesideNamed(t *testing.T) {
	var seen public
	p := made(t, Policy{
		Own:      seen.stop,
		Resolver: resolver(t, privateNames),
		Rules:    []Rule{{Dests: []string{"192.168.77.0/24"}}, {Dests: []string{"::/0", "0.0.0.0/0", "*"}}},
	})
	for kind, hosts := range forbidden {
		for host := range strings.FieldsSeq(hosts) {
			if _, changes := changing[host]; changes {
				continue
			}
			for _, dest := range attempts(host, 80) {
				req := request(t, "192.0.2.1", argyle.Connect, "")
				req.Dest = dest
				wantRefused(t, p, req, kind+": "+host)
			}
		}
	}
	seen.onlyPublic(t)
	if d := p.Decide(ask(t, "client=192.0.2.1 192.168.77.1:80"), netip.Addr{}); d.Kind != Itself {
		t.Errorf("what is named: %+v", d)
	}
}
