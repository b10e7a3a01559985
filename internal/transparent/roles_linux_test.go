package transparent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func init() { //nolint:gochecknoinits // of tests
	roles["world"] = worldMain
	roles["client"] = clientMain
}

// The addresses of a world's own.
var ownAddrs = []netip.Prefix{
	netip.MustParsePrefix("10.0.85.1/32"),
	netip.MustParsePrefix("fd00:85::1/128"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("::1/128"),
}

// worldMain is the process inside a new namespace: it makes the network, the
// rules and the sockets, hands them out on descriptor 3, and then binds sockets
// for who asks there.
func worldMain() error {
	var rules Rules
	if err := json.Unmarshal([]byte(os.Getenv("ARGYLE_TEST_RULES")), &rules); err != nil {
		return err
	}
	if err := loop(); err != nil {
		return fmt.Errorf("loop: %w", err)
	}
	// Ordinary programs may bind ports as low as those they ask.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
		return err
	}
	files, err := open(&rules)
	if err != nil {
		return err
	}
	if err := sendFiles(3, files); err != nil {
		return err
	}
	return broker(3)
}

// loop makes every address lead back to this namespace.
func loop() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for i, all := range []string{"0.0.0.0/0", "::/0"} {
		own := ownAddrs[i].Addr()
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(own.BitLen(), own.BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("add %v: %w", own, err)
		}
		_, dst, _ := net.ParseCIDR(all)
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: dst, Src: own.AsSlice(),
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST,
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add route %v: %w", dst, err)
		}
	}
	return nil
}

// open opens what the rules need: listener, socket, and the queue, if it is wanted.
func open(rules *Rules) ([]*os.File, error) {
	ln, err := ListenTCP()
	if err != nil {
		return nil, err
	}
	sock, err := ListenUDP()
	if err != nil {
		return nil, err
	}
	rules.TCP = uint16(ln.Addr().(*net.TCPAddr).Port)
	rules.UDP = uint16(sock.LocalAddr().(*net.UDPAddr).Port)
	rules.From, rules.Except = ownAddrs, ownAddrs
	lnFile, err1 := ln.File()
	sockFile, err2 := sock.File()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	files := []*os.File{lnFile, sockFile}
	if rules.Hold {
		queue, err := OpenQueue(rules.Queue)
		if err != nil {
			return nil, err
		}
		files = append(files, queue)
	}
	if err := rules.Install(); err != nil {
		return nil, err
	}
	ln.Close()
	sock.Close()
	return files, nil
}

func sendFiles(fd int, files []*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if err := unix.Sendmsg(fd, []byte{0}, unix.UnixRights(fds...), nil, 0); err != nil {
		return err
	}
	for _, f := range files {
		f.Close()
	}
	return nil
}

// broker binds a UDP socket to each address that it is sent, and sends it back.
func broker(fd int) error {
	b := make([]byte, 256)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if n == 0 || err != nil {
			return err
		}
		src, err := netip.ParseAddrPort(string(b[:n]))
		if err != nil {
			return err
		}
		conn, err := listenPacket(&net.ListenConfig{Control: control(freebind)}, src.String())
		if err != nil {
			if err := unix.Sendmsg(fd, []byte(err.Error()), nil, nil, 0); err != nil {
				return err
			}
			continue
		}
		file, err := conn.File()
		conn.Close()
		if err != nil {
			return err
		}
		if err := sendFiles(fd, []*os.File{file}); err != nil {
			return err
		}
	}
}

// clientMain is a program inside the namespace.
func clientMain() error {
	op, addr := os.Args[1], os.Args[2]
	switch op {
	case "connect":
		start := time.Now()
		fmt.Print(connectErrno(addr), " ", time.Since(start).Milliseconds())
		return nil
	case "stream":
		return clientStream(addr)
	case "many":
		return clientMany(addr, os.Args[3])
	case "udp":
		return clientUDP(addr, os.Args[3])
	case "listen":
		return clientListen(addr)
	case "reuse":
		return clientReuse(addr)
	}
	return fmt.Errorf("no operation %q", op)
}

// connectErrno makes a blocking connect(2) and returns its error's name.
func connectErrno(addr string) string {
	fd, sa, err := socket(addr)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return unix.ErrnoName(err.(syscall.Errno))
	}
	return "ok"
}

func socket(addr string) (int, unix.Sockaddr, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, nil, err
	}
	if ap.Addr().Is4() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return fd, &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}, err
}

// clientStream sends what it reads, ends its side, and prints what comes back.
func clientStream(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.Copy(conn, os.Stdin); err != nil {
		return err
	}
	_ = conn.(*net.TCPConn).CloseWrite() // reading tells of a reset, too
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// clientMany connects many times at once, and counts who gets an echo.
func clientMany(addr, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for i := range n {
		wg.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return
			}
			defer conn.Close()
			msg := fmt.Sprintf("connection %d", i)
			io.WriteString(conn, msg)
			conn.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(conn); err == nil && string(b) == msg {
				mu.Lock()
				defer mu.Unlock()
				good++
			}
		})
	}
	wg.Wait()
	fmt.Print(good)
	return nil
}

// clientUDP sends datagrams from an unconnected socket, each when the one
// before has its answer, and counts those that come from where they went.
func clientUDP(addr, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	dest := netip.MustParseAddrPort(addr)
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	good := 0
	b := make([]byte, 1<<16)
	for i := range n {
		msg := fmt.Sprintf("datagram %d", i)
		if _, err := conn.WriteToUDPAddrPort([]byte(msg), dest); err != nil {
			return err
		}
		size, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return fmt.Errorf("after %d answers: %w", good, err)
		}
		if plain(from) == dest && string(b[:size]) == msg {
			good++
		}
	}
	fmt.Print(good)
	return nil
}

// clientListen listens on every address, and connects to addr, which is none of its own.
func clientListen(addr string) error {
	ap := netip.MustParseAddrPort(addr)
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", ap.Port()))
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Print(connectErrno(addr))
	return nil
}

// clientReuse connects twice from one port, the second time before the first
// attempt has its answer.
func clientReuse(addr string) error {
	for range 2 {
		fd, sa, err := socket(addr)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: ownAddrs[0].Addr().As4(), Port: 4999}); err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		if err := unix.Connect(fd, sa); err != unix.EINPROGRESS {
			return err
		}
		time.Sleep(100 * time.Millisecond) // the time that an impatient program gives
		unix.Close(fd)
	}
	return nil
}

// freebind lets a socket of IPv6 have any address, as IPv4 does by itself where
// every address is local. It takes no capability.
func freebind(fd, family int) error {
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return nil
}
