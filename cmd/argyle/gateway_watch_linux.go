package main

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostAddresses are the addresses that this host has at the moment.
type hostAddresses struct {
	now atomic.Pointer[map[netip.Addr]bool]
}

// read looks which ones these are.
func (h *hostAddresses) read() error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list the addresses of this host: %w", err)
	}
	all := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				all[ip.Unmap()] = true
			}
		}
	}
	h.now.Store(&all)
	return nil
}

func (h *hostAddresses) has(ip netip.Addr) bool { return (*h.now.Load())[ip.Unmap().WithZone("")] }

// serveWatch keeps track of the addresses of this host, and tells of addresses and
// routes that come to lie over those that stand for names.
func (g *gatewayd) serveWatch() error {
	addrs, routes := make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate)
	stop := make(chan struct{})
	broken := func(err error) {
		select {
		case <-stop:
		default:
			g.log.Warn("changes of this host's network may go unnoticed", "err", err)
		}
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, stop, netlink.AddrSubscribeOptions{ErrorCallback: broken}); err != nil {
		return fmt.Errorf("watch the addresses of this host: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(routes, stop, netlink.RouteSubscribeOptions{ErrorCallback: broken}); err != nil {
		close(stop)
		for range addrs { // it ends when it has noticed
			continue
		}
		return fmt.Errorf("watch the routes of this host: %w", err)
	}
	g.backgroundUntil("watch", func(done <-chan struct{}) error {
		defer func() {
			close(stop)
			for range addrs {
				continue
			}
			for range routes {
				continue
			}
		}()
		return g.watch(done, addrs, routes)
	})
	return nil
}

func (g *gatewayd) watch(done <-chan struct{}, addrs <-chan netlink.AddrUpdate, routes <-chan netlink.RouteUpdate) error {
	for {
		select {
		case <-done:
			return nil
		case a, ok := <-addrs:
			if !ok {
				addrs = nil
				continue
			}
			if err := g.host.read(); err != nil {
				g.log.Warn("the addresses of this host are not known", "err", err)
			}
			if a.NewAddr {
				g.overlapped("address", &a.LinkAddress)
			}
		case r, ok := <-routes:
			if !ok {
				routes = nil
				continue
			}
			if r.Type == unix.RTM_NEWROUTE && r.Route.Type == unix.RTN_UNICAST {
				g.overlapped("route", r.Dst)
			}
		}
	}
}

// overlapped tells of what has come to lie over a pool.
func (g *gatewayd) overlapped(what string, network *net.IPNet) {
	if network == nil {
		return
	}
	ip, _ := netip.AddrFromSlice(network.IP)
	ones, _ := network.Mask.Size()
	there := netip.PrefixFrom(ip.Unmap(), ones)
	for _, pool := range g.Pools {
		if ones > 0 && there.Overlaps(pool) {
			g.log.Error("this host has got a network that overlaps a pool: one of them cannot be reached",
				"what", what, "network", there.String(), "pool", pool.String())
		}
	}
}
