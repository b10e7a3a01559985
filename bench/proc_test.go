//go:build linux

package main

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestParseStat(t *testing.T) {
	const line = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 987 8192 1 18446744073709551615\n"
	got, err := parseStat([]byte(line))
	if want := (procStat{pid: 42, parent: 7, ticks: 127, start: 987}); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "42", "42 (a) S 7", ") S 7"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestProcessTree(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		child.Process.Kill()
		child.Wait()
	})
	me := os.Getpid()
	tree, err := processTree([]int{me, me})
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, p := range tree {
		pids = append(pids, p.pid)
	}
	slices.Sort(pids)
	if !slices.Contains(pids, me) || !slices.Contains(pids, child.Process.Pid) {
		t.Errorf("%d and its child %d are not both in %v", me, child.Process.Pid, pids)
	}
	if len(slices.Compact(slices.Clone(pids))) != len(pids) {
		t.Errorf("a process is twice in %v", pids)
	}
}

func TestProcessTreeOfEnded(t *testing.T) {
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Skip(err)
	}
	if _, err := processTree([]int{child.Process.Pid}); err == nil {
		t.Error("no error for a process that has ended")
	}
}

func TestListeners(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	pids, err := listeners(port)
	if err != nil || !slices.Equal(pids, []int{os.Getpid()}) {
		t.Errorf("got %v, %v; want only %d", pids, err, os.Getpid())
	}
	ln.Close()
	if pids, err := listeners(port); err == nil {
		t.Errorf("%v still listen", pids)
	}
}
