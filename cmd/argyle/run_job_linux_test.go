//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a shell, its user and a service manager see of a program is the same with argyle run before it as without.
func TestRunJobs(t *testing.T) {
	w, ok := inRunWorld(t)
	if !ok {
		return
	}
	t.Run("all", func(t *testing.T) { // parallel tests inside are over before their servers are
		proxy := argyleProxy(t)
		website(t, target4+":80")
		open, held := w.network(t), w.network(t)
		t.Run("each", func(t *testing.T) {
			for _, engine := range append([]string{engineDirect}, runEngines...) {
				t.Run(engine, func(t *testing.T) {
					t.Parallel()
					r := &ride{runWorld: w, net: held, engine: engine, proxy: proxy}
					if engine == engineDirect {
						r.net = open
					}
					testJobs(t, r)
				})
			}
		})
	})
}

func testJobs(t *testing.T, r *ride) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, r *ride)
	}{
		{"exit status", testExitStatus},
		{"signal of its own", testOwnSignal},
		{"signals passed on", testSignalsPassedOn},
		{"standard input", testStandardInput},
		{"what it inherits", testInherits},
		{"nohup", testNohup},
		{"terminal", testTerminal},
		{"daemon, --wait main", testDaemonLeft},
		{"daemon, --wait all", testDaemonAwaited},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, r)
		})
	}
}

func testExitStatus(t *testing.T, r *ride) {
	text := r.file(t, "text", []byte("no program\n"), 0o644)
	for want, words := range map[int][]string{
		0:   {"true"},
		42:  {"bash", "-c", "exit 42"},
		126: {text},
		127: {"/nowhere/no-such-program"},
	} {
		c := start(t, r.command(t, words...))
		if got := c.wait(t); got != want {
			t.Errorf("%q: exit status %d, want %d", words, got, want)
		}
		said := c.stderr.String()
		if tells := want >= 126; tells != (said != "") || strings.Count(said, "\n") > 1 {
			t.Errorf("%q says %q", words, said)
		}
	}
}

// A program that a signal ends is seen to end by that.
func testOwnSignal(t *testing.T, r *ride) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGPIPE} {
		c := start(t, r.command(t, "bash", "-c", fmt.Sprintf("kill -%d $$; sleep 1000", signal)))
		c.wait(t)
		status := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != signal {
			t.Errorf("a program that dies by %v ends with %v", signal, c.cmd.ProcessState)
		}
		if said := c.stderr.String(); said != "" {
			t.Errorf("a program that dies by %v: %q", signal, said)
		}
	}
}

// What is sent to argyle alone is meant for the program.
func testSignalsPassedOn(t *testing.T, r *ride) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		c := start(t, r.command(t, "bash", "-c",
			fmt.Sprintf(`trap 'exit 7' %d; echo ready; while :; do sleep 0.05 & wait $!; done`, signal)))
		eventually(t, "the program to be ready", func() bool { return c.stdout.Len() > 0 })
		if err := c.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if code := c.wait(t); code != 7 {
			t.Errorf("%v: %v", signal, c.cmd.ProcessState)
		}
	}
	c := start(t, r.command(t, "bash", "-c", "echo ready; exec sleep 1000"))
	eventually(t, "the program to be ready", func() bool { return c.stdout.Len() > 0 })
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.wait(t)
	if status := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("a program that SIGTERM ends: %v", c.cmd.ProcessState)
	}
}

// Standard input is the program's: all of it, and what it leaves is there for the next one.
func testStandardInput(t *testing.T, r *ride) {
	data := randomBytes(1 << 20)
	cmd := r.command(t, "cat")
	cmd.Stdin = bytes.NewReader(data)
	if got := r.okFor(t, cmd); got != string(data) {
		t.Errorf("cat gives back %d bytes of %d", len(got), len(data))
	}
	words := append([]string{peer(t, "bash"), "-c", `"$@"; cat`, "bash"}, r.wrapper(t)...)
	cmd = r.bare(t, append(words, peer(t, "dd"), "bs=1", "count=3", "status=none")...)
	cmd.Stdin = strings.NewReader("abcdef")
	same(t, r.okFor(t, cmd), "abcdef")
}

// inheritance says what a program has from the one that has started it.
const inheritance = `
echo "ids $(id -u) $(id -g)"
echo "folder $(pwd)"
echo "mask $(umask)"
echo "group $(ps -o pgid= -p $$ | tr -d ' ') $(ps -o sid= -p $$ | tr -d ' ')" | sed "s/ $1 / own /; s/ $1\$/ own/"
grep -E '^(SigBlk|SigIgn|CapInh|CapPrm|CapEff|CapAmb):' /proc/self/status
for fd in /proc/$$/fd/*; do echo "descriptor ${fd##*/}"; done
ulimit -a
env | grep -v -i -e ^ARGYLE_BE_PROGRAM= -e ^GORACE= -e ^HOME= -e ^TMPDIR= -e ^PWD= -e ^OLDPWD= -e ^_= -e ^SHLVL= \
	-e _proxy= | sort
`

