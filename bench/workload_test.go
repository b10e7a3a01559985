//go:build linux

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// Every workload, short, through a server that works.
func TestWorkloads(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	set := &settings{time: 100 * time.Millisecond, idle: 20}
	for _, s := range []*server{startFake(t, "", true), startFake(t, "ann", true), noProxy()} {
		for _, w := range workloads() {
			for _, c := range w.cells {
				// A fake lives in this process, which never rests: idle would wait for that in vain.
				if c.skip(s) || w.name == "idle" && !s.direct() {
					continue
				}
				t.Run(s.name+" "+s.user+" "+w.name+" "+c.name, func(t *testing.T) {
					got := c.run(set, s)
					if got.Failed > 0 || got.Missing != "" || len(got.Figures) == 0 {
						t.Errorf("sample: %s", got)
					}
					if loss := got.Figures["loss %"]; loss == 100 {
						t.Error("nothing arrived")
					}
				})
			}
		}
	}
}

func TestUDPWithOffload(t *testing.T) {
	for _, s := range []*server{startFake(t, "", true), noProxy()} {
		got := udp{size: 64, echo: true}.measure(&settings{time: 50 * time.Millisecond, gso: true}, s)
		if got.Failed > 0 || got.Figures["packets/s"] == 0 {
			t.Errorf("%s: %s", s.name, got)
		}
	}
}

func TestPacketsPerSecond(t *testing.T) {
	got := udp{size: 64}.measure(&settings{time: 500 * time.Millisecond, pps: 2000}, noProxy())
	if rate := got.Figures["packets/s"]; rate < 1000 || rate > 2200 {
		t.Errorf("2000 packets a second were %v", rate)
	}
}

func TestNoUDP(t *testing.T) {
	got := udp{size: 64}.measure(&settings{time: 50 * time.Millisecond}, startFake(t, "", false))
	if got.Missing == "" || got.Failed > 0 || len(got.Figures) > 0 {
		t.Errorf("sample: %s", got)
	}
}

// A server that does not work has failures in every workload, and ends none of them early or never.
func TestFailures(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := &server{name: "refusing", addr: ln.Addr().(*net.TCPAddr).AddrPort(), pids: []int{os.Getpid()}}
	ln.Close()
	for _, w := range workloads() {
		for _, c := range w.cells {
			if w.name == "idle" || c.skip(refusing) {
				continue
			}
			if got := c.run(&settings{time: 20 * time.Millisecond, idle: 1}, refusing); got.Failed == 0 || got.Error == "" {
				t.Errorf("%s %s: %s", w.name, c.name, got)
			}
		}
	}
}

// A stream that the server cuts is a failure, though bytes have arrived.
func TestBulkCut(t *testing.T) {
	ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(loopback(0)))
	if err != nil {
		t.Fatal(err)
	}
	cut := &fakeServer{ln: ln}
	cut.conns.Go(func() {
		conn, err := ln.AcceptTCP()
		if err != nil {
			return
		}
		defer conn.Close()
		time.AfterFunc(50*time.Millisecond, func() { conn.Close() })
		cut.serveConn(conn)
	})
	s := &server{name: "cut", addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	got := bulk{streams: 1}.measure(&settings{time: 200 * time.Millisecond}, s)
	if got.Failed != 1 {
		t.Errorf("sample: %s", got)
	}
	ln.Close()
	cut.conns.Wait()
}

func TestSelectWorkloads(t *testing.T) {
	picked, err := selectWorkloads("udp,bulk")
	if err != nil || len(picked) != 2 || picked[0].name != "bulk" || picked[1].name != "udp" {
		t.Errorf("got %v, %v", picked, err)
	}
	if _, err := selectWorkloads("bulk,speed"); err == nil {
		t.Error("no error for an unknown workload")
	}
}

func TestUnexpected(t *testing.T) {
	if err := unexpected(io.EOF); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if err := unexpected(io.ErrClosedPipe); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}
