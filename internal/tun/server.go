package tun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
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

	// MTU is the length of the longest packet.
	MTU int

	// Handler answers the calls.
	Handler argyle.Handler

	// Name returns the name that an address stands for, and whether it is
	// one of those that stand for names: without a name it is refused. nil
	// means that every address is just that.
	Name func(netip.Addr) (name string, fake bool)

	// DNS, if not nil, gives the answer to a query that client sends to port
	// 53 of server in a datagram, or nil for none.
	DNS func(ctx context.Context, client, server netip.AddrPort, query []byte) (answer []byte)

	// Inbound is what rules and logs call the way in.
	Inbound string

	// Log takes what an operator should know; nil discards it.
	Log *slog.Logger

	packets transparent.PacketServer
	stack   *stack.Stack
	link    *channel.Endpoint
	ctx     context.Context // of the calls
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	syns    syns

	mu     sync.Mutex
	closed bool
}

// maxInFlight bounds the connections that wait for an answer; what comes beyond
// is dropped and comes again. linkQueue is how many packets may wait for the
// device.
const (
	maxInFlight = 1024
	linkQueue   = 1024
)

// Serve reads packets until Close, and then returns [ErrServerClosed]. It may be
// called once.
func (s *Server) Serve() error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	buf := make([]byte, s.MTU)
	err := s.packets.ServeFrom(func(receive func(src, dst netip.AddrPort, payload []byte)) error {
		n, err := s.Device.Read(buf)
		if err != nil {
			return fmt.Errorf("read from the tun device: %w", err)
		}
		s.packet(buf[:n], receive)
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrServerClosed
	}
	return err
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
	s.link = channel.New(linkQueue, uint32(s.MTU), "")
	if s.stack, err = newStack(s.link, s.accept); err != nil {
		return err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.write)
	return nil
}

// end takes everything down.
func (s *Server) end() {
	_ = s.Close() // the device may be closed already
	s.cancel()
	s.stack.Close()
	s.link.Close()
	s.wg.Wait()
	s.stack.Wait()
}

// write gives the packets of the stack to the device.
func (s *Server) write() {
	for {
		pkt := s.link.ReadContext(s.ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		_, _ = s.Device.Write(view.AsSlice()) // TCP sends again what is lost
		view.Release()
		pkt.DecRef()
	}
}

// packet deals with one packet of the device.
func (s *Server) packet(b []byte, receive func(src, dst netip.AddrPort, payload []byte)) {
	p, ok := parse(b)
	if !ok {
		return
	}
	switch p.protocol {
	case header.UDPProtocolNumber:
		if src, dst, payload, ok := p.datagram(); ok {
			receive(src, dst, payload)
		}
	case header.TCPProtocolNumber:
		s.syns.note(&p)
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		s.link.InjectInbound(p.network, pkt)
		pkt.DecRef()
	}
}
