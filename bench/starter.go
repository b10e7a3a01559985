//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// The twins' account. They listen only on loopback and only as long as bench runs.
const (
	twinUser     = "bench"
	twinPassword = "secret"
)

// A starter starts the servers it knows, and stops exactly those.
type starter struct {
	dir     string // for configuration, keys and our own program
	procs   string // GOMAXPROCS of further rows of argyle
	profile string // where argyle writes profiles
	servers []*server
	ending  []func() // what else there is to stop
}

func newStarter() (*starter, error) {
	dir, err := os.MkdirTemp("", "argyle-bench-")
	return &starter{dir: dir}, err
}

// A recipe prepares the servers of one program, without starting them: one, and perhaps a twin with a password.
type recipe struct {
	name    string
	prepare func(context.Context) ([]*server, error)
}

func (st *starter) recipes() []recipe {
	return []recipe{
		{"argyle", st.argyle},
		{"danted", st.danted},
		{"microsocks", st.microsocks},
		{"ssh", st.ssh},
		{"wrappers", st.wrappers},
		{"captures", st.captures},
	}
}

// startAll starts the named servers. With "all" it leaves out those that cannot be started, and says so.
func (st *starter) startAll(ctx context.Context, names string) ([]*server, error) {
	recipes, err := pick(st.recipes(), names)
	if err != nil {
		return nil, err
	}
	for _, r := range recipes {
		if err := st.startRecipe(ctx, r); err != nil && names != "all" {
			return nil, fmt.Errorf("start %s: %w", r.name, err)
		} else if err != nil {
			progress("left out: %s: %v", r.name, err)
		}
	}
	return st.servers, nil
}

func (st *starter) startRecipe(ctx context.Context, r recipe) error {
	servers, err := r.prepare(ctx)
	if err != nil {
		return err
	}
	for _, s := range servers {
		if err := s.start(); err != nil {
			s.stop()
			return err
		}
		st.servers = append(st.servers, s)
	}
	return nil
}

// pick returns the recipes in the order in which they are named.
func pick(recipes []recipe, names string) ([]recipe, error) {
	switch names {
	case "":
		return nil, nil
	case "all":
		return recipes, nil
	}
	var picked []recipe
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(recipes, func(r recipe) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("do not know how to start %q", name)
		}
		picked = append(picked, recipes[i])
	}
	return picked, nil
}

// atEnd has stop call f, after the servers have been stopped and before what was there earlier.
func (st *starter) atEnd(f func()) { st.ending = append(st.ending, f) }

// stop stops every server and removes every file.
func (st *starter) stop() {
	for _, s := range st.servers {
		s.stop()
	}
	for _, f := range slices.Backward(st.ending) {
		f()
	}
	st.ending = nil
	_ = os.RemoveAll(st.dir)
}

// newServer returns a server that is one process, or the last of several, at a free port.
func newServer(name string, processes ...*process) *server {
	return &server{name: name, addr: loopback(processes[len(processes)-1].port), processes: processes}
}

// withPassword makes the server the twin that is asked for one.
func (s *server) withPassword() *server {
	s.user, s.password, s.twin = twinUser, twinPassword, true
	return s
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// freePort returns a port that nobody listens on at the moment.
func freePort() (uint16, error) {
	ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(loopback(0)))
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

// lookPath also finds what Debian keeps out of an ordinary user's PATH.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	if sbin, sbinErr := exec.LookPath("/usr/sbin/" + program); sbinErr == nil {
		return sbin, nil
	}
	return "", err
}
