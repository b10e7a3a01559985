//go:build linux

package main

import (
	"os"
	"testing"
	"time"
)

// Programs get through every wrapper and captor, and nothing is left of these.
func TestWrapped(t *testing.T) {
	t.Run("wrappers", func(t *testing.T) { testWrapped(t, "wrappers", "run") })
	t.Run("captures", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root has namespaces")
		}
		testWrapped(t, "captures", "capture")
	})
}

func testWrapped(t *testing.T, name, only string) {
	started, err := newStarter()
	if err != nil {
		t.Fatal(err)
	}
	defer started.stop()
	servers, err := started.startAll(t.Context(), name)
	if err != nil && os.Getenv("ARGYLE_PEERS") != "require" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	workloads, err := selectWorkloads(only)
	if err != nil {
		t.Fatal(err)
	}
	measured := 0
	for _, s := range servers {
		for _, c := range workloads[0].cells {
			if c.skip(s) {
				continue
			}
			measured++
			if got := c.run(&settings{time: 100 * time.Millisecond}, s); got.Failed > 0 || got.Missing != "" || len(got.Figures) == 0 {
				t.Errorf("%s, %s: %s", s.name, c.name, got)
			}
		}
	}
	if measured < 4 {
		t.Errorf("%d measurements", measured)
	}
	var all []procStat
	for _, s := range servers {
		if tree, err := processTree(s.pids); err == nil {
			all = append(all, tree...)
		}
	}
	started.stop()
	for _, p := range all {
		if now, err := readStat(p.pid); err == nil && now.start == p.start {
			t.Errorf("process %d is still there", p.pid)
		}
	}
}

// What a program has in a network of its own is not here.
func TestNamespace(t *testing.T) {
	n, err := newNamespace()
	if err != nil {
		t.Skip(err)
	}
	defer n.close()
	netns := func() (name string) {
		name, err = os.Readlink("/proc/thread-self/ns/net")
		return name
	}
	here := netns()
	var there string
	if err := n.do(func() error {
		there = netns()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if here == there || netns() != here {
		t.Errorf("here is %s, there %s, then here %s", here, there, netns())
	}
	if err := n.commands("ip link show dev lo", "false"); err == nil {
		t.Error("no error of a command that failed")
	}
}
