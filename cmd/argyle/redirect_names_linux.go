package main

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/argyle-socks/argyle/internal/config"
	"github.com/argyle-socks/argyle/internal/fakedns"
)

// ownLookups are the names that we look up ourselves. A resolver on this host asks
// others for us, and its questions are taken like any program's: they must have
// true answers, or we would be sent to ourselves.
type ownLookups struct {
	proxies map[string]bool // always

	mu  sync.Mutex
	now map[string]int // while we wait
}

// markSockets has our own sockets marked, which are never taken.
func (c *capture) markSockets(file *config.File) *ownLookups {
	own := &ownLookups{proxies: proxyNames(file), now: make(map[string]int)}
	c.world.control = markOwn
	dialer := &net.Dialer{Control: markOwn}
	c.world.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, beyondStub(address))
	}
	c.world.looking = own.looking
	return own
}

// proxyNames are the names of the proxies of a configuration.
func proxyNames(file *config.File) map[string]bool {
	hosts := make(map[string]bool)
	add := func(list []config.ProxyURL) {
		for _, one := range list {
			text := string(one)
			if !strings.Contains(text, "://") {
				text = "socks5h://" + text
			}
			if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
				hosts[plainName(u.Hostname())] = true
			}
		}
	}
	add(file.Proxy)
	for _, u := range file.Upstreams {
		add(u.Chain)
		add(u.Group)
	}
	return hosts
}

func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// looking notes that we look up a name, until done is called.
func (o *ownLookups) looking(name string) (done func()) {
	name = plainName(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now[name]++
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.now[name]--; o.now[name] == 0 {
			delete(o.now, name)
		}
	}
}

// has reports whether a question for a name may be ours.
func (o *ownLookups) has(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.proxies[name] || o.now[name] > 0
}

// stubResolver is the address of systemd-resolved, and uplinkResolvers where it
// says whom it asks. What it has asked us for somebody else it may remember, so
// we ask those.
const (
	stubResolver    = "127.0.0.53:53"
	uplinkResolvers = "/run/systemd/resolve/resolv.conf"
)

// beyondStub returns the resolver to be asked in place of one.
func beyondStub(address string) string {
	if address != stubResolver {
		return address
	}
	text, _ := os.ReadFile(uplinkResolvers) // or the stub it is
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil && !ip.IsLoopback() {
			return netip.AddrPortFrom(ip, 53).String()
		}
	}
	return address
}

// answerNames has the names that are wanted answered with addresses of the pool,
// and passes all other questions on.
func (r *redirector) answerNames(own *ownLookups) {
	r.Pools = poolsHere(r.names.pool)
	s := r.names.server
	if len(r.Pools) == 1 {
		s.Families = fakedns.IPv4
	}
	s.Forward = func(ctx context.Context, name string, query []byte, tcp bool) ([]byte, bool) {
		if r.wants(name) && !own.has(name) {
			return nil, false
		}
		return passOn(ctx, query, tcp), true
	}
}

// wants reports whether a name is to have an address of the pool. Those of
// reverse zones that are about the pool are for us to answer as well.
func (r *redirector) wants(name string) bool {
	if zone, ok := fakedns.ReverseZone(name); ok && !r.all {
		return slices.ContainsFunc(r.Pools, func(pool netip.Prefix) bool { return pool.Contains(zone.Addr()) })
	}
	return (r.all || r.to.named(name)) && !r.except.named(name)
}

// passTime bounds a question that is passed on: programs ask again after that.
const passTime = 5 * time.Second

// passOn asks the resolver that a query was sent to, in the very same words. nil
// is for no answer.
func passOn(ctx context.Context, query []byte, tcp bool) []byte {
	server := resolverOf(ctx)
	if !server.IsValid() {
		return serverFailure(query)
	}
	ctx, cancel := context.WithTimeout(ctx, passTime)
	defer cancel()
	network := "udp"
	if tcp {
		network = "tcp"
	}
	conn, err := (&net.Dialer{Control: markOwn}).DialContext(ctx, network, server.String())
	if err != nil {
		return serverFailure(query)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	ask := askPacket
	if tcp {
		ask = askStream
	}
	if answer := ask(conn, query); answer != nil || ctx.Err() != nil {
		return answer
	}
	return serverFailure(query)
}

// serverFailure is what a client hears of a resolver that refuses to be asked.
func serverFailure(query []byte) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(query); err != nil {
		return nil
	}
	answer, err := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).Pack()
	if err != nil {
		return nil
	}
	return answer
}

// askPacket asks by a datagram. What is no answer to the query is not heard.
func askPacket(conn net.Conn, query []byte) []byte {
	if _, err := conn.Write(query); err != nil {
		return nil
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil
		}
		if n >= 2 && [2]byte(buf[:2]) == [2]byte(query[:2]) {
			return buf[:n:n]
		}
	}
}

// askStream asks over a connection (RFC 7766).
func askStream(conn net.Conn, query []byte) []byte {
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := conn.Write(framed); err != nil {
		return nil
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil
	}
	return answer
}
