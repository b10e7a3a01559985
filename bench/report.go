//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A result is a sample with its place.
type result struct {
	server   *server // a twin has the same name
	Workload string  `json:"workload"`
	Cell     string  `json:"cell,omitempty"`
	Server   string  `json:"server"`
	Round    int     `json:"round"`
	Sample   *sample `json:"sample"`
}

// place says what was measured of whom.
func (r result) place() string {
	return strings.TrimSpace(r.Workload+" "+r.Cell) + ": " + r.Server
}

// A table shows figures of one workload, a row per server.
type table struct {
	title   string
	columns []column
	note    string // how to read it
}

// A column shows one figure of one cell: the median over the rounds.
type column struct {
	head     string
	cell     string
	figure   string
	decimals int
	absolute bool // without the ratio to the first server
}

func bulkTables() []table {
	var throughput, cost []column
	for _, c := range bulkCells() {
		throughput = append(throughput, column{c.name, c.name, "gbit/s", 1, false})
		cost = append(cost, column{c.name, c.name, "cpu s/GiB", 3, false})
	}
	return []table{
		{"Bulk: Gbit/s", throughput, "Streams and their direction, seen from the client."},
		{"Bulk: server CPU seconds per GiB", cost, ""},
	}
}

func connectTables(suffix string) []table {
	title := fmt.Sprintf("Short connections%s: CONNECT, %d bytes each way, close; %d under way", suffix, requestSize, underWay)
	return []table{{title, []column{
		{"conn/s", "", "conn/s", 0, false},
		{"server CPU µs each", "", "cpu µs", 0, false},
		{"p50 ms", "", "p50 ms", 1, false},
		{"p99 ms", "", "p99 ms", 1, false},
	}, ""}}
}

func mixTables() []table {
	t := connectTables("")[0]
	t.title = fmt.Sprintf("Mix: as above, but each tenth answer has %d KiB", longSize>>10)
	t.note = "Times are those of the short ones."
	return []table{t}
}

func slowTables() []table {
	return []table{{fmt.Sprintf("Short connections beside %d clients that send a byte a second", slowClients), []column{
		{"conn/s without them", "", "alone conn/s", 0, false},
		{"with them", "", "conn/s", 0, false},
		{"kept %", "", "kept %", 0, true},
		{"server CPU µs each", "", "cpu µs", 0, false},
		{"p99 ms without them", "", "alone p99 ms", 1, false},
		{"with them", "", "p99 ms", 1, false},
		{"times", "", "p99 ratio", 2, true},
		{"slow ones held", "", "held", 0, true},
	}, "A server that turns slow clients away has an easier life: see how many it holds."}}
}

func wrapTables() []table {
	return []table{{"A program (Python) in a wrapper: one connection after the other", visitorColumns("CPU"),
		"Processor time of the program, its start included, and the wrapper; the proxy, which is argyle for all, is not counted."}}
}

func captureTables() []table {
	return []table{{"A program (Python) whose network is taken: one connection after the other", visitorColumns("captor CPU"),
		"Processor time of what takes the connections; the program, the kernel's own threads and the proxy, which is argyle for all, " +
			"are not counted."}}
}

func visitorColumns(cpu string) []column {
	short, long := visitors()[0], visitors()[1]
	return []column{
		{fmt.Sprintf("%d bytes: conn/s", short.response), short.name, "conn/s", 0, false},
		{cpu + " µs each", short.name, "cpu µs", 0, false},
		{fmt.Sprintf("%d MiB: Gbit/s", long.response>>20), long.name, "gbit/s", 1, false},
		{cpu + " s/GiB", long.name, "cpu s/GiB", 3, false},
	}
}

func pacedTables() []table {
	return []table{{fmt.Sprintf("%d streams of %d Mbit/s", paced.streams, paced.pace/1_000_000), []column{
		{"Gbit/s", "", "gbit/s", 2, false},
		{"server CPU s per GiB", "", "cpu s/GiB", 3, false},
	}, ""}}
}

func pingPongTables() []table {
	return []table{{fmt.Sprintf("Latency: %d-byte ping-pong through one session", pingSize), []column{
		{"p50 µs", "", "p50 µs", 0, false},
		{"p99 µs", "", "p99 µs", 0, false},
		{"server CPU µs per trip", "", "cpu µs", 1, false},
	}, ""}}
}

func idleTables() []table {
	return []table{{"Idle sessions: memory of each", []column{
		{"user-space KiB", "", "user KiB", 1, false},
		{"kernel KiB", "", "kernel KiB", 1, false},
	}, "Kernel memory is without that of the generator's own sockets, which is the row without a proxy."}}
}

func crowdTables() []table {
	return []table{{"A crowd of idle sessions", []column{
		{"sessions", "", "held", 0, true},
		{"user-space KiB each", "", "user KiB", 1, false},
		{"server CPU ms per second", "", "cpu ms/s", 1, false},
	}, "As many as the limit on open files allows, which is a server's as well, and as come in 30 seconds. " +
		"Processor time is counted in steps of 10 ms."}}
}

func udpTables() []table {
	var tables []table
	for _, size := range udpSizes() {
		var columns []column
		for _, u := range []udp{{size, false}, {size, true}} {
			columns = append(columns,
				column{u.way() + ": packets/s", u.name(), "packets/s", 0, false},
				column{"loss %", u.name(), "loss %", 1, true},
				column{"server CPU µs each", u.name(), "cpu µs", 2, false})
		}
		tables = append(tables, table{fmt.Sprintf("UDP: %d bytes", size), columns, udpNote()})
	}
	return tables
}

