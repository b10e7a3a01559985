//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets that we open inside answer from any address.
func TestListenUDP(t *testing.T) {
	w := newWorld(t, Config{Argv: []string{self(t), "udp", "8.8.8.8:53", "[2001:4860:4860::8888]:53", "192.0.2.1:443"}})
	for _, addr := range []string{"8.8.8.8:53", "[2001:4860:4860::8888]:53", "192.0.2.1:443"} {
		conn, err := w.ListenUDP(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		if conn.LocalAddr().String() != addr {
			t.Errorf("bound to %v, not %v", conn.LocalAddr(), addr)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			b := make([]byte, 100)
			if n, from, err := conn.ReadFromUDPAddrPort(b); err == nil {
				_, _ = conn.WriteToUDPAddrPort([]byte("answer to "+string(b[:n])), from)
			}
		}()
	}
	status, err := w.Run()
	if err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	if _, err := w.ListenUDP(netip.MustParseAddrPort("8.8.8.8:53")); !errors.Is(err, unix.EADDRINUSE) && err != nil {
		t.Error(err)
	}
}

// We reach what the program serves, and it what we serve, by many at a time.
func TestInside(t *testing.T) {
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	out, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := wrappedIn(t, in, output, self(t), "serve", "127.0.0.1:7777", "[::1]:80")
	in.Close()
	output.Close()
	b := make([]byte, 6)
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "ready\n" {
		t.Fatalf("%q, %v", b, err)
	}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			addr := netip.MustParseAddrPort([]string{"127.0.0.1:7777", "[::1]:80"}[i%2])
			if err := echo(cmd.world, []string{"tcp", "udp"}[i/2%2], addr, i); err != nil {
				t.Errorf("%v: %v", addr, err)
			}
		})
	}
	wg.Wait()
	closed := netip.MustParseAddrPort("127.0.0.1:9")
	if _, err := cmd.world.Dial(t.Context(), "tcp", closed); !errors.Is(err, unix.ECONNREFUSED) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cmd.world.Dial(ctx, "tcp", netip.MustParseAddrPort("127.0.0.1:7777")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := cmd.world.Dial(t.Context(), "ip", closed); err == nil {
		t.Error("network ip can be dialled")
	}
	input.Close()
	if err := <-cmd.ended; err != nil {
		t.Error(err)
	}
}

// running is a program that runs in a World of this process.
type running struct {
	world *World
	ended chan error
}

// wrappedIn runs a program with other standard files: the child and the program
// inherit ours, so they are replaced for the moment of the start.
func wrappedIn(t *testing.T, in, out *os.File, argv ...string) *running {
	t.Helper()
	var saved [2]int
	for i, file := range []*os.File{in, out} {
		fd, err := unix.FcntlInt(uintptr(i), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		saved[i] = fd
		if err := unix.Dup3(int(file.Fd()), i, 0); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for i, fd := range saved {
			_ = unix.Dup3(fd, i, 0)
			unix.Close(fd)
		}
	}()
	r := &running{world: newWorld(t, Config{Argv: argv}), ended: make(chan error, 1)}
	go func() {
		status, err := r.world.Run()
		if err == nil && status.Code != 0 {
			err = fmt.Errorf("status %+v", status)
		}
		r.ended <- err
	}()
	return r
}

func echo(w *World, network string, addr netip.AddrPort, i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := w.Dial(ctx, network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != addr.String() {
		return fmt.Errorf("connected to %v", conn.RemoteAddr())
	}
	text := fmt.Sprint("message ", i)
	b := make([]byte, len(text))
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != text {
		return fmt.Errorf("%q, %w", b, err)
	}
	return nil
}

func TestListen(t *testing.T) {
	w := newWorld(t, Config{Argv: []string{"bash", "-c", "read x </dev/tcp/127.0.0.1/543 && read y </dev/tcp/::1/543 && test $x$y = oneone"}})
	for _, addr := range []string{"127.0.0.1:543", "[::1]:543"} {
		ln, err := w.Listen(netip.MustParseAddrPort(addr))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			if conn, err := ln.Accept(); err == nil {
				fmt.Fprintln(conn, "one")
				conn.Close()
			}
		}()
		if _, err := w.Listen(netip.MustParseAddrPort(addr)); !errors.Is(err, unix.EADDRINUSE) {
			t.Error(err)
		}
	}
	if status, err := w.Run(); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}
