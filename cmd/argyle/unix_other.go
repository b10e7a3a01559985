//go:build !linux

package main

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// socketMode does nothing: the mode is set once the socket has a name.
func socketMode(os.FileMode) func(string, string, syscall.RawConn) error { return nil }

// uidUser would name the owner of the other end of a unix socket.
func uidUser(net.Conn) string { return "" }

// reusePort would let sockets share a port. What it does differs from system to
// system, so that an address there is free first.
func reusePort(uintptr, bool) error { return errors.ErrUnsupported }
