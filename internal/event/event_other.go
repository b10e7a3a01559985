//go:build !linux

package event

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// A Loop serves sockets; there is none on this system.
type Loop struct {
	mu     sync.Mutex
	timers timers
}

func (*Loop) ring()        {}
func (*Loop) retire(*Task) {}

// Listen returns ln.
func Listen(ln net.Listener) net.Listener { return ln }

// Go runs f in a goroutine of its own.
func Go(_ net.Conn, f func(*Task)) { go f(nil) }

// Dial reports false.
func Dial(context.Context, netip.Addr, netip.AddrPort, func(network, address string, c syscall.RawConn) error) (net.Conn, bool, error) {
	return nil, false, nil
}
