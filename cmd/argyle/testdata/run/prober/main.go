// Command prober tries to get a packet out, or a question to a resolver, by
// every way that an ordinary program has. It prints a line for each: the port
// that it went to, its name, and what came of it.
//
//	prober [-as self|child|grandchild|thread] [-wait FIFO] [-out FILE]
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	target4 = [4]byte{192, 0, 2, 10}
	target6 = [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 0x10}
)

// A try is one way out. It gets a port that no other one has.
type try struct {
	name string
	do   func(port int) error
}

func main() {
	as := flag.String("as", "self", "who tries")
	wait := flag.String("wait", "", "begin when somebody has opened and closed this")
	out := flag.String("out", "", "print there")
	raw := flag.Bool("raw", false, "only what needs capabilities")
	flag.Parse()
	report := io.Writer(os.Stdout)
	if *out != "" {
		file, err := os.OpenFile(*out, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		check(err)
		defer file.Close()
		report = file
	}
	if *wait != "" {
		fmt.Fprintln(report, "ready")
		_, err := os.ReadFile(*wait)
		check(err)
	}
	switch *as {
	case "grandchild", "child":
		next := map[string]string{"grandchild": "child", "child": "self"}[*as]
		again := exec.Command("/proc/self/exe", "-as", next)
		again.Stdout, again.Stderr = report, os.Stderr
		check(again.Run())
	case "thread":
		done := make(chan struct{})
		runtime.LockOSThread() // so that it is another one that tries
		go func() {
			defer close(done)
			runtime.LockOSThread()
			runAll(report)
		}()
		<-done
	default:
		if *raw {
			run(report, rawTries)
			return
		}
		runAll(report)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "prober:", err)
		os.Exit(1)
	}
}

// firstPort is that of the first try.
const firstPort = 7000

func run(report io.Writer, tries []try) {
	results := make([]error, len(tries))
	var all sync.WaitGroup
	for i, t := range tries {
		all.Go(func() { results[i] = t.do(firstPort + i) })
	}
	all.Wait()
	var text strings.Builder
	for i, t := range tries {
		result := "sent"
		if results[i] != nil {
			result = results[i].Error()
		}
		fmt.Fprintf(&text, "%d %s: %s\n", firstPort+i, t.name, result)
	}
	fmt.Fprint(report, text.String())
}

// runAll tries everything, and then what needs capabilities: in a user namespace of its own a program has them all, but not
// over networks that were there before.
func runAll(report io.Writer) {
	run(report, tries)
	again := exec.Command("/proc/self/exe", "-raw")
	again.Stdout = report
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := again.Run(); err != nil {
		fmt.Fprintln(report, "- namespace:", err)
	}
}

func in4(port int) *unix.SockaddrInet4 { return &unix.SockaddrInet4{Port: port, Addr: target4} }
func in6(port int) *unix.SockaddrInet6 { return &unix.SockaddrInet6{Port: port, Addr: target6} }

