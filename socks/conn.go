package socks

import (
	"net"

	"github.com/argyle-socks/argyle"
)

// tcpAddr returns an address as package net has it, or a name as it is.
func tcpAddr(a argyle.Addr) net.Addr {
	if a.IP.IsValid() {
		return net.TCPAddrFromAddrPort(a.AddrPort())
	}
	return a
}
