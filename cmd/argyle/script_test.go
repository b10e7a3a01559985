//go:build linux

package main

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScript runs testdata/script: what the program says and how it ends. The scripts know these servers:
//
//	$PROXY   argyle serve for everybody
//	$LOCKED  argyle serve for ann, whose password is in $ANN: -x $ANN@$LOCKED
//	$UPPER   host:port that answers in capitals; $UPPERHOST and $UPPERPORT are its parts
//	$CLOSED  host:port that refuses connections
//	$BUSY    host:port that is in use
func TestScript(t *testing.T) {
	t.Parallel()
	open, locked := startServer(t), startServer(t, "--users", usersFile(t))
	upper := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		text, _ := io.ReadAll(conn)
		_, _ = io.WriteString(conn, strings.ToUpper(string(text)))
	})
	upperHost, upperPort, _ := net.SplitHostPort(upper)
	closed := closedPort(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(10 * patience), // for a server that starts where it should not; others run meanwhile
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, ".bin")
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			for _, variable := range programEnv {
				name, value, _ := strings.Cut(variable, "=")
				env.Setenv(name, value)
			}
			for name, value := range map[string]string{
				"PROXY": open.addr, "LOCKED": locked.addr, "ANN": url.UserPassword(user, password).String(),
				"UPPER": upper, "UPPERHOST": upperHost, "UPPERPORT": upperPort, "CLOSED": closed, "BUSY": open.addr,
			} {
				env.Setenv(name, value)
			}
			if err := os.Mkdir(bin, 0o700); err != nil {
				return err
			}
			return os.Symlink(testBinary(t), filepath.Join(bin, "argyle"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fails": fails, "mode": mode},
	})
}

// fails runs the program, which must end with a status, say one line on standard error and nothing else:
//
//	fails 2 serve --nonsense
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: fails STATUS ARGUMENT...")
	}
	err := ts.Exec("argyle", args[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("want exit status %s, got %v", args[0], err)
	}
	if said := ts.ReadFile("stdout"); said != "" {
		ts.Fatalf("there is something on standard output: %q", said)
	}
	said := ts.ReadFile("stderr")
	if !strings.HasPrefix(said, "argyle: ") || strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") {
		ts.Fatalf("standard error is not one line of argyle's: %q", said)
	}
}

// mode wants a file with these permissions: mode 0600 users
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := "0" + strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}
