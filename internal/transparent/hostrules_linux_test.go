package transparent

import (
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
