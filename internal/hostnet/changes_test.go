//go:build linux

package hostnet

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// makeSome makes a change of each kind.
func makeSome(c *Changes) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Mark, rule.Table = family, 100, 0x61, 977
		if err := c.Rule(rule); err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR(map[int]string{unix.AF_INET: "198.18.0.0/15", unix.AF_INET6: "fd00:1::/64"}[family])
		err := c.Route(&netlink.Route{
			LinkIndex: 1, Dst: all, Table: 977, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Family: family,
		})
		if err != nil {
			return err
		}
	}
	if err := c.Table("argyle_test"); err != nil {
		return err
	}
	if out, err := exec.Command("nft", "add table inet argyle_test").CombinedOutput(); err != nil {
		return errors.New(string(out))
	}
	return c.Sysctl("net/ipv4/ip_forward", "1")
}

func TestClose(t *testing.T) {
	inNamespace(t)
	before := state(t)
	c, err := Open("close")
	if err != nil {
		t.Fatal(err)
	}
	if err := makeSome(c); err != nil {
		t.Fatal(err)
	}
	path := c.record.Name()
	if state(t) == before {
		t.Error("nothing has changed")
	}
	if _, err := Open("close"); !errors.Is(err, ErrRunning) {
		t.Errorf("a second Open: %v, want ErrRunning", err)
	}
	if _, err := Cleanup("close"); !errors.Is(err, ErrRunning) {
		t.Errorf("Cleanup of what runs: %v, want ErrRunning", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record: %v, want none", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

// TestForeign sees that what was there stays there.
func TestForeign(t *testing.T) {
	inNamespace(t)
	if out, err := exec.Command("ip", "rule", "add", "pref", "100", "table", "12").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before := state(t)
	c, err := Open("foreign")
	if err != nil {
		t.Fatal(err)
	}
	if err := makeSome(c); err == nil || !strings.Contains(err.Error(), "priority") {
		t.Errorf("a rule over another's: %v, want an error about its priority", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestKilled kills a program in the middle: its keeper takes the changes back,
// and if that was killed, too, the next start or Cleanup does.
func TestKilled(t *testing.T) {
	inNamespace(t)
	before := state(t)
	kill(t, startCrashing(t))
	eventually(t, func() bool { return state(t) == before })

	p := startCrashing(t)
	keeper := childOf(t, p)
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	if state(t) == before {
		t.Fatal("nothing is left behind: the test is about nothing")
	}
	var n int
	eventually(t, func() (ok bool) {
		var err error
		n, err = Cleanup("crash")
		return err == nil
	})
	if after := state(t); after != before || n != 6 {
		t.Errorf("%d changes taken back, want 6; before:\n%s\nafter:\n%s", n, before, after)
	}

	p = startCrashing(t)
	if err := unix.Kill(childOf(t, p), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	var c *Changes
	eventually(t, func() bool {
		var err error
		c, err = Open("crash")
		return err == nil
	})
	if after := state(t); after != before {
		t.Errorf("before:\n%s\nafter the next start:\n%s", before, after)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// startCrashing starts a program that has made its changes.
func startCrashing(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashing+"=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "changed\n" {
		t.Fatalf("it says %q: %v", line, err)
	}
	return cmd
}

func kill(t *testing.T, p *exec.Cmd) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // killed, as it should be
}

// childOf returns the process that p has started.
func childOf(t *testing.T, p *exec.Cmd) (pid int) {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(p.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it has not come about in time")
		}
	}
}
