package tun

import (
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// newWire returns the way to a device: a file takes and gives packets in pieces,
// which spares copies.
func newWire(device io.ReadWriter, header int) wire {
	if file, ok := device.(*os.File); ok {
		if raw, err := file.SyscallConn(); err == nil {
			return newFileWire(raw)
		}
	}
	return newPlainWire(device, header)
}

// fileWire is a device that is a file.
type fileWire struct {
	raw   syscall.RawConn
	parts [][]byte // of the read under way
	n     int
	err   error
	step  func(fd uintptr) bool
}

func newFileWire(raw syscall.RawConn) *fileWire {
	w := &fileWire{raw: raw}
	w.step = func(fd uintptr) bool {
		for {
			w.n, w.err = unix.Readv(int(fd), w.parts)
			if w.err != unix.EINTR {
				return w.err != unix.EAGAIN
			}
		}
	}
	return w
}

func (w *fileWire) read(parts [][]byte) (int, error) {
	w.parts = parts
	err := w.raw.Read(w.step)
	switch {
	case err != nil:
		return 0, err
	case w.err != nil:
		return 0, os.NewSyscallError("readv", w.err)
	case w.n == 0:
		return 0, io.EOF
	}
	return w.n, nil
}

// writing is one write. Those of several goroutines need not wait for one
// another, and a device does not make them wait.
type writing struct {
	parts [][]byte
	err   error
	step  func(fd uintptr)
}

var writings = sync.Pool{New: func() any {
	w := new(writing)
	w.step = func(fd uintptr) {
		for {
			if _, w.err = unix.Writev(int(fd), w.parts); w.err != unix.EINTR {
				return
			}
		}
	}
	return w
}}

func (w *fileWire) write(parts [][]byte) error {
	one := writings.Get().(*writing)
	defer writings.Put(one)
	one.parts = parts
	err := w.raw.Control(one.step)
	one.parts = nil
	if err != nil {
		return err
	}
	return one.err
}
