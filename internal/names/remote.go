package names

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	deadTime    = 10 * time.Second
	deadAfter   = 8           // bad answers in a row; one name may be broken, eight are the server's fault
	familyGrace = time.Second // for the second family, after the first has come
	ednsSize    = 1232        // what passes everywhere without fragments (DNS flag day 2020)
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// A remote is a server as one Resolver knows it: its connections, its failures.
type remote struct {
	server  Server
	timeout time.Duration
	dial    dialFunc
	system  *net.Resolver
	tls     *tls.Config
	line    line // over TCP and TLS
	http    atomic.Pointer[http.Client]
	heard   atomic.Int64 // when an answer came over HTTPS, in nanoseconds since born
	born    time.Time

	mu   sync.Mutex // guards what follows
	bad  int        // answers in a row
	dead time.Time  // until then
}

func newRemote(server Server, timeout time.Duration, dial dialFunc) *remote {
	m := &remote{server: server, timeout: timeout, dial: dial, system: &net.Resolver{PreferGo: true}, tls: server.certificate(), born: time.Now()}
	m.line = line{open: m.open, timeout: timeout}
	if server.Network == networkHTTPS {
		m.http.Store(m.newHTTPClient())
	}
	return m
}

func (m *remote) close() {
	m.line.close()
	if client := m.http.Load(); client != nil {
		client.CloseIdleConnections()
	}
}

// ready tells whether the server should be asked before those that are dead.
// After its time, one look-up finds out whether a dead one lives.
func (m *remote) ready(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead.IsZero() {
		return true
	}
	if now.Before(m.dead) {
		return false
	}
	m.dead = now.Add(deadTime)
	return true
}

// note remembers how a question ended.
func (m *remote) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.bad, m.dead = 0, time.Time{}
		return
	}
	m.bad++
	if !misbehaves(err) || m.bad >= deadAfter {
		m.dead = time.Now().Add(deadTime)
	}
}

// ask returns what the server says. What does not exist is no error.
func (m *remote) ask(ctx context.Context, name string, want families) (reply, error) {
	got, err := m.try(ctx, name, want)
	if errors.Is(err, errStale) && ctx.Err() == nil {
		got, err = m.try(ctx, name, want)
	}
	if ctx.Err() != nil {
		return reply{}, ctx.Err() // which is not the server's fault
	}
	m.note(err)
	if err != nil {
		described := failure(err)
		if described.Server == "" {
			described.Server = m.server.label()
		}
		return reply{}, (*net.DNSError)(described)
	}
	return got, nil
}

func (m *remote) try(ctx context.Context, name string, want families) (reply, error) {
	if m.server.Network == "" {
		return m.askSystem(ctx, name, want)
	}
	name = plain(name)
	if !validName(name) {
		return reply{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	return combine(m.askEach(ctx, cancel, name, want.each()))
}

// askEach asks for all families at once. When one has addresses, the other may
// be late, but not by much: there are servers that never answer for IPv6.
func (m *remote) askEach(ctx context.Context, cancel context.CancelFunc, name string, each []families) []part {
	answers := make(chan part, len(each))
	for _, family := range each {
		go func() { answers <- m.question(ctx, name, family) }()
	}
	parts := []part{<-answers}
	if len(parts[0].addrs) > 0 {
		late := time.AfterFunc(familyGrace, cancel)
		defer late.Stop()
	}
	for len(parts) < len(each) {
		parts = append(parts, <-answers)
	}
	return parts
}

// hostsFile looks names up in the system's hosts file only.
var hostsFile = &net.Resolver{
	PreferGo: true,
	Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("not in the hosts file")
	},
}

func (m *remote) askSystem(ctx context.Context, name string, want families) (reply, error) {
	// The final dot keeps the system's search list away, but a name without
	// any other, such as localhost, would not be found in the hosts file.
	name = plain(name)
	var addrs []netip.Addr
	var err error
	if !strings.Contains(name, ".") {
		addrs, _ = hostsFile.LookupNetIP(ctx, want.network(), name)
	}
	if len(addrs) == 0 {
		addrs, err = m.system.LookupNetIP(ctx, want.network(), name+".")
	}
	var described *net.DNSError
	if errors.As(err, &described) && described.IsNotFound {
		return reply{ttl: failureTTL}, nil
	}
	for i, ip := range addrs {
		addrs[i] = ip.Unmap() // as the net package makes no difference between the two
	}
	return reply{addrs: addrs, ordered: true, exists: true, ttl: systemTTL}, err
}

// question asks for one family.
func (m *remote) question(ctx context.Context, name string, family families) part {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), family.question())
	query.SetEdns0(ednsSize, false)
	msg, err := m.exchange(ctx, query)
	if err == nil && isBeforeEDNS(msg) {
		query.Extra = nil
		msg, err = m.exchange(ctx, query)
	}
	if err != nil {
		return part{err: err}
	}
	return read(msg, name, family)
}

// isBeforeEDNS tells whether the server does not know the option in our query
// (RFC 6891, section 7).
func isBeforeEDNS(msg *dns.Msg) bool {
	refused := msg.Rcode == dns.RcodeFormatError || msg.Rcode == dns.RcodeNotImplemented
	return refused && msg.IsEdns0() == nil
}

func (m *remote) exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	switch m.server.Network {
	case networkUDP:
		msg, err := m.sendDatagram(ctx, query)
		if err != nil || !msg.Truncated {
			return msg, err
		}
		return m.line.exchange(ctx, query)
	case networkTCP, networkTLS:
		return m.line.exchange(ctx, query)
	case networkHTTPS:
		return m.post(ctx, query)
	}
	return nil, net.UnknownNetworkError(m.server.Network)
}

// answers tells whether msg is the answer to query, and not somebody's guess.
func answers(msg, query *dns.Msg) bool {
	if msg.Id != query.Id || !msg.Response || msg.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(msg.Question) == 0 { // from servers that did not understand it
		return msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError
	}
	asked, answered := query.Question[0], msg.Question[0]
	return len(msg.Question) == 1 && asked.Qtype == answered.Qtype && asked.Qclass == answered.Qclass &&
		plain(asked.Name) == plain(answered.Name)
}
