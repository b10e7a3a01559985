//go:build linux

package process

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/argyle-socks/argyle/internal/process/ptytest"
)

// shell starts bash on a terminal. W is the wrapper.
func shell(t *testing.T) *ptytest.Terminal {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "--norc", "--noprofile", "--noediting", "-i")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "PS1=prompt> ", "W="+exe+" wrap", "HISTFILE=", "LC_ALL=C")
	term := ptytest.Start(t, cmd)
	term.Expect("prompt> ")
	return term
}

// What bash says of a program under a wrapper is what it says of the program.
func TestJobControl(t *testing.T) {
	term := shell(t)
	term.Type("$W cat\n")
	term.Type("one\n")
	term.Expect("one\r\none\r\n")
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("prompt> ")
	term.Type("jobs\n")
	term.Expect("[1]+  Stopped                 $W cat")
	term.Type("fg\n")
	term.Expect("$W cat\r\n")
	term.Type("two\n")
	term.Expect("two\r\ntwo\r\n")
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("prompt> ")
	term.Type("fg\n")
	term.Expect("$W cat\r\n")
	term.Type("three\n\x04")
	term.Expect("three\r\nthree\r\n")
	term.Type("echo status=$?\n")
	term.Expect("status=0")
}

func TestInterrupt(t *testing.T) {
	term := shell(t)
	// Once, though the wrapper gets it as well.
	term.Type(`$W sh -c 'trap "n=\$((n+1)); echo got \$n" INT; echo ready; while [ -z "$x" ]; do read x; done; exit 4$n'` + "\n")
	term.Expect("\r\nready\r\n")
	term.Type("\x03")
	term.Expect("got 1")
	term.Type("q\n")
	term.Expect("prompt> ")
	term.Type("echo status=$?\n")
	term.Expect("status=41")
	term.Expect("prompt> ")
	term.Type("$W sh -c 'echo ready; exec cat'\n")
	term.Expect("\r\nready\r\n")
	term.Type("\x03")
	term.Expect("prompt> ")
	term.Type("echo status=$?\n")
	term.Expect("status=130")
	term.Expect("prompt> ")
	term.Type("$W sh -c 'echo ready; exec cat'\n")
	term.Expect("\r\nready\r\n")
	term.Type("\x1c")
	term.Expect("Quit")
	term.Expect("prompt> ")
	term.Type("echo status=$?\n")
	term.Expect("status=131")
	term.Expect("prompt> ")
	term.Type("$W sh -c 'kill -TERM $$'\n")
	term.Expect("Terminated")
}

// A program in the background that reads from the terminal is stopped.
func TestBackground(t *testing.T) {
	term := shell(t)
	term.Type("$W cat &\n")
	term.Expect("prompt> ")
	term.Type("wait -n; jobs\n") // it returns when the job is stopped
	term.Expect("Stopped")
	term.Expect("prompt> ")
	term.Type("fg\n")
	term.Expect("$W cat\r\n")
	term.Type("one\n\x04")
	term.Expect("one\r\none\r\n")
	term.Expect("prompt> ")
}

// A shell under a wrapper has jobs of its own.
func TestInnerShell(t *testing.T) {
	term := shell(t)
	term.Type("PS1='inn''er> ' $W bash --norc --noprofile --noediting -i\n")
	term.Expect("inner> ")
	term.Type("cat\n")
	term.Expect("cat\r\n")
	term.Type("one\n")
	term.Expect("one\r\none\r\n")
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("inner> ")
	term.Type("fg\n")
	term.Expect("cat\r\n")
	term.Type("two\n") // until it has the terminal
	term.Expect("two\r\ntwo\r\n")
	term.Type("\x03")
	term.Expect("inner> ")
	term.Type("suspend\n")
	term.Expect("prompt> ")
	term.Type("fg\n")
	term.Expect("inner> ")
	term.Type("exit 9\n")
	term.Expect("prompt> ")
	term.Type("echo status=$?\n")
	term.Expect("status=9")
}

// A program goes on when the wrapper alone is told to.
func TestContinue(t *testing.T) {
	term := shell(t)
	term.Type("$W sh -c 'echo PID $$; exec sleep 1000'\n")
	term.Expect("\r\nPID ")
	pid, err := strconv.Atoi(term.Expect("\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	term.Type("\x1a")
	term.Expect("Stopped")
	term.Expect("prompt> ")
	term.Type("kill -CONT $(jobs -p)\n")
	poll(t, "going on", func() bool { return !isStopped(pid) })
	term.Type("kill -TERM $(jobs -p)\n")
	gone(t, pid)
}
