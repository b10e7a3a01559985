//go:build linux

package process

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// waited runs a program to its end.
func waited(t *testing.T, cmd *exec.Cmd) syscall.WaitStatus {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// A wrapper ends as its program does, by codes and by signals, and leaves no
// core of its own.
func TestStatus(t *testing.T) {
	for code := range 3 {
		text := []string{"exit 0", "exit 1", "exit 42"}[code]
		ws := waited(t, wrapped(t, "sh", "-c", text))
		if want := []int{0, 1, 42}[code]; !ws.Exited() || ws.ExitStatus() != want {
			t.Errorf("%s: %#x", text, uint32(ws))
		}
	}
	for name, sig := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "PIPE": syscall.SIGPIPE,
		"QUIT": syscall.SIGQUIT, "ABRT": syscall.SIGABRT, "SEGV": syscall.SIGSEGV, "BUS": syscall.SIGBUS, "USR1": syscall.SIGUSR1,
	} {
		ws := waited(t, wrapped(t, "sh", "-c", "kill -"+name+" $$"))
		if !ws.Signaled() || ws.Signal() != sig || ws.CoreDump() {
			t.Errorf("SIG%s: %#x", name, uint32(ws))
		}
	}
}

// Signals that come to the wrapper alone reach the program, once.
func TestForward(t *testing.T) {
	for _, name := range []string{"TERM", "HUP", "USR1", "USR2", "INT", "QUIT"} {
		s := start(t, `trap 'n=$((n+1)); echo $n; read x; exit $n' `+name+`; echo ready; while :; do read x; done`)
		s.expect("ready")
		s.signal(map[string]syscall.Signal{
			"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
			"INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT,
		}[name])
		_, _ = s.in.Write([]byte("\n")) // in some shells, read goes on after a trap
		s.expect("1")
		_, _ = s.in.Write([]byte("\n\n")) // it may have ended
		_ = s.cmd.Wait()
		if code := s.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("SIG%s: exit status %d", name, code)
		}
	}
}

// A program ignores what the wrapper was started to ignore, and nothing else.
func TestIgnored(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, trap := range []string{"", "trap '' HUP;", "trap '' INT QUIT;", "trap '' HUP TSTP;"} {
		text := trap + ` exec "$@" grep SigIgn /proc/self/status`
		var got [2]string
		for i, args := range [][]string{{"-c", text, "sh"}, {"-c", text, "sh", exe, "wrap"}} {
			cmd := exec.Command("sh", args...)
			cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got[i] = string(out)
		}
		if got[0] != got[1] {
			t.Errorf("%s without the wrapper %q, with it %q", trap, got[0], got[1])
		}
	}
}

// The kernel does not stop what nobody would make go on.
func TestStoppedWithoutShell(t *testing.T) {
	s := start(t, `trap 'echo usr1; exit 5' USR1; echo $$; while :; do read x; done`)
	pid := s.number()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	poll(t, "the stop", func() bool { return isStopped(pid) })
	s.signal(syscall.SIGUSR1)
	poll(t, "the signal", func() bool {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		return err == nil && strings.Contains(string(text), "ShdPnd:\t0000000000000200")
	})
	s.signal(syscall.SIGCONT)
	_, _ = s.in.Write([]byte("\n")) // it may have ended
	s.expect("usr1")
	_ = s.cmd.Wait()
	if code := s.cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit status %d", code)
	}
}

// daemon leaves a process behind that tells its number, waits for a line of a
// fifo, and then tells so in a file.
const daemon = `mkfifo "$DIR/fifo"; (trap 'echo term >"$DIR/out"; exit' TERM
	echo $$; read x <"$DIR/fifo"; echo "$x" >"$DIR/out") & exit 7`

func TestAll(t *testing.T) {
	t.Setenv("DIR", t.TempDir())
	s := start(t, daemon, "all")
	gone(t, s.number())
	if state, _, err := stat(s.cmd.Process.Pid); err != nil || state == 'Z' {
		t.Fatalf("the wrapper has ended: %c %v", state, err)
	}
	if err := os.WriteFile(os.Getenv("DIR")+"/fifo", []byte("x\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.ended(7, "x\n")
}

// A wrapper that waits for what is left of a program ends it when it is told to
// end itself.
func TestAllTerminated(t *testing.T) {
	t.Setenv("DIR", t.TempDir())
	s := start(t, daemon, "all")
	gone(t, s.number())
	s.signal(syscall.SIGTERM)
	s.ended(7, "term\n")
}

// A wrapper that does not wait leaves it alone.
func TestMainOnly(t *testing.T) {
	t.Setenv("DIR", t.TempDir())
	s := start(t, daemon)
	s.number()
	_, _ = s.cmd.Process.Wait()
	if _, err := os.Stat(os.Getenv("DIR") + "/out"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the daemon has ended: %v", err)
	}
	if err := os.WriteFile(os.Getenv("DIR")+"/fifo", []byte("x\n"), 0); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, pid int) {
	t.Helper()
	poll(t, "the end of the program", func() bool {
		_, _, err := stat(pid)
		return err != nil
	})
}

// ended waits for the wrapper's end, when the daemon must have ended too.
func (s *script) ended(code int, out string) {
	s.t.Helper()
	_ = s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit status %d, not %d", got, code)
	}
	if text, err := os.ReadFile(os.Getenv("DIR") + "/out"); err != nil || string(text) != out {
		s.t.Errorf("the daemon wrote %q, %v", text, err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"plain": 0o644, "program": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=/nowhere", "PATH=/nowhere:" + dir}
	for name, want := range map[string]struct {
		path string
		code int
	}{
		"program": {dir + "/program", 0}, "plain": {"", 126}, "folder": {"", 127}, "absent": {"", 127}, "": {"", 127},
		"./x": {"./x", 0},
	} {
		path, err := Find(name, env)
		if path != want.path || (err == nil) != (want.code == 0) || err != nil && ExitCode(err) != want.code {
			t.Errorf("%q: %q, %v", name, path, err)
		}
	}
	for err, want := range map[error]int{
		&fs.PathError{Op: "exec", Err: syscall.ENOENT}: 127,
		&fs.PathError{Op: "exec", Err: syscall.EACCES}: 126,
		&fs.PathError{Op: "open", Err: syscall.ENOENT}: 125,
		errors.New("else"): 125,
	} {
		if got := ExitCode(err); got != want {
			t.Errorf("%v: %d", err, got)
		}
	}
}
