//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSumFields(t *testing.T) {
	name := filepath.Join(t.TempDir(), "sockstat")
	const text = "sockets: used 11\nTCP: inuse 1 orphan 0 mem 5\nUDP: inuse 0 mem 2\nFRAG: inuse 0 memory 9\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := sumFields(name, "mem", "used"); got != 18 || err != nil {
		t.Errorf("got %d, %v; want 18", got, err)
	}
	if _, err := sumFields(name, "Slab:"); err == nil {
		t.Error("no error for a word that is not there")
	}
	if _, err := sumFields(name, "sockets:"); err == nil {
		t.Error("no error for a word without a number")
	}
}

func TestMemory(t *testing.T) {
	if n, err := userMemory([]int{os.Getpid()}); n < 100<<10 || err != nil {
		t.Errorf("this process has %d bytes, %v", n, err)
	}
	if n, err := kernelMemory(); n < 100<<10 || err != nil {
		t.Errorf("the kernel has %d bytes, %v", n, err)
	}
	if _, err := userMemory(nil); err == nil {
		t.Error("no error for unknown processes")
	}
}
