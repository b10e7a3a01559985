//go:build linux

package seccomp

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif: a task waits in a system call.
type notification struct {
	id    uint64
	pid   uint32 // of a thread
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// addition is struct seccomp_notif_addfd.
type addition struct {
	id       uint64
	flags    uint32
	src      uint32
	new      uint32
	newFlags uint32
}

// listener is where the kernel tells of system calls and takes our answers.
type listener struct {
	file *os.File
	raw  syscall.RawConn
}

// newListener takes fd over.
func newListener(fd int) (*listener, error) {
	if err := unix.SetNonblock(fd, true); err != nil { // for the poller; the ioctls do not look at it
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp listener")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &listener{file: file, raw: raw}, nil
}

func (l *listener) close() error { return l.file.Close() }

// ioctl returns the errno. A closed listener answers ENOENT, as the kernel does
// of a task that is gone.
func (l *listener) ioctl(request uintptr, arg unsafe.Pointer) unix.Errno {
	errno := unix.ENOENT
	_ = l.raw.Control(func(fd uintptr) { _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)) })
	return errno
}

// receive waits for the next system call. It returns [io.EOF] when no task is
// left that could make one.
func (l *listener) receive() (n *notification, err error) {
	wait := l.raw.Read(func(fd uintptr) bool {
		for {
			n, err = poll(int(fd))
			if err != unix.ENOENT && err != unix.EINTR { // ENOENT: the task was killed before we came
				return n != nil || err != nil
			}
		}
	})
	if wait != nil {
		return nil, wait
	}
	return n, err
}

// poll takes a notification, if there is one. Only one goroutine does this:
// then the ioctl does not block after POLLIN.
func poll(fd int) (*notification, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return nil, err
	}
	switch {
	case fds[0].Revents&unix.POLLIN != 0:
		n := new(notification)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n)))
		if errno != 0 {
			return nil, errno
		}
		return n, nil
	case fds[0].Revents&unix.POLLHUP != 0:
		return nil, io.EOF
	}
	return nil, nil
}

// valid reports whether the task still waits in that system call: only then
// what was read by its number is its own.
func (l *listener) valid(id uint64) bool {
	return l.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == 0
}

// answer ends the system call with val, or with errno if it is not 0.
func (l *listener) answer(id uint64, val int64, errno unix.Errno) error {
	return l.send(&response{id: id, val: val, error: -int32(errno)})
}

// proceed lets the kernel do the system call.
func (l *listener) proceed(id uint64) error {
	return l.send(&response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

func (l *listener) send(r *response) error {
	return asError(l.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r)))
}

// give ends the system call with a new descriptor of the task for fd, of the
// number at, or of any if that is 0.
func (l *listener) give(id uint64, fd, at int, flags uint32) error {
	a := &addition{id: id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, src: uint32(fd), newFlags: flags}
	if at != 0 {
		a.flags |= unix.SECCOMP_ADDFD_FLAG_SETFD
		a.new = uint32(at)
	}
	errno := unix.ENOENT
	_ = l.raw.Control(func(lfd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, lfd, unix.SECCOMP_IOCTL_NOTIF_ADDFD, uintptr(unsafe.Pointer(a)))
	})
	return asError(errno)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
