//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testTerminal is an hour of somebody's work in a shell.
func testTerminal(t *testing.T, r *ride) {
	s := startShell(t, r)
	long := strconv.Itoa(100_000 + int(r.folders.Add(1)))
	cat := filepath.Join(r.folder(t), "cat")
	if err := os.Symlink(peer(t, "cat"), cat); err != nil {
		t.Fatal(err)
	}
	sleeps := func(state string) func() bool { return func() bool { return s.state("sleep "+long) == state } }
	cats := func(state string) func() bool { return func() bool { return s.state(cat) == state } }

	s.types("run sleep " + long + "\n")
	eventually(t, "sleep to run", sleeps("S"))
	s.types("\x1a") // Ctrl-Z
	s.expects("Stopped")
	eventually(t, "sleep to be stopped", sleeps("T"))
	s.types("fg\n")
	eventually(t, "sleep to go on", sleeps("S"))
	s.types("\x03") // Ctrl-C
	s.status(130)
	eventually(t, "sleep to be over", sleeps(""))

	s.types("run bash -c 'exit 42'\n")
	s.status(42)
	s.types("run no-such-program\n")
	s.status(127)

	s.types("run sleep " + long + " &\n")
	eventually(t, "sleep to run", sleeps("S"))
	s.types("kill %1; wait %1\n")
	s.status(143)

	s.types("run " + cat + "\n")
	eventually(t, "cat to run", cats("S"))
	s.types("one line\n")
	s.expects("one line\r\none line\r\n")
	s.types("\x1a")
	s.expects("Stopped")
	eventually(t, "cat to be stopped", cats("T"))
	s.types("bg\n")
	s.expects("&\r\n")
	s.types("\n")
	eventually(t, "cat to be stopped, because it reads from the terminal", cats("T"))
	s.types("fg\n")
	s.expects("cat\r\n")
	eventually(t, "cat to go on", cats("S"))
	s.types("another\n")
	s.expects("another\r\nanother\r\n")
	s.types("\x04") // Ctrl-D
	s.status(0)

	s.types("run sleep " + long + "\n")
	eventually(t, "sleep to run", sleeps("S"))
	s.types("\x1c") // Ctrl-\
	s.status(131)

	// A program that takes Ctrl-C itself gets it once, and argyle lives.
	s.types(`run bash -c 'trap "echo caught" INT; echo here; read line; read line; echo "got $line"; exit 9'` + "\n")
	s.expects("\nhere\r\n")
	s.types("\x03")
	s.expects("caught\r\n")
	s.types("\nlast words\n")
	s.expects("got last words\r\n")
	s.status(9)

	s.types("run stty size\n")
	s.expects("\n31 97\r\n")
	s.status(0)
	s.types("exit 5\n")
	if code := s.wait(t); code != 5 {
		t.Errorf("the shell ends with %d", code)
	}
	if said := s.output.String(); strings.Count(said, "caught\r\n") != 1 || strings.Count(said, "argyle: ") > 1 {
		t.Errorf("the terminal has shown\n%s", said)
	}
}

// A shell is an interactive one, at a terminal, that knows the command run.
type shell struct {
	*child
	t        *testing.T
	terminal *os.File
	output   output
	read     int // of output
	uid      int
}

func startShell(t *testing.T, r *ride) *shell {
	t.Helper()
	var words []string
	for _, word := range r.wrapper(t) {
		words = append(words, "'"+word+"'")
	}
	rc := "PS1='$ '; unset HISTFILE MAILCHECK; bind 'set enable-bracketed-paste off'\n" +
		"alias run=\"" + strings.Join(words, " ") + "\"\n"
	cmd := r.bare(t, peer(t, "bash"), "--noprofile", "--rcfile", r.file(t, "rc", []byte(rc), 0o644), "-i")
	cmd.Env = append(cmd.Env, "TERM=dumb")
	terminal, tty := openTerminal(t)
	defer tty.Close()
	cmd.Stdin, cmd.Stdout = tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	s := &shell{t: t, terminal: terminal, uid: r.uid}
	// start takes standard error for itself: the shell gets the terminal back.
	i := slices.Index(cmd.Args, peer(t, "bash"))
	cmd.Args = slices.Insert(cmd.Args, i, peer(t, "bash"), "-c", `exec "$@" 2>&0`, "bash")
	s.child = start(t, cmd)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&s.output, terminal) // until nobody has it open at the other end
	}()
	t.Cleanup(func() {
		s.kill()
		terminal.Close()
		<-done
		if t.Failed() {
			t.Logf("the terminal has shown\n%s", s.output.String())
		}
	})
	s.expects("$ ")
	return s
}

// openTerminal makes a terminal; what happens at it is read from and written to the first file.
func openTerminal(t *testing.T) (terminal, tty *os.File) {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(terminal.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 31, Col: 97})
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that Close ends a Read
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return terminal, tty
}

func (s *shell) types(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.terminal, text); err != nil {
		s.t.Fatal(err)
	}
}

// expects waits until the terminal shows a text, after what was expected before.
func (s *shell) expects(text string) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		shown := s.output.String()[s.read:]
		if i := strings.Index(shown, text); i >= 0 {
			s.read += i + len(text)
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the terminal does not show %q, but %q", text, shown)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// status wants the last command to have had an exit status.
func (s *shell) status(want int) {
	s.t.Helper()
	s.types("echo \"status $?\"\n")
	s.expects(fmt.Sprintf("\nstatus %d\r\n", want))
}

// state is that of the user's process with a command line, as ps has it; "" if there is none.
func (s *shell) state(line string) string {
	program, _, _ := strings.Cut(line, " ")
	name := "(" + filepath.Base(program)
	for _, pid := range processesOf(s.uid) {
		words, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !strings.HasSuffix(strings.ReplaceAll(string(words), "\x00", " "), line+" ") {
			continue
		}
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if comm, rest, ok := strings.Cut(string(stat), ") "); ok && strings.HasSuffix(comm, name) {
			return rest[:1]
		}
	}
	return ""
}
