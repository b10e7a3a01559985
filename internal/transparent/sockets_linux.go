package transparent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const udpBuffer = 8 << 20 // for a burst, before it is dealt out to the clients' calls

// ListenTCP opens a listener of both families that [Rules] can lead
// connections to whatever their destination, which takes CAP_NET_ADMIN.
func ListenTCP() (*net.TCPListener, error) {
	config := net.ListenConfig{Control: control(setTransparent)}
	config.SetMultipathTCP(false) // the rules look for a TCP socket
	ln, err := config.Listen(context.Background(), "tcp", ":0")
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// ListenUDP opens the same for datagrams. A [PacketServer] reads where they
// were to go.
func ListenUDP() (*net.UDPConn, error) {
	config := net.ListenConfig{Control: control(func(fd, family int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
		}
		return errors.Join(setTransparent(fd, family), setOrigDst(fd, family))
	})}
	return listenPacket(&config, ":0")
}

// ListenReply opens a socket that sends from src though it is no address of
// this system: a [PacketServer.Reply], which takes CAP_NET_ADMIN. It shares the
// address, so that it is in nobody's way.
func ListenReply(src netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: control(func(fd, family int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
		return setTransparent(fd, family)
	})}
	return listenPacket(&config, src.String())
}

func listenPacket(config *net.ListenConfig, address string) (*net.UDPConn, error) {
	conn, err := config.ListenPacket(context.Background(), "udp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// control makes a [net.ListenConfig] Control of what is to be set on a socket.
func control(set func(fd, family int) error) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctrlErr := raw.Control(func(fd uintptr) {
			var family int
			if family, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
				err = set(int(fd), family)
			}
		})
		return errors.Join(ctrlErr, err)
	}
}

// setTransparent sets the option for both families on a socket of IPv6.
func setTransparent(fd, family int) error {
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_TRANSPARENT", err)
		}
	}
	return os.NewSyscallError("setsockopt IP_TRANSPARENT", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
}

// setOrigDst asks for the destination of every datagram.
func setOrigDst(fd, family int) error {
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_RECVORIGDSTADDR", err)
		}
	}
	return os.NewSyscallError("setsockopt IP_RECVORIGDSTADDR", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1))
}

// SetMark sets the mark of the packets that a socket sends (SO_MARK), and of
// those of the connections that it accepts, which takes CAP_NET_ADMIN.
func SetMark(raw syscall.RawConn, mark uint32) error {
	var err error
	ctrlErr := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
	})
	return errors.Join(ctrlErr, err)
}
