//go:build linux

package seccomp

import (
	"encoding/binary"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets for datagrams have numbers of their own in the program, as long as
// there are some, so that the filter can tell what comes by them from all else.
// select(2) can take these, and the usual limit of descriptors is above.
const (
	firstPacketFD = 768
	lastPacketFD  = 1023
)

// packetFD returns a number that no descriptor of a task has, 0 if there is none
// left for datagrams.
func packetFD(tid int) int {
	dir := "/proc/" + strconv.Itoa(tid) + "/fd/"
	for fd := firstPacketFD; fd <= lastPacketFD; fd++ {
		if _, err := os.Lstat(dir + strconv.Itoa(fd)); os.IsNotExist(err) {
			return fd
		}
	}
	return 0
}

// The sizes of struct msghdr and struct mmsghdr on systems of 64 bits, and where
// their fields are.
const (
	sizeMessage   = 56
	sizeMessages  = 64
	offNameLen    = 8
	offIovec      = 16
	offIovecLen   = 24
	offControl    = 32
	offControlLen = 40
	offFlags      = 48
	offDone       = 56 // of struct mmsghdr: how many bytes it was

	maxIovecs  = 1024    // UIO_MAXIOV
	maxControl = 1 << 14 // bytes of ancillary data, more than a socket takes by default
)

// message is a struct msghdr of the caller's.
type message struct {
	address       uint64 // of itself
	name, control uint64
	nameLen       uint32
	controlLen    int
	iovecs        []iovec
	size          int // of all iovecs together
}

type iovec struct{ base, length uint64 }

// message reads a struct msghdr.
func (c *call) message(address uint64) (*message, error) {
	var b [sizeMessage]byte
	if err := c.read(b[:], address); err != nil {
		return nil, err
	}
	word := func(offset int) uint64 { return binary.NativeEndian.Uint64(b[offset:]) }
	m := &message{address: address, name: word(0), control: word(offControl)}
	m.nameLen = binary.NativeEndian.Uint32(b[offNameLen:])
	m.controlLen = int(min(word(offControlLen), maxControl))
	if m.control == 0 {
		m.controlLen = 0
	}
	n := word(offIovecLen)
	if n > maxIovecs {
		return nil, unix.EMSGSIZE
	}
	vector := make([]byte, 16*n)
	if err := c.read(vector, word(offIovec)); err != nil {
		return nil, err
	}
	for ; len(vector) > 0; vector = vector[16:] {
		v := iovec{binary.NativeEndian.Uint64(vector), binary.NativeEndian.Uint64(vector[8:])}
		v.length = min(v.length, maxPayload)
		m.iovecs = append(m.iovecs, v)
		m.size += int(v.length)
	}
	return m, nil
}

// serveMessages answers sendmsg and recvmsg, and those of their calls that take
// many messages, each of which is for one. The socket is one for datagrams.
func (s *supervisor) serveMessages(c *call, one func(*call, *socket, uint64, time.Time) (int, error)) error {
	k, err := s.packetSocket(c)
	if err != nil {
		return err
	}
	if k == nil {
		return s.messageElsewhere(c)
	}
	defer k.close()
	if (c.nr == unix.SYS_RECVMSG || c.nr == unix.SYS_RECVMMSG) && s.leave(k, c.messageFlags()) {
		c.proceed()
		return nil
	}
	if c.nr == unix.SYS_SENDMSG || c.nr == unix.SYS_RECVMSG {
		n, err := one(c, k, c.args[1], time.Time{})
		if err == nil {
			c.result(int64(n), 0)
		}
		return err
	}
	deadline, err := c.timeout()
	if err != nil {
		return err
	}
	done := uint64(0)
	for ; done < min(c.args[2], maxIovecs); done++ {
		at := c.args[1] + done*sizeMessages
		n, err := one(c, k, at, deadline)
		if err != nil && done == 0 {
			return err
		}
		if err != nil || c.writeNumber(at+offDone, uint32(n)) != nil {
			break
		}
		if c.args[3]&unix.MSG_WAITFORONE != 0 {
			c.args[3] |= unix.MSG_DONTWAIT
		}
	}
	c.result(int64(done), 0)
	return nil
}

// messageElsewhere lets messages over other sockets pass, but not the first of
// them to a unix socket that the program may not connect to.
func (s *supervisor) messageElsewhere(c *call) error {
	if c.nr == unix.SYS_SENDMSG || c.nr == unix.SYS_SENDMMSG {
		var b [offIovec]byte
		if err := c.read(b[:], c.args[1]); err == nil {
			name, length := binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint32(b[offNameLen:])
			if name != 0 && length != 0 {
				if to, err := c.address(name, uint64(length)); err == nil {
					return s.connectOther(c, to)
				}
			}
		}
	}
	c.proceed()
	return nil
}

// messageFlags are those of recvmsg or recvmmsg.
func (c *call) messageFlags() int {
	if c.nr == unix.SYS_RECVMMSG {
		return int(int32(c.args[3]))
	}
	return int(int32(c.args[2]))
}

// timeout returns when a recvmmsg is to give up, the zero Time for never.
func (c *call) timeout() (time.Time, error) {
	if c.nr != unix.SYS_RECVMMSG || c.args[4] == 0 {
		return time.Time{}, nil
	}
	var b [16]byte
	if err := c.read(b[:], c.args[4]); err != nil {
		return time.Time{}, err
	}
	wait := time.Duration(binary.NativeEndian.Uint64(b[:]))*time.Second + time.Duration(binary.NativeEndian.Uint64(b[8:]))
	return time.Now().Add(wait), nil
}

func (c *call) writeNumber(address uint64, n uint32) error {
	return c.write(address, binary.NativeEndian.AppendUint32(nil, n))
}

// serveSendmsg sends one message.
func (s *supervisor) serveSendmsg(c *call, k *socket, address uint64, _ time.Time) (int, error) {
	m, err := c.message(address)
	if err != nil {
		return 0, err
	}
	if m.size > maxPayload {
		return 0, unix.EMSGSIZE
	}
	if m.name == 0 && m.controlLen == 0 && c.nr == unix.SYS_SENDMSG {
		c.proceed() // it is connected to where it may be
		return 0, nil
	}
	var name []byte
	if m.name != 0 && m.nameLen != 0 {
		if name, err = c.address(m.name, uint64(m.nameLen)); err != nil {
			return 0, err
		}
	}
	payload := make([]byte, m.size)
	rest := payload
	for _, v := range m.iovecs {
		if err := c.read(rest[:v.length], v.base); err != nil {
			return 0, err
		}
		rest = rest[v.length:]
	}
	control := make([]byte, m.controlLen)
	if err := c.read(control, m.control); err != nil {
		return 0, err
	}
	if control, err = withoutSource(control); err != nil {
		return 0, err
	}
	return s.transmit(c, k, name, payload, control)
}

// withoutSource removes from ancillary data by which address and interface a
// datagram shall go: it goes over the loopback device, and would not otherwise.
func withoutSource(control []byte) ([]byte, error) {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, unix.EINVAL
	}
	var kept []byte
	for _, one := range all {
		level, kind := one.Header.Level, one.Header.Type
		if level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO || level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO {
			continue
		}
		b := make([]byte, unix.CmsgSpace(len(one.Data)))
		binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(one.Data))))
		binary.NativeEndian.PutUint32(b[8:], uint32(level))
		binary.NativeEndian.PutUint32(b[12:], uint32(kind))
		copy(b[unix.CmsgLen(0):], one.Data)
		kept = append(kept, b...)
	}
	return kept, nil
}

