//go:build linux

package main

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// An answerer is the target of short connections: it answers each request with as many bytes as that asks for, until
// the other end closes.
type answerer struct {
	poll *poller
	fd   int
	addr netip.AddrPort
}

func newAnswerer(poll *poller, at netip.Addr) (*answerer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	a := &answerer{poll: poll, fd: fd}
	if err := a.listen(at); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return a, nil
}

func (a *answerer) listen(at netip.Addr) error {
	if err := unix.Bind(a.fd, &unix.SockaddrInet4{Addr: at.As4()}); err != nil {
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
	ask  [requestSize]byte
	owed int // bytes of responses
}

func (a *answer) ready() {
	for {
		if err := a.pay(); err != nil {
			if err != unix.EAGAIN {
				a.poll.remove(a.fd)
			}
			return
		}
		n, err := unix.Read(a.fd, a.ask[a.got:])
		if err == unix.EAGAIN {
			return
		}
		if err != nil || n == 0 {
			a.poll.remove(a.fd)
			return
		}
		if a.got += n; a.got == requestSize {
			a.got, a.owed = 0, int(binary.BigEndian.Uint32(a.ask[:]))
		}
	}
}

// response is what answers are made of.
var response [64 << 10]byte

// pay writes what is owed.
func (a *answer) pay() error {
	for a.owed > 0 {
		n, err := unix.Write(a.fd, response[:min(a.owed, len(response))])
		if err != nil {
			return err
		}
		a.owed -= n
	}
	return nil
}
