package fakedns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	p, err := Open(Options{Journal: path})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]netip.Addr{}
	for i := range 50 {
		name := fmt.Sprintf("h%d.example", i)
		want[name] = addrs(t, p, ann, name)
	}
	former := addrs(t, p, ann, "moved.example")
	fixed := netip.MustParseAddr("198.19.255.10")
	if err := errors.Join(p.Pin("moved.example", fixed), p.Pin("h0.example", netip.Addr{}), p.Close()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Addrs(ann, "late.example"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a name after Close: %v", err)
	}

	for range 3 { // what is read is written and read again
		again := open(t, Options{Journal: path})
		v4, v6 := again.Prefixes()
		if first4, first6 := p.Prefixes(); v4 != first4 || v6 != first6 {
			t.Errorf("the pool is of %v and %v, and was of %v and %v", v4, v6, first4, first6)
		}
		for name, had := range want {
			if got := addrs(t, again, bob, name); got != had {
				t.Errorf("%s has %v, and had %v", name, got, had)
			}
		}
		if got := addrs(t, again, bob, "moved.example"); got[0] != fixed {
			t.Errorf("moved.example has %v, pinned to %v", got, fixed)
		}
		if name, _ := again.Name(former[0]); name != "moved.example" {
			t.Errorf("the former address is %q", name)
		}
		for _, e := range again.Entries() {
			if pinned := e.Name == "h0.example" || e.IPv4 == fixed; e.Pinned != pinned || !pinned && e.Client.Addr() != ann {
				t.Errorf("after a restart: %+v", e)
			}
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the journal: %v, %v", info.Mode(), err)
	}
}

func TestJournalLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	open(t, Options{Journal: path})
	if p, err := Open(Options{Journal: path}); err == nil {
		p.Close()
		t.Error("two pools have one journal")
	}
}

func TestJournalPrefix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	if err := open(t, Options{Journal: path}).Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Journal: path, IPv4: netip.MustParsePrefix("240.0.0.0/8")})
	if err == nil || !strings.Contains(err.Error(), "198.18.0.0/15") {
		t.Errorf("another prefix: %v", err)
	}
	open(t, Options{Journal: path, IPv4: netip.MustParsePrefix("198.18.0.0/15"), Key: []byte("new")})
}

// TestJournalHold: the hold time goes on over a restart, also if the clock has
// gone back meanwhile.
func TestJournalHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	o := Options{Journal: path, Names: 1, Share: -1}
	var had [2]netip.Addr
	reopen := func(t *testing.T, use func(p *Pool)) {
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		use(p)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24 * time.Hour * 365)
		reopen(t, func(p *Pool) { had = addrs(t, p, ann, "one.example") })
	})
	synctest.Test(t, func(t *testing.T) { // a year earlier
		reopen(t, func(p *Pool) {
			if name, _ := p.Name(had[0]); name != "one.example" {
				t.Errorf("%v is %q", had[0], name)
			}
			time.Sleep(2 * time.Hour)
			p.Name(had[0]) // late enough to be on record
			time.Sleep(23 * time.Hour)
		})
		reopen(t, func(p *Pool) {
			if _, _, err := p.Addrs(ann, "two.example"); !errors.Is(err, ErrFull) {
				t.Errorf("23 hours after its last use the address stands for another name: %v", err)
			}
			time.Sleep(26 * time.Hour)
			addrs(t, p, ann, "two.example")
		})
	})
}

// TestJournalTorn cuts a journal at every byte of its last lines, and lets
// what a disk may leave stand behind it.
func TestJournalTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "names")
	p := open(t, Options{Journal: path, Key: []byte("k")})
	for i := range 5 {
		addrs(t, p, ann, fmt.Sprintf("h%d.example", i))
	}
	p.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.IndexByte(whole, '\n') + 1
	for cut := header; cut <= len(whole); cut++ {
		for _, tail := range []string{"", "\x00\x00\x00", "garbage\n", "\x00\n\n"} {
			torn := filepath.Join(dir, "torn")
			b := append(bytes.Clone(whole[:cut]), tail...)
			if err := os.WriteFile(torn, b, 0o600); err != nil {
				t.Fatal(err)
			}
			p, err := Open(Options{Journal: torn})
			if err != nil {
				t.Fatalf("cut at %d, then %q: %v", cut, tail, err)
			}
			if want := bytes.Count(whole[header:cut], []byte{'\n'}); len(p.Entries()) != want {
				t.Fatalf("cut at %d, then %q: %d names, want %d", cut, tail, len(p.Entries()), want)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(torn); err != nil || !bytes.HasSuffix(b, []byte(".example\n")) && cut > header+60 {
				t.Fatalf("the torn end is still there: %q, %v", b, err)
			}
		}
	}
}

