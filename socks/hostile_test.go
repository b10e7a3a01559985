package socks_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/socks"
)

// good does one exchange after another through the server until stop is
// closed, and returns how many. None may fail.
func good(t *testing.T, addr string, dest netip.AddrPort, stop <-chan struct{}) (n int) {
	say := append([]byte{5, 1, 0}, request5(1, dest)...)
	for {
		select {
		case <-stop:
			return n
		default:
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Errorf("a good client after %d exchanges: %v", n, err)
			return n
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = conn.Write(append(bytes.Clone(say), "ping"...))
		answer := make([]byte, 2+10+4)
		if err == nil {
			_, err = io.ReadFull(conn, answer)
		}
		conn.Close()
		if err != nil || string(answer[12:]) != "ping" {
			t.Errorf("a good client after %d exchanges: % x, %v", n, answer, err)
			return n
		}
		n++
	}
}

// rate runs good clients, four at a time, while f runs, and returns their
// exchanges per second.
func rate(t *testing.T, addr string, dest netip.AddrPort, f func()) float64 {
	stop := make(chan struct{})
	var total atomic.Int64
	var clients sync.WaitGroup
	began := time.Now()
	for range 4 {
		clients.Go(func() { total.Add(int64(good(t, addr, dest, stop))) })
	}
	f()
	close(stop)
	clients.Wait()
	return float64(total.Load()) / time.Since(began).Seconds()
}

// 3,000 connections of random bytes harm nobody else.
func TestRandomBytes(t *testing.T) {
	dest := echo(t)
	addr := start(t, &socks.Server{HandshakeTimeout: 2 * time.Second})
	if rate(t, addr, dest, func() {
		var wg sync.WaitGroup
		for worker := range 30 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), 0))
				for range 100 {
					randomBytes(t, addr, rng)
				}
			})
		}
		wg.Wait()
	}) == 0 {
		t.Error("no good client got through")
	}
}

// randomBytes sends up to 300 random bytes, a third of the time after the
// beginning of a valid conversation, and waits for the end.
func randomBytes(t *testing.T, addr string, rng *rand.Rand) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 1+rng.IntN(300))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	switch rng.IntN(6) {
	case 0:
		b = append([]byte{5, 1, 0, 5}, b...)
	case 1:
		b[0] = 4
	}
	_, _ = conn.Write(b)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, err = io.Copy(io.Discard, conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("% x…: %v", b[:min(len(b), 16)], err)
	}
}

// 2,000 clients that send a byte a second do not outlive their deadline, and
// do not keep good ones out.
func TestSlowClients(t *testing.T) {
	const deadline = 3 * time.Second
	dest := echo(t)
	addr := start(t, &socks.Server{HandshakeTimeout: deadline})
	alone := rate(t, addr, dest, func() { <-time.After(2 * time.Second) })
	beside := rate(t, addr, dest, func() {
		var wg sync.WaitGroup
		for range 2000 {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { slow(t, conn, deadline) })
		}
		wg.Wait()
	})
	t.Logf("good clients: %.0f exchanges a second alone, %.0f beside 2,000 slow ones", alone, beside)
}

// slow sends a byte a second of a request that never ends, until it is cut.
func slow(t *testing.T, conn net.Conn, deadline time.Duration) {
	defer conn.Close()
	began := time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	request := append([]byte{5, 200}, make([]byte, 200)...)
	for i := 0; ; i++ {
		select {
		case <-ended:
			if d := time.Since(began); d > deadline+5*time.Second {
				t.Errorf("a slow client lived for %v", d)
			}
			return
		case <-tick.C:
			_, _ = conn.Write(request[i : i+1])
		}
	}
}
