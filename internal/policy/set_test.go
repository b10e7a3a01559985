package policy

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
)

func TestParseSet(t *testing.T) {
	const file = "\ufeff# a list\r\n" +
		"\n" +
		"  a.test  # with a word\n" +
		".b.test#without\n" +
		"*.c?.test\n" +
		"192.0.2.0/24\n" +
		"2001:db8::1\n" +
		"bücher.test\r\n" +
		"0.0.0.0 ads.test Track.test # a hosts file's\n" +
		":: six.test\n" +
		"127.0.0.1 localhost localhost.localdomain\n" +
		"fe80::1%lo0 localhost\n" +
		"255.255.255.255 broadcasthost\n" +
		"0.0.0.0 0.0.0.0\n" +
		"*"
	want := []pattern{
		{kind: exactName, text: "a.test"}, {kind: domainName, text: "b.test"}, {kind: globName, text: "*.c?.test"},
		{kind: netPattern, net: prefixes("192.0.2.0/24")[0]}, {kind: netPattern, net: prefixes("2001:db8::1/128")[0]},
		{kind: exactName, text: "xn--bcher-kva.test"}, {kind: exactName, text: "ads.test"}, {kind: exactName, text: "track.test"},
		{kind: exactName, text: "six.test"}, {kind: everything},
	}
	got, err := parseSet("list", []byte(file))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseSetErrors(t *testing.T) {
	const file = "a.test\n\t127.1\nb.test c.test\n# fine\nset:other\n  10.0.0.0/8 x\n0.0.0.0 ok.test *.bad.test\n0.0.0.0 10.0.0.0/8.x\n"
	_, err := parseSet("list", []byte(file))
	want := []string{
		`list:2:2: "127.1": neither an IPv4 address nor a host name`,
		`list:3:8: "c.test": one entry a line`,
		`list:5:1: "set:other": a set in a set`,
		`list:6:14: "x": one entry a line`,
		`list:7:17: "*.bad.test" is not a host name`,
		`list:8:9: "10.0.0.0/8.x" is not a host name`,
	}
	if got := strings.Split(text(err), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	var at *SetError
	if !errors.As(err, &at) || at.File != "list" || at.Line != 2 || at.Column != 2 || errors.Unwrap(at) == nil {
		t.Errorf("%+v", at)
	}
	_, err = parseSet("list", []byte(strings.Repeat("127.1\n", 1000)))
	if got := strings.Split(text(err), "\n"); len(got) != maxSetErrors+1 || got[maxSetErrors] != "list:101:1: too many errors" {
		t.Errorf("%d errors, the last %s", len(got), got[len(got)-1])
	}
}

func FuzzParseSet(f *testing.F) {
	f.Add("a.test\n.b.test # x\n0.0.0.0 ads.test\n10.0.0.0/8\n")
	f.Add("\ufeff*\r\n\r\n#")
	f.Add("a b\nset:x\n\x00")
	f.Fuzz(func(t *testing.T, file string) {
		entries, err := parseSet("f", []byte(file))
		for _, p := range entries {
			if err == nil && (p.kind == setPattern || p.kind == netPattern && !p.net.IsValid()) {
				t.Fatalf("%+v", p)
			}
		}
		for _, e := range unjoined(err) {
			var at *SetError
			if !errors.As(e, &at) || at.Line < 1 || at.Line > strings.Count(file, "\n")+1 || at.Column < 1 || at.Column > len(file) {
				t.Fatalf("%v", e)
			}
		}
	})
}

func unjoined(err error) []error {
	if err == nil {
		return nil
	}
	return err.(interface{ Unwrap() []error }).Unwrap()
}

// listFile is the file of a set in a test.
type listFile struct {
	t    *testing.T
	path string
}

func newListFile(t *testing.T, text string) *listFile {
	f := &listFile{t, filepath.Join(t.TempDir(), "list")}
	f.write(text)
	return f
}

// write changes the file in place.
func (f *listFile) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// replace puts a new file in its place, of an old date.
func (f *listFile) replace(text string) {
	f.t.Helper()
	other := &listFile{f.t, f.path + ".new"}
	other.write(text)
	other.age()
	if err := os.Rename(other.path, f.path); err != nil {
		f.t.Fatal(err)
	}
}

// age makes the file look as if it had not changed for a while.
func (f *listFile) age() {
	f.t.Helper()
	old := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.Chtimes(f.path, old, old); err != nil {
		f.t.Fatal(err)
	}
}

// listed is a policy that denies what is in a file.
func listed(t *testing.T, file string) *Policy {
	set, err := NewSet([]string{"inline.test"}, file)
	if err != nil {
		t.Fatal(err)
	}
	return made(t, Policy{Sets: map[string]*Set{"ads": set}, Rules: []Rule{{Deny: true, Dests: []string{"set:ads"}}, {}}})
}

func (p *Policy) denies(t *testing.T, names ...string) bool {
	t.Helper()
	for _, name := range names {
		req := &argyle.Request{Command: argyle.Connect, Dest: argyle.Addr{Name: name, Port: 80}}
		if p.Decide(req, netip.Addr{}).Kind != RuleDenies {
			return false
		}
	}
	return true
}

func TestRefresh(t *testing.T) {
	f := newListFile(t, "a.test\n")
	p := listed(t, f.path)
	refresh := func(what string, wantChanged bool, wantErr string, denied, allowed string) {
		t.Helper()
		changed, err := p.Refresh()
		if changed != wantChanged || (err != nil) != (wantErr != "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: changed %v, %v", what, changed, err)
		}
		if !p.denies(t, denied, "inline.test") || p.denies(t, allowed) {
			t.Errorf("%s: does not deny %s, or does %s", what, denied, allowed)
		}
	}
	refresh("as it was", false, "", "a.test", "b.test")
	f.write("b.test\n")
	refresh("same size, same moment", true, "", "b.test", "a.test")
	refresh("nothing new", false, "", "b.test", "a.test")
	f.age()
	refresh("only another date", false, "", "b.test", "a.test")
	refresh("still", false, "", "b.test", "a.test")
	f.replace("c.test\n")
	refresh("same size, same date, another file", true, "", "c.test", "b.test")
	f.write("127.1\n")
	refresh("broken", false, `set "ads": `+f.path+":1:1: ", "c.test", "b.test")
	refresh("still broken", false, f.path+":1:1: ", "c.test", "b.test")
	f.age()
	refresh("broken, looked at", false, ":1:1: ", "c.test", "b.test")
	refresh("broken, not looked at again", false, ":1:1: ", "c.test", "b.test")
	f.write("c.test\n")
	refresh("as it was before", false, "", "c.test", "b.test")
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	refresh("gone", false, "no such file", "c.test", "b.test")
	if _, err := p.Refresh(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
	f.write("c.test\n")
	refresh("back", false, "", "c.test", "b.test")
	f.write("d.test\n*.e.test\n192.0.2.0/24\n")
	refresh("more", true, "", "d.test", "x.f.test")
	if d := p.Decide(ask(t, "192.0.2.1:80"), netip.Addr{}); d.Allowed {
		t.Errorf("the network: %+v", d)
	}
	f.write("")
	refresh("empty", true, "", "inline.test", "d.test")
}

// What tells a change: a date of just now may be that of another change as well, an old one is not if the size is
// another.
func TestRefreshStamp(t *testing.T) {
	f := newListFile(t, "a.test\n")
	now := time.Now()
	date := func(when time.Time) {
		if err := os.Chtimes(f.path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	date(now)
	p := listed(t, f.path)
	f.write("b.test\n")
	date(now)
	if changed, err := p.Refresh(); !changed || err != nil || !p.denies(t, "b.test") {
		t.Errorf("in one tick of the clock: changed %v, %v", changed, err)
	}
	f.age()
	if changed, err := p.Refresh(); changed || err != nil {
		t.Errorf("another date: changed %v, %v", changed, err)
	}
	f.write("b.test\nc.test\n")
	f.age()
	if changed, err := p.Refresh(); !changed || err != nil || !p.denies(t, "c.test") {
		t.Errorf("the same date: changed %v, %v", changed, err)
	}
}

// What two policies make of one set is each one's own: a reload may build a second one while the first is in use.
func TestSetShared(t *testing.T) {
	f := newListFile(t, "a.test\n")
	set, err := NewSet(nil, f.path)
	if err != nil {
		t.Fatal(err)
	}
	from := Policy{Sets: map[string]*Set{"s": set}, Rules: []Rule{{Deny: true, Dests: []string{"set:s"}}, {}}}
	first := made(t, from)
	f.write("b.test\n")
	if changed, err := first.Refresh(); !changed || err != nil {
		t.Fatal(changed, err)
	}
	second := made(t, from)
	if !first.denies(t, "b.test") || !second.denies(t, "a.test") {
		t.Error("a policy has what the other has read")
	}
	if changed, err := second.Refresh(); !changed || err != nil || !second.denies(t, "b.test") {
		t.Error(changed, err)
	}
}

// Client networks are in sets as well.
func TestRefreshClients(t *testing.T) {
	f := newListFile(t, "192.0.2.0/24\n")
	p := made(t, Policy{Sets: map[string]*Set{"office": {File: f.path}}, Rules: []Rule{{ClientSets: []string{"office"}}}})
	inside, outside := ask(t, "client=192.0.2.1 a.test:80"), ask(t, "client=198.51.100.1 a.test:80")
	if !p.Decide(inside, netip.Addr{}).Allowed || p.Decide(outside, netip.Addr{}).Allowed {
		t.Error("before")
	}
	f.write("198.51.100.0/24\n")
	if _, err := p.Refresh(); err != nil || p.Decide(inside, netip.Addr{}).Allowed || !p.Decide(outside, netip.Addr{}).Allowed {
		t.Error("after", err)
	}
}

func TestNewSetErrors(t *testing.T) {
	f := newListFile(t, "ok.test\n127.1\n")
	_, err := NewSet([]string{"x y", "fine.test"}, f.path)
	if got := text(err); !strings.Contains(got, `"x y"`) || !strings.Contains(got, f.path+":2:1: ") {
		t.Error(got)
	}
	if _, err := NewSet(nil, f.path+".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := NewSet(nil, ""); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(f.path, maxSetFile+1); err != nil {
		t.Skip(err)
	}
	if _, err := NewSet(nil, f.path); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

// Watch tells of every change, and of an error once.
func TestWatch(t *testing.T) {
	f := newListFile(t, "a.test\n")
	p := listed(t, f.path)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		news := make(chan string, 100)
		ended := make(chan error)
		go func() { ended <- p.Watch(ctx, 0, func(err error) { news <- text(err) }) }()
		want := func(what string, texts ...string) {
			t.Helper()
			time.Sleep(3500 * time.Millisecond)
			synctest.Wait()
			if len(news) != len(texts) {
				t.Errorf("%s: told %d times", what, len(news))
			}
			for _, text := range texts {
				if told := <-news; (text == "") != (told == "") || !strings.Contains(told, text) {
					t.Errorf("%s: told %q, want %q", what, told, text)
				}
			}
		}
		want("nothing")
		f.write("b.test\n")
		want("change", "")
		f.write("127.1\n")
		want("mistake", ":1:1:")
		f.write("b.test\n127.1\n")
		want("another mistake", ":2:1:")
		f.write("c.test\n")
		want("mended", "")
		if err := os.Remove(f.path); err != nil {
			t.Fatal(err)
		}
		want("gone", "no such file")
		f.write("c.test\n")
		want("back as it was")
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Decisions are made while sets change: each by the old or the new, never by half.
func TestRefreshWhileDeciding(t *testing.T) {
	f := newListFile(t, "even.test\n")
	p := listed(t, f.path)
	var work sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := p.Route(t.Context(), &argyle.Request{Command: argyle.Connect, Dest: argyle.Addr{Name: "inline.test", Port: 80}}); err == nil {
					t.Error("inline.test is allowed")
					return
				}
				p.denies(t, "even.test", "odd.test")
			}
		})
	}
	for i := range 50 {
		f.write([]string{"odd.test\n", "even.test\n192.0.2.0/24\n"}[i%2])
		work.Go(func() {
			if _, err := p.Refresh(); err != nil {
				t.Error(err)
			}
		})
		if _, err := p.Refresh(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	work.Wait()
	if !p.denies(t, "even.test") || p.denies(t, "odd.test") {
		t.Error("the last change is not in force")
	}
}
