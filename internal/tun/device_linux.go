package tun

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Path is where tun devices are made.
const Path = "/dev/net/tun"

// A Device is a tun device.
type Device struct {
	*os.File
	Name   string
	MTU    int // 0 if it is in another network namespace
	Header int // as [Server.Header]
}

// Make makes a device of that name, which must not be there, and which goes away
// when it is closed. It needs CAP_NET_ADMIN.
func Make(name string) (*Device, error) {
	if _, err := net.InterfaceByName(name); err == nil {
		return nil, fmt.Errorf("make the device %s: %w", name, os.ErrExist)
	}
	fd, err := unix.Open(Path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: Path, Err: err}
	}
	d, err := makeOf(fd, name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the device %s: %w", name, err)
	}
	return d, nil
}

// makeOf makes the device of a descriptor.
func makeOf(fd int, name string) (*Device, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, os.NewSyscallError("ioctl TUNSETIFF", err)
	}
	header, err := offload(fd)
	if err != nil {
		return nil, err
	}
	return &Device{File: os.NewFile(uintptr(fd), Path), Name: request.Name(), Header: header}, nil
}

// Adopt returns the device that somebody else has made, and given us as a file.
func Adopt(fd int) (*Device, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("use descriptor %d: %w", fd, err)
	}
	unix.CloseOnExec(fd)
	request, err := unix.NewIfreq("")
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return nil, fmt.Errorf("descriptor %d is no tun device: %w", fd, err)
	}
	flags := request.Uint16()
	switch {
	case flags&unix.IFF_TUN == 0:
		return nil, fmt.Errorf("descriptor %d: %s is a tap device, and not tun", fd, request.Name())
	case flags&unix.IFF_NO_PI == 0:
		return nil, fmt.Errorf("descriptor %d: %s has packet information: make it with IFF_NO_PI", fd, request.Name())
	}
	d := &Device{Name: request.Name()}
	if flags&unix.IFF_VNET_HDR != 0 {
		if d.Header, err = offload(fd); err != nil {
			return nil, fmt.Errorf("descriptor %d: %s: %w", fd, d.Name, err)
		}
	}
	d.File = os.NewFile(uintptr(fd), d.Name)
	if link, err := net.InterfaceByName(d.Name); err == nil {
		d.MTU = link.MTU
	}
	return d, nil
}

// offload has the kernel hand over what need not be cut or summed up, and returns
// the length of its headers. The descriptor must not be a file yet, which would
// have it wait.
func offload(fd int) (header int, err error) {
	header, err = unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
	if err != nil {
		return 0, os.NewSyscallError("ioctl TUNGETVNETHDRSZ", err)
	}
	if header < vnetSize || header > maxHeader {
		return 0, fmt.Errorf("it has headers of %d bytes, want %d to %d", header, vnetSize, maxHeader)
	}
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	for _, offloads := range []int{tcp | unix.TUN_F_USO4 | unix.TUN_F_USO6, tcp} { // USO is of Linux 6.2
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads)
		if !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	return header, os.NewSyscallError("ioctl TUNSETOFFLOAD", err)
}
