package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/internal/config"
)

// defaultListeners is used where no -l is given; the second only if there is IPv6.
var defaultListeners = []string{"127.0.0.1:1080", "[::1]:1080"}

func defaultListen() (specs []config.Listener) {
	for _, address := range defaultListeners {
		specs = append(specs, config.Listener{Address: address})
	}
	return specs
}

func closeAll(lns []net.Listener) {
	for _, ln := range lns {
		ln.Close()
	}
}

// noFamily reports that the system has no addresses of the wanted family.
func noFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// checkListen says what is wrong with the text of a listener's address.
func checkListen(address string) error {
	const want = "want host:port, :port, unix:/path or systemd:NAME"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return errors.New("unix: without a path")
		}
		return nil
	}
	if strings.HasPrefix(address, "systemd:") {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s: %w", want, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	return nil
}

type controlFunc = func(network, address string, conn syscall.RawConn) error

// listen opens what one listener names: host:port, :port, unix:/path or
// systemd:NAME.
func listen(spec config.Listener, control controlFunc) ([]net.Listener, error) {
	if err := checkListen(spec.Address); err != nil {
		return nil, err
	}
	if path, ok := strings.CutPrefix(spec.Address, "unix:"); ok {
		ln, err := listenUnix(path, os.FileMode(spec.Mode))
		return []net.Listener{ln}, err
	}
	if name, ok := strings.CutPrefix(spec.Address, "systemd:"); ok {
		return inherited(name)
	}
	host, _, _ := net.SplitHostPort(spec.Address) // checkListen has done it
	network := "tcp"
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		network = "tcp4" // with tcp, 0.0.0.0 would be every IPv6 address too
	}
	// Keepalives are the relay's business, for sessions that last.
	keep := net.ListenConfig{KeepAlive: -1, Control: control}
	ln, err := keep.Listen(context.Background(), network, spec.Address)
	return []net.Listener{ln}, err
}

// listenUnix listens on a socket in the file system, with the given mode if it
// is not 0. A socket that a dead server has left is replaced; one that answers
// is in use.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path) // if not, listening says so
		}
	}
	var config net.ListenConfig
	if mode != 0 {
		config.Control = socketMode(mode)
	}
	ln, err := config.Listen(context.Background(), "unix", path)
	if err != nil || mode == 0 {
		return ln, err
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// firstInherited is the first descriptor that systemd passes (sd_listen_fds(3)).
const firstInherited = 3

// inherited returns the sockets that systemd passes under a name.
func inherited(name string) ([]net.Listener, error) {
	fail := func(err error) ([]net.Listener, error) {
		return nil, err
	}
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid != os.Getpid() || count <= 0 {
		return fail(errors.New("no socket was passed to this process (LISTEN_PID, LISTEN_FDS)"))
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var all []net.Listener
	for i := range count {
		if i >= len(names) || names[i] != name {
			continue
		}
		f := os.NewFile(uintptr(firstInherited+i), name)
		ln, err := net.FileListener(f)
		f.Close()
		if err != nil {
			closeAll(all)
			return fail(err)
		}
		all = append(all, ln)
	}
	if len(all) == 0 {
		return fail(fmt.Errorf("no such name in LISTEN_FDNAMES %q", os.Getenv("LISTEN_FDNAMES")))
	}
	return all, nil
}

// isLocal reports whether only this host can reach a listener.
func isLocal(addr net.Addr) bool {
	ip := argyle.AddrOf(addr).IP
	return !ip.IsValid() || ip.IsLoopback()
}

// parseNetworks reads the values of a flag: prefixes, or addresses alone.
func parseNetworks(flag string, values []string) (all []config.Network, err error) {
	for _, v := range values {
		var n config.Network
		if err := n.UnmarshalText([]byte(v)); err != nil {
			return nil, usagef("%s %q: %w", flag, v, err)
		}
		all = append(all, n)
	}
	return all, nil
}