var tries = append([]try{
	{"tcp4", func(port int) error { return connect(unix.AF_INET, 0, in4(port)) }},
	{"tcp6", func(port int) error { return connect(unix.AF_INET6, 0, in6(port)) }},
	{"tcp4 mapped", func(port int) error { return connect(unix.AF_INET6, 0, mapped(port)) }},
	{"mptcp", func(port int) error { return connect(unix.AF_INET, unix.IPPROTO_MPTCP, in4(port)) }},
	{"tcp4 bound to a device", func(port int) error { return connect(unix.AF_INET, 0, in4(port), boundToDevice) }},
	{"tcp4 bound to an address", func(port int) error { return connect(unix.AF_INET, 0, in4(port), boundToAddress) }},
	{"tcp4 fast open, sendto", func(port int) error {
		return send(unix.AF_INET, unix.SOCK_STREAM, 0, in4(port), unix.MSG_FASTOPEN)
	}},
	{"tcp4 fast open, connect", func(port int) error {
		return connect(unix.AF_INET, 0, in4(port), func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		})
	}},
	{"tcp4 without blocking", func(port int) error {
		return with(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, func(fd int) error {
			if err := unix.Connect(fd, in4(port)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
				return err
			}
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 2000)
			return err
		})
	}},
	{"tcp6 link-local", func(port int) error { return connect(unix.AF_INET6, 0, linkLocal(port)) }},
	{"tcp4 to the neighbour", func(port int) error { return connect(unix.AF_INET, 0, neighbour(port)) }},
	{"udp4", func(port int) error { return send(unix.AF_INET, unix.SOCK_DGRAM, 0, in4(port), 0) }},
	{"udp6", func(port int) error { return send(unix.AF_INET6, unix.SOCK_DGRAM, 0, in6(port), 0) }},
	{"udp4 mapped", func(port int) error { return send(unix.AF_INET6, unix.SOCK_DGRAM, 0, mapped(port), 0) }},
	{"udp6 link-local", func(port int) error { return send(unix.AF_INET6, unix.SOCK_DGRAM, 0, linkLocal(port), 0) }},
	{"udp4 to the neighbour", func(port int) error { return send(unix.AF_INET, unix.SOCK_DGRAM, 0, neighbour(port), 0) }},
	{"udp4 connected", func(port int) error { return udpAfter(in4(port), nil) }},
	{"udp4 connected elsewhere", func(port int) error {
		return udpAfter(in4(9), in4(port))
	}},
	{"udp4 sendmsg", func(port int) error {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
			return unix.Sendmsg(fd, []byte("probe"), nil, in4(port), 0)
		})
	}},
	{"udp4 sendmmsg", sendmmsg},
	{"udp4 by a control message", func(port int) error { return byDevice(in4(port), false) }},
	{"udp4 by a control message, duplicated", func(port int) error { return byDevice(in4(port), true) }},
	{"multicast by a control message", func(port int) error {
		return byDevice(&unix.SockaddrInet4{Port: port, Addr: [4]byte{224, 0, 0, 251}}, false)
	}},
	{"multicast 6, sendmsg", func(port int) error {
		dest := linkLocal(port)
		dest.Addr = [16]byte{0xff, 2, 15: 0xfb}
		return with(unix.AF_INET6, unix.SOCK_DGRAM, 0, func(fd int) error {
			return unix.Sendmsg(fd, []byte("probe"), nil, dest, 0)
		})
	}},
	{"tcp4 bound to a device, to loopback", func(port int) error {
		return connect(unix.AF_INET, 0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}, boundToDevice)
	}},
	{"vsock", func(port int) error { return connect(unix.AF_VSOCK, 0, &unix.SockaddrVM{CID: 2, Port: uint32(port)}) }},
	{"udp4 bound to a device", func(port int) error {
		return send(unix.AF_INET, unix.SOCK_DGRAM, 0, in4(port), 0, boundToDevice)
	}},
	{"udp4 segmented", func(port int) error {
		return send(unix.AF_INET, unix.SOCK_DGRAM, 0, in4(port), 0, func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
		})
	}},
	{"udplite", func(port int) error { return send(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, in4(port), 0) }},
	{"sctp", func(port int) error { return connect(unix.AF_INET, unix.IPPROTO_SCTP, in4(port)) }},
	{"sctp datagram", func(port int) error {
		return send(unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP, in4(port), 0)
	}},
	{"multicast", func(port int) error {
		return send(unix.AF_INET, unix.SOCK_DGRAM, 0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{224, 0, 0, 251}}, 0)
	}},
	{"multicast 6", func(port int) error {
		dest := linkLocal(port)
		dest.Addr = [16]byte{0xff, 2, 15: 0xfb}
		return send(unix.AF_INET6, unix.SOCK_DGRAM, 0, dest, 0)
	}},
	{"broadcast", func(port int) error {
		dest := &unix.SockaddrInet4{Port: port, Addr: [4]byte{255, 255, 255, 255}}
		return send(unix.AF_INET, unix.SOCK_DGRAM, 0, dest, 0, mayBroadcast)
	}},
	{"broadcast to the neighbours", func(port int) error {
		dest := neighbour(port)
		dest.Addr[3] = 255
		return send(unix.AF_INET, unix.SOCK_DGRAM, 0, dest, 0, mayBroadcast)
	}},
	{"io_uring connect", ringConnect},
	{"io_uring send", ringSend},
	{"inherited descriptors", inherited},
	{"other namespaces", otherNamespaces},
	{"dns udp", func(int) error { return ask("udp", "8.8.8.8:53") }},
	{"dns tcp", func(int) error { return ask("tcp", "8.8.8.8:53") }},
	{"dns to nobody", func(int) error { return ask("udp", "203.0.113.77:53") }},
	{"dns udp6", func(int) error { return ask("udp", "[2001:db8::53]:53") }},
	{"dns to loopback", func(int) error { return ask("udp", "127.0.0.53:53") }},
	{"getent", func(int) error { return exec.Command("/usr/bin/getent", "hosts", "probe.zone.test").Run() }},
	{"unix resolve", func(int) error { return unixSocket("/run/systemd/resolve/io.systemd.Resolve") }},
	{"unix nscd", func(int) error { return unixSocket("/run/nscd/socket") }},
	{"unix nscd by the old path", func(int) error { return unixSocket("/var/run/nscd/socket") }},
	{"unix avahi", func(int) error { return unixSocket("/run/avahi-daemon/socket") }},
	{"unix abstract", func(int) error { return unixSocket("@argyle-test-resolver") }},
	{"ping", func(int) error {
		return send(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, in4(0), 0)
	}},
	{"ping 6", func(int) error {
		return send(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, in6(0), 0)
	}},
	{"igmp", func(int) error {
		return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: [4]byte{239, 1, 2, 3}, Ifindex: int32(device())})
		})
	}},
}, rawTries...)

