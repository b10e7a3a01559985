package fakedns

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	ann = netip.MustParseAddr("192.0.2.1")
	bob = netip.MustParseAddr("192.0.2.2")
)

func open(t testing.TB, o Options) *Pool {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func addrs(t testing.TB, p *Pool, client netip.Addr, name string) [2]netip.Addr {
	t.Helper()
	v4, v6, err := p.Addrs(client, name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return [2]netip.Addr{v4, v6}
}

func TestPool(t *testing.T) {
	p := open(t, Options{})
	got := addrs(t, p, ann, "www.Example.")
	if !netip.MustParsePrefix("198.18.0.0/15").Contains(got[0]) {
		t.Errorf("IPv4 is %v", got[0])
	}
	if !netip.MustParsePrefix("fd00::/8").Contains(got[1]) {
		t.Errorf("IPv6 is %v", got[1])
	}
	for _, spelling := range []string{"www.example", "WWW.EXAMPLE", "www.example."} {
		if again := addrs(t, p, bob, spelling); again != got {
			t.Errorf("%s has %v, want %v", spelling, again, got)
		}
	}
	for _, addr := range []netip.Addr{got[0], got[1], netip.AddrFrom16(got[0].As16()), got[1].WithZone("lo")} {
		if name, ok := p.Name(addr); !ok || name != "www.example" || !p.Contains(addr) {
			t.Errorf("%v is %q, %v", addr, name, ok)
		}
	}
	v4, v6 := p.Prefixes()
	for _, unknown := range []netip.Addr{v4.Addr(), got[0].Next(), v6.Addr(), got[1].Prev(), netip.MustParseAddr("198.19.255.255")} {
		if name, ok := p.Name(unknown); ok || !p.Contains(unknown) {
			t.Errorf("%v, which stands for nothing, is %q, in the pool: %v", unknown, name, p.Contains(unknown))
		}
	}
	for _, other := range []string{"198.17.255.255", "198.20.0.0", "::", "192.0.2.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(other)
		if name, ok := p.Name(addr); ok || p.Contains(addr) {
			t.Errorf("%v is %q, in the pool: %v", other, name, p.Contains(addr))
		}
	}
	if _, ok := p.Name(netip.Addr{}); ok || p.Contains(netip.Addr{}) {
		t.Error("the zero Addr is of the pool")
	}
}

func TestPoolRefuses(t *testing.T) {
	p := open(t, Options{})
	for _, name := range []string{"", ".", "a..b", ".a", "a b", "a\n", "a/b", "ä.example", `a\.b`, "fe80::1%lo", "1.2.3",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "aa"} {
		if v4, _, err := p.Addrs(ann, name); err == nil {
			t.Errorf("%q has got %v", name, v4)
		}
	}
	for _, o := range []Options{
		{IPv4: netip.MustParsePrefix("fd00::/64")},
		{IPv4: netip.MustParsePrefix("198.18.0.1/15")},
		{IPv4: netip.MustParsePrefix("198.18.0.0/27")},
		{IPv6: netip.MustParsePrefix("198.18.0.0/15")},
		{IPv6: netip.MustParsePrefix("fd00::/123")},
		{IPv6: netip.MustParsePrefix("::ffff:0:0/96")},
	} {
		if p, err := Open(o); err == nil {
			v4, v6 := p.Prefixes()
			t.Errorf("a pool of %v and %v", v4, v6)
		}
	}
}

// TestPoolDeterministic: the key alone chooses, as long as no names collide.
func TestPoolDeterministic(t *testing.T) {
	one := open(t, Options{Key: []byte("a key")})
	two := open(t, Options{Key: []byte("a key")})
	three := open(t, Options{Key: []byte("another key")})
	same := 0
	for i := range 100 {
		addrs(t, two, bob, fmt.Sprintf("other-%d.example", i))
	}
	for i := range 100 {
		name := fmt.Sprintf("host-%d.example", i)
		if want, got := addrs(t, one, ann, name), addrs(t, two, bob, name); got == want {
			same++
		} else if got[0].Compare(want[0]) < 0 {
			t.Errorf("%s has %v here and %v there", name, want, got)
		}
		if addrs(t, three, ann, name) == addrs(t, one, ann, name) {
			t.Errorf("%s has the same addresses under another key", name)
		}
	}
	if same < 95 { // 200 names in 131,055 slots: a collision is rare
		t.Errorf("%d of 100 names have the same addresses", same)
	}
}

// A model is what a pool may do, in the simplest words.
type model struct {
	hold   time.Duration
	byAddr map[netip.Addr]string
	used   map[string]time.Time
	last   map[netip.Addr]time.Time
}

// check looks at an answer of the pool.
func (m *model) check(t *testing.T, name string, got [2]netip.Addr) {
	now := time.Now()
	for _, addr := range got {
		if old, ok := m.byAddr[addr]; ok && old != name {
			if idle := now.Sub(m.last[addr]); idle < m.hold {
				t.Fatalf("%v stood for %s %v ago, and stands for %s", addr, old, idle, name)
			}
		}
		m.byAddr[addr], m.last[addr] = name, now
	}
	m.used[name] = now
}

// TestPoolProperties does at random what clients do, and holds the pool to its
// promises: a bijection, no address for another name within the hold time, and
// no name lost within it.
func TestPoolProperties(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 4))
			const hold = time.Hour
			p := open(t, Options{
				IPv4: netip.MustParsePrefix("198.18.0.0/25"), IPv6: netip.MustParsePrefix("fd00:1::/64"),
				Share: 40, Hold: hold, Key: []byte{byte(seed), 1},
			})
			m := &model{hold: hold, byAddr: map[netip.Addr]string{}, used: map[string]time.Time{}, last: map[netip.Addr]time.Time{}}
			full := 0
			for range 4000 {
				time.Sleep(time.Duration(random.IntN(60)) * time.Second)
				name := fmt.Sprintf("h%d.example", random.IntN(300))
				client := netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(4))})
				before, known := m.used[name]
				v4, v6, err := p.Addrs(client, name)
				if err != nil {
					full++
					if !errors.Is(err, ErrFull) {
						t.Fatal(err)
					}
					if known && time.Since(before) < hold {
						t.Fatalf("%s, used %v ago, is gone", name, time.Since(before))
					}
					continue
				}
				m.check(t, name, [2]netip.Addr{v4, v6})
				for _, addr := range []netip.Addr{v4, v6} {
					if back, ok := p.Name(addr); !ok || back != name {
						t.Fatalf("%v is %q, %v, want %s", addr, back, ok, name)
					}
				}
			}
			if full == 0 || full > 3900 {
				t.Errorf("the pool was full %d times of 4000: the test tests nothing", full)
			}
			checkWhole(t, p)
		})
	}
}

