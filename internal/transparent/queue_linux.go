package transparent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoQueue says that the system cannot hold SYNs: it has no nfnetlink_queue,
// or its rules cannot queue. What can be had without is connections that are
// accepted before they are dialled.
var ErrNoQueue = errors.New("the kernel has no NFQUEUE for nf_tables (nfnetlink_queue and nft_queue, or nft_compat with xt_NFQUEUE)")

const (
	attrCmd    = 1 // NFQA_CFG_CMD
	attrParams = 2 // NFQA_CFG_PARAMS
	attrMaxlen = 3 // NFQA_CFG_QUEUE_MAXLEN
	attrMask   = 4 // NFQA_CFG_MASK
	attrFlags  = 5 // NFQA_CFG_FLAGS

	cmdBind      = 1    // NFQNL_CFG_CMD_BIND
	copyPacket   = 2    // NFQNL_COPY_PACKET
	failOpen     = 1    // NFQA_CFG_F_FAIL_OPEN
	copyRange    = 128  // the longest headers of a SYN
	queueLen     = 8192 // packets without a verdict; more than are ever held
	queueBuffer  = 4 << 20
	noENOBUFS    = 5 // NETLINK_NO_ENOBUFS
	sizeOfParams = 5
)

// OpenQueue opens the queue num of this network namespace, which takes
// CAP_NET_ADMIN in it. The file may be used elsewhere by the owner of the
// namespace. Packets for which it has no room go on as if they were accepted.
func OpenQueue(num uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open queue: %w: %w", ErrNoQueue, os.NewSyscallError("socket", err))
	}
	if err := bindQueue(fd, num); err != nil {
		unix.Close(fd)
		if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EBUSY) {
			err = fmt.Errorf("%w: %w", ErrNoQueue, err)
		}
		return nil, fmt.Errorf("open queue %d: %w", num, err)
	}
	return os.NewFile(uintptr(fd), "nfqueue"), nil
}

func bindQueue(fd int, num uint16) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	// A full buffer must not look like the queue's end.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, noENOBUFS, 1)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, queueBuffer)
	}
	b := appendHeader(nil, msgConfig, flagRequest|flagAck, num)
	b = appendAttr(b, attrCmd, 4)
	b = append(b, cmdBind, 0, 0, 0)
	if err := configure(fd, finish(b, 0)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	b = appendHeader(b[:0], msgConfig, flagRequest|flagAck, num)
	b = appendAttr(b, attrParams, sizeOfParams)
	b = binary.BigEndian.AppendUint32(b, copyRange)
	b = append(b, copyPacket, 0, 0, 0) // padded
	for _, a := range []struct {
		kind  uint16
		value uint32
	}{{attrMaxlen, queueLen}, {attrMask, failOpen}, {attrFlags, failOpen}} {
		b = appendAttr(b, a.kind, 4)
		b = binary.BigEndian.AppendUint32(b, a.value)
	}
	if err := configure(fd, finish(b, 0)); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// configure sends a message and waits for its acknowledgement, which the
// kernel sends before it returns.
func configure(fd int, b []byte) error {
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		kind, body, _, ok := nextMessage(buf[:n])
		if !ok || kind != unix.NLMSG_ERROR || len(body) < 4 {
			continue // a packet, already
		}
		if errno := int32(binary.NativeEndian.Uint32(body)); errno != 0 {
			return syscall.Errno(-errno)
		}
		return nil
	}
}