// rawTries need capabilities over the network.
var rawTries = []try{
	{"raw icmp", func(int) error { return send(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, in4(0), 0) }},
	{"raw icmp 6", func(int) error { return send(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, in6(0), 0) }},
	{"raw ip", func(int) error { return send(unix.AF_INET, unix.SOCK_RAW, 253, in4(0), 0) }},
	{"packet", func(int) error {
		return with(unix.AF_PACKET, unix.SOCK_DGRAM, 0, func(fd int) error {
			to := &unix.SockaddrLinklayer{Protocol: 0xb588, Ifindex: device(), Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
			return unix.Sendto(fd, make([]byte, 64), 0, to)
		})
	}},
}

// with opens a socket for a moment.
func with(family, kind, proto int, do func(fd int) error) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: 2}); err != nil {
			return err
		}
	}
	return do(fd)
}

func connect(family, proto int, dest unix.Sockaddr, before ...func(fd int) error) error {
	return with(family, unix.SOCK_STREAM, proto, func(fd int) error {
		for _, prepare := range before {
			if err := prepare(fd); err != nil {
				return err
			}
		}
		err := unix.Connect(fd, dest)
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		_, _ = unix.Write(fd, []byte("probe"))
		return nil
	})
}

func send(family, kind, proto int, dest unix.Sockaddr, flags int, before ...func(fd int) error) error {
	return with(family, kind, proto, func(fd int) error {
		for _, prepare := range before {
			if err := prepare(fd); err != nil {
				return err
			}
		}
		message := []byte("probe of argyle")
		switch proto {
		case unix.IPPROTO_ICMP:
			message = []byte{8, 0, 0xf7, 0xfe, 0, 0, 0, 1} // an echo request, and its checksum
		case unix.IPPROTO_ICMPV6:
			message = []byte{128, 0, 0, 0, 0, 0, 0, 1}
		}
		err := unix.Sendto(fd, message, flags, dest)
		if errors.Is(err, unix.ECONNREFUSED) && flags != 0 {
			return nil
		}
		return err
	})
}

