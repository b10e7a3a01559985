//go:build linux

package main

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// An answerer is the target of short connections: it answers each request with a response, until the other end
// closes.
type answerer struct {
	poll *poller
	fd   int
	addr netip.AddrPort
}

func newAnswerer(poll *poller) (*answerer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	a := &answerer{poll: poll, fd: fd}
	if err := a.listen(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return a, nil
}

func (a *answerer) listen() error {
	if err := unix.Bind(a.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(a.fd, 1024); err != nil {
		return err
	}
	name, err := unix.Getsockname(a.fd)
	if err != nil {
		return err
	}
	bound := name.(*unix.SockaddrInet4)
	a.addr = netip.AddrPortFrom(netip.AddrFrom4(bound.Addr), uint16(bound.Port))
	return a.poll.add(a.fd, a)
}

// ready accepts all that wait: their edge comes only once.
func (a *answerer) ready() {
	for {
		fd, _, err := unix.Accept4(a.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		if err := a.poll.add(fd, &answer{poll: a.poll, fd: fd}); err != nil {
			unix.Close(fd)
		}
	}
}

// An answer is one accepted connection.
type answer struct {
	poll *poller
	fd   int
	got  int // bytes of the current request
}

func (a *answer) ready() {
	var request, response [responseSize]byte
	for {
		n, err := unix.Read(a.fd, request[:])
		if err == unix.EAGAIN {
			return
		}
		if err != nil || n == 0 {
			a.poll.remove(a.fd)
			return
		}
		if a.got += n; a.got < requestSize {
			continue
		}
		a.got -= requestSize
		if _, err := unix.Write(a.fd, response[:]); err != nil {
			a.poll.remove(a.fd)
			return
		}
	}
}
