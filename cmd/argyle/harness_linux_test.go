package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// stock is what a process holds that others can see: its open files and its children.
type stock struct {
	files    []string
	children []string
}

func takeStock() stock {
	// Orphans of our children become our children, so that none is overlooked; the dead ones are ours to collect.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			break
		}
	}
	// The first pipe makes the runtime open its poller, which stays.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	return stock{files: openFiles(os.Getpid()), children: childrenOf(os.Getpid())}
}

// missingFrom returns what is in after and was not in before. Descriptors of one kind are alike: they are counted.
func (before stock) missingFrom(after stock) []string {
	left := after.children
	count := make(map[string]int)
	for _, name := range before.files {
		count[kindOf(name)]++
	}
	for _, name := range after.files {
		if count[kindOf(name)]--; count[kindOf(name)] < 0 {
			left = append(left, name)
		}
	}
	return left
}

// kindOf turns "socket:[1234]" into "socket:"; paths stay what they are.
func kindOf(name string) string {
	kind, _, _ := strings.Cut(name, "[")
	return kind
}

// openFiles says what the descriptors of a process are: "socket:[1234]", "/etc/passwd".
func openFiles(pid int) []string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var names []string
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil { // the descriptor that reads the folder is gone
			names = append(names, name)
		}
	}
	return names
}

// childrenOf names the children of a process, dead ones that nobody has waited for included.
func childrenOf(pid int) []string {
	var children []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything, so look from its end.
		name := stat[:bytes.LastIndexByte(stat, ')')+1]
		if fields := bytes.Fields(stat[len(name):]); len(fields) > 1 && string(fields[1]) == strconv.Itoa(pid) {
			children = append(children, string(name))
		}
	}
	return children
}

// listeningAddr is an IPv4 address that a process accepts TCP connections on, "" if there is none.
func listeningAddr(pid int) string {
	files := openFiles(pid)
	table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[3] != "0A" || !slices.Contains(files, "socket:["+fields[9]+"]") {
			continue
		}
		ip, port, _ := strings.Cut(fields[1], ":")
		number, _ := strconv.ParseUint(port, 16, 16)
		bytes, _ := hex.DecodeString(ip)
		slices.Reverse(bytes) // the kernel prints the address as a number of this machine
		return net.JoinHostPort(net.IP(bytes).String(), strconv.FormatUint(number, 10))
	}
	return ""
}
