//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// settings are the sizes that workloads share.
type settings struct {
	time time.Duration // of one measurement
	idle int
	pps  int
	gso  bool
}

// warmUp is how long a workload runs before it is measured.
func (set *settings) warmUp() time.Duration { return min(set.time/10, 200*time.Millisecond) }

// pause waits for time to pass, of which all measurements are made.
func pause(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // there is nothing else to wait for
}

// A workload is a group of measurements that -only names, with the tables that show them.
type workload struct {
	name   string
	cells  []cell
	tables []table
}

// wrapped is whether it is one for wrappers, and for nobody else.
func (w workload) wrapped() bool { return w.name == "run" || w.name == "capture" }

// A cell is one measurement, repeated for each server in each round.
type cell struct {
	name string
	run  func(*settings, *server) *sample
	skip func(*server) bool // servers it says nothing about
	once func(*server) bool // servers whose later rounds would mislead
}

// workloads lists what can be measured, in the order in which it is. Idle memory is first: kernel and servers keep
// for a while what the others made them allocate.
func workloads() []workload {
	return []workload{
		{"idle", []cell{{"", measureIdle, isTwin, keepsMemory}}, idleTables()},
		{"crowd", []cell{{"", measureCrowd, isTwinOrDirect, keepsMemory}}, crowdTables()},
		{"bulk", bulkCells(), bulkTables()},
		{"connect", []cell{{"", measureConnects, hasPassword, never}}, connectTables("")},
		{"password", []cell{{"", measureConnects, hasNoPassword, never}}, connectTables(", with username and password")},
		{"mix", []cell{{"", measureMix, isTwin, never}}, mixTables()},
		{"slow", []cell{{"", measureSlow, isTwinOrDirect, never}}, slowTables()},
		{"paced", []cell{{"", paced.measure, isTwin, never}}, pacedTables()},
		{"pingpong", []cell{{"", measurePingPong, isTwin, never}}, pingPongTables()},
		{"udp", udpCells(), udpTables()},
		{"run", visitorCells(isNoWrapper), wrapTables()},
		{"capture", visitorCells(isNoCaptor), captureTables()},
	}
}

func never(*server) bool            { return false }
func isNoWrapper(s *server) bool    { return !s.direct() && (s.wrap == nil || s.wrap.in != nil) }
func isNoCaptor(s *server) bool     { return s.wrap == nil || s.wrap.in == nil }
func isTwin(s *server) bool         { return s.twin }
func isTwinOrDirect(s *server) bool { return s.twin || s.direct() }
func hasPassword(s *server) bool    { return s.user != "" }
func hasNoPassword(s *server) bool  { return s.user == "" }

// keepsMemory is a server that bench did not start, so cannot start anew.
func keepsMemory(s *server) bool { return !s.direct() && len(s.processes) == 0 }

func bulkCells() []cell {
	var cells []cell
	for _, b := range []bulk{{streams: 1}, {streams: 16}, {streams: 1, down: true}, {streams: 16, down: true}} {
		cells = append(cells, cell{b.name(), b.measure, isTwin, never})
	}
	return cells
}

// paced is bulk as an ordinary line has it: 64 streams of 10 Mbit/s.
var paced = bulk{streams: 64, down: true, pace: 10_000_000}

func visitorCells(skip func(*server) bool) []cell {
	var cells []cell
	for _, v := range visitors() {
		cells = append(cells, cell{v.name, v.measure, skip, never})
	}
	return cells
}

func udpCells() []cell {
	var cells []cell
	for _, size := range udpSizes() {
		for _, u := range []udp{{size, false}, {size, true}} {
			cells = append(cells, cell{u.name(), u.measure, isTwin, never})
		}
	}
	return cells
}

// udpSizes are a voice or game packet, and a full one.
func udpSizes() []int { return []int{64, 1400} }

func (b bulk) name() string {
	direction := "up"
	if b.down {
		direction = "down"
	}
	return fmt.Sprintf("%d %s", b.streams, direction)
}

func (u udp) name() string { return fmt.Sprintf("%d B %s", u.size, u.way()) }

func (u udp) way() string {
	if u.echo {
		return "echoed"
	}
	return "one way"
}

// workloadNames are the words that -only knows.
func workloadNames() []string {
	var names []string
	for _, w := range workloads() {
		names = append(names, w.name)
	}
	return names
}

// selectWorkloads returns those that a comma-separated list names, all if it is empty.
func selectWorkloads(only string) ([]workload, error) {
	all := workloads()
	if only == "" {
		return all, nil
	}
	names := strings.Split(only, ",")
	for _, name := range names {
		if !slices.Contains(workloadNames(), name) {
			return nil, fmt.Errorf("unknown workload %q: there are %s", name, strings.Join(workloadNames(), ", "))
		}
	}
	return slices.DeleteFunc(all, func(w workload) bool { return !slices.Contains(names, w.name) }), nil
}
