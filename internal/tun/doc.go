// Package tun makes calls of IP packets: a [Server] reads those of a device, has
// TCP done by gVisor's network stack, and dials before it accepts, so that a
// client's connect has the result that the proxy's had.
//
//	s := &tun.Server{Device: file, MTU: 65520, Handler: proxy}
//	err := s.Serve()
//
// Datagrams become associations as those of package transparent do. All else,
// ICMP among it, is dropped.
package tun
