//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// userMemory returns the bytes of anonymous and shared memory of a process tree. Of a page that several processes
// share after a fork each is charged its part, so that the sum counts it once.
func userMemory(roots []int) (int64, error) {
	tree, err := processTree(roots)
	if err != nil {
		return 0, err
	}
	if len(tree) == 0 {
		return 0, errors.New("the server's processes are unknown")
	}
	var sum int64
	for _, p := range tree {
		kib, err := sumFields(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid), "Pss_Anon:", "Pss_Shmem:")
		if err != nil { // other users' processes show only their status, where shared pages count in full
			kib, err = sumFields(fmt.Sprintf("/proc/%d/status", p.pid), "RssAnon:", "RssShmem:")
		}
		if err != nil {
			return 0, err
		}
		sum += kib * 1024
	}
	return sum, nil
}

// kernelMemory returns the bytes that the kernel of the whole machine holds for sockets, files, pipes and threads:
// slab, thread stacks, page tables, and TCP buffers, which are whole pages.
func kernelMemory() (int64, error) {
	// Counters are kept per processor and brought together once a second; for root, reading this does it now.
	_, _ = os.ReadFile("/proc/sys/vm/stat_refresh")
	kib, err := sumFields("/proc/meminfo", "Slab:", "KernelStack:", "PageTables:")
	if err != nil {
		return 0, err
	}
	pages, err := sumFields("/proc/net/sockstat", "mem")
	if err != nil {
		return 0, err
	}
	return kib*1024 + pages*int64(os.Getpagesize()), nil
}

// sumFields adds the numbers that follow the given words in a file of /proc. A file without any of them is an error.
func sumFields(name string, words ...string) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	var sum int64
	found := false
	fields := bytes.Fields(b)
	for i := range len(fields) - 1 {
		for _, word := range words {
			if string(fields[i]) != word {
				continue
			}
			n, err := strconv.ParseInt(string(fields[i+1]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			sum += n
			found = true
		}
	}
	if !found {
		return 0, fmt.Errorf("%s has no %s", name, words[0])
	}
	return sum, nil
}
