package source

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace: a thread that is in it does what is given to it.
type host struct {
	thread int
	work   chan func()
}

// newHost makes a namespace. It ends with the test.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{work: make(chan func())}
	begun, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		// The thread is never given back, and so it ends with the goroutine.
		runtime.LockOSThread()
		h.thread = unix.Gettid()
		begun <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range h.work {
			f()
		}
	}()
	err := <-begun
	t.Cleanup(func() {
		close(h.work)
		<-ended
	})
	if err != nil {
		skip(t, "no network namespace: %v", err)
	}
	return h
}

// skip skips a test that cannot be done here, unless everything is to be there.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("ARGYLE_PEERS") == "require" && os.Getuid() == 0 {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// do does something in the namespace. Sockets that are made in f, and programs
// that it starts, belong there.
func (h *host) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	h.work <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// ip runs lines of the program ip.
func (h *host) ip(t *testing.T, lines string) {
	t.Helper()
	h.do(t, func() error {
		for line := range strings.Lines(lines) {
			if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", strings.TrimSpace(line), err, out)
			}
		}
		return nil
	})
}

// listen answers everybody at the same port of TCP and UDP, with the address that
// he is seen to come from.
func (h *host) listen(t *testing.T) (port string) {
	t.Helper()
	var ln net.Listener
	var packets net.PacketConn
	h.do(t, func() (err error) {
		if ln, err = net.Listen("tcp", ":0"); err != nil {
			return err
		}
		_, port, err = net.SplitHostPort(ln.Addr().String())
		if err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", ":"+port)
		return err
	})
	ended := make(chan struct{}, 2)
	go func() {
		answerStreams(ln)
		ended <- struct{}{}
	}()
	go func() {
		answerPackets(packets)
		ended <- struct{}{}
	}()
	t.Cleanup(func() {
		ln.Close()
		packets.Close()
		<-ended
		<-ended
	})
	return port
}

// answerStreams keeps what it has answered open until there is no more.
func answerStreams(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, conn.RemoteAddr().String()+"\n")
	}
}

func answerPackets(conn net.PacketConn) {
	buf := make([]byte, 100)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(from.String()), from)
	}
}

// patience is what any step may take.
const patience = 10 * time.Second
