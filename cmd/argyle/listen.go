package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/argyle-socks/argyle"
)

// defaultListeners is used where no -l is given; the second only if there is IPv6.
var defaultListeners = []string{"127.0.0.1:1080", "[::1]:1080"}

// listenAll opens every listener that specs name, or none.
func listenAll(specs []string) (all []net.Listener, err error) {
	optional := len(specs) == 0
	if optional {
		specs = defaultListeners
	}
	for i, spec := range specs {
		if strings.HasPrefix(spec, "systemd:") && slices.Contains(specs[:i], spec) {
			closeAll(all)
			return nil, usagef("--listen %s is there twice", spec) // its descriptors have been taken
		}
		lns, err := listen(spec)
		if optional && i > 0 && noFamily(err) {
			continue
		}
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, lns...)
	}
	return all, nil
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

// listen opens what one -l names: host:port, :port, unix:/path or systemd:NAME.
func listen(spec string) ([]net.Listener, error) {
	if path, ok := strings.CutPrefix(spec, "unix:"); ok {
		ln, err := listenUnix(path)
		return []net.Listener{ln}, err
	}
	if name, ok := strings.CutPrefix(spec, "systemd:"); ok {
		return inherited(name)
	}
	host, port, err := net.SplitHostPort(spec)
	if err != nil {
		return nil, usagef("--listen %q: want host:port, :port, unix:/path or systemd:NAME: %w", spec, err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, usagef("--listen %q: port %q is not a number from 0 to 65535", spec, port)
	}
	network := "tcp"
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		network = "tcp4" // with tcp, 0.0.0.0 would be every IPv6 address too
	}
	// Keepalives are the relay's business, for sessions that last.
	config := net.ListenConfig{KeepAlive: -1}
	ln, err := config.Listen(context.Background(), network, net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", spec, err)
	}
	return []net.Listener{ln}, nil
}

// listenUnix listens on a socket in the file system. A socket that a dead
// server has left is replaced; one that answers is in use.
func listenUnix(path string) (net.Listener, error) {
	if path == "" {
		return nil, usagef("--listen unix: without a path")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path) // if not, listening says so
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("--listen unix:%s: %w", path, err)
	}
	return ln, nil
}

// firstInherited is the first descriptor that systemd passes (sd_listen_fds(3)).
const firstInherited = 3

// inherited returns the sockets that systemd passes under a name.
func inherited(name string) ([]net.Listener, error) {
	fail := func(err error) ([]net.Listener, error) {
		return nil, fmt.Errorf("--listen systemd:%s: %w", name, err)
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

// parseNetworks reads the values of --allow: prefixes, or addresses alone.
func parseNetworks(flag string, values []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, v := range values {
		prefix, err := netip.ParsePrefix(v)
		if ip, ipErr := netip.ParseAddr(v); ipErr == nil {
			prefix, err = ip.Prefix(ip.BitLen())
		}
		if err != nil {
			return nil, usagef("%s %q: want a network such as 192.0.2.0/24 or 2001:db8::/32, or an address", flag, v)
		}
		if prefix.Addr().Is4In6() {
			return nil, usagef("%s %q: write IPv4 networks as IPv4", flag, v)
		}
		all = append(all, prefix.Masked())
	}
	return all, nil
}
