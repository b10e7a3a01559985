package socks

import (
	"net"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// tcpAddr returns an address as package net has it, or a name as it is.
func tcpAddr(a argyle.Addr) net.Addr {
	if a.IP.IsValid() {
		return net.TCPAddrFromAddrPort(a.AddrPort())
	}
	return a
}

// closeWrite ends the write side of a connection that has such a thing.
func closeWrite(conn net.Conn) error {
	if w, ok := conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return syscall.ENOTSUP
}
