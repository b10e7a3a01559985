//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that should happen at once, on a busy machine.
const patience = 20 * time.Second

// eventually waits until ready says true.
func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ready() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// peer finds somebody else's program. A test that misses one is skipped, unless ARGYLE_PEERS=require.
func peer(t testing.TB, name string) string {
	t.Helper()
	// Debian's folders first: what stands before them in PATH is often the wrapper of a language's version manager.
	folders := append([]string{"/usr/bin", "/usr/sbin", "/bin", "/sbin"}, filepath.SplitList(os.Getenv("PATH"))...)
	for _, folder := range folders {
		if path, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
			return path
		}
	}
	missing(t, name)
	return ""
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("ARGYLE_PEERS") == "require" {
		t.Fatalf("%s is missing, and ARGYLE_PEERS=require", what)
	}
	t.Skipf("%s is missing", what)
}

// command prepares a program that knows nothing of who runs the tests: no proxy variables, a home of its own.
func command(t testing.TB, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// quickExit spares a process with the race detector its second of sleep at the end.
const quickExit = "GORACE=atexit_sleep_ms=0"

// programEnv makes the test binary the program.
var programEnv = []string{beProgram + "=1", quickExit}

// program prepares the program under test.
func program(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := command(t, testBinary(t), args...)
	cmd.Env = append(cmd.Env, programEnv...)
	return cmd
}

// programWords is what a shell, ssh or git has to run for the program under test.
func programWords(t testing.TB) []string {
	t.Helper()
	return slices.Concat([]string{peer(t, "env")}, programEnv, []string{testBinary(t)})
}

func testBinary(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A child is a program that a test started. It ends with the test; what it printed is in the log of a test that failed.
type child struct {
	cmd    *exec.Cmd
	stdout output
	stderr output
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

func start(t testing.TB, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{cmd: cmd, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &c.stdout
	}
	cmd.Stderr = &c.stderr
	cmd.WaitDelay = time.Second // for pipes that a grandchild holds
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("%q: %v\nstdout: %.2000s\nstderr: %.20000s", cmd.Args, c.err, c.stdout.String(), c.stderr.String())
		}
	})
	return c
}

// kill ends the child and its descendants.
func (c *child) kill() {
	select {
	case <-c.ended:
	default:
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.ended
	}
}

// wait returns the exit status.
func (c *child) wait(t testing.TB) int {
	t.Helper()
	return c.waitFor(t, patience)
}

func (c *child) waitFor(t testing.TB, patience time.Duration) int {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatalf("%q did not end within %v", c.cmd.Args, patience)
	}
	if exit := (*exec.ExitError)(nil); c.err != nil && !errors.As(c.err, &exit) {
		t.Fatalf("%q: %v", c.cmd.Args, c.err)
	}
	return c.cmd.ProcessState.ExitCode()
}

// mustRun runs a program to its end, which must be a good one, and returns its standard output.
func mustRun(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	c := start(t, cmd)
	if code := c.wait(t); code != 0 {
		t.Fatalf("%q: exit status %d", cmd.Args, code)
	}
	return c.stdout.String()
}

// output keeps what a child prints; it can be read meanwhile.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// Len is for those who wait for much of it.
func (o *output) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Len()
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// startListening starts a server that somebody else wrote and waits until it listens, without a connection to it. It returns
// the address: servers that are told port 0 choose one themselves.
func startListening(t testing.TB, cmd *exec.Cmd) (addr string) {
	t.Helper()
	c := start(t, cmd)
	eventually(t, cmd.Path+" to listen", func() bool {
		select {
		case <-c.ended:
			t.Fatalf("%q ended: %v", cmd.Args, c.err)
		default:
		}
		addr = listeningAddr(c.cmd.Process.Pid)
		return addr != ""
	})
	return addr
}

// serveTCP serves every connection to addr by its own call of handle, and returns the address with its port. All of them
// are over when the test is.
func serveTCP(t testing.TB, addr string, handle func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(t.Context(), func() { conn.Close() })()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String()
}

// inetd serves every connection by a program that has it as standard input and output, as inetd does.
func inetd(t testing.TB, addr string, server func() *exec.Cmd) string {
	t.Helper()
	return serveTCP(t, addr, func(conn *net.TCPConn) {
		file, err := conn.File()
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		cmd := server()
		cmd.Stdin, cmd.Stdout = file, file
		c := start(t, cmd)
		defer context.AfterFunc(t.Context(), c.kill)()
		<-c.ended
	})
}
