//go:build linux

package main

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// A udpTarget is where the datagrams of an association go.
type udpTarget struct {
	conn     *net.UDPConn
	received atomic.Int64
	done     chan struct{}
}

func newUDPTarget(size int, echo, gso bool) (*udpTarget, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	d, err := newDatagrams(conn, size, gso)
	if err != nil {
		conn.Close()
		return nil, err
	}
	t := &udpTarget{conn: conn, done: make(chan struct{})}
	go t.serve(d, echo)
	return t, nil
}

// serve counts, and echoes if asked to, until the target is closed.
func (t *udpTarget) serve(d *datagrams, echo bool) {
	defer close(t.done)
	for {
		messages, count, err := d.receive(time.Time{})
		if err != nil {
			return
		}
		t.received.Add(int64(count))
		if echo {
			// An answer that finds nobody is the client's loss, and counted there.
			_ = d.sendBack(messages)
		}
	}
}

func (t *udpTarget) addr() netip.AddrPort { return t.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (t *udpTarget) close() {
	t.conn.Close()
	<-t.done
}
