package tun

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/transparent"
)

// ErrServerClosed is what Serve returns after Close.
var ErrServerClosed = transparent.ErrServerClosed

// A Server answers the packets of a device. Its fields are not to be changed once
// it serves.
type Server struct {
	// Device gives and takes one IP packet at a time. The Server closes it.
	Device io.ReadWriteCloser

	// MTU is the length of the longest packet that the network has.
	MTU int

	// Header is the length of the virtio_net_hdr that the device has before
	// each packet (IFF_VNET_HDR), at most 64: 10, if nobody has said otherwise.
	// Then a packet may stand for many, and checksums need not be there. 0
	// means that there are no such headers.
	Header int

	// Handler answers the calls.
	Handler argyle.Handler

	// Name returns the name that an address stands for, and whether it is
	// one of those that stand for names: without a name it is refused. nil
	// means that every address is just that.
	Name func(netip.Addr) (name string, fake bool)

	// DNS, if not nil, gives the answer to a query that client sends to port
	// 53 of server in a datagram, or nil for none.
	DNS func(ctx context.Context, client, server netip.AddrPort, query []byte) (answer []byte)

	// RejectUDP says that datagrams, but for those of DNS, are refused: the
	// way has none.
	RejectUDP bool

	// Ping says whether an echo request of client to dest is to be answered.
	// nil means that none is: they are refused.
	Ping func(ctx context.Context, client, dest netip.Addr) bool

	// Inbound is what rules and logs call the way in.
	Inbound string

	// Log takes what an operator should know; nil discards it.
	Log *slog.Logger

	packets  transparent.PacketServer
	stack    *stack.Stack
	link     *link
	control  *control
	receiver receiver
	ctx      context.Context // of the calls
	cancel   context.CancelFunc
	syns     syns

	draining atomic.Bool

	mu     sync.Mutex
	closed bool
}

// maxInFlight bounds the connections that wait for an answer; what comes beyond
// is dropped and comes again.
const maxInFlight = 1024

// Serve reads packets until Close, and then returns [ErrServerClosed]. It may be
// called once.
func (s *Server) Serve() error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	err := s.packets.ServeFrom(func(receive func(src, dst netip.AddrPort, payload []byte)) error {
		return s.receiver.read(receive)
	})
	for errors.Is(err, transparent.ErrServerClosed) && !s.isClosed() {
		if rerr := s.receiver.read(nil); rerr != nil {
			err = rerr
		}
	}
	s.receiver.in.release()
	if s.isClosed() {
		return ErrServerClosed
	}
	return err
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Drain refuses what is new from now on, and ends associations, which have no end
// of their own. Connections go on.
func (s *Server) Drain() error {
	s.draining.Store(true)
	return s.packets.Close()
}

// Close stops reading, cancels the calls and resets what was accepted.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.packets.Close()
	return errors.Join(err, s.Device.Close())
}

// Waiting says how many bytes of datagrams wait for the handlers of their calls.
func (s *Server) Waiting() int64 { return s.packets.Waiting() }

// begin makes the stack.
func (s *Server) begin() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.stack != nil {
		return ErrServerClosed
	}
	s.packets.Handler, s.packets.Name, s.packets.DNS = s.Handler, s.Name, s.DNS
	s.packets.Inbound, s.packets.Log, s.packets.Send = s.Inbound, s.Log, s.send
	s.link = &link{wire: newWire(s.Device, s.Header), header: s.Header, mtu: uint32(s.MTU)}
	s.receiver.server = s
	s.control = newControl(s)
	if s.stack, err = newStack(s.link, s.accept, s.receiver.reassembled); err != nil {
		return err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return nil
}

// end takes everything down.
func (s *Server) end() {
	_ = s.Close() // the device may be closed already
	s.cancel()
	s.control.wg.Wait()
	s.stack.Close()
	s.stack.Wait()
}
