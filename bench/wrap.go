//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A wrapper leads a program through a proxy that the program does not know of.
type wrapper struct {
	before []string // the command line, before that of the program
	env    string   // NAME=FILE of its configuration, "" if it has none
	proxy  *server

	in     *namespace // set if the connections of all programs in there are taken, and the program is none of the wrapper's
	target netip.AddrPort
}

// client is such a program, with the libc that some wrappers need: one request after the other, each for a response of
// so many bytes.
const client = `
import socket, struct, sys, time
host, port, seconds, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
n, end, buf = 0, time.time() + seconds, bytearray(1 << 20)
while time.time() < end:
    s = socket.create_connection((host, port))
    s.sendall(struct.pack(">I", size) + b"x" * 96)
    got = 0
    while got < size:
        more = s.recv_into(buf, min(len(buf), size - got))
        if not more:
            sys.exit("the stream ended early")
        got += more
    s.close()
    n += 1
print(n)
`

// wrappers prepares a proxy, and each wrapper as a row of its own.
func (st *starter) wrappers(ctx context.Context) ([]*server, error) {
	servers, err := st.argyle(ctx)
	if err != nil {
		return nil, err
	}
	proxy := servers[0]
	port := strconv.Itoa(int(proxy.addr.Port()))
	proxy.name = "argyle run"
	proxy.wrap = &wrapper{before: []string{filepath.Join(st.dir, "argyle"), "run", "-q", "-x", proxy.addr.String(), "--"}, proxy: proxy}
	rows := []*server{proxy}
	for _, peer := range []struct{ name, variable, conf string }{
		{"proxychains4", "PROXYCHAINS_CONF_FILE", "strict_chain\nquiet_mode\ntcp_connect_time_out 5000\n[ProxyList]\nsocks5 127.0.0.1 " + port + "\n"},
		{"torsocks", "TORSOCKS_CONF_FILE", "TorAddress 127.0.0.1\nTorPort " + port + "\nAllowOutboundLocalhost 0\nOnionAddrRange 127.42.42.0/24\n"},
		{"tsocks", "TSOCKS_CONF_FILE", "server = 127.0.0.1\nserver_type = 5\nserver_port = " + port + "\n"},
	} {
		program, err := lookPath(peer.name)
		if err != nil {
			progress("left out: %v", err)
			continue
		}
		file, err := st.writeFile(peer.name+".conf", peer.conf)
		if err != nil {
			return nil, err
		}
		rows = append(rows, &server{name: peer.name, addr: proxy.addr, wrap: &wrapper{before: []string{program}, env: peer.variable + "=" + file, proxy: proxy}})
	}
	return rows, nil
}

// A visitor is the workload of a program that knows of no proxy.
type visitor struct {
	name     string
	response int // bytes of each
}

// visitors are many small responses, and few long ones.
func visitors() []visitor { return []visitor{{"short", responseSize}, {"long", 64 << 20}} }

// measure runs the program, and looks at what it and its wrapper have used; or at what captures its connections uses.
func (v visitor) measure(set *settings, s *server) *sample {
	out := &sample{}
	w := s.wrap
	if w == nil {
		w = &wrapper{}
	}
	target := w.target
	if !target.IsValid() {
		stop, addr, err := answerAt(elsewhere())
		if err != nil {
			out.fail(err)
			return out
		}
		defer stop()
		target = addr
	}
	python, err := lookPath("python3")
	if err != nil {
		out.Missing = err.Error()
		return out
	}
	args := append(slices.Clone(w.before), python, "-c", client, target.Addr().String(), strconv.Itoa(int(target.Port())),
		fmt.Sprint(set.time.Seconds()), strconv.Itoa(v.response))
	cmd := exec.Command(args[0], args[1:]...)
	if cmd.Env = os.Environ(); w.env != "" {
		cmd.Env = append(cmd.Env, w.env)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cpu, proxied, begin := s.cpuSeconds(), w.proxied(), time.Now()
	if err := w.in.do(cmd.Run); err != nil {
		out.fail(fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String())))
		return out
	}
	elapsed := time.Since(begin).Seconds()
	n, err := strconv.ParseFloat(strings.TrimSpace(stdout.String()), 64)
	if err != nil {
		out.fail(err)
		return out
	}
	if n > 1000 && w.proxied() == proxied {
		out.fail(errors.New("the proxy was left out"))
		return out
	}
	cpu = s.cpuSeconds() - cpu
	if w.in == nil {
		cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	if v.response == responseSize {
		out.set("conn/s", n/elapsed)
		out.set("cpu µs", cpu*1e6/n)
		return out
	}
	bytes := n * float64(v.response)
	out.set("gbit/s", bytes*8/1e9/elapsed)
	out.set("cpu s/GiB", cpu/(bytes/(1<<30)))
	return out
}

// proxied is the processor time of the proxy, NaN if it is unknown.
func (w *wrapper) proxied() float64 {
	if w.proxy == nil {
		return math.NaN()
	}
	return w.proxy.cpuSeconds()
}

// elsewhere is an address of this machine that is not of 127/8, which some wrappers leave alone, if there is one.
func elsewhere() netip.Addr {
	at := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	own, err := net.InterfaceAddrs()
	if err != nil {
		return at
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			at = p.Addr()
		}
	}
	return at
}

// answerAt begins to answer at an address, on a thread of its own, until stop is called.
func answerAt(at netip.Addr) (stop func(), addr netip.AddrPort, err error) {
	poll, err := newPoller()
	if err != nil {
		return nil, addr, err
	}
	a, err := newAnswerer(poll, at)
	if err != nil {
		poll.close()
		return nil, addr, err
	}
	var stopping atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for !stopping.Load() {
			if poll.wait(10*time.Millisecond) != nil {
				return
			}
		}
	}()
	return func() {
		stopping.Store(true)
		<-ended
		poll.close()
	}, a.addr, nil
}
