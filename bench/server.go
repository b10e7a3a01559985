//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// patience is how long a connection, a handshake or an answer may take before it counts as failed.
const patience = 5 * time.Second

// A server is one row of the tables.
type server struct {
	name     string
	addr     netip.AddrPort // zero: no proxy, straight to the target
	user     string         // "": no password
	password string
	pids     []int // the roots of its process tree; none: its processor time and memory are unknown

	processes []*process // set if bench started it
	twin      bool       // a second instance, only to compare passwords with
	wrap      *wrapper   // nil: it is no wrapper
}

// noProxy is the row for reference.
func noProxy() *server { return &server{name: "no proxy"} }

func (s *server) direct() bool { return !s.addr.IsValid() }

// parseServer reads name=host:port[,pid=N...][,user=U,password=P] and finds the process if no pid is given.
func parseServer(spec string) (*server, error) {
	fields := strings.Split(spec, ",")
	name, addr, ok := strings.Cut(fields[0], "=")
	if !ok || name == "" {
		return nil, fmt.Errorf("%q is not name=host:port", fields[0])
	}
	s := &server{name: name}
	tcp, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not on loopback", addr)
	}
	s.addr = netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), uint16(tcp.Port))
	for _, field := range fields[1:] {
		if err := s.setField(field); err != nil {
			return nil, err
		}
	}
	if len(s.user) > 255 || len(s.password) > 255 {
		return nil, errors.New("user or password is longer than 255 bytes")
	}
	if s.pids == nil {
		if s.pids, err = listeners(s.addr.Port()); err != nil {
			return nil, fmt.Errorf("find the process of %s: %w", name, err)
		}
	}
	return s, nil
}

func (s *server) setField(field string) error {
	key, value, _ := strings.Cut(field, "=")
	switch key {
	case "user":
		s.user = value
	case "password":
		s.password = value
	case "pid":
		pid, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%q is no process id", value)
		}
		s.pids = append(s.pids, pid)
	default:
		return fmt.Errorf("unknown field %q: pid, user and password are known", key)
	}
	return nil
}

// dial opens a session to dest through the server.
func (s *server) dial(dest netip.AddrPort) (*net.TCPConn, error) {
	to := s.addr
	if s.direct() {
		to = dest
	}
	conn, err := dialTCP(to)
	if err != nil {
		return nil, err
	}
	if _, err := converse(conn, s.steps(commandConnect, dest)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

// dialTCP connects without keep-alive, and leaves a deadline set for the handshake that follows.
func dialTCP(to netip.AddrPort) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: patience, KeepAlive: -1}
	conn, err := dialer.Dial("tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(patience))
}

// cpuSeconds returns what the server's processes have used until now, NaN if that is unknown. A sample drops figures
// that are NaN, so nobody else has to ask.
func (s *server) cpuSeconds() float64 {
	tree, err := processTree(s.pids)
	if err != nil || len(tree) == 0 {
		return math.NaN()
	}
	var ticks uint64
	for _, p := range tree {
		ticks += p.ticks
	}
	return float64(ticks) / ticksPerSecond
}

// settle waits until the server has used no processor time for quiet, so that what one measurement left over is not
// charged to the next. It gives up after limit: some servers never rest.
func (s *server) settle(quiet, limit time.Duration) {
	giveUp := time.Now().Add(limit)
	last, since := s.cpuSeconds(), time.Now()
	for time.Since(since) < quiet && time.Now().Before(giveUp) {
		pause(20 * time.Millisecond)
		if now := s.cpuSeconds(); now > last {
			last, since = now, time.Now()
		}
	}
}
