//go:build race

package event

import "syscall"

// Read is read(2) of a non-blocking descriptor. The race detector learns from
// package syscall that what is read has been written before.
func Read(fd int, b []byte) (int, error) { return transfer(syscall.Read, fd, b) }

// Write is write(2) of a non-blocking descriptor.
func Write(fd int, b []byte) (int, error) { return transfer(syscall.Write, fd, b) }

func transfer(call func(int, []byte) (int, error), fd int, b []byte) (int, error) {
	for {
		if n, err := call(fd, b); err != syscall.EINTR {
			return n, err
		}
	}
}
