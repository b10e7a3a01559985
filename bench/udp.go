//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

const (
	// window is how many datagrams are under way when each is awaited back. So many of the largest fit into a
	// socket's buffer of default size: a server that keeps up loses none.
	window = 64

	// burst is how many datagrams are sent with one system call when nothing is awaited.
	burst = 32
)

// A udp is the workload that sends datagrams through an association, one way or to be echoed.
type udp struct {
	size int // of the payload
	echo bool
}

// measure sends for a while and counts what arrives, at the target or back at the client.
func (u udp) measure(set *settings, s *server) *sample {
	out := &sample{}
	target, err := newUDPTarget(u.size, u.echo, set.gso)
	if err != nil {
		out.fail(err)
		return out
	}
	defer target.close()
	assoc, err := s.associate(target.addr())
	if errors.Is(err, errNoUDP) {
		out.Missing = err.Error()
		return out
	}
	if err != nil {
		out.fail(err)
		return out
	}
	defer assoc.close()
	datagram := append(assoc.header, make([]byte, u.size)...)
	client, err := newDatagrams(assoc.conn, len(datagram), set.gso)
	if err != nil {
		out.fail(err)
		return out
	}

	train := bytes.Repeat(datagram, client.perMessage)
	run := func(d time.Duration) (traffic, error) { return flood(client, train, d, set.pps, &target.received) }
	if u.echo {
		run = func(d time.Duration) (traffic, error) { return tripsFor(client, train, d) }
	}
	if _, err := run(set.warmUp()); err != nil {
		out.fail(err)
		return out
	}
	cpu := s.cpuSeconds()
	tr, err := run(set.time)
	if err != nil {
		out.fail(err)
	}
	cpu = s.cpuSeconds() - cpu
	out.set("packets/s", float64(tr.delivered)/tr.elapsed.Seconds())
	out.set("loss %", 100*(1-float64(tr.delivered)/float64(tr.sent)))
	out.set("cpu µs", cpu*1e6/float64(tr.delivered))
	return out
}

// traffic is what became of the datagrams sent in a while.
type traffic struct {
	sent, delivered int
	elapsed         time.Duration
}

// flood sends without waiting for anything, as fast as it can or pps in a second; arrived is the target's count.
func flood(client *datagrams, train []byte, d time.Duration, pps int, arrived *atomic.Int64) (traffic, error) {
	before, begin := arrived.Load(), time.Now()
	var tr traffic
	for tr.elapsed < d {
		n := burst
		if pps > 0 {
			n = min(n, int(tr.elapsed.Seconds()*float64(pps))-tr.sent)
		}
		if n > 0 {
			if err := client.sendCopies(train, n); err != nil {
				return tr, fmt.Errorf("send: %w", err)
			}
			tr.sent += n
		} else {
			pause(100 * time.Microsecond)
		}
		tr.elapsed = time.Since(begin)
	}
	pause(20 * time.Millisecond) // for those that are in buffers
	tr.delivered = int(arrived.Load() - before)
	return tr, nil
}

// tripsFor keeps a window of datagrams under way between client and target. What has not come back when nothing
// has come for 100 ms is lost.
func tripsFor(client *datagrams, train []byte, d time.Duration) (traffic, error) {
	begin := time.Now()
	var tr traffic
	for away := 0; tr.elapsed < d || away > 0; {
		if n := window - away; n > 0 && tr.elapsed < d {
			if err := client.sendCopies(train, n); err != nil {
				return tr, fmt.Errorf("send: %w", err)
			}
			tr.sent += n
			away += n
		}
		_, n, err := client.receive(time.Now().Add(100 * time.Millisecond))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return tr, fmt.Errorf("receive: %w", err)
		}
		tr.delivered += n
		away = max(away-n, 0)
		if err != nil {
			away = 0
		}
		tr.elapsed = time.Since(begin)
	}
	return tr, nil
}

// errNoUDP is a server that refuses to associate.
var errNoUDP = errors.New("no UDP")

// An association is a way for datagrams to one target, bare or by a server.
type association struct {
	control *net.TCPConn // nil without a proxy
	conn    *net.UDPConn
	header  []byte // goes before each payload
}

// associate asks the server for an association and connects a socket to the address it gave.
func (s *server) associate(target netip.AddrPort) (*association, error) {
	if s.direct() {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(target))
		return &association{conn: conn}, err
	}
	control, err := dialTCP(s.addr)
	if err != nil {
		return nil, err
	}
	conn, err := s.associateOver(control)
	if err != nil {
		control.Close()
		return nil, err
	}
	header := appendAddr([]byte{0, 0, 0}, target) // RSV, FRAG
	return &association{control, conn, header}, nil
}

func (s *server) associateOver(control *net.TCPConn) (*net.UDPConn, error) {
	anywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0) // we do not know our port yet
	reply, err := converse(control, s.steps(commandAssociate, anywhere))
	if errors.Is(err, replyUnsupported) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: %w", errNoUDP, err)
	}
	if err != nil {
		return nil, fmt.Errorf("associate: %w", err)
	}
	relay, err := boundAddr(reply, s.addr.Addr())
	if err != nil {
		return nil, err
	}
	return net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
}

func (a *association) close() {
	a.conn.Close()
	if a.control != nil {
		a.control.Close()
	}
}
