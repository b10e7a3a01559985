//go:build linux

package hostnet

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// crashing makes the test binary a program that makes changes and waits to be
// killed.
const crashing = "ARGYLE_TEST_CRASHING"

func TestMain(m *testing.M) {
	Child()
	if os.Getenv(crashing) != "" {
		crash()
	}
	goleak.VerifyTestMain(m)
}

// crash makes changes, says so, and waits.
func crash() {
	changes, err := Open("crash")
	if err == nil {
		err = makeSome(changes)
	}
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	println("changed")
	select {}
}

// inNamespace runs the rest of a test in a network namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err) // tests of routing need root
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}

// state is all that could be changed, as others see it.
func state(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, line := range []string{
		"ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "ip link show up", "nft list ruleset",
		"cat /proc/sys/net/ipv4/ip_forward",
	} {
		words := strings.Fields(line)
		out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		all.Write(out)
	}
	return all.String()
}
