//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, the unit of times in /proc. It is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// A procStat is what matters here of /proc/PID/stat.
type procStat struct {
	pid, parent int
	ticks       uint64 // user and system time, its own and that of children it has waited for
	start       uint64 // with the pid, identifies the process
}

// parseStat reads the text of /proc/PID/stat; see proc_pid_stat(5).
func parseStat(b []byte) (procStat, error) {
	// The second field is the name in parentheses, which may itself contain spaces and parentheses.
	end := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[end+1:])
	pid, err := strconv.Atoi(string(b[:max(bytes.IndexByte(b, ' '), 0)]))
	if end < 0 || len(fields) < 20 || err != nil {
		return procStat{}, fmt.Errorf("%.40q is no line of /proc/PID/stat", b)
	}
	field := func(n int) uint64 { // numbered as in the manual, where the name is 2
		v, _ := strconv.ParseUint(string(fields[n-3]), 10, 64)
		return v
	}
	return procStat{
		pid:    pid,
		parent: int(field(4)),
		ticks:  field(14) + field(15) + field(16) + field(17),
		start:  field(22),
	}, nil
}

// readStat returns the state of one process.
func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

// busySeconds returns what all processors together have worked since the machine started.
func busySeconds() float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return math.NaN()
	}
	var user, nice, system, idle, iowait, irq, softirq uint64
	if _, err := fmt.Sscanf(string(b), "cpu %d %d %d %d %d %d %d",
		&user, &nice, &system, &idle, &iowait, &irq, &softirq); err != nil {
		return math.NaN()
	}
	return float64(user+nice+system+irq+softirq) / ticksPerSecond
}

// ownSeconds returns the processor time of bench itself.
func ownSeconds() float64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return math.NaN()
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// processTree returns the processes with the given ids and all their descendants. A child that has ended is not among
// them, but its time went to the parent that waited for it.
func processTree(roots []int) ([]procStat, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]procStat, len(entries))
	children := make(map[int][]int)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat, err := readStat(pid); err == nil { // else it ended meanwhile
			all[pid] = stat
			children[stat.parent] = append(children[stat.parent], pid)
		}
	}
	var tree []procStat
	seen := make(map[int]bool)
	for queue := slices.Clone(roots); len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		stat, ok := all[pid]
		if !ok {
			return nil, fmt.Errorf("process %d has ended", pid)
		}
		if !seen[pid] {
			seen[pid] = true
			tree = append(tree, stat)
			queue = append(queue, children[pid]...)
		}
	}
	return tree, nil
}

// listeners returns the processes that listen on a TCP port, without those that are children of another: a server
// that forks shares the socket with its children.
func listeners(port uint16) ([]int, error) {
	inodes, err := listenInodes(port)
	if err != nil {
		return nil, err
	}
	owners := make(map[int]bool)
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil {
			return nil, err
		}
		owners[pid] = true
	}
	var roots []int
	for pid := range owners {
		if stat, err := readStat(pid); err == nil && !owners[stat.parent] {
			roots = append(roots, pid)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("no process is seen to listen on port %d", port)
	}
	slices.Sort(roots)
	return roots, nil
}

// listenInodes returns the sockets that listen on port in this thread's network, as the links in /proc/PID/fd name them.
func listenInodes(port uint16) (map[string]bool, error) {
	inodes := make(map[string]bool)
	for _, name := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		suffix := fmt.Sprintf(":%04X", port)
		for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			fields := strings.Fields(lines.Text())
			if len(fields) > 9 && strings.HasSuffix(fields[1], suffix) && fields[3] == "0A" {
				inodes["socket:["+fields[9]+"]"] = true
			}
		}
	}
	return inodes, nil
}
