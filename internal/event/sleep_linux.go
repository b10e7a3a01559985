package event

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sleep is how a loop waits: in the poller of the runtime, as everybody else, so that
// no thread waits for it alone. The runtime's monitor takes the processor away from a
// thread that waits in a system call, and wakes up for milliseconds afterwards to see
// whether there is another one: that cost more than a loop with little to do does.
//
// That holds for waits that last. One of [briskWait] at most costs less where nobody
// hears of it.
//
// The poller would be woken by each event of the loop's epoll, also while the loop is
// awake. So there is another one between, in which that is armed for one event before
// each sleep.
type sleep struct {
	file     *os.File // of the epoll between
	raw      syscall.RawConn
	fd       int
	deadline int64 // that is set; 0: none
	woken    func(uintptr) bool
}

// open prepares to wait for an epoll.
func (s *sleep) open(epoll int) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	event := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(epoll)}
	if err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, epoll, &event); err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	*s = sleep{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return err
	}
	var events [1]unix.EpollEvent
	s.woken = func(fd uintptr) bool { return poll(int(fd), events[:]) > 0 }
	return nil
}

func (s *sleep) close() { s.file.Close() }

// until waits for an event of the epoll, or for a time on our clock.
func (s *sleep) until(epoll int, when int64) {
	if when != s.deadline {
		s.deadline = when
		deadline := time.Time{}
		if when != forEver {
			deadline = clock.Add(time.Duration(when))
		}
		if err := s.file.SetReadDeadline(deadline); err != nil {
			panic(fmt.Sprint("event: the runtime does not poll an epoll: ", err)) // it would wait for ever
		}
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(epoll)}
	if err := unix.EpollCtl(s.fd, unix.EPOLL_CTL_MOD, epoll, &event); err != nil {
		panic(fmt.Sprint("epoll_ctl: ", err)) // it is given nothing that can be wrong
	}
	_ = s.raw.Read(s.woken) // or the deadline is over
}

// poll is epoll_wait(2) that does not wait.
func poll(epoll int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		panic("epoll_wait: " + errno.Error()) // it is given nothing that can be wrong
	}
	return int(n)
}

// pollBriskly is epoll_pwait2(2) that waits for briskWait, with the processor in hand:
// neither the scheduler nor the runtime's monitor hears of it. Before Linux 5.11 it
// finds nothing.
func pollBriskly(epoll int, events []unix.EpollEvent) int {
	timeout := unix.Timespec{Nsec: int64(briskWait)}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(unsafe.Pointer(&timeout)), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
