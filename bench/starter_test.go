//go:build linux

package main

import (
	"os"
	"testing"
	"time"
)

// The servers that bench knows can be started, measured and started again, and nothing is left of them.
func TestStart(t *testing.T) {
	for _, name := range []string{"danted", "microsocks", "ssh"} {
		t.Run(name, func(t *testing.T) { testStart(t, name) })
	}
}

func testStart(t *testing.T, name string) {
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
	for _, s := range servers {
		if err := s.restart(); err != nil {
			t.Fatal(err)
		}
		if got := measureConnects(&settings{time: 100 * time.Millisecond}, s); got.Failed > 0 || got.Figures["conn/s"] == 0 {
			t.Errorf("%s, user %q: %s", s.name, s.user, got)
		}
	}
	var all []procStat
	for _, s := range servers {
		tree, err := processTree(s.pids)
		if err != nil {
			t.Error(err)
		}
		all = append(all, tree...)
	}
	started.stop()
	for _, p := range all {
		if now, err := readStat(p.pid); err == nil && now.start == p.start {
			t.Errorf("process %d is still there", p.pid)
		}
	}
	if _, err := os.Stat(started.dir); !os.IsNotExist(err) {
		t.Errorf("folder %s is still there", started.dir)
	}
}

func TestPick(t *testing.T) {
	recipes := (&starter{}).recipes()
	picked, err := pick(recipes, "ssh,argyle")
	if err != nil || len(picked) != 2 || picked[0].name != "ssh" || picked[1].name != "argyle" {
		t.Errorf("got %v, %v", picked, err)
	}
	if all, err := pick(recipes, "all"); err != nil || len(all) != len(recipes) {
		t.Errorf("all are %d, %v", len(all), err)
	}
	if _, err := pick(recipes, "danted,squid"); err == nil {
		t.Error("no error for an unknown name")
	}
}