// checkWhole looks at all that a pool has.
func checkWhole(t *testing.T, p *Pool) {
	t.Helper()
	seen := map[any]string{}
	own := map[netip.Prefix]int{}
	for _, e := range p.Entries() {
		for _, key := range []any{e.Name, e.IPv4, e.IPv6} {
			if other, ok := seen[key]; ok {
				t.Errorf("%v is of %s and %s", key, other, e.Name)
			}
			seen[key] = e.Name
		}
		own[e.Client]++
		if own[e.Client] > p.share {
			t.Errorf("%v has %d names", e.Client, own[e.Client])
		}
	}
	if n := len(p.Entries()); n > p.names {
		t.Errorf("%d names, at most %d", n, p.names)
	}
}

// TestPoolQuota: ten thousand names of one client leave another's alone, and
// their own memory is bounded.
func TestPoolQuota(t *testing.T) {
	p := open(t, Options{})
	had := map[string][2]netip.Addr{}
	for i := range 100 {
		name := fmt.Sprintf("bob-%d.example", i)
		had[name] = addrs(t, p, bob, name)
	}
	n, refused := 0, 0
	for i := range 20_000 {
		if _, _, err := p.Addrs(ann, fmt.Sprintf("ann-%d.example", i)); errors.Is(err, ErrFull) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		} else {
			n++
		}
	}
	if n < 10_000 || n > p.names/8 || refused == 0 {
		t.Errorf("ann has got %d names, of %d", n, p.names)
	}
	for name, want := range had {
		if got := addrs(t, p, bob, name); got != want {
			t.Errorf("%s has %v, and had %v", name, got, want)
		}
	}
	addrs(t, p, bob, "one-more.example")
	addrs(t, p, ann, "bob-1.example") // known names are no one's share
}

// TestPoolClient: an IPv6 host has as many addresses as it likes, but one
// share.
func TestPoolClient(t *testing.T) {
	p := open(t, Options{Share: 1})
	addrs(t, p, netip.MustParseAddr("2001:db8::1"), "one.example")
	if _, _, err := p.Addrs(netip.MustParseAddr("2001:db8::2"), "two.example"); !errors.Is(err, ErrFull) {
		t.Errorf("a neighbour in the same /64 has its own share: %v", err)
	}
	addrs(t, p, netip.MustParseAddr("2001:db8:0:1::1"), "three.example")
	addrs(t, p, netip.MustParseAddr("::ffff:192.0.2.1"), "four.example")
	if _, _, err := p.Addrs(ann, "five.example"); !errors.Is(err, ErrFull) {
		t.Errorf("an IPv4 address is another client as IPv6: %v", err)
	}
}

func TestPoolReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Names: 2, Share: -1})
		addrs(t, p, ann, "one.example")
		time.Sleep(time.Hour)
		two := addrs(t, p, ann, "two.example")
		time.Sleep(22 * time.Hour)
		if _, _, err := p.Addrs(ann, "three.example"); !errors.Is(err, ErrFull) {
			t.Fatalf("a third name after 23 hours: %v", err)
		}
		p.Name(two[1]) // a connection is a use too
		time.Sleep(2 * time.Hour)
		addrs(t, p, ann, "three.example")
		if _, ok := p.Name(two[0]); !ok {
			t.Error("the name used last has made room")
		}
		if _, _, err := p.Addrs(ann, "four.example"); !errors.Is(err, ErrFull) {
			t.Errorf("a fourth name: %v", err)
		}
	})
}

func TestPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{})
		fixed := netip.MustParseAddr("198.19.255.10")
		if err := p.Pin("2001:DB8:0::5", fixed); err != nil {
			t.Fatal(err)
		}
		if name, _ := p.Name(fixed); name != "2001:db8::5" {
			t.Errorf("%v is %q", fixed, name)
		}
		if err := p.Pin("other.example", fixed); err == nil {
			t.Error("a pinned address is taken away")
		}
		for _, out := range []string{"198.18.0.1", "198.19.255.255", "192.0.2.1", "fd00::1"} {
			if err := p.Pin("out.example", netip.MustParseAddr(out)); err == nil {
				t.Errorf("%s is pinned", out)
			}
		}

		// A name in use keeps its former address until the hold time is over.
		former := addrs(t, p, ann, "moved.example")
		if err := p.Pin("Moved.example.", netip.MustParseAddr("198.19.255.11")); err != nil {
			t.Fatal(err)
		}
		if now := addrs(t, p, ann, "moved.example"); now[0].String() != "198.19.255.11" {
			t.Errorf("moved.example has %v", now)
		}
		if name, _ := p.Name(former[1]); name != "moved.example" {
			t.Errorf("the former address is %q", name)
		}
		if err := p.Pin("else.example", former[0]); err == nil {
			t.Error("a former address stands for another name at once")
		}
		time.Sleep(25 * time.Hour)
		if err := p.Pin("else.example", former[0]); err != nil {
			t.Errorf("a former address after 25 hours: %v", err)
		}

		// Where it is, and back.
		kept := addrs(t, p, ann, "kept.example")
		if err := p.Pin("kept.example", netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		if now := addrs(t, p, ann, "kept.example"); now != kept {
			t.Errorf("kept.example has %v, and had %v", now, kept)
		}
		if err := errors.Join(p.Unpin("kept.example"), p.Unpin("never.example"), p.Unpin("kept.example")); err != nil {
			t.Error(err)
		}
		if err := p.Pin("taken.example", kept[0]); err == nil {
			t.Error("an unpinned address is free at once")
		}
		if err := p.Pin("moved.example", netip.MustParseAddr("198.19.255.12")); err != nil {
			t.Error(err)
		}
		if name, _ := p.Name(netip.MustParseAddr("198.19.255.11")); name != "moved.example" {
			t.Errorf("the address it was pinned to is %q", name)
		}
	})
}

// TestPinned: pinned names do not age and do not let a full pool hang.
func TestPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{IPv4: netip.MustParsePrefix("198.18.0.0/26"), Share: -1})
		addr := netip.MustParseAddr("198.18.0.16")
		for i := range p.space.slots {
			if err := p.Pin(fmt.Sprintf("p%d.example", i), addr); err != nil {
				t.Fatal(err)
			}
			addr = addr.Next()
		}
		time.Sleep(1000 * time.Hour)
		if _, _, err := p.Addrs(ann, "www.example"); !errors.Is(err, ErrFull) {
			t.Errorf("Addrs: %v", err)
		}
		if err := p.Pin("www.example", netip.Addr{}); !errors.Is(err, ErrFull) {
			t.Errorf("Pin: %v", err)
		}
	})
}

func TestSpace(t *testing.T) {
	for _, o := range []Options{
		{IPv4: netip.MustParsePrefix("198.18.0.0/26"), IPv6: netip.MustParsePrefix("fd00::/122")},
		{IPv4: netip.MustParsePrefix("240.0.0.0/4"), IPv6: netip.MustParsePrefix("64:ff9b:1::/48")},
		{IPv4: netip.MustParsePrefix("10.0.0.0/24"), IPv6: netip.MustParsePrefix("fd00:0:0:0:ffff:ffff:ffff:ff00/120")},
		{IPv4: netip.MustParsePrefix("0.0.0.0/0"), IPv6: netip.MustParsePrefix("::/0")},
	} {
		s, err := newSpace(o.IPv4, o.IPv6)
		if err != nil {
			t.Fatal(err)
		}
		for _, slot := range []uint32{0, 1, s.slots / 2, s.slots - 1} {
			v4, v6 := s.addrs(slot)
			for _, addr := range []netip.Addr{v4, v6} {
				if got, ok := s.slot(addr); !ok || got != slot {
					t.Errorf("%v of slot %d is of slot %d, %v", addr, slot, got, ok)
				}
			}
			if !o.IPv4.Contains(v4) || !o.IPv6.Contains(v6) {
				t.Errorf("slot %d of %v and %v has %v and %v", slot, o.IPv4, o.IPv6, v4, v6)
			}
		}
		v4, v6 := s.addrs(s.slots)
		for _, addr := range []netip.Addr{v4, v6, o.IPv4.Addr(), o.IPv6.Addr(), netip.MustParseAddr("2001:db8::1")} {
			if got, ok := s.slot(addr); ok {
				t.Errorf("%v has slot %d", addr, got)
			}
		}
	}
}

