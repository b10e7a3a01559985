//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A wrapper runs a program through a proxy that the program does not know of.
type wrapper struct {
	before []string // the command line, before that of the program
	env    string   // NAME=FILE of its configuration, "" if it has none
	proxy  *server
}

// client is such a program: with the libc that some wrappers need.
const client = `
import socket, sys, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
n, end = 0, time.time() + seconds
while time.time() < end:
    s = socket.create_connection((host, port))
    s.sendall(b"\0\0\0\x64" + b"x" * 96)
    got = 0
    while got < 100:
        b = s.recv(100)
        if not b:
            sys.exit("the stream ended early")
        got += len(b)
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
		rows = append(rows, &server{name: peer.name, addr: proxy.addr, wrap: &wrapper{[]string{program}, peer.variable + "=" + file, proxy}})
	}
	return rows, nil
}

// measureWrapped runs the client in a wrapper, and looks at what both have used.
func measureWrapped(set *settings, s *server) *sample {
	out := &sample{}
	stop, target, err := answerElsewhere()
	if err != nil {
		out.fail(err)
		return out
	}
	defer stop()
	python, err := lookPath("python3")
	if err != nil {
		out.Missing = err.Error()
		return out
	}
	host, port, _ := strings.Cut(target, ":")
	args := []string{python, "-c", client, host, port, fmt.Sprint(set.time.Seconds())}
	env := os.Environ()
	if s.wrap != nil {
		args = append(append([]string{}, s.wrap.before...), args...)
		env = append(env, s.wrap.env)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var proxied float64
	if s.wrap != nil {
		proxied = s.wrap.proxy.cpuSeconds()
	}
	if err := cmd.Run(); err != nil {
		out.fail(fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String())))
		return out
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(stdout.String()), 64)
	if err != nil {
		out.fail(err)
		return out
	}
	if s.wrap != nil && n > 1000 && s.wrap.proxy.cpuSeconds() == proxied {
		out.fail(errors.New("the proxy was left out"))
		return out
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	out.set("conn/s", n/set.time.Seconds())
	out.set("cpu µs", used.Seconds()*1e6/n)
	return out
}

// answerElsewhere begins to answer, on a thread of its own, until stop is called: at an address of this machine that is
// not of 127/8, which some wrappers leave alone.
func answerElsewhere() (stop func(), addr string, err error) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, "", err
	}
	at := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			at = p.Addr()
		}
	}
	poll, err := newPoller()
	if err != nil {
		return nil, "", err
	}
	a, err := newAnswerer(poll, at)
	if err != nil {
		poll.close()
		return nil, "", err
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
	}, a.addr.String(), nil
}
