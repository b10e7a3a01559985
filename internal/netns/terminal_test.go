//go:build linux

package netns

import (
	"os"
	"os/exec"
	"testing"

	"github.com/argyle-socks/argyle/internal/process/ptytest"
)

// Under a shell with job control, the program behaves as without us. (What the
// wrapper does with signals is tested where that is.)
func TestTerminal(t *testing.T) {
	cmd := exec.Command("bash", "--norc", "--noprofile", "--noediting", "-i")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "PS1=prompt> ", "W="+self(t)+" wrap", "HISTFILE=", "LC_ALL=C")
	term := ptytest.Start(t, cmd)
	term.Expect("prompt> ")
	for range 2 {
		term.Type("$W cat\n")
		term.Expect("$W cat\r\n")
		term.Type("one\n")
		term.Expect("one\r\none\r\n")
		term.Type("\x1a")
		term.Expect("Stopped")
		term.Expect("prompt> ")
		term.Type("fg\n")
		term.Expect("$W cat\r\n")
		term.Type("two\n")
		term.Expect("two\r\ntwo\r\n")
		term.Type("\x03")
		term.Expect("prompt> ")
		term.Type("echo status=$?\n")
		term.Expect("status=130")
		term.Expect("prompt> ")
	}
}
