package probe

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Helper is what the proxy connects to and sends datagrams to: it says who
// came, sends bytes back, ends connections in every way, and connects to where
// a BIND waits. It does so only for who knows its secret, so that it is of no
// use to strangers.
type Helper struct {
	host   string // as the proxy should reach it
	port   int
	secret string
	local  *listening // nil for a helper elsewhere
}

// listening is a helper of ours.
type listening struct {
	tcp   []net.Listener
	udp   []*net.UDPConn // one for each of tcp
	other []*net.UDPConn // the same addresses, other ports
	alien *net.UDPConn   // another address; nil if there is none
	wg    sync.WaitGroup

	mu      sync.Mutex
	results map[string]string
	conns   map[net.Conn]struct{}
	closed  bool
}

// ListenHelper listens on host, which is an address or a name of this host, and
// on ::1 too if it is 127.0.0.1. port "" is any. It ends with Close.
func ListenHelper(host, port string) (*Helper, error) {
	var secret [8]byte
	_, _ = rand.Read(secret[:]) // never fails
	h := &Helper{host: host, secret: hex.EncodeToString(secret[:])}
	h.local = &listening{results: make(map[string]string), conns: make(map[net.Conn]struct{})}
	if err := h.listen(host, port); err != nil {
		h.Close()
		return nil, err
	}
	h.port = portOf(h.local.tcp[0].Addr())
	if host == "127.0.0.1" {
		_ = h.listen("::1", strconv.Itoa(h.port)) // not every host has it
	}
	if host == "127.0.0.1" {
		h.local.alien, _ = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 56)}) // not every system has it
	}
	for i, ln := range h.local.tcp {
		h.local.wg.Go(func() { h.serve(ln) })
		h.local.wg.Go(func() { h.datagrams(h.local.udp[i], h.local.other[i]) })
		h.local.wg.Go(func() { h.datagrams(h.local.other[i], h.local.udp[i]) })
	}
	return h, nil
}

func (h *Helper) listen(host, port string) error {
	if port != "" {
		return h.listenAt(host, port)
	}
	var err error
	for range 10 { // the port of TCP may be somebody's of UDP
		if err = h.listenAt(host, "0"); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return err
}

func (h *Helper) listenAt(host, port string) error {
	ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	ip := argyleIP(ln.Addr())
	packets, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: portOf(ln.Addr())})
	if err != nil {
		ln.Close()
		return err
	}
	other, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip})
	if err != nil {
		ln.Close()
		packets.Close()
		return err
	}
	l := h.local
	l.tcp, l.udp, l.other = append(l.tcp, ln), append(l.udp, packets), append(l.other, other)
	return nil
}

func argyleIP(a net.Addr) net.IP { return a.(*net.TCPAddr).IP }

// DialHelper returns a helper elsewhere, of which s is SECRET@HOST:PORT, as
// [Helper.String] gives it.
func DialHelper(s string) (*Helper, error) {
	secret, addr, ok := strings.Cut(s, "@")
	host, port, err := net.SplitHostPort(addr)
	n, wrong := strconv.ParseUint(port, 10, 16)
	if !ok || err != nil || wrong != nil || secret == "" {
		return nil, fmt.Errorf("helper %q: want SECRET@HOST:PORT, as argyle probe --serve-helper says", s)
	}
	return &Helper{host: host, port: int(n), secret: secret}, nil
}

// String returns the helper as [DialHelper] reads it.
func (h *Helper) String() string {
	return h.secret + "@" + net.JoinHostPort(h.host, strconv.Itoa(h.port))
}

// Close ends a helper of ours, and all of its connections.
func (h *Helper) Close() error {
	l := h.local
	if l == nil {
		return nil
	}
	for i := range l.tcp {
		l.tcp[i].Close()
		l.udp[i].Close()
		l.other[i].Close()
	}
	if l.alien != nil {
		l.alien.Close()
	}
	l.mu.Lock()
	l.closed = true
	for conn := range l.conns {
		conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

// maxConns is how many connections a helper has at once: a run needs a few dozen.
const maxConns = 500

// track keeps a connection for Close; it reports false if that has been, or there are
// too many.
func (l *listening) track(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.conns) >= maxConns {
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *listening) forget(conn net.Conn) {
	conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
}

func (h *Helper) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // it may pass, as a lack of descriptors does
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if !h.local.track(conn) {
			conn.Close()
			continue
		}
		h.local.wg.Go(func() {
			defer h.local.forget(conn)
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			h.command(conn.(*net.TCPConn))
		})
	}
}

