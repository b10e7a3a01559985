package fakedns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ErrServerClosed is what Serve and ServePacket return after Close.
var ErrServerClosed = errors.New("fakedns: server closed")

const (
	defaultTTL = 10  // seconds
	hostsTTL   = 60  // seconds, of what does not change
	maxStreams = 256 // at the same time, and a quarter of them by one client
	maxPackets = 4096
)

// Families says which addresses names have.
type Families int

// What a name has: the other family is answered as absent.
const (
	Both Families = iota
	IPv4
	IPv6
)

// A Server answers DNS queries. Its fields must not change once it is in use.
type Server struct {
	Pool     *Pool          // where addresses come from; needed
	Allow    []netip.Prefix // whose queries are answered; nil: those from loopback
	Families Families       // of the addresses that are answered
	// FamiliesOf, if not nil, says for each client what Families says for all.
	FamiliesOf func(client netip.Addr) Families
	TTL        time.Duration           // of the addresses; zero: 10 seconds
	Hosts      map[string][]netip.Addr // names that have other addresses than the pool's
	NAT64      netip.Prefix            // what ipv4only.arpa tells (RFC 7050); the zero Prefix: there is none

	// Literals is a domain whose names stand for IP addresses, for programs
	// that cannot write those of the other family: 2001-db8--5.v6.lan and
	// 192-0-2-5.v6.lan if it is v6.lan. Empty means none.
	Literals string

	// Forward, if not nil, is asked first, with the name in lower case and
	// without its final dot: if ok, the question is none for this server, and
	// reply, nil for none, is what the client gets. ctx is that of Answer or
	// ServeConn.
	Forward func(ctx context.Context, name string, query []byte, tcp bool) (reply []byte, ok bool)

	// Exchange asks a real resolver what the pool cannot know: MX, TXT and so
	// on. It may be called from several goroutines. Nil means that such
	// questions fail.
	Exchange func(ctx context.Context, query *dns.Msg) (*dns.Msg, error)

	// Verify asks Exchange whether a name exists and has an address before it
	// gets one of the pool's.
	Verify bool

	// HTTPS lets questions for HTTPS and SVCB pass, whose answers lose their
	// addresses, and HTTP/3 unless UDP is set. Without it they are answered as
	// absent.
	HTTPS bool
	UDP   bool // the proxy carries UDP

	Log *slog.Logger // nil discards

	once     sync.Once
	hosts    map[string][]netip.Addr // Hosts in canonical form
	names    map[netip.Addr]string   // the way back
	literals string                  // Literals in canonical form
	passed   passed
	life     context.Context
	end      context.CancelFunc
	warnings gap
	wg       sync.WaitGroup // what Serve and ServePacket began

	mu      sync.Mutex
	closed  bool
	closers map[closer]struct{} // listeners and connections
	streams crowd
	packets chan struct{} // a place for each that is being answered
}

type closer interface{ Close() error }

// init makes what the fields imply.
func (s *Server) init() {
	s.once.Do(func() {
		s.life, s.end = context.WithCancel(context.Background())
		s.closers = map[closer]struct{}{}
		s.streams = crowd{total: maxStreams, each: maxStreams / 4}
		s.packets = make(chan struct{}, maxPackets)
		s.passed.init()
		s.readHosts()
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
	})
}

// allowed reports whether a client may ask.
func (s *Server) allowed(client netip.Addr) bool {
	client = plain(client)
	if s.Allow == nil {
		return client.IsLoopback()
	}
	for _, p := range s.Allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// track keeps c to be closed by Close. It reports false if that is over.
func (s *Server) track(c closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closers[c] = struct{}{}
	return true
}

func (s *Server) untrack(c closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.closers, c)
}

// begin counts what Close waits for. It reports false if Close was called.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// Close ends Serve, ServePacket and ServeConn with all that they have begun,
// and waits for them. The pool stays open.
func (s *Server) Close() error {
	s.init()
	s.end()
	s.mu.Lock()
	s.closed = true
	var err error
	for c := range s.closers {
		if one := c.Close(); one != nil && !errors.Is(one, net.ErrClosed) {
			err = errors.Join(err, one)
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}
