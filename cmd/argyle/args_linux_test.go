package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestPasswordIn(t *testing.T) {
	for _, test := range []struct{ before, arg, want string }{
		{"-x", "socks5h://ann:secret@gw:1080", "secret"},
		{"--proxy", "ann:s@cret@gw", "s@cret"},
		{"", "--proxy=http://ann:secret@gw?x=1", "secret"},
		{"", "-xann:secret@[::1]:1080", "secret"},
		{"-x", "socks5h://ann@gw:1080", ""},
		{"-x", "socks5h://gw:1080", ""},
		{"-x", "://", ""},
		{"-x", "", ""},
		{"", "ann:secret@gw", ""}, // a destination
	} {
		from, to := passwordIn([]string{test.before}, test.arg)
		if got := test.arg[from:to]; got != test.want {
			t.Errorf("after %q the password in %q is %q, want %q", test.before, test.arg, got, test.want)
		}
	}
}

// TestHiddenArguments sees that others on the host cannot read the password, and that it is used nevertheless.
func TestHiddenArguments(t *testing.T) {
	s := startServer(t, "--users", usersFile(t))
	dest := website(t, "127.0.0.1:0")
	host, port, _ := strings.Cut(dest, ":")
	cmd := program(t, "connect", "-x", "socks5h://"+user+":"+password+"@127.0.0.1:"+s.port(), host, port)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, cmd)
	if _, err := in.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the page", func() bool { return strings.HasSuffix(c.stdout.String(), page) })
	if line := cmdline(t, c.cmd.Process.Pid); strings.Contains(line, password) || !strings.Contains(line, user+":***") {
		t.Errorf("the command line is %q", line)
	}
}

// cmdline is what ps shows of a process.
func cmdline(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\x00", " ")
}
