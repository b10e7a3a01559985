//go:build linux

package seccomp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/argyle-socks/argyle/internal/process"
)

// A Config says what to run, and what becomes of its connections.
type Config struct {
	Argv []string // the program, looked for in PATH, and its arguments
	Env  []string // nil is our own
	Dir  string   // "" is our own

	// Stdin, Stdout and Stderr are the program's; nil stands for our own.
	Stdin, Stdout, Stderr *os.File

	// Connect answers a connect of a stream socket, in a goroutine of its
	// own, and returns when it has: nothing else is waited for. A call
	// without an answer is rejected. ctx ends when the caller no longer
	// waits, or when the Process is closed.
	Connect func(ctx context.Context, c *Conn)

	// Packet takes the datagrams that a socket of the program sends to dest,
	// in a goroutine of its own that begins with the first one. They come
	// from conn, which is closed when Packet returns or nothing more can
	// come; what is sent there comes from dest.
	Packet func(ctx context.Context, dest netip.AddrPort, conn *net.UDPConn)

	// DNS, if not nil, takes those to port 53 of server from all sockets: conn
	// is one that is not connected. mine reports whether client is one of the
	// program's sockets; others on this host are nobody's to answer.
	DNS func(ctx context.Context, conn *net.UDPConn, server netip.AddrPort, mine func(client netip.AddrPort) bool)

	// Local reports what the program reaches by itself. nil stands for
	// loopback and unspecified addresses, but for port 53. It may widen
	// that for streams only: datagrams never leave the loopback device.
	Local func(netip.AddrPort) bool

	// Refuse has the unix sockets that the program may not connect to, with
	// the patterns of [filepath.Match]; nil stands for [Resolvers]. Abstract
	// ones, but for those of a desktop, are refused anyway.
	Refuse []string

	// WaitAll makes [Process.Wait] wait for what the program leaves behind.
	WaitAll bool

	// Dials bounds the calls of Connect at one time; the others wait. 0
	// stands for 1024.
	Dials int

	// Log gets what happens at level Debug. nil discards.
	Log *slog.Logger
}

// Resolvers returns the unix sockets of services that look names up past us:
// nscd, nss-resolve, mdns and sssd.
func Resolvers() []string {
	return []string{
		"/run/nscd/socket", "/var/run/nscd/socket", "/var/db/nscd/socket", "/run/unscd/socket", "/var/run/.nscd_socket",
		"/run/systemd/resolve/*", "/run/avahi-daemon/socket", "/run/mdnsd", "/var/run/mdnsd", "/run/dnsmasq/*",
		"/var/lib/sss/pipes/nss", "/var/lib/sss/pipes/private/*",
	}
}

// desktop returns the abstract unix sockets that are known to be no way to a
// network: those of X11, its session managers and D-Bus.
func desktop() []string { return []string{"@/tmp/.X11-unix/*", "@/tmp/.ICE-unix/*", "@/tmp/dbus-*"} }

// isLocal is what a nil Config.Local stands for.
func isLocal(dest netip.AddrPort) bool {
	ip := dest.Addr()
	return (ip.IsLoopback() || ip.IsUnspecified()) && dest.Port() != 53
}

// Start starts the program. It has been executed when Start returns without an
// error. ctx bounds what the Process does: its end is that of [Process.Close].
func Start(ctx context.Context, config *Config) (*Process, error) {
	if len(config.Argv) == 0 {
		return nil, errors.New("no program to run")
	}
	if config.Connect == nil {
		return nil, errors.New("no function for connections")
	}
	if config.Packet == nil {
		return nil, errors.New("no function for datagrams")
	}
	env := config.Env
	if env == nil {
		env = os.Environ()
	}
	path, err := process.Find(config.Argv[0], env)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	if config.WaitAll {
		if err := process.Adopt(); err != nil {
			return nil, err
		}
	}
	p := &Process{all: config.WaitAll, signals: process.Catch()}
	p.pid, err = fork(config, env, path, theirs)
	theirs.Close()
	if err != nil {
		p.signals.Stop()
		return nil, fmt.Errorf("start ourselves again: %w", err)
	}
	if err := p.begin(ctx, config, ours); err != nil {
		_ = unix.Kill(p.pid, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(p.pid, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
		p.signals.Stop()
		return nil, err
	}
	return p, nil
}

// socketPair returns two ends that keep messages apart.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent"), nil
}

// fork starts ourselves as what will become the program.
func fork(config *Config, env []string, path string, pair *os.File) (pid int, err error) {
	files := make([]uintptr, 0, 4)
	for i, file := range []*os.File{config.Stdin, config.Stdout, config.Stderr} {
		if file == nil {
			files = append(files, uintptr(i))
			continue
		}
		files = append(files, file.Fd())
	}
	files = append(files, pair.Fd())
	argv := append([]string{childName, path}, config.Argv...)
	return syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{Dir: config.Dir, Env: env, Files: files})
}

// begin takes the listener from the child, begins to answer, and lets the child
// execute the program.
func (p *Process) begin(ctx context.Context, config *Config, pair *os.File) error {
	fd, err := p.takeListener(int(pair.Fd()))
	if err != nil {
		return err
	}
	listener, err := newListener(fd)
	if err != nil {
		return err
	}
	p.supervise(ctx, config, listener)
	if err := unix.Sendto(int(pair.Fd()), []byte{0}, unix.MSG_NOSIGNAL, nil); err == nil {
		err = executed(int(pair.Fd()))
		if err == nil {
			return nil
		}
		_ = p.Close()
		return err
	}
	_ = p.Close()
	return parseReport(nil)
}

// takeListener takes the child's listener, whose number is its first message: the
// filter asks us about messages that could bring the descriptor itself.
func (p *Process) takeListener(pair int) (int, error) {
	text := make([]byte, 4096)
	n, err := receive(pair, text)
	if err != nil {
		return -1, os.NewSyscallError("recvfrom", err)
	}
	number, ok := strings.CutPrefix(string(text[:n]), listenerPrefix)
	if !ok {
		return -1, parseReport(text[:n])
	}
	fd, err := strconv.Atoi(number)
	if err != nil {
		return -1, parseReport(nil)
	}
	if err := p.mayRead(); err != nil {
		return -1, err
	}
	pidfd, err := openThread(p.pid)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	listener, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_getfd", err)
	}
	return listener, nil
}

// executed waits until the child has closed its end by executing the program,
// or says why it has not.
func executed(pair int) error {
	text := make([]byte, 8192)
	n, err := receive(pair, text)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n == 0 {
		return nil
	}
	return parseReport(text[:n])
}

func receive(fd int, b []byte) (n int, err error) {
	for {
		if n, _, err = unix.Recvfrom(fd, b, 0); err != unix.EINTR {
			return n, err
		}
	}
}

// mayRead looks whether we may do to the child what answers need. A container
// or Yama (ptrace_scope 2 and 3) may forbid it.
func (p *Process) mayRead() error {
	c := &call{notification: &notification{pid: uint32(p.pid)}}
	var b [1]byte
	pidfd, err := openThread(p.pid)
	if err == nil {
		var fd int
		if fd, err = unix.PidfdGetfd(pidfd, childPair, 0); err == nil {
			unix.Close(fd)
		}
		unix.Close(pidfd)
	}
	// The lowest page is never mapped: a permission would be EFAULT.
	if readErr := c.read(b[:], 8); err == nil && readErr != unix.EFAULT {
		err = readErr
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("look into the program as its parent (kernel.yama.ptrace_scope must be 0 or 1, "+
		"and a container must allow process_vm_readv and pidfd_getfd): %w", err)
}