// udpAfter connects a socket, and sends to then, or to where it is connected.
func udpAfter(to, then unix.Sockaddr) error {
	return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		if then != nil {
			return unix.Sendto(fd, []byte("probe"), 0, then)
		}
		_, err := unix.Write(fd, []byte("probe"))
		return err
	})
}

func mapped(port int) *unix.SockaddrInet6 {
	dest := &unix.SockaddrInet6{Port: port, Addr: [16]byte{10: 0xff, 11: 0xff}}
	copy(dest.Addr[12:], target4[:])
	return dest
}

// device is the number of the first network device that is not loopback; 0 if there is none.
func device() int {
	all, _ := net.Interfaces()
	for _, one := range all {
		if one.Flags&net.FlagLoopback == 0 {
			return one.Index
		}
	}
	return 0
}

// ownAddress is this host's, as it looks to a program that knows that there is one.
func ownAddress() (own [4]byte) {
	addrs, _ := net.InterfaceAddrs()
	for _, addr := range addrs {
		if prefix, ok := addr.(*net.IPNet); ok && !prefix.IP.IsLoopback() && prefix.IP.To4() != nil {
			copy(own[:], prefix.IP.To4())
		}
	}
	return own
}

// neighbour is the first host of our network.
func neighbour(port int) *unix.SockaddrInet4 {
	dest := &unix.SockaddrInet4{Port: port, Addr: ownAddress()}
	dest.Addr[3] = 1
	return dest
}

// linkLocal is an address that every network has: whoever answers.
func linkLocal(port int) *unix.SockaddrInet6 {
	return &unix.SockaddrInet6{Port: port, ZoneId: uint32(device()), Addr: [16]byte{0xfe, 0x80, 15: 1}}
}

// byDevice sends a datagram by the device, whatever its socket is bound to.
func byDevice(dest unix.Sockaddr, duplicate bool) error {
	return with(unix.AF_INET, unix.SOCK_DGRAM, 0, func(fd int) error {
		if duplicate {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 5)
			if err != nil {
				return err
			}
			defer unix.Close(dup)
			fd = dup
		}
		info := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(device())})
		return unix.Sendmsg(fd, []byte("probe"), info, dest, 0)
	})
}

func boundToDevice(fd int) error {
	one, err := net.InterfaceByIndex(device())
	if err != nil {
		return err
	}
	return unix.BindToDevice(fd, one.Name)
}

func boundToAddress(fd int) error { return unix.Bind(fd, &unix.SockaddrInet4{Addr: ownAddress()}) }

func mayBroadcast(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }

// inherited sends by whatever socket somebody has left open.
func inherited(int) error {
	err := errors.New("none")
	for fd := 3; fd < 64; fd++ {
		kind, failed := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); failed != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // one of ours, of another try
		}
		err = fmt.Errorf("descriptor %d is a socket of family %d", fd, kind)
	}
	return err
}

// otherNamespaces enters the network of every process that lets it.
func otherNamespaces(port int) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // it is not fit for anything else
		entries, _ := os.ReadDir("/proc")
		err := errors.New("none")
		for _, entry := range entries {
			file, failed := os.Open("/proc/" + entry.Name() + "/ns/net")
			if failed != nil {
				continue
			}
			if failed = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); failed == nil {
				err = send(unix.AF_INET, unix.SOCK_DGRAM, 0, in4(port), 0)
			}
			file.Close()
		}
		result <- err
	}()
	return <-result
}

// ask asks a resolver, which need not answer.
func ask(network, addr string) error {
	conn, err := net.DialTimeout(network, addr, 2*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	query := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05probe\x04zone\x04test\x00\x00\x01\x00\x01"
	if network == "tcp" {
		query = string([]byte{0, byte(len(query))}) + query
	}
	_, err = io.WriteString(conn, query)
	return err
}

func unixSocket(path string) error {
	conn, err := net.DialTimeout("unix", path, 2*time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}
