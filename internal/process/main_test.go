//go:build linux

package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain fails if any test has left a goroutine. Started as a wrapper, it is
// one: it does with a program what argyle run does.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "wrap" {
		wrap(os.Args[2:])
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// wrap runs a program, and whatever it leaves if the first word is "all".
func wrap(argv []string) {
	all := argv[0] == "all"
	if all {
		argv = argv[1:]
		check(Adopt())
	}
	signals := Catch()
	path, err := Find(argv[0], os.Environ())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(ExitCode(err))
	}
	KeepIgnored()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		os.Exit(ExitCode(&os.PathError{Op: "exec", Path: path, Err: err}))
	}
	status, err := signals.Wait(pid, all)
	check(err)
	signals.Stop()
	status.Exit()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
}

// wrapped returns a program under a wrapper, in a session of its own, where no
// terminal is.
func wrapped(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, append([]string{"wrap"}, argv...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// script is a running program that tells what it does.
type script struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a shell script under a wrapper.
func start(t *testing.T, text string, before ...string) *script {
	t.Helper()
	s := &script{t: t, cmd: wrapped(t, append(before, "sh", "-c", text)...)}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	t.Cleanup(func() {
		timer.Stop()
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // what is left of its session
		_ = s.cmd.Wait()
	})
	return s
}

// line returns the next line of output.
func (s *script) line() string {
	s.t.Helper()
	text, err := s.out.ReadString('\n')
	if err != nil {
		s.t.Fatalf("read output: %v, after %q", err, text)
	}
	return strings.TrimSuffix(text, "\n")
}

func (s *script) expect(want string) {
	s.t.Helper()
	if got := s.line(); got != want {
		s.t.Fatalf("the program said %q, not %q", got, want)
	}
}

// number returns a line that is a process's number.
func (s *script) number() (pid int) {
	s.t.Helper()
	text := s.line()
	if _, err := fmt.Sscan(text, &pid); err != nil {
		s.t.Fatalf("%q: %v", text, err)
	}
	return pid
}

// signal sends a signal to the wrapper alone.
func (s *script) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// poll waits until cond holds.
func poll(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s never happened", what)
		}
		<-tick.C
	}
}