// serveRecvmsg receives one message.
func (s *supervisor) serveRecvmsg(c *call, k *socket, address uint64, deadline time.Time) (int, error) {
	m, err := c.message(address)
	if err != nil {
		return 0, err
	}
	r := &received{data: make([]byte, min(m.size, maxPayload)), control: make([]byte, m.controlLen)}
	from, err := s.receiveMessage(c, k, r, deadline)
	if err != nil {
		return 0, err
	}
	rest := r.data[:min(r.n, len(r.data))]
	for _, v := range m.iovecs {
		part := rest[:min(len(rest), int(v.length))]
		if err := c.write(v.base, part); err != nil {
			return 0, err
		}
		rest = rest[len(part):]
	}
	return r.n, c.writeHeader(m, r, from)
}

// receiveMessage receives a datagram and returns the
// struct sockaddr of whom it is from.
func (s *supervisor) receiveMessage(c *call, k *socket, r *received, deadline time.Time) ([]byte, error) {
	if err := c.receive(k, r, c.messageFlags(), deadline); err != nil {
		return nil, err
	}
	if r.from == nil {
		return nil, nil
	}
	return s.udp.name(k, r), nil
}

// writeHeader puts what a struct msghdr says of a message that was received.
func (c *call) writeHeader(m *message, r *received, from []byte) error {
	if m.name != 0 {
		if err := c.write(m.name, from[:min(len(from), int(m.nameLen))]); err != nil {
			return err
		}
		if err := c.writeNumber(m.address+offNameLen, uint32(len(from))); err != nil {
			return err
		}
	}
	if err := c.write(m.control, r.control[:r.controlLen]); err != nil {
		return err
	}
	length := binary.NativeEndian.AppendUint64(nil, uint64(r.controlLen))
	if err := c.write(m.address+offControlLen, length); err != nil {
		return err
	}
	return c.writeNumber(m.address+offFlags, uint32(r.flags))
}
