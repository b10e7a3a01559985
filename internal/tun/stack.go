package tun

import (
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Sizes of the buffers of a connection in bytes.
const (
	minBuffer     = 4 << 10
	defaultBuffer = 1 << 20
	maxBuffer     = 8 << 20
)

// handlePacket takes a packet of a transport protocol.
type handlePacket = func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool

// timeWait is how long a connection that has ended is known: on a device, nothing
// can have lost its way.
const timeWait = 5 * time.Second

// newStack returns a stack that has every address, and hands every SYN to accept,
// and to datagram those that have come in fragments.
func newStack(link stack.LinkEndpoint, accept func(*tcp.ForwarderRequest), datagram handlePacket) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	const nic = 1
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: maxBuffer}
	for _, step := range []struct {
		what string
		do   func() tcpip.Error
	}{
		{"SACK", func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack) }},
		{"moderation", func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate) }},
		{"TIME_WAIT", func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, &wait) }},
		{"receive buffers", func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, &receive) }},
		{"send buffers", func() tcpip.Error { return s.SetTransportProtocolOption(tcp.ProtocolNumber, &send) }},
		{"device", func() tcpip.Error { return s.CreateNIC(nic, link) }},
		{"promiscuous mode", func() tcpip.Error { return s.SetPromiscuousMode(nic, true) }},
		{"spoofing", func() tcpip.Error { return s.SetSpoofing(nic, true) }},
	} {
		if err := step.do(); err != nil {
			s.Close()
			return nil, fmt.Errorf("set up the network stack: %s: %v", step.what, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	forwarder := tcp.NewForwarder(s, defaultBuffer, maxInFlight, accept)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, datagram)
	return s, nil
}
