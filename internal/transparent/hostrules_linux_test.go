package transparent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// freshNetwork gives the test, on its thread, a network namespace of its own.
func freshNetwork(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip(err)
	}
}

func nft(t *testing.T, words ...string) string {
	t.Helper()
	out, err := exec.Command("nft", words...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v: %s", words, err, out)
	}
	return string(out)
}

func prefixesOf(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// everyRule uses all that HostRules have, but for RedirectTCP.
func everyRule() *HostRules {
	return &HostRules{
		Table: "argyle-test",
		Pools: prefixesOf("198.18.0.0/15", "fd00:1::/64"),
		To:    prefixesOf("10.1.0.0/16", "10.0.0.0/8", "192.0.2.1/32", "192.168.0.0/24", "192.168.1.0/24", "::/0"),
		Except: prefixesOf("10.9.0.0/16", "2001:db8::/32", "2001:db8:1::/48",
			"255.255.255.255/32"),
		DNS: true, From: prefixesOf("10.85.0.0/24", "fd00:85::/64"), FromLinks: []string{"inside", "br-lan.7"},
		Local: true, UIDs: []uint32{1000, 0}, GIDs: []uint32{5},
		Mark: 0x61726711, Own: 0x61726710, TCP: 1081, UDP: 1082, RejectUDP: true,
	}
}

// What a plan says is what nft lists when it is done.
func TestPlan(t *testing.T) {
	freshNetwork(t)
	redirect, all4 := everyRule(), everyRule()
	redirect.RedirectTCP, redirect.UDP, redirect.DNS = 1083, 0, false
	all4.To, all4.Pools, all4.UIDs, all4.GIDs, all4.RejectUDP = prefixesOf("0.0.0.0/0", "10.0.0.0/8"), nil, nil, nil, false
	pool := &HostRules{Table: "argyle-test", Pools: prefixesOf("198.18.0.0/15"), Local: true, Mark: 1, Own: 2, TCP: 3, UDP: 4}
	for name, rules := range map[string]*HostRules{"every": everyRule(), "redirect": redirect, "everywhere": all4, "pool": pool} {
		t.Run(name, func(t *testing.T) {
			plan, err := rules.Plan()
			if err != nil {
				t.Fatal(err)
			}
			in, err := rules.Install()
			if err != nil {
				t.Fatal(err)
			}
			list := nft(t, "list", "table", "inet", "argyle-test")
			if got, want := plainList(list), plainList(plan); got != want {
				t.Errorf("nft lists\n%s\nthe plan was\n%s", list, plan)
			}
			if err := in.Close(); err != nil {
				t.Fatal(err)
			}
			if left := nft(t, "list", "ruleset"); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
			nft(t, "--check", "-f", writeTemp(t, strings.Replace(plan, "flags owner\n", "", 1)))
		})
	}
}

var (
	comments = regexp.MustCompile(`(?m)# .*$`)
	spaces   = regexp.MustCompile(`\s+`)
)

// plainList is a listing without what only looks nice, and with the words that
// all releases of nft read.
func plainList(text string) string {
	text = strings.NewReplacer(
		"tcp flags syn / fin,syn,rst,ack", "tcp flags & (fin | syn | rst | ack) == syn",
		"tcp flags != syn / fin,syn,rst,ack", "tcp flags & (fin | syn | rst | ack) != syn",
		"udp reject\n", "udp reject with icmpx port-unreachable\n",
		"local reject\n", "local reject with icmpx port-unreachable\n",
	).Replace(comments.ReplaceAllString(text, ""))
	return strings.TrimSpace(spaces.ReplaceAllString(text, " "))
}

func writeTemp(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plan")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// 10,000 prefixes of each family go into sets, and out of the way of each other.
func TestManyPrefixes(t *testing.T) {
	freshNetwork(t)
	rules := everyRule()
	rules.To = prefixesOf("0.0.0.0/0", "::/0")
	for i := range 10_000 {
		a, b := byte(i>>8), byte(i)
		rules.Except = append(rules.Except,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{11, a, b, 0}), 24+i%9),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, a, b}), 48))
	}
	in, err := rules.Install()
	if err != nil {
		t.Fatal(err)
	}
	list := nft(t, "list", "set", "inet", "argyle-test", "except4")
	if n := strings.Count(list, ","); n != 10_000+1 { // two more of everyRule
		t.Errorf("the set has %d elements", n+1)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// Nobody else can clear the table, and it goes with its owner.
func TestOwner(t *testing.T) {
	freshNetwork(t)
	in, err := everyRule().Install()
	if err != nil {
		t.Fatal(err)
	}
	nft(t, "flush", "ruleset")
	if list := nft(t, "list", "ruleset"); !strings.Contains(list, "chain divert") {
		t.Errorf("after nft flush ruleset there is\n%s", list)
	}
	if _, err := everyRule().Install(); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("a second Install: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if list := nft(t, "list", "ruleset"); list != "" {
		t.Errorf("after Close there is\n%s", list)
	}
}

// Without the owner flag, Close removes the table.
func TestNoOwner(t *testing.T) {
	freshNetwork(t)
	tab, err := openTableWith("argyle-test", []uint32{0})
	if err != nil {
		t.Fatal(err)
	}
	if list := nft(t, "list", "ruleset"); !strings.Contains(list, "table inet argyle-test") || strings.Contains(list, "owner") {
		t.Errorf("there is\n%s", list)
	}
	if err := tab.Close(); err != nil {
		t.Fatal(err)
	}
	if list := nft(t, "list", "ruleset"); list != "" {
		t.Errorf("after Close there is\n%s", list)
	}
}

// The rules that hold connections are those of the plan as well, but for the way to queue.
func TestHoldPlan(t *testing.T) {
	freshNetwork(t)
	rules := everyRule()
	rules.Hold, rules.Queue = true, 61711
	in, err := rules.Install()
	if errors.Is(err, ErrNoQueue) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	plan, err := rules.Plan()
	if err != nil {
		t.Fatal(err)
	}
	// Without the extensions of iptables, nft does not know what nft_compat has.
	queues := regexp.MustCompile(`(libxtables: [^:]* xtables_set_nfproto )?(queue flags bypass to 61711|(?i:xt target) "?NFQUEUE"?( not found)?|queue num 61711 bypass)`)
	got := queues.ReplaceAllString(plainList(nft(t, "list", "table", "inet", "argyle-test")), "QUEUE")
	if want := queues.ReplaceAllString(plainList(plan), "QUEUE"); got != want {
		t.Errorf("nft lists\n%s\nthe plan was\n%s", got, want)
	}
}

func TestTidy(t *testing.T) {
	v4, v6 := tidy(prefixesOf("10.1.0.0/16", "10.0.0.0/8", "::ffff:192.0.2.0/120", "192.0.2.7/32", "2001:db8:1::/48", "2001:db8::/32", "9.0.0.0/8"))
	if got := fmt.Sprint(v4, v6); got != "[9.0.0.0/8 10.0.0.0/8 192.0.2.0/24] [2001:db8::/32]" {
		t.Errorf("got %s", got)
	}
	for prefix, want := range map[string]int{"255.0.0.0/8": 1, "0.0.0.0/0": 1, "254.0.0.0/8": 2, "::/0": 1, "ff00::/8": 1, "fe80::/10": 2} {
		if got := elements(netip.MustParsePrefix(prefix)); len(got) != want {
			t.Errorf("%s has %d elements: %v", prefix, len(got), got)
		}
	}
}

func TestCgroupMount(t *testing.T) {
	const hybrid = `28 22 0:25 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
29 28 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
30 28 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
`
	if got, err := cgroupMount(hybrid); err != nil || got != "/sys/fs/cgroup/unified" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := cgroupMount("30 28 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"); err == nil {
		t.Error("cgroups of version 1 were taken")
	}
}

func FuzzCgroupMount(f *testing.F) {
	f.Add("29 28 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n")
	f.Fuzz(func(t *testing.T, text string) {
		if mount, err := cgroupMount(text); err == nil && !strings.Contains(text, mount) {
			t.Errorf("%q is not in the text", mount)
		}
	})
}
