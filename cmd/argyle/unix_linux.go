package main

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketMode returns a net.ListenConfig.Control that gives a unix socket its
// mode before it has a name, so that nobody comes in between.
func socketMode(mode os.FileMode) func(string, string, syscall.RawConn) error {
	return func(_, _ string, conn syscall.RawConn) error {
		var err error
		if cerr := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode.Perm())) }); cerr != nil {
			return cerr
		}
		return err
	}
}

// reusePort lets sockets of the same user share a port, or no longer.
func reusePort(fd uintptr, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
}

// uidUser names the owner of the other end of a unix socket, "uid:1000"; "" for
// other connections.
func uidUser(conn net.Conn) string {
	for {
		u, ok := conn.(interface{ Unwrap() (net.Conn, []byte) })
		if !ok {
			break
		}
		conn, _ = u.Unwrap()
	}
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return ""
	}
	var cred *unix.Ucred
	_ = raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || cred == nil {
		return ""
	}
	return fmt.Sprintf("uid:%d", cred.Uid)
}
