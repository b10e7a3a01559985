//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// FileTUN is the name of the tun device's file. It reads and writes one IP packet
// at a time, without a header before it.
const FileTUN = "tun"

// tunMTU is as large as packets can be: there is no network to carry them.
const tunMTU = 65520

// ErrNoTUN says that there is no tun device to be had.
var ErrNoTUN = errors.New("no tun device can be made")

// openTUN makes a tun device and returns it and its number.
func openTUN(handle *netlink.Handle) (*os.File, int, error) {
	fd, err := unix.Open(pathTUN, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: open %s: %w; %s", ErrNoTUN, pathTUN, err, mendTUN)
	}
	file := os.NewFile(uintptr(fd), pathTUN)
	index, err := setTUN(handle, fd)
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, index, nil
}

const pathTUN = "/dev/net/tun"

func setTUN(handle *netlink.Handle, fd int) (index int, err error) {
	request, err := unix.NewIfreq("tun0")
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return 0, fmt.Errorf("%w: ioctl TUNSETIFF: %w", ErrNoTUN, err)
	}
	link, err := handle.LinkByName(request.Name())
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", request.Name(), err)
	}
	if err := handle.LinkSetMTU(link, tunMTU); err != nil {
		return 0, fmt.Errorf("set the MTU of %s: %w", request.Name(), err)
	}
	index = link.Attrs().Index
	if err := setUp(handle, index); err != nil {
		return 0, fmt.Errorf("set up %s: %w", request.Name(), err)
	}
	return index, nil
}
