//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const usage = `Usage: bench [flags]

Measures SOCKS 5 servers on loopback, side by side. A server is one that runs,
  -server name=host:port[,pid=N...][,user=U,password=P]
or one that bench starts and stops itself
  -start argyle,danted,microsocks,ssh,wrappers,captures    (or: -start all)

`

// options are what the command line asks for.
type options struct {
	servers  []*server
	start    string
	only     string
	procs    string
	profile  string
	json     string
	rounds   int
	settings settings
}

func main() {
	opts, err := parseFlags(os.Args[1:])
	if err != nil {
		progress("%v", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = run(ctx, opts)
	stop()
	if err != nil {
		progress("%v", err)
		os.Exit(1)
	}
}

// progress tells whoever waits at the terminal; standard output is for the tables.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// parseFlags reads the command line and refuses what cannot be measured.
func parseFlags(args []string) (*options, error) {
	opts := &options{}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	flags.Func("server", "a running `server`, repeatable; without pid, whoever listens there is looked up", func(spec string) error {
		s, err := parseServer(spec)
		if err != nil {
			return err
		}
		s.twin = s.user != "" && slices.ContainsFunc(opts.servers, func(other *server) bool {
			return other.name == s.name && other.user == ""
		})
		opts.servers = append(opts.servers, s)
		return nil
	})
	flags.StringVar(&opts.start, "start", "", "`names` of servers to start, or all that are installed")
	flags.StringVar(&opts.only, "only", "", "`workloads` to run: "+strings.Join(workloadNames(), ","))
	flags.StringVar(&opts.procs, "procs", "", "start argyle with each `GOMAXPROCS` of this list, too")
	flags.StringVar(&opts.profile, "profile", "", "have argyle, if it is started, write profiles into this `folder`")
	flags.StringVar(&opts.json, "json", "", "write the figures of every round to this `file`")
	flags.IntVar(&opts.rounds, "rounds", 5, "how often everything is measured")
	flags.DurationVar(&opts.settings.time, "time", 2*time.Second, "how long one measurement takes")
	flags.IntVar(&opts.settings.idle, "idle", 1000, "sessions held open by the idle workload")
	flags.IntVar(&opts.settings.pps, "pps", 0, "one-way packets per second offered over UDP; 0 is as fast as possible")
	flags.BoolVar(&opts.settings.gso, "gso", false, "UDP with segmentation offload (UDP_SEGMENT, UDP_GRO) at both ends")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case len(opts.servers) == 0 && opts.start == "":
		return nil, errors.New("no servers: use -server or -start")
	case opts.rounds < 1 || opts.settings.time <= 0 || opts.settings.idle < 1 || opts.settings.pps < 0:
		return nil, errors.New("-rounds, -time and -idle must be positive, -pps not negative")
	}
	return opts, nil
}

// run starts what is to be started, measures, and prints even what an interrupt left incomplete.
func run(ctx context.Context, opts *options) error {
	workloads, err := selectWorkloads(opts.only)
	if err != nil {
		return err
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	started, err := newStarter()
	if err != nil {
		return err
	}
	defer started.stop()
	started.procs = opts.procs
	if opts.profile != "" {
		if started.profile, err = filepath.Abs(opts.profile); err != nil {
			return err
		}
	}
	servers, err := started.startAll(ctx, opts.start)
	if err != nil {
		return err
	}
	servers = append(slices.Clone(opts.servers), servers...)
	servers = append(servers, noProxy())

	var results []result
	for _, w := range workloads {
		results = append(results, measure(ctx, w, servers, opts)...)
	}
	if err := writeTables(os.Stdout, opts, workloads, servers, results); err != nil {
		return err
	}
	if opts.json != "" {
		if err := writeJSON(opts.json, opts, results); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: the tables are incomplete")
	}
	return nil
}

// measure runs the cells of a workload in interleaved rounds (A B C, A B C, …), so that whatever else the machine
// does falls on all servers alike.
func measure(ctx context.Context, w workload, servers []*server, opts *options) []result {
	var results []result
	for _, c := range w.cells {
		for round := 1; round <= opts.rounds; round++ {
			for _, s := range servers {
				if ctx.Err() != nil {
					return results
				}
				if c.skip(s) || s.wrap != nil && !w.wrapped() || round > 1 && c.once(s) {
					continue
				}
				s.settle(100*time.Millisecond, 2*time.Second)
				sample := watch(w, c, &opts.settings, s)
				r := result{s, w.name, c.name, s.name, round, sample}
				results = append(results, r)
				progress("%s, round %d of %d: %s", r.place(), round, opts.rounds, sample)
			}
		}
	}
	return results
}

// watch runs a cell and notes how many processors everybody else on the machine kept busy meanwhile: the more, the
// less the figures say. Programs in wrappers are bench's own, but not in its count.
func watch(w workload, c cell, set *settings, s *server) *sample {
	others := func() float64 {
		busy := busySeconds() - ownSeconds()
		if s.direct() {
			return busy
		}
		return busy - s.cpuSeconds()
	}
	begin, before := time.Now(), others()
	sample := c.run(set, s)
	elapsed := time.Since(begin)
	if elapsed > 100*time.Millisecond && !w.wrapped() { // in less, a tick of the clock would look like a busy machine
		sample.set(othersFigure, max(0, (others()-before)/elapsed.Seconds()))
	}
	return sample
}

// raiseFileLimit allows as many descriptors as the hard limit does. The Go runtime has done so for this process
// alone; an explicit call makes the servers that are started inherit it.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit on open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit on open files: %w", err)
	}
	return nil
}
