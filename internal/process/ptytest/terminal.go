//go:build linux

package ptytest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds a wait for output: long, as machines can be slow.
const patience = 30 * time.Second

// A Terminal is the other side of a program's terminal.
type Terminal struct {
	t    testing.TB
	main *os.File
	cmd  *exec.Cmd

	mu   sync.Mutex
	more *sync.Cond
	seen strings.Builder
	at   int // what Expect has not looked at yet
	eof  bool
}

// Start starts a program as the leader of a session on a terminal of its own. It
// is ended with the test.
func Start(t testing.TB, cmd *exec.Cmd) *Terminal {
	t.Helper()
	main, side, err := open()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	side.Close()
	if err != nil {
		main.Close()
		t.Fatal(err)
	}
	term := &Terminal{t: t, main: main, cmd: cmd}
	term.more = sync.NewCond(&term.mu)
	read := make(chan struct{})
	go func() {
		defer close(read)
		term.read()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		main.Close()
		<-read
	})
	return term
}

// open returns the two sides of a new terminal.
func open() (main, side *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	main = os.NewFile(uintptr(fd), "terminal")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		side, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		main.Close()
		return nil, nil, err
	}
	return main, side, nil
}

// read collects output until nobody has the other side any more.
func (term *Terminal) read() {
	b := make([]byte, 4096)
	for {
		n, err := term.main.Read(b)
		term.mu.Lock()
		term.seen.Write(b[:n])
		term.eof = err != nil
		term.more.Broadcast()
		term.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Type types text. "\x03" is Ctrl-C, "\x1a" Ctrl-Z, "\x04" Ctrl-D.
func (term *Terminal) Type(text string) {
	term.t.Helper()
	if _, err := term.main.WriteString(text); err != nil {
		term.t.Fatalf("type %q: %v", text, err)
	}
}

// Expect waits for text in what comes after the last text that was expected, and
// returns what came before it.
func (term *Terminal) Expect(text string) string {
	term.t.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		term.mu.Lock()
		defer term.mu.Unlock()
		late = true
		term.more.Broadcast()
	})
	defer timer.Stop()
	term.mu.Lock()
	defer term.mu.Unlock()
	for {
		rest := term.seen.String()[term.at:]
		if before, _, ok := strings.Cut(rest, text); ok {
			term.at += len(before) + len(text)
			return before
		}
		if term.eof || late {
			term.t.Fatalf("%q is not in %q (all: %q)", text, rest, term.seen.String())
		}
		term.more.Wait()
	}
}

// Wait waits for the end of the program.
func (term *Terminal) Wait() error {
	timer := time.AfterFunc(patience, func() { _ = term.cmd.Process.Kill() })
	defer timer.Stop()
	return term.cmd.Wait()
}
