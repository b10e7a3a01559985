//go:build linux

package main

import (
	"net"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// maxTrain is how many bytes of datagrams one system call can pass with segmentation offload.
const maxTrain = 60_000

// datagrams sends and receives equal datagrams, many with one system call. With offload the kernel also takes them
// as trains, several in one buffer, and hands them over so where they arrive.
type datagrams struct {
	conn       *ipv4.PacketConn
	size       int // of each
	perMessage int // most of them in a message: 1 without offload
	in, out    []ipv4.Message
}

func newDatagrams(conn *net.UDPConn, size int, gso bool) (*datagrams, error) {
	d := &datagrams{conn: ipv4.NewPacketConn(conn), size: size, perMessage: 1, in: make([]ipv4.Message, window)}
	room := 2048
	if gso {
		d.perMessage = min(window, maxTrain/size)
		room = 1 << 16
	}
	for i := range d.in {
		d.in[i].Buffers = [][]byte{make([]byte, room)}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) { optErr = d.setOptions(int(fd), gso) }); err != nil {
		return nil, err
	}
	return d, optErr
}

func (d *datagrams) setOptions(fd int, gso bool) error {
	// What the generator's own sockets drop would look like the server's loss. Only root may exceed rmem_max.
	const buffer = 4 << 20
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return err
		}
	}
	if !gso {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, d.size); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
}

// sendCopies sends a datagram n times. The train holds as many copies as go into one message.
func (d *datagrams) sendCopies(train []byte, n int) error {
	d.out = d.out[:0]
	for n > 0 {
		take := min(n, d.perMessage)
		d.out = append(d.out, ipv4.Message{Buffers: [][]byte{train[:take*d.size]}})
		n -= take
	}
	return d.send()
}

// sendBack returns received messages to where they came from.
func (d *datagrams) sendBack(messages []ipv4.Message) error {
	d.out = d.out[:0]
	for _, m := range messages {
		d.out = append(d.out, ipv4.Message{Buffers: [][]byte{m.Buffers[0][:m.N]}, Addr: m.Addr})
	}
	return d.send()
}

// send sends all of d.out, with as few system calls as the kernel allows.
func (d *datagrams) send() error {
	for rest := d.out; len(rest) > 0; {
		n, err := d.conn.WriteBatch(rest, 0)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// receive waits for datagrams, until the deadline if there is one, and returns them with their number: a message
// may be a train of several.
func (d *datagrams) receive(deadline time.Time) ([]ipv4.Message, int, error) {
	if err := d.conn.SetReadDeadline(deadline); err != nil {
		return nil, 0, err
	}
	n, err := d.conn.ReadBatch(d.in, 0)
	if err != nil {
		return nil, 0, err
	}
	count := n
	if d.perMessage > 1 {
		count = 0
		for _, m := range d.in[:n] {
			count += (m.N + d.size - 1) / d.size
		}
	}
	return d.in[:n], count, nil
}
