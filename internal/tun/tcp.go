package tun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// errNoName refuses an address that stands for names, but for none now.
var errNoName = errors.New("the address stands for no name")

// errNotAnswered rejects a call that its handler has forgotten.
var errNotAnswered = errors.New("not answered")

// accept makes a call of a SYN. The stack calls it in a goroutine of its own.
func (s *Server) accept(r *tcp.ForwarderRequest) {
	id := pair(r.ID())
	c := &call{server: s, syn: r, pair: id}
	c.request = argyle.Request{Command: argyle.Connect, Dest: argyle.AddrFrom(id.dst), Client: id.src, Inbound: s.Inbound}
	if s.draining.Load() {
		c.Reject(syscall.ECONNREFUSED)
		return
	}
	defer func() {
		c.Reject(errNotAnswered) // unless it was answered
		if v := recover(); v != nil && s.Log != nil {
			s.Log.Error("panic while serving", "client", id.src.String(), "panic", v, "stack", string(debug.Stack()))
		}
	}()
	if s.Name != nil {
		name, fake := s.Name(id.dst.Addr())
		switch {
		case fake && name == "":
			if s.Log != nil {
				s.Log.Info("connection refused", "client", id.src.String(), "dest", id.dst.String(), "err", errNoName)
			}
			c.Reject(errNoName)
			return
		case fake:
			c.request.Dest = argyle.Addr{Name: name, Port: id.dst.Port()}
		}
	}
	s.Handler.ServeCall(s.ctx, c)
}

// addrPair is a client and where it goes.
type addrPair struct{ src, dst netip.AddrPort }

// pair returns the ends of a connection, of which the stack has the far one as
// its own.
func pair(id stack.TransportEndpointID) addrPair {
	addrPort := func(a tcpip.Address, port uint16) netip.AddrPort {
		ip, _ := netip.AddrFromSlice(a.AsSlice()) // a packet has no other lengths
		return netip.AddrPortFrom(ip, port)
	}
	return addrPair{addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)}
}

// call is a SYN that waits for its answer.
type call struct {
	argyle.ConnectOnly
	server   *Server
	syn      *tcp.ForwarderRequest
	pair     addrPair
	request  argyle.Request
	answered bool
}

var _ argyle.Call = (*call)(nil)

func (c *call) Request() *argyle.Request { return &c.request }

// Accept finishes the handshake.
func (c *call) Accept(net.Addr) (net.Conn, error) {
	c.answered = true
	c.server.syns.take(c.pair)
	queue := new(waiter.Queue)
	endpoint, err := c.syn.CreateEndpoint(queue)
	c.syn.Complete(err != nil)
	if err != nil {
		return nil, fmt.Errorf("accept connection from %v: %v", c.pair.src, err)
	}
	endpoint.SocketOptions().SetKeepAlive(true)
	return &conn{TCPConn: gonet.NewTCPConn(queue, endpoint), endpoint: endpoint}, nil
}

// Reject lets the client's connect fail for reason.
func (c *call) Reject(reason error) {
	if c.answered {
		return
	}
	c.answered = true
	syn := c.server.syns.take(c.pair)
	errno := transparent.Errno(reason)
	c.syn.Complete(errno == syscall.ECONNREFUSED)
	code := codeHost
	switch errno {
	case syscall.ENETUNREACH:
		code = codeNetwork
	case syscall.EHOSTUNREACH:
	default:
		return
	}
	if syn != nil {
		c.server.unreachable(c.pair.dst.Addr(), c.pair.src.Addr(), syn, code)
	}
}

// conn is an accepted connection, with errors that the relay knows.
type conn struct {
	*gonet.TCPConn
	endpoint tcpip.Endpoint
}

// SetLinger makes Close reset the connection if sec is 0.
func (c *conn) SetLinger(sec int) error {
	c.endpoint.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
	return nil
}

// Read is that of the stack.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	return n, known(err)
}

// Write is that of the stack.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, known(err)
}

// WriteSome writes as much of b as there is room for, and waits only while there is
// none.
func (c *conn) WriteSome(b []byte) (int, error) {
	var r bytes.Reader
	r.Reset(b)
	if n, err := c.endpoint.Write(&r, tcpip.WriteOptions{}); err == nil && n > 0 {
		return int(n), nil
	}
	return c.Write(b[:min(len(b), waitingWrite)]) // it knows of deadlines, and of errors
}

// waitingWrite is how much is written at once where there is no room.
const waitingWrite = 16 << 10

// known gives the errors of the stack the numbers of the system's.
func known(err error) error {
	var op *net.OpError
	if err == nil || !errors.As(err, &op) || op.Err == nil {
		return err
	}
	switch op.Err.Error() {
	case (&tcpip.ErrConnectionReset{}).String():
		op.Err = syscall.ECONNRESET
	case (&tcpip.ErrConnectionAborted{}).String():
		op.Err = syscall.ECONNABORTED
	case (&tcpip.ErrClosedForSend{}).String():
		op.Err = syscall.EPIPE
	}
	return err
}

// syns holds the beginnings of SYNs that wait: an ICMP error quotes them, and by
// the sequence number the client knows that it is about this one.
type syns struct {
	mu    sync.Mutex
	heads map[addrPair][]byte
}

// quoted is how much of a packet an ICMP error quotes after the header of IP.
const quoted = 8

// note keeps the beginning of a SYN.
func (s *syns) note(p *packet) {
	if len(p.payload) < header.TCPMinimumSize || p.later {
		return
	}
	h := header.TCP(p.payload)
	if h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return
	}
	key := addrPair{netip.AddrPortFrom(p.src, h.SourcePort()), netip.AddrPortFrom(p.dst, h.DestinationPort())}
	head := bytes.Clone(p.bytes[:len(p.bytes)-len(p.payload)+quoted])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heads == nil {
		s.heads = make(map[addrPair][]byte)
	}
	if len(s.heads) < 2*maxInFlight { // beyond there is no call to take it
		s.heads[key] = head
	}
}

// take returns what note has kept, nil if nothing.
func (s *syns) take(key addrPair) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	head := s.heads[key]
	delete(s.heads, key)
	return head
}
