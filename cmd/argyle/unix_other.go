//go:build !linux

package main

import (
	"net"
	"os"
	"syscall"
)

// socketMode does nothing: the mode is set once the socket has a name.
func socketMode(os.FileMode) func(string, string, syscall.RawConn) error { return nil }

// uidUser would name the owner of the other end of a unix socket.
func uidUser(net.Conn) string { return "" }