func udpNote() string {
	return fmt.Sprintf("Packets that were delivered. One way, more is offered than can be carried, unless -pps says "+
		"otherwise; echoed, %d are under way, and each that came back was relayed twice.", window)
}

// writeTables prints what was measured as Markdown.
func writeTables(w io.Writer, opts *options, workloads []workload, servers []*server, results []result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Medians of %d rounds of %v on %d processors; (×…) is the ratio to the first row. Server CPU is user "+
		"and system time of all its processes.\n", opts.rounds, opts.settings.time, runtime.NumCPU())
	fmt.Fprintln(&b, disturbance(results))
	for _, work := range workloads {
		for _, t := range work.tables {
			var mine []result
			for _, r := range results {
				if r.Workload == work.name && t.shows(r.Cell) {
					mine = append(mine, r)
				}
			}
			if len(mine) > 0 {
				t.write(&b, servers, mine)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// disturbance says how busy others kept the machine, in half of the measurements and in the worst.
func disturbance(results []result) string {
	var others []float64
	for _, r := range results {
		if v, ok := r.Sample.Figures[othersFigure]; ok {
			others = append(others, v)
		}
	}
	slices.Sort(others)
	return fmt.Sprintf("Others on this machine used %.2f processors, and %.2f at worst.\n",
		percentile(others, 0.5), percentile(others, 1))
}

func (t table) shows(cell string) bool {
	for _, col := range t.columns {
		if col.cell == cell {
			return true
		}
	}
	return false
}

// write prints one table, and under it what went wrong: no failure is left out.
func (t table) write(b *strings.Builder, servers []*server, results []result) {
	fmt.Fprintf(b, "## %s\n\n| server |", t.title)
	for _, col := range t.columns {
		fmt.Fprintf(b, " %s |", col.head)
	}
	fmt.Fprintf(b, " failed |\n|---|%s---|\n", strings.Repeat("---|", len(t.columns)))

	base := make([]float64, len(t.columns))
	var notes []string
	first := true
	for _, s := range servers {
		mine := of(results, s)
		if len(mine) == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s |", s.name)
		for i, col := range t.columns {
			value := col.median(mine)
			fmt.Fprintf(b, " %s |", col.format(value, base[i]))
			if first && !col.absolute {
				base[i] = value
			}
		}
		first = false
		failed, why := failures(mine)
		fmt.Fprintf(b, " %d |\n", failed)
		if why != "" {
			notes = append(notes, s.name+": "+why)
		}
	}
	b.WriteString("\n")
	if t.note != "" {
		notes = append([]string{t.note}, notes...)
	}
	if len(notes) > 0 {
		fmt.Fprintf(b, "%s\n\n", strings.Join(notes, "  \n"))
	}
}

// of returns the results of one server.
func of(results []result, s *server) []result {
	var mine []result
	for _, r := range results {
		if r.server == s {
			mine = append(mine, r)
		}
	}
	return mine
}

func (col column) median(results []result) float64 {
	var values []float64
	for _, r := range results {
		if v, ok := r.Sample.Figures[col.figure]; ok && r.Cell == col.cell {
			values = append(values, v)
		}
	}
	return median(values)
}

// format returns a figure with its ratio to base, which is 0 for the first server and NaN if that has no such figure.
func (col column) format(value, base float64) string {
	if math.IsNaN(value) {
		return "–"
	}
	text := thousands(strconv.FormatFloat(value, 'f', col.decimals, 64))
	ratio := value / base
	switch {
	case math.IsNaN(ratio) || math.IsInf(ratio, 0) || col.absolute:
		return text
	case ratio < 10:
		return fmt.Sprintf("%s (×%.2f)", text, ratio)
	default:
		return fmt.Sprintf("%s (×%.0f)", text, ratio)
	}
}

// thousands puts commas into the whole part of a number.
func thousands(number string) string {
	whole, fraction, _ := strings.Cut(number, ".")
	digits := strings.TrimPrefix(whole, "-")
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if fraction != "" {
		digits += "." + fraction
	}
	return strings.Repeat("-", strings.Count(whole, "-")) + digits
}

// failures returns how many sessions failed, and why the first did or why there were none at all.
func failures(results []result) (failed int, why string) {
	for _, r := range results {
		failed += r.Sample.Failed
		if why == "" {
			why = r.Sample.Error
		}
		if why == "" {
			why = r.Sample.Missing
		}
	}
	return failed, why
}

// writeJSON writes every sample, for other programs.
func writeJSON(name string, opts *options, results []result) error {
	b, err := json.MarshalIndent(struct {
		Time    time.Time `json:"time"`
		CPUs    int       `json:"cpus"`
		Rounds  int       `json:"rounds"`
		Seconds float64   `json:"seconds"` // of each measurement
		Idle    int       `json:"idle"`
		PPS     int       `json:"pps"`
		GSO     bool      `json:"gso"`
		Results []result  `json:"results"`
	}{
		time.Now(), runtime.NumCPU(), opts.rounds, opts.settings.time.Seconds(), opts.settings.idle, opts.settings.pps,
		opts.settings.gso, results,
	}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
