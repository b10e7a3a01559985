package argyle

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// raceDelay is how long an attempt is alone before the next one joins it: the
// "Connection Attempt Delay" of RFC 8305, section 5.
const raceDelay = 250 * time.Millisecond

// interleave orders addresses so that families take turns, beginning with that
// of the first (RFC 8305, section 4).
func interleave(ips []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, ip := range ips {
		if ip.Is4() == ips[0].Is4() {
			first = append(first, ip)
		} else {
			second = append(second, ip)
		}
	}
	mixed := make([]netip.Addr, 0, len(ips))
	for len(first) > 0 || len(second) > 0 {
		if len(first) > 0 {
			mixed, first = append(mixed, first[0]), first[1:]
		}
		if len(second) > 0 {
			mixed, second = append(mixed, second[0]), second[1:]
		}
	}
	return mixed
}

// attempt is how a connection to one address has ended.
type attempt struct {
	conn net.Conn
	err  error
	nth  int
}

// race connects to the first of the addresses that answers. An attempt that
// fails, or takes its time, lets the next one start.
func (d *Direct) race(ctx context.Context, network string, ips []netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan attempt)
	started, running := 0, 0
	start := func() {
		nth := started
		started++
		running++
		go func() {
			conn, err := d.dial(ctx, network, netip.AddrPortFrom(ips[nth], port))
			ended <- attempt{conn, err, nth}
		}()
	}
	defer func() { go closeLate(ended, running) }()

	errs := make([]error, len(ips))
	start()
	next := time.NewTimer(raceDelay)
	defer next.Stop()
	for running > 0 {
		select {
		case a := <-ended:
			running--
			if a.err == nil {
				return a.conn, nil
			}
			errs[a.nth] = a.err
		case <-next.C:
		}
		if started < len(ips) && ctx.Err() == nil {
			start()
			next.Reset(raceDelay)
		}
	}
	return nil, telling(errs)
}

// closeLate closes the connections of attempts that come in after the first.
func closeLate(ended <-chan attempt, running int) {
	for range running {
		if a := <-ended; a.conn != nil {
			a.conn.Close()
		}
	}
}

// telling returns the error that says most: of the first address that had a
// way to it, was allowed and failed, else that of a refused one, else the first.
func telling(errs []error) (best error) {
	rank := 0
	for _, err := range errs {
		r := 3
		switch {
		case err == nil:
			r = 0
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EADDRNOTAVAIL):
			r = 1
		case errors.Is(err, ErrNotAllowed):
			r = 2
		}
		if r > rank {
			best, rank = err, r
		}
	}
	return best
}