func BenchmarkPoolName(b *testing.B) {
	p := open(b, Options{})
	addr := addrs(b, p, ann, "www.example")[0]
	for b.Loop() {
		p.Name(addr)
	}
}

func BenchmarkPoolNew(b *testing.B) {
	p := open(b, Options{Share: -1, IPv4: netip.MustParsePrefix("240.0.0.0/4")})
	i := 0
	for b.Loop() {
		i++
		if _, _, err := p.Addrs(ann, fmt.Sprintf("h%d.example", i)); err != nil && !errors.Is(err, ErrFull) {
			b.Fatal(err)
		}
	}
}

// Reserved addresses stand for no name, whatever comes, and neither does what goes with them.
func TestPoolReserved(t *testing.T) {
	v4 := netip.MustParsePrefix("192.0.2.0/26")
	reserved := []netip.Addr{netip.MustParseAddr("192.0.2.20"), netip.MustParseAddr("192.0.2.21"), netip.MustParseAddr("198.51.100.1")}
	p := open(t, Options{IPv4: v4, Share: -1, Reserved: reserved})
	for i := 0; ; i++ {
		a4, a6, err := p.Addrs(netip.MustParseAddr("192.0.2.200"), fmt.Sprintf("name-%d.example", i))
		if errors.Is(err, ErrFull) {
			if i < 30 {
				t.Errorf("full after %d names", i)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(reserved, a4) {
			t.Errorf("%v and %v stand for a name", a4, a6)
		}
	}
	if err := p.Pin("pinned.example", reserved[0]); err == nil {
		t.Error("a reserved address was pinned")
	}
	if _, ok := p.Name(reserved[0]); ok || !p.Contains(reserved[0]) {
		t.Error("a reserved address has a name, or is of another network")
	}
	all := make([]netip.Addr, 0, 64)
	for addr := v4.Addr(); v4.Contains(addr); addr = addr.Next() {
		all = append(all, addr)
	}
	if _, err := Open(Options{IPv4: v4, Reserved: all}); err == nil {
		t.Error("a pool without any address is opened")
	}
}

// An address that stands for a name is reserved only when nobody can remember it.
func TestPoolReservedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "journal")
		p, err := Open(Options{Journal: path})
		if err != nil {
			t.Fatal(err)
		}
		addr, _, err := p.Addrs(netip.MustParseAddr("192.0.2.1"), "www.example")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(Options{Journal: path, Reserved: []netip.Addr{addr}}); err == nil || !strings.Contains(err.Error(), "www.example") {
			t.Errorf("%v, %v: want an error that names www.example", p, err)
		}
		time.Sleep(26 * time.Hour)
		p, err = Open(Options{Journal: path, Reserved: []netip.Addr{addr}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if name, ok := p.Name(addr); ok {
			t.Errorf("%v stands for %s", addr, name)
		}
		if now, _, err := p.Addrs(netip.MustParseAddr("192.0.2.1"), "www.example"); err != nil || now == addr {
			t.Errorf("the name has %v, %v", now, err)
		}
	})
}

// A name that has a session keeps its address, however long ago anybody asked for it.
func TestPoolUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, Options{Names: 1})
		client := netip.MustParseAddr("192.0.2.1")
		addr, _, err := p.Addrs(client, "long.example")
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			time.Sleep(20 * time.Hour)
			p.Use("LONG.example.")
			p.Use("unknown.example")
			p.Use("not a name")
		}
		if _, _, err := p.Addrs(client, "other.example"); !errors.Is(err, ErrFull) {
			t.Errorf("another name: %v, want ErrFull", err)
		}
		if name, _ := p.Name(addr); name != "long.example" {
			t.Errorf("%v stands for %q", addr, name)
		}
		time.Sleep(25 * time.Hour)
		if now, _, err := p.Addrs(client, "other.example"); err != nil {
			t.Errorf("when nobody uses it: %v, %v", now, err)
		}
	})
}
