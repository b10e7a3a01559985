//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// capturedTarget is where the programs connect to, as far as they know. Nothing but the proxy gets there.
const capturedTarget = "192.0.2.1"

// A captor takes the connections of all programs in a network, and leads them through a proxy.
type captor struct {
	name    string
	program string
	args    []string
	prepare []string // commands that it needs to have been run
}

// captures prepares networks, one for each captor and all behind one, where the proxy and the target are:
//
//	program, captor 10.86.N.2 ── 10.86.N.1 argyle ── 192.0.2.1
func (st *starter) captures(ctx context.Context) ([]*server, error) {
	servers, err := st.argyle(ctx)
	if err != nil {
		return nil, err
	}
	outside, err := newNamespace()
	if err != nil {
		return nil, err
	}
	st.atEnd(outside.close)
	err = outside.commands("ip address add "+capturedTarget+" dev lo",
		"nft add table ip bench", "nft add chain ip bench in { type filter hook input priority 0 ; }",
		"nft add rule ip bench in iifname != lo ip daddr "+capturedTarget+" reject")
	if err != nil {
		return nil, err
	}
	var stop func()
	var target netip.AddrPort
	if err := outside.do(func() (err error) {
		stop, target, err = answerAt(netip.MustParseAddr(capturedTarget))
		return err
	}); err != nil {
		return nil, err
	}
	st.atEnd(stop)

	const port = 1080
	proxy := &process{
		path: servers[0].processes[0].path, port: port, in: outside,
		args: []string{"serve", "-l", fmt.Sprintf("0.0.0.0:%d", port), "--open", "--allow-private"},
	}
	if err := proxy.start(); err != nil {
		return nil, err
	}
	st.atEnd(proxy.stop)
	var rows []*server
	for i, prepare := range []func(proxy string) (*captor, error){
		st.argyleRedirect, st.argyleREDIRECT, st.redsocks, st.argyleTun, st.tun2socks,
	} {
		captor, err := prepare(fmt.Sprintf("10.86.%d.1", i))
		if err != nil {
			progress("left out: %v", err)
			continue
		}
		inside, err := st.networkBehind(outside, i)
		if err != nil {
			return nil, err
		}
		if err := inside.commands(captor.prepare...); err != nil {
			return nil, err
		}
		row := &server{name: captor.name, addr: loopback(port), processes: []*process{{
			path: captor.program, args: captor.args, in: inside, ready: func() bool { return answered(target) },
		}}}
		row.wrap = &wrapper{in: inside, target: target}
		rows = append(rows, row)
	}
	return rows, nil
}

// networkBehind makes a network whose only way out is through another.
func (st *starter) networkBehind(outside *namespace, number int) (*namespace, error) {
	inside, err := newNamespace()
	if err != nil {
		return nil, err
	}
	st.atEnd(inside.close)
	// The thread's own namespace has no name for ip, but its descriptor has.
	there := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), inside.file.Fd())
	if err := outside.commands(
		fmt.Sprintf("ip link add in%d type veth peer name out netns %s", number, there),
		fmt.Sprintf("ip address add 10.86.%d.1/24 dev in%d", number, number),
		fmt.Sprintf("ip link set in%d up", number),
	); err != nil {
		return nil, err
	}
	return inside, inside.commands(
		fmt.Sprintf("ip address add 10.86.%d.2/24 dev out", number),
		"ip link set out up",
		fmt.Sprintf("ip route add default via 10.86.%d.1", number),
	)
}

// answered reports whether a request to the target is answered, from where it is called.
func answered(target netip.AddrPort) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp4", target.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	request := make([]byte, requestSize)
	binary.BigEndian.PutUint32(request, responseSize)
	if _, err := conn.Write(request); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, make([]byte, responseSize))
	return err == nil
}

func (st *starter) argyleRedirect(proxy string) (*captor, error) {
	return &captor{name: "argyle redirect", program: filepath.Join(st.dir, "argyle"),
		args: []string{"redirect", "-q", "-x", "socks5://" + proxy, "--to", capturedTarget}}, nil
}

func (st *starter) argyleREDIRECT(proxy string) (*captor, error) {
	c, err := st.argyleRedirect(proxy)
	c.name += " --method redirect"
	c.args = append(c.args, "--method", "redirect")
	return c, err
}

func (st *starter) argyleTun(proxy string) (*captor, error) {
	return &captor{name: "argyle tun", program: filepath.Join(st.dir, "argyle"),
		args: []string{"tun", "-q", "-x", "socks5://" + proxy, "--route", capturedTarget + "/32"}}, nil
}

func (st *starter) redsocks(proxy string) (*captor, error) {
	program, err := lookPath("redsocks")
	if err != nil {
		return nil, err
	}
	const text = `base { log_info = off; log = "file:/dev/null"; daemon = off; redirector = iptables; }
redsocks { local_ip = 127.0.0.1; local_port = 12345; ip = %s; port = 1080; type = socks5; }
`
	conf, err := st.writeFile("redsocks.conf", fmt.Sprintf(text, proxy))
	return &captor{name: "redsocks", program: program, args: []string{"-c", conf}, prepare: []string{
		"nft add table ip bench", "nft add chain ip bench out { type nat hook output priority -100 ; }",
		"nft add rule ip bench out ip daddr " + capturedTarget + " meta l4proto tcp redirect to :12345",
	}}, err
}

// tun2socks is xjasonlyu's, if somebody has installed it: Debian has none.
func (st *starter) tun2socks(proxy string) (*captor, error) {
	program, err := lookPath("tun2socks")
	return &captor{name: "tun2socks", program: program,
		args: []string{"-d", "tun://bench", "-p", "socks5://" + proxy + ":1080", "--loglevel", "silent"},
		prepare: []string{
			"ip tuntap add mode tun dev bench", "ip address add 198.18.0.1/32 dev bench", "ip link set bench up",
			"ip route add " + capturedTarget + "/32 dev bench",
		}}, err
}
