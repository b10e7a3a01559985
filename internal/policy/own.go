package policy

import (
	"net"
	"net/netip"
	"sync"

	"github.com/argyle-socks/argyle"
)

// Listeners are the addresses that a server listens on. The zero Listeners is
// ready to use.
type Listeners struct {
	mu    sync.RWMutex
	addrs []netip.AddrPort
}

// Add enters a listener's address. One without a port, of a unix socket, is no
// destination and left out.
func (l *Listeners) Add(addr net.Addr) {
	a := argyle.AddrOf(addr)
	if !a.IP.IsValid() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs = append(l.addrs, a.AddrPort())
}

// Contains reports whether a connection to addr would reach one of the listeners.
func (l *Listeners) Contains(addr netip.AddrPort) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, own := range l.addrs {
		if own.Port() != addr.Port() {
			continue
		}
		ip := addr.Addr().Unmap().WithZone("")
		// The system takes an unspecified destination for loopback.
		if own.Addr().WithZone("") == ip || ip.IsUnspecified() || own.Addr().IsUnspecified() && isLocal(ip) {
			return true
		}
	}
	return false
}

// isLocal reports whether ip is an address of this host.
func isLocal(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // rather refuse than loop
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == ip {
				return true
			}
		}
	}
	return false
}