// testInherits compares with a program that nothing stands before.
func testInherits(t *testing.T, r *ride) {
	path := r.file(t, "inheritance", []byte(inheritance), 0o644)
	folder := r.folder(t)
	state := func(r *ride) string {
		cmd := r.command(t, "bash", path)
		cmd.Dir = folder
		cmd.Env = append(cmd.Env, "MARK=a mark", "ALL_PROXY=socks5h://192.0.2.99")
		return r.okFor(t, cmd)
	}
	bare := *r
	bare.engine = engineDirect
	want := strings.Split(state(&bare), "\n")
	got := strings.Split(state(r), "\n")
	for _, line := range slices.Concat(got, want) {
		if strings.HasPrefix(line, "group ") {
			continue // of two runs
		}
		if slices.Contains(got, line) != slices.Contains(want, line) {
			t.Errorf("%q is in one only", line)
		}
	}
	if !slices.Contains(got, "MARK=a mark") || !slices.Contains(got, fmt.Sprintf("ids %d %d", r.uid, r.uid)) {
		t.Errorf("the program has %q", got)
	}
	if r.engine == engineDirect {
		return
	}
	cmd := r.command(t, "env")
	cmd.Env = append(cmd.Env, "ALL_PROXY=socks5h://192.0.2.99", "no_proxy=a.example")
	if text := r.okFor(t, cmd); strings.Contains(text, "PROXY=") || strings.Contains(text, "proxy=") {
		t.Errorf("a program that goes through a proxy is told of one:\n%s", text)
	}
}

// What the shell has set to be ignored, is ignored by the program, and by argyle.
func testNohup(t *testing.T, r *ride) {
	words := append([]string{peer(t, "nohup")}, r.wrapper(t)...)
	cmd := r.bare(t, append(words, peer(t, "bash"), "-c", "echo ready; read -r line; echo goes on")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, cmd)
	eventually(t, "the program to be ready", func() bool { return strings.Contains(c.stdout.String(), "ready") })
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "a line\n"); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(t); code != 0 || !strings.Contains(c.stdout.String(), "goes on") {
		t.Errorf("%v: %q", c.cmd.ProcessState, c.stdout.String())
	}
}

// daemon runs a program that ends with status 3 and leaves a daemon behind; that waits until goOn, and then writes a page
// of the web and a line into a file.
func daemon(t *testing.T, r *ride) (c *child, goOn func() string) {
	t.Helper()
	folder := r.folder(t)
	fifo, out := filepath.Join(folder, "fifo"), filepath.Join(folder, "out")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Chown(fifo, r.uid, r.uid)); err != nil {
		t.Fatal(err)
	}
	script := r.file(t, "daemon", []byte(`
cd "$1"
exec </dev/null >/dev/null 2>&1
read -r line <fifo
"$2" http http://four.zone.test/ >page
echo over >>page
mv page out
`), 0o644)
	c = start(t, r.command(t, "bash", "-c", `setsid --fork "$@"; exit 3`, "bash",
		"bash", script, folder, shared+"/bin/client"))
	return c, func() string {
		t.Helper()
		eventually(t, "the daemon to listen", func() bool {
			file, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
			if err == nil {
				file.Close()
			}
			return err == nil
		})
		var text []byte
		eventually(t, "the daemon to be over", func() (done bool) {
			var err error
			text, err = os.ReadFile(out)
			return err == nil
		})
		return string(text)
	}
}

// Without more ado argyle ends with the program. Its daemon goes on, without a way out.
func testDaemonLeft(t *testing.T, r *ride) {
	c, goOn := daemon(t, r)
	if code := c.wait(t); code != 3 {
		t.Errorf("%v", c.cmd.ProcessState)
	}
	text := goOn()
	if got, want := strings.Contains(text, page), r.engine == engineDirect; got != want {
		t.Errorf("the daemon gets %q", text)
	}
}

func testDaemonAwaited(t *testing.T, r *ride) {
	if r.engine == engineDirect {
		t.Skip("nobody waits for a daemon of its own accord")
	}
	c, goOn := daemon(t, r.with("--wait", "all"))
	if text := goOn(); !strings.Contains(text, page) {
		t.Errorf("the daemon gets %q", text)
	}
	if code := c.wait(t); code != 3 {
		t.Errorf("%v", c.cmd.ProcessState)
	}
}
