//go:build linux

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// A poller drives thousands of short connections on one thread, for a fraction of what net would cost: in the
// connections workload the generator competes with the server for the same processors.
type poller struct {
	fd     int
	conns  []pollee // by descriptor
	open   int
	events [256]unix.EpollEvent
}

// A pollee is called when its descriptor may have become readable or writable. It must bear being called when
// nothing has: the descriptor may be younger than the event.
type pollee interface{ ready() }

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poller{fd: fd}, err
}

// add watches fd for edges, until remove.
func (p *poller) add(fd int, to pollee) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return err
	}
	for len(p.conns) <= fd {
		p.conns = append(p.conns, nil)
	}
	p.conns[fd] = to
	p.open++
	return nil
}

// remove closes fd, which also ends watching it.
func (p *poller) remove(fd int) {
	p.conns[fd] = nil
	p.open--
	unix.Close(fd)
}

// wait calls those that are ready, after waiting for the first one for at most limit.
func (p *poller) wait(limit time.Duration) error {
	n, err := unix.EpollWait(p.fd, p.events[:], int(limit.Milliseconds()))
	if err != nil && err != unix.EINTR {
		return err
	}
	for _, event := range p.events[:max(n, 0)] {
		if to := p.conns[event.Fd]; to != nil {
			to.ready()
		}
	}
	return nil
}

// close closes the poller and whatever it still watches.
func (p *poller) close() {
	for fd, to := range p.conns {
		if to != nil {
			p.remove(fd)
		}
	}
	unix.Close(p.fd)
}
