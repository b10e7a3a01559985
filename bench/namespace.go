//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A namespace is a network of our own: what takes connections is let loose there, and not on this machine.
type namespace struct {
	file *os.File // it is there as long as this is open, or a process is in it
}

// newNamespace makes one, with loopback.
func newNamespace() (*namespace, error) {
	n := &namespace{}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := n.commands("ip link set lo up"); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// do calls f inside: sockets that it opens and processes that it starts stay there. Without a namespace it calls f here.
func (n *namespace) do(f func() error) error {
	if n == nil {
		return f()
	}
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread that ends afterwards: nobody else is to have its namespace.
func onThread(f func() error) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		ended <- f()
	}()
	return <-ended
}

// commands runs command lines inside.
func (n *namespace) commands(lines ...string) error {
	return n.do(func() error {
		for _, line := range lines {
			words := strings.Fields(line)
			if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
			}
		}
		return nil
	})
}

func (n *namespace) close() { n.file.Close() }
