package argyle

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers on loopback for a test.
type nameServer struct {
	conn net.PacketConn
	wg   sync.WaitGroup

	mu      sync.Mutex
	zone    map[string][]netip.Addr // what is not there does not exist
	slow    map[string]chan struct{}
	asked   map[string]int // questions for A, per name
	clients []net.Conn     // of the resolver
	closed  bool
}

// newNameServer starts a server for names without their final dot.
func newNameServer(t testing.TB, zone map[string]string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, zone: map[string][]netip.Addr{}, slow: map[string]chan struct{}{}, asked: map[string]int{}}
	for name, ips := range zone {
		s.set(name, ips)
	}
	s.wg.Go(s.serve)
	t.Cleanup(s.close)
	return s
}

// set gives a name its addresses.
func (s *nameServer) set(name, ips string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = nil
	for ip := range strings.FieldsSeq(ips) {
		s.zone[name] = append(s.zone[name], netip.MustParseAddr(ip))
	}
}

// hold lets questions for a name wait until release is called.
func (s *nameServer) hold(name string) (release func()) {
	held := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow[name] = held
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(held)
		delete(s.slow, name)
	})
}

// questions says how often a name was asked for.
func (s *nameServer) questions(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// resolver asks s and nobody else.
func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "udp", s.conn.LocalAddr().String())
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			c.Close()
			return nil, net.ErrClosed
		}
		s.clients = append(s.clients, c)
		return c, nil
	}}
}

// close ends the server and every look-up of package net that still waits.
func (s *nameServer) close() {
	s.mu.Lock()
	s.closed = true
	for _, held := range s.slow {
		close(held)
	}
	for _, c := range s.clients {
		c.Close()
	}
	s.mu.Unlock()
	s.conn.Close()
	s.wg.Wait()
}

func (s *nameServer) serve() {
	b := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		name := strings.TrimSuffix(q.Name.String(), ".")
		s.mu.Lock()
		if q.Type == dnsmessage.TypeA {
			s.asked[name]++
		}
		held := s.slow[name]
		s.mu.Unlock()
		s.wg.Go(func() {
			if held != nil {
				<-held
			}
			if answer, err := s.answer(m.ID, q, name).Pack(); err == nil {
				s.conn.WriteTo(answer, from)
			}
		})
	}
}

func (s *nameServer) answer(id uint16, q dnsmessage.Question, name string) *dnsmessage.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	ips, found := s.zone[name]
	if !found {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, ip := range slices.Clone(ips) {
		var body dnsmessage.ResourceBody
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: ip.As4()}
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   body,
		})
	}
	return m
}