// TestJournalDamaged: a journal with damage in the middle is refused, and left
// as it is.
func TestJournalDamaged(t *testing.T) {
	line := func(text string) string { return string(appendLine(nil, text)) }
	header := line(magic + " 6b 198.18.0.0/15 fd00::/64")
	good := line("a 5 1700000000 192.0.2.1/32 www.example")
	tests := map[string]string{
		"other file":      "root:x:0:0:root:/root:/bin/bash\n",
		"other header":    line("something else"),
		"no key":          line(magic+"  198.18.0.0/15 fd00::/64") + good,
		"header only cut": header[:len(header)-1],
		"damaged line":    header + strings.Replace(good, "www", "wwv", 1) + line("d 5"),
		"lost line":       header + "\n" + good,
		"zeros":           header + "\x00\x00\x00\n" + good,
		"two names":       header + good + line("a 5 1700000000 192.0.2.1/32 mail.example"),
		"freed twice":     header + good + line("d 5") + line("d 5"),
		"bad name":        header + line("a 5 1700000000 192.0.2.1/32 www/example"),
		"bad client":      header + line("a 5 1700000000 192.0.2.1 www.example"),
		"bad time":        header + line("a 5 -1 192.0.2.1/32 www.example"),
		"bad slot":        header + line("a x 1700000000 192.0.2.1/32 www.example"),
		"slot beyond":     header + line("a 131071 1700000000 192.0.2.1/32 www.example"),
		"bad line":        header + line("x 5"),
		"bad prefix":      line(magic+" 6b 198.18.0.0/33 fd00::/64") + good,
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "names")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if p, err := Open(Options{Journal: path}); err == nil {
				p.Close()
				t.Error("it was opened")
			} else if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != text {
				t.Errorf("it is %q now, %v", b, err)
			}
		})
	}
}

// TestJournalRewrite: a journal does not grow without end.
func TestJournalRewrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "names")
		p := open(t, Options{Journal: path, Names: 4, Share: -1, Hold: time.Second})
		var last [2]netip.Addr
		most := int64(0)
		for i := range 20_000 {
			time.Sleep(2 * time.Second)
			last = addrs(t, p, ann, fmt.Sprintf("h%d.example", i))
			most = max(most, p.journal.size)
		}
		if most > 500_000 {
			t.Errorf("the journal had %d bytes", most)
		}
		p.Close()
		again := open(t, Options{Journal: path})
		if name, _ := again.Name(last[0]); name != "h19999.example" {
			t.Errorf("%v is %q", last[0], name)
		}
	})
}

// TestJournalFailure: a name that cannot be put on record is not given out.
func TestJournalFailure(t *testing.T) {
	p := open(t, Options{Journal: filepath.Join(t.TempDir(), "names")})
	file := p.journal.file
	readOnly, err := os.Open(p.journal.path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	p.journal.file = readOnly
	if _, _, err := p.Addrs(ann, "www.example"); err == nil {
		t.Error("a name that is on no record has an address")
	}
	if n := len(p.Entries()); n != 0 {
		t.Errorf("the pool has %d names", n)
	}
	p.journal.file, p.journal.broken = file, nil
	addrs(t, p, ann, "www.example")
}

// fillJournal is the process that TestJournalKill kills: it says what it has
// given out.
func fillJournal(path string) {
	p, err := Open(Options{Journal: path, Share: -1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("p%d-%d.example", os.Getpid(), i)
		v4, v6, err := p.Addrs(netip.MustParseAddr("192.0.2.1"), name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(name, v4, v6)
	}
}

// TestJournalKill ends a process with SIGKILL again and again. What it has
// said before must be so afterwards.
func TestJournalKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	said := map[string][2]netip.Addr{}
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envJournal+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 500+100*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
			if f := strings.Fields(lines.Text()); len(f) == 3 && strings.Count(f[2], ":") > 1 {
				said[f[0]] = [2]netip.Addr{parse(f[1]), parse(f[2])}
			}
		}
		state := cmd.Wait()
		if exit := new(exec.ExitError); !errors.As(state, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the process has ended: %v", state)
		}
		p, err := Open(Options{Journal: path})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range said {
			if got, ok := p.Name(want[0]); got != name || !ok {
				t.Errorf("round %d: %v is %q, and was %s", round, want[0], got, name)
			}
			if got := addrs(t, p, bob, name); got != want {
				t.Errorf("round %d: %s has %v, and had %v", round, name, got, want)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(said) < 1000 {
		t.Errorf("the processes have said %d names", len(said))
	}
}

// parse is the zero Addr for a line that was cut.
func parse(s string) netip.Addr {
	addr, _ := netip.ParseAddr(s)
	return addr
}

func TestRecord(t *testing.T) {
	for _, r := range []record{
		{op: opAdd, slot: 5, time: 1700000000, client: netip.MustParsePrefix("192.0.2.1/32"), name: "www.example"},
		{op: opAdd, slot: 1<<32 - 1, time: 0, name: "2001:db8::5"},
		{op: opPin, slot: 0, time: 1<<40 - 1, name: "a"},
		{op: opDelete, slot: 7},
	} {
		text, ok := checkLine(bytes.TrimSuffix(r.append(nil), []byte{'\n'}))
		if got, err := parseRecord(text); !ok || err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v is read as %+v, %v, %v", r, got, ok, err)
		}
	}
}