// command reads a line, "SECRET WORD ARGUMENT", and does what it says.
func (h *Helper) command(conn *net.TCPConn) {
	in := bufio.NewReader(conn)
	line, err := in.ReadSlice('\n') // no longer than the buffer of in
	if err != nil {
		return
	}
	words := strings.Fields(string(line))
	if len(words) < 2 || words[0] != h.secret {
		return
	}
	argument := ""
	if len(words) > 2 {
		argument = words[2]
	}
	switch words[1] {
	case "echo":
		_, _ = io.Copy(conn, in)
	case "peer":
		fmt.Fprintln(conn, conn.RemoteAddr())
	case "after": // the answer comes when the client has ended its side
		n, _ := io.Copy(io.Discard, in)
		fmt.Fprintf(conn, "after %d\n", n)
	case "half": // the answer is no more; the client goes on
		_ = conn.CloseWrite()
		n, err := io.Copy(io.Discard, in)
		h.local.result(argument, fmt.Sprintf("%d %v", n, err))
	case "watch":
		fmt.Fprintln(conn, "watching")
		_, err := io.Copy(io.Discard, in)
		h.local.result(argument, endOf(err))
	case "result":
		fmt.Fprintln(conn, h.local.await(argument))
	case "reset":
		_ = conn.SetLinger(0)
	case "send":
		n, _ := strconv.Atoi(argument)
		_, _ = io.CopyN(conn, pattern{}, int64(min(n, maxSend)))
	case "closed":
		fmt.Fprintln(conn, h.local.closedPort(conn))
	case "dial":
		h.dial(conn, argument)
	}
}

// maxSend bounds what a helper sends at once.
const maxSend = 1 << 30

// endOf tells how a connection ended.
func endOf(err error) string {
	switch {
	case err == nil:
		return "end"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	}
	return err.Error()
}

// pattern are bytes that can be told from others.
type pattern struct{}

func (pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i * 7)
	}
	return len(b), nil
}

func (l *listening) result(id, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[id] = text
}

// await waits for a result for a while.
func (l *listening) await(id string) string {
	for range 150 {
		l.mu.Lock()
		text, ok := l.results[id]
		delete(l.results, id)
		l.mu.Unlock()
		if ok {
			return text
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "nothing"
}

// closedPort returns a port of ours that nobody listens on: that of the client's side
// of a connection, which is nobody else's as long as conn waits for more.
func (l *listening) closedPort(conn *net.TCPConn) int {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: conn.LocalAddr().(*net.TCPAddr).IP})
	if err != nil {
		return 0
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return 0
	}
	server, err := ln.Accept()
	if err != nil {
		client.Close()
		return 0
	}
	l.wg.Go(func() {
		defer client.Close()
		defer server.Close()
		if l.track(server) {
			defer l.forget(server)
			_ = server.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = server.Read(make([]byte, 1)) // until the helper is closed, or the row is over
		}
	})
	return portOf(client.LocalAddr())
}

// dial connects to where a BIND waits, says hello, and sends back what comes.
func (h *Helper) dial(conn net.Conn, addr string) {
	out, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		fmt.Fprintf(conn, "error %v\n", err)
		return
	}
	if !h.local.track(out) {
		out.Close()
		return
	}
	defer h.local.forget(out)
	fmt.Fprintln(conn, out.LocalAddr())
	_ = out.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(out, "hello\n")
	_, _ = io.Copy(out, out)
}

// What a datagram asks for, after the secret.
const (
	udpEcho  = 'e' // back as it came
	udpPeer  = 'p' // the address that it came from
	udpOther = 'o' // back, but from another port
	udpAlien = 'a' // back, but from another address
)

func (h *Helper) datagrams(conn, other *net.UDPConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n <= len(h.secret) || string(buf[:len(h.secret)]) != h.secret {
			continue
		}
		switch buf[len(h.secret)] {
		case udpEcho:
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		case udpPeer:
			_, _ = conn.WriteToUDPAddrPort([]byte(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String()), from)
		case udpOther:
			_, _ = other.WriteToUDPAddrPort(buf[:n], from)
		case udpAlien:
			if h.local.alien != nil {
				_, _ = h.local.alien.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}
}

// ask gives a command on a connection of our own, past the proxy.
func (h *Helper) ask(ctx context.Context, command string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(h.host, strconv.Itoa(h.port)))
	if err != nil {
		return "", fmt.Errorf("helper: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fmt.Fprintf(conn, "%s %s\n", h.secret, command)
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func portOf(a net.Addr) int { return a.(*net.TCPAddr).Port }

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	host, _, _ = strings.Cut(host, "%")
	return host
}
