//go:build linux

package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newWorld starts a World. Where the system does not let us, the test is skipped.
func newWorld(t testing.TB, config Config) *World {
	t.Helper()
	if config.Env == nil {
		config.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	}
	w, err := Start(t.Context(), config)
	if errors.Is(err, ErrForbidden) && os.Getenv("ARGYLE_PEERS") != "require" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// self is this test binary.
func self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// wrapped returns a program under what does as argyle run does.
func wrapped(t testing.TB, config Config, argv ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(&config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self(t), append([]string{"wrap"}, argv...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "NETNS_CONFIG="+string(text))
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs a program to its end and returns what it prints.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if strings.Contains(stderr.String(), "FORBIDDEN") && os.Getenv("ARGYLE_PEERS") != "require" {
		t.Skip(stderr.String())
	}
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr: %s", stderr.String())
	}
	return string(out)
}

// The program is who we are, and has no rights over its namespaces.
func TestRights(t *testing.T) {
	text := output(t, wrapped(t, Config{}, "cat", "/proc/self/status"))
	over := uint64(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SETPCAP)
	if os.Getuid() != 0 {
		over = ^uint64(0)
	}
	sets := 0
	for line := range strings.Lines(text) {
		var set uint64
		if strings.HasPrefix(line, "Cap") {
			sets++
			if _, err := fmt.Sscanf(line[7:], "%x", &set); err != nil || set&over != 0 {
				t.Errorf("%s: %v", line, err)
			}
		}
		if want := fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", os.Getuid()); strings.HasPrefix(line, "Uid") && line != want {
			t.Errorf("%q is not %q", line, want)
		}
	}
	if sets != 5 {
		t.Errorf("%d sets of capabilities in %s", sets, text)
	}
}

// What must be impossible fails for the program: its namespace stays as it is.
func TestNoWayOut(t *testing.T) {
	for _, text := range []string{
		"ip link set lo down", "nsenter --net=/proc/1/ns/net true", "nsenter --net=/proc/$PPID/ns/net true",
		"unshare -Ur nsenter --net=/proc/$PPID/ns/net true", "umount /etc/nsswitch.conf /proc", "ls -l /proc/$PPID/fd/0 /proc/$PPID/root/",
	} {
		if program, _, _ := strings.Cut(text, " "); !found(program) {
			continue
		}
		cmd := wrapped(t, Config{}, "sh", "-c", text)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s succeeds: %s", text, out)
		}
	}
}

func found(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"script": "exit 9", "data": "x"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/data", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv string
		want string
	}{
		{"true", "<nil>"},
		{"sh -c exit\u00a042", "exit status 42"},
		{"sh -c kill\u00a0-TERM\u00a0$$", "signal: terminated"},
		{"sh -c kill\u00a0-QUIT\u00a0$$", "signal: quit"},
		{"no-such-program", "exit status 127"},
		{"./no/such/program", "exit status 127"},
		{dir, "exit status 126"},
		{dir + "/data", "exit status 126"},
		{dir + "/script", "exit status 9"}, // the shell's, as with execvp
	} {
		argv := strings.Split(c.argv, " ")
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], "\u00a0", " ")
		}
		out, err := wrapped(t, Config{}, argv...).CombinedOutput()
		if got := fmt.Sprint(err); got != c.want {
			t.Errorf("%v: %s, not %s: %s", argv, got, c.want, out)
		}
	}
}

