//go:build linux

package main

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
)

// A fakeServer is as little of a SOCKS 5 server as the workloads need, within the test.
type fakeServer struct {
	ln    *net.TCPListener
	udp   bool
	conns sync.WaitGroup
}

// startFake runs a fake until the test ends; user "" asks for no password.
func startFake(t *testing.T, user string, udp bool) *server {
	ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(loopback(0)))
	if err != nil {
		t.Fatal(err)
	}
	fake := &fakeServer{ln: ln, udp: udp}
	fake.conns.Go(fake.serve)
	t.Cleanup(func() {
		ln.Close()
		fake.conns.Wait()
	})
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	return &server{name: "fake", addr: addr, user: user, password: "pw", pids: []int{os.Getpid()}}
}

func (f *fakeServer) serve() {
	for {
		conn, err := f.ln.AcceptTCP()
		if err != nil {
			return
		}
		f.conns.Go(func() {
			defer conn.Close()
			f.serveConn(conn)
		})
	}
}

func (f *fakeServer) serveConn(conn *net.TCPConn) {
	greeting, request := make([]byte, 3), make([]byte, 10)
	io.ReadFull(conn, greeting)
	conn.Write([]byte{5, greeting[2]})
	if greeting[2] == methodPassword {
		lengths := make([]byte, 2)
		io.ReadFull(conn, lengths)
		io.CopyN(io.Discard, conn, int64(lengths[1]))
		io.ReadFull(conn, lengths[:1])
		io.CopyN(io.Discard, conn, int64(lengths[0]))
		conn.Write([]byte{1, 0})
	}
	if _, err := io.ReadFull(conn, request); err != nil {
		return
	}
	dest := netip.AddrPortFrom(netip.AddrFrom4([4]byte(request[4:8])), uint16(request[8])<<8|uint16(request[9]))
	switch {
	case request[1] == commandConnect:
		f.connect(conn, dest)
	case f.udp:
		f.associate(conn)
	default:
		conn.Write([]byte{5, byte(replyUnsupported), 0, 1, 0, 0, 0, 0, 0, 0})
	}
}

func (f *fakeServer) connect(client *net.TCPConn, dest netip.AddrPort) {
	target, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(dest))
	if err != nil {
		return
	}
	defer target.Close()
	client.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	var up sync.WaitGroup
	up.Go(func() {
		io.Copy(target, client)
		target.CloseWrite()
	})
	io.Copy(client, target)
	client.CloseWrite()
	up.Wait()
}

// associate relays through one socket: what has no header of the target comes from the target.
func (f *fakeServer) associate(control *net.TCPConn) {
	relay, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(0)))
	if err != nil {
		return
	}
	f.conns.Go(func() {
		var client, target netip.AddrPort
		b := make([]byte, 10+2048)
		for {
			n, from, err := relay.ReadFromUDPAddrPort(b[10:])
			if err != nil {
				return
			}
			if !client.IsValid() {
				client = from
				target = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[14:18])), uint16(b[18])<<8|uint16(b[19]))
			}
			if from == client {
				relay.WriteToUDPAddrPort(b[20:10+n], target)
			} else {
				copy(b, appendAddr([]byte{0, 0, 0}, target))
				relay.WriteToUDPAddrPort(b[:10+n], client)
			}
		}
	})
	control.Write(appendAddr([]byte{5, 0, 0}, relay.LocalAddr().(*net.UDPAddr).AddrPort()))
	io.Copy(io.Discard, control) // until the client ends the association
	relay.Close()
}
