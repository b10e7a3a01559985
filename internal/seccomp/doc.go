// Package seccomp runs a program whose connect calls are answered by us, by
// seccomp user notification: without root, without namespaces, without cgo. It
// needs Linux 5.19 on amd64 or arm64. It is not a jail: it leads programs that
// do not know of it, and does not hold those that want to get out.
//
// The program's calls of connect wait until [Config.Connect] has answered them.
// It either accepts the connection and relays it, or connects the program's
// own socket to a proxy. A connect of a non-blocking socket does not wait: it
// is in progress until then, and fails or succeeds as it would without us.
//
// Sockets for datagrams are made by us and bound to the loopback device, so
// that the kernel lets nothing out of them, whatever the program calls. What is
// sent by connect and send, or by sendto, comes to [Config.Packet].
//
//	seccomp.Child() // first thing in main
//	p, err := seccomp.Start(ctx, &seccomp.Config{
//		Argv:    []string{"curl", "http://example.com/"},
//		Connect: func(ctx context.Context, c *seccomp.Conn) { … },
//		Packet:  func(ctx context.Context, dest netip.AddrPort, conn *net.UDPConn) { … },
//	})
//	status, err := p.Wait()
//	p.Close()
package seccomp