// An error of the hook arrives as it is, and a World that cannot be leaves nothing.
func TestHookFails(t *testing.T) {
	_, err := Start(t.Context(), Config{Argv: []string{"true"}, Hook: []byte("no such thing")})
	if err == nil || !strings.HasSuffix(err.Error(), "no such thing") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Config{Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Every address is the namespace's, and its own is the source.
func TestAddresses(t *testing.T) {
	out := output(t, wrapped(t, Config{Hook: []byte("tproxy")}, self(t), "tcp",
		"93.184.216.34:80", "8.8.8.8:443", "[2001:db8::1]:80", "[fd00::53]:53", "127.0.0.1:1", "192.0.0.2:1"))
	want := `93.184.216.34:80 192.0.0.2
8.8.8.8:443 192.0.0.2
[2001:db8::1]:80 fd61:7267:796c:6500::1
[fd00::53]:53 fd61:7267:796c:6500::1
error: dial tcp 127.0.0.1:1: connect: connection refused
error: dial tcp 192.0.0.2:1: connect: connection refused
`
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

// When we are killed, the program has no network, and our child ends.
func TestKilled(t *testing.T) {
	cmd := wrapped(t, Config{Hook: []byte("tproxy")}, self(t), "tcp", "192.0.2.1:80", "[2001:db8::1]:80", "-")
	stdin, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, program, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdin, cmd.Stdout = stdin, program
	err = cmd.Start()
	stdin.Close()
	program.Close()
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if n, err := io.ReadFull(out, b); err != nil || string(b) != want {
			t.Fatalf("%q, %v instead of %q", b[:n], err, want)
		}
	}
	expect("192.0.2.1:80 192.0.0.2\n[2001:db8::1]:80 fd61:7267:796c:6500::1\n")
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, err := io.WriteString(in, "again\n"); err != nil {
		t.Fatal(err)
	}
	expect("error: dial tcp 192.0.2.1:80: connect: connection refused\n" +
		"error: dial tcp [2001:db8::1]:80: connect: connection refused\n")
	in.Close()
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 { // the program and our child have ended
		t.Errorf("%q, %v", rest, err)
	}
}

// A child that the program has stopped does not keep us.
func TestStoppedChild(t *testing.T) {
	w := newWorld(t, Config{Argv: []string{"true"}})
	if err := unix.Kill(w.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(w.pid, 0); err != unix.ESRCH {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := w.ListenUDP(netip.MustParseAddrPort("192.0.2.1:1")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// Descriptors that the shell hands on arrive under their numbers, but for sockets
// that would lead out. None of ours do.
func TestDescriptors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	fmt.Fprintln(write, "hello")
	write.Close()
	cmd := wrapped(t, Config{}, "sh", "-c", "cat <&3; for f in /proc/self/fd/*; do readlink $f; done | grep -c -e socket: -e /control -e anon_inode")
	cmd.ExtraFiles = []*os.File{read, socket}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output() // grep -c fails if it finds none
	if string(out) != "hello\n0\n" {
		t.Errorf("%q, %v: %s", out, err, stderr.String())
	}
}

func TestTUN(t *testing.T) {
	cmd := []string{"bash", "-c", "echo hello >/dev/udp/192.0.2.7/99; grep -q 192.0.0.1 /etc/resolv.conf"}
	w, err := Start(t.Context(), Config{Argv: cmd, TUN: true})
	if errors.Is(err, ErrNoTUN) {
		if !strings.Contains(err.Error(), "modprobe tun") {
			t.Error(err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	got := make(chan []byte, 1)
	go func() {
		defer close(got)
		b := make([]byte, w.MTU())
		for {
			n, err := w.File(FileTUN).Read(b)
			if err != nil {
				return
			}
			if b[0]>>4 == 4 && bytes.HasSuffix(b[:n], []byte("hello\n")) {
				got <- bytes.Clone(b[:n])
				return
			}
		}
	}()
	if status, err := w.Run(); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	select {
	case packet := <-got:
		if !bytes.Equal(packet[12:20], []byte{192, 0, 0, 2, 192, 0, 2, 7}) {
			t.Errorf("%x", packet)
		}
	case <-time.After(20 * time.Second):
		t.Error("no packet came")
	}
}

// Where namespaces are forbidden, the error says what mends it.
func TestForbidden(t *testing.T) {
	if !found("unshare") {
		t.Skip("no unshare")
	}
	cmd := wrapped(t, Config{}, "true")
	outer := exec.Command("unshare", append([]string{"-Ur", "sh", "-c",
		`echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"`, "sh"}, cmd.Args...)...)
	outer.Env = cmd.Env
	out, err := outer.CombinedOutput()
	if strings.Contains(string(out), "unshare:") {
		t.Skip(string(out))
	}
	if err == nil || !strings.Contains(string(out), "FORBIDDEN") || !strings.Contains(string(out), "sysctl -w user.max_user_namespaces=") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPrerequisites(t *testing.T) {
	for _, p := range Prerequisites() {
		if p.What == "" || !p.OK && (p.Why == "" || p.Mend == "") {
			t.Errorf("%+v", p)
		}
		t.Logf("%+v", p)
	}
}

// A daemon is waited for if that is asked for, though we have a child besides.
func TestWaitAll(t *testing.T) {
	out := output(t, wrapped(t, Config{WaitAll: true}, "sh", "-c", "(while kill -0 $$ 2>/dev/null; do :; done; echo daemon) & echo main"))
	if out != "main\ndaemon\n" {
		t.Errorf("%q", out)
	}
}

// BenchmarkStart measures the start of a World and of a program in it.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		w, err := Start(b.Context(), Config{Argv: []string{"true"}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.Run(); err != nil {
			b.Fatal(err)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever the child says, we take it or say what is wrong.
func FuzzDecode(f *testing.F) {
	for _, m := range []*message{{Run: true}, {Family: 2, Type: 1}, {PID: 7}, failure(unix.EPERM), failure(ErrNoTUN)} {
		b, _, err := m.encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, files, err := decode(b, nil)
		if err == nil && m == nil || len(files) > 0 {
			t.Fatalf("%v, %v", m, files)
		}
		if err == nil && (m.err() == nil) != (m.Error == "") {
			t.Fatalf("%+v becomes %v", m, m.err())
		}
	})
}
