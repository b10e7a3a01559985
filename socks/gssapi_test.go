package socks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// toy is a mechanism whose tokens people can read: "hello 1" and so on while
// the context is being established, then a number, a mark, a checksum and the
// message, which a key of one byte makes confidential.
type toy struct {
	rounds int // of tokens in each direction
	round  int
	begins bool
	peer   string

	mu         sync.Mutex
	sent, next uint32
	seen       map[uint32]bool
}

func (m *toy) Step(token []byte) ([]byte, bool, error) {
	answered := m.round
	if m.begins {
		answered--
	}
	if want := fmt.Sprintf("hello %d", answered); answered >= 0 && string(token) != want {
		return nil, false, fmt.Errorf("toy: token %q, want %q", token, want)
	}
	if m.begins && m.round == m.rounds {
		return nil, true, nil
	}
	reply := fmt.Sprintf("hello %d", m.round)
	m.round++
	return []byte(reply), !m.begins && m.round > m.rounds-1, nil
}

func (m *toy) Peer() string { return m.peer }

const toyHeader = 4 + 1 + 4

func (m *toy) Wrap(dst, msg []byte, conf bool) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	token := fmt.Appendf(nil, "%04x", m.sent)
	token = append(token, mark(conf))
	token = append(token, 0, 0, 0, 0)
	for _, b := range msg {
		if conf {
			b ^= 0x55
		}
		token = append(token, b)
	}
	sum := crc32.ChecksumIEEE(token)
	copy(token[5:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	m.sent++
	return append(dst, token...), nil
}

func mark(conf bool) byte {
	if conf {
		return 'c'
	}
	return 'i'
}

func (m *toy) Unwrap(token []byte, ordered bool) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(token) < toyHeader {
		return nil, false, errors.New("toy: short token")
	}
	var n uint32
	if _, err := fmt.Sscanf(string(token[:4]), "%x", &n); err != nil {
		return nil, false, err
	}
	sum := uint32(token[5])<<24 | uint32(token[6])<<16 | uint32(token[7])<<8 | uint32(token[8])
	if copy(token[5:], []byte{0, 0, 0, 0}); crc32.ChecksumIEEE(token) != sum {
		return nil, false, errors.New("toy: altered token")
	}
	if ordered && n != m.next || m.seen[n] {
		return nil, false, fmt.Errorf("toy: token %d, want %d", n, m.next)
	}
	if m.seen == nil {
		m.seen = make(map[uint32]bool)
	}
	m.seen[n], m.next = true, max(m.next, n+1)
	msg := token[toyHeader:]
	if token[4] == 'c' {
		for i := range msg {
			msg[i] ^= 0x55
		}
	}
	return msg, token[4] == 'c', nil
}

// toyServer is a server whose clients have a toy.
func toyServer(t testing.TB, g socks.GSSAPI) (addr string, log *lines) {
	log = new(lines)
	g.Accept = func() socks.SecurityContext { return &toy{rounds: 2, peer: "ann@TOYS"} }
	return start(t, &socks.Server{
		Authenticators:   []socks.Authenticator{g},
		HandshakeTimeout: 5 * time.Second,
		Log:              slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}), log
}

// lines is a log that can be waited for.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) has(t testing.TB, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
		l.mu.Lock()
		text := l.buf.String()
		l.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log says\n%s\nand nothing of %q", text, want)
		}
	}
}

func toyClient(addr string, g socks.GSSAPIClient) *socks.Dialer {
	g.Initiate = func(context.Context, string, string) (socks.SecurityContext, error) {
		return &toy{rounds: 2, begins: true, peer: "the server"}, nil
	}
	return &socks.Dialer{Addr: addr, GSSAPI: &g}
}

// TestGSSAPI has both ends of ours.
func TestGSSAPI(t *testing.T) {
	dest, dgrams := echo(t), udpEcho(t, "127.0.0.1")
	for level := wire.Clear; level <= wire.Confidentiality; level++ {
		for _, nec := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, NEC %v", level, nec), func(t *testing.T) {
				addr, _ := toyServer(t, socks.GSSAPI{NEC: nec})
				d := toyClient(addr, socks.GSSAPIClient{Level: level, NEC: nec})
				conn, err := d.Dial("tcp", dest.String())
				if err != nil {
					t.Fatal(err)
				}
				big := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
				go func() { _, _ = conn.Write(big) }()
				expect(t, conn, big)
				ping(t, conn)
				packets, err := d.ListenPacket(t.Context(), "udp", "")
				if err != nil {
					t.Fatal(err)
				}
				defer packets.Close()
				_ = packets.SetDeadline(time.Now().Add(20 * time.Second))
				for _, size := range []int{0, 1, 1400, 60_000} {
					if _, err := packets.WriteTo(big[:size], net.UDPAddrFromAddrPort(dgrams)); err != nil {
						t.Fatal(err)
					}
					buf := make([]byte, size+1)
					n, from, err := packets.ReadFrom(buf)
					if err != nil || from.String() != dgrams.String() || !bytes.Equal(buf[:n], big[:size]) {
						t.Fatalf("%d bytes: %d came back from %v, %v", size, n, from, err)
					}
				}
			})
		}
	}
}

// TestGSSAPITooLong sends what has no room any more with its protection: it is
// dropped, and what comes after it is not.
func TestGSSAPITooLong(t *testing.T) {
	dgrams := udpEcho(t, "127.0.0.1")
	addr, _ := toyServer(t, socks.GSSAPI{})
	packets, err := toyClient(addr, socks.GSSAPIClient{Level: wire.Integrity}).ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	_ = packets.SetDeadline(time.Now().Add(20 * time.Second))
	for _, size := range []int{65_490, 5} {
		_, _ = packets.WriteTo(make([]byte, size), net.UDPAddrFromAddrPort(dgrams))
	}
	if n, _, err := packets.ReadFrom(make([]byte, 1<<16)); n != 5 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// raw is a client of GSS-API by hand, up to the level.
type raw struct {
	*net.TCPConn
	m *toy
}

func greet(t testing.TB, addr string) *raw {
	t.Helper()
	c := &raw{dialRaw(t, addr), &toy{begins: true, rounds: 2}}
	write(t, c, []byte{5, 1, 1})
	expect(t, c, []byte{5, 1})
	write(t, c, []byte("\x01\x01\x00\x07hello 0"))
	expect(t, c, []byte("\x01\x01\x00\x07hello 0"))
	write(t, c, []byte("\x01\x01\x00\x07hello 1"))
	expect(t, c, []byte("\x01\x01\x00\x07hello 1"))
	return c
}

// say sends a message with something wrapped.
func (c *raw) say(t testing.TB, kind byte, msg string, conf bool) {
	t.Helper()
	token, _ := c.m.Wrap(nil, []byte(msg), conf)
	write(t, c, append([]byte{1, kind, byte(len(token) >> 8), byte(len(token))}, token...))
}

// hear reads a message and unwraps it.
func (c *raw) hear(t testing.TB, kind byte) string {
	t.Helper()
	head := make([]byte, 4)
	if n, err := io.ReadFull(c, head); err != nil || head[0] != 1 || head[1] != kind {
		t.Fatalf("got % x, %v", head[:n], err)
	}
	token := make([]byte, int(head[2])<<8|int(head[3]))
	if _, err := io.ReadFull(c, token); err != nil {
		t.Fatal(err)
	}
	msg, _, err := c.m.Unwrap(token, true)
	if err != nil {
		t.Fatal(err)
	}
	return string(msg)
}

// refused wants the message of RFC 1961, section 3.6, and a clean end.
func (c *raw) refused(t testing.TB) {
	t.Helper()
	expect(t, c, []byte("\x01\xff"))
	expectEOF(t, c)
	c.Close()
}

func TestGSSAPILevels(t *testing.T) {
	for _, test := range []struct {
		server      socks.GSSAPI
		asked, want byte
		log         string // of a refusal
	}{
		{socks.GSSAPI{}, 0, 0, ""},
		{socks.GSSAPI{}, 1, 1, ""},
		{socks.GSSAPI{}, 2, 2, ""},
		{socks.GSSAPI{}, 3, 2, ""},
		{socks.GSSAPI{}, 4, 0, "asks for the unknown protection level 4"},
		{socks.GSSAPI{Level: wire.Integrity}, 1, 1, ""},
		{socks.GSSAPI{Level: wire.Integrity}, 2, 2, ""},
		{socks.GSSAPI{Level: wire.Integrity}, 0, 0, "asks for the protection level clear, and integrity is demanded"},
		{socks.GSSAPI{Level: wire.Confidentiality}, 1, 0, "asks for the protection level integrity, and confidentiality is demanded"},
		{socks.GSSAPI{ClearOnly: true}, 2, 0, ""},
		{socks.GSSAPI{ClearOnly: true, Level: wire.Integrity}, 0, 0, "and integrity is demanded"},
	} {
		addr, log := toyServer(t, test.server)
		c := greet(t, addr)
		c.say(t, 2, string(test.asked), false)
		if test.log != "" {
			c.refused(t)
			log.has(t, test.log)
			log.has(t, "login refused")
			continue
		}
		if got := c.hear(t, 2); got != string(test.want) {
			t.Errorf("%d asked of %+v: %x, want %x", test.asked, test.server, got, test.want)
		}
	}
}

// TestGSSAPIHostile ends connections that do not do as RFC 1961 says, with a
// reason for each, and hangs at none.
func TestGSSAPIHostile(t *testing.T) {
	dest := echo(t)
	first := func(b string) func(*raw) {
		return func(c *raw) { write(t, c, []byte(b)) }
	}
	then := func(f func(c *raw)) func(*raw) {
		return func(c *raw) {
			write(t, c, []byte("\x01\x01\x00\x07hello 0"))
			expect(t, c, []byte("\x01\x01\x00\x07hello 0"))
			write(t, c, []byte("\x01\x01\x00\x07hello 1"))
			expect(t, c, []byte("\x01\x01\x00\x07hello 1"))
			f(c)
		}
	}
	agreed := func(level string, f func(c *raw)) func(*raw) {
		return then(func(c *raw) { c.say(t, 2, level, false); c.hear(t, 2); f(c) })
	}
	request := string(request5(1, dest))
	for _, test := range []struct {
		name  string
		do    func(c *raw)
		log   string
		abort bool // with the message of section 3.6
	}{
		{"wrong version", first("\x05\x01\x00\x01x"), "GSS-API version 5, want 1", true},
		{"wrong type", first("\x01\x02\x00\x01x"), "message of type 2, want 1", true},
		{"unknown type", first("\x01\x09\x00\x01x"), "message of type 9, want 1, 2, 3 or 255", true},
		{"abort", first("\x01\xff"), "has refused the GSS-API context", true},
		{"garbage", first("\x01\x01\x00\x04what"), `token \"what\", want \"hello 0\"`, true},
		{"empty", first("\x01\x01\x00\x00"), `token \"\", want \"hello 0\"`, true},
		{"level too soon", then(func(c *raw) { write(t, c, []byte("\x01\x01\x00\x01x")) }), "message of type 1, want 2", true},
		{"bare level", then(func(c *raw) { write(t, c, []byte("\x01\x02\x00\x01\x02")) }), "short token", true},
		{"long level", then(func(c *raw) { c.say(t, 2, "\x01\x01", false) }), "protection level of 2 bytes", true},
		{"no level", then(func(c *raw) { c.say(t, 2, "", false) }), "protection level of 0 bytes", true},
		{"bare request", agreed("\x01", func(c *raw) { write(t, c, []byte(request)) }), "GSS-API version 5, want 1", false},
		{"integrity only", agreed("\x02", func(c *raw) { c.say(t, 3, request, false) }), "not confidential, though that was agreed on", false},
		{"level twice", agreed("\x01", func(c *raw) { c.say(t, 2, "\x01", false) }), "message of type 2, want 3", false},
		{"altered", agreed("\x01", func(c *raw) { write(t, c, []byte("\x01\x03\x00\x090001i\x00\x00\x00\x00")) }), "altered token", false},
		{"replayed", agreed("\x01", func(c *raw) { c.m.sent--; c.say(t, 3, request, false) }), "token 0, want 1", false},
		{"missing", agreed("\x01", func(c *raw) { c.m.sent++; c.say(t, 3, request, false) }), "token 2, want 1", false},
		{"empty data", agreed("\x01", func(c *raw) { write(t, c, []byte("\x01\x03\x00\x00")) }), "short token", false},
		{"cut", agreed("\x01", func(c *raw) { write(t, c, []byte("\x01\x03\x00\x20half")); c.CloseWrite() }), "unexpected EOF", false},
		{"cut before", func(c *raw) { write(t, c, []byte("\x01\x01\x00\x07he")); c.CloseWrite() }, "unexpected EOF", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, log := toyServer(t, socks.GSSAPI{})
			c := &raw{dialRaw(t, addr), &toy{begins: true, rounds: 2}}
			write(t, c, []byte{5, 1, 1})
			expect(t, c, []byte{5, 1})
			test.do(c)
			if test.abort {
				c.refused(t)
			} else if b, _ := io.ReadAll(c); len(b) > 0 && test.log != "" {
				t.Errorf("answered % x", b)
			}
			c.Close()
			if test.log != "" {
				log.has(t, test.log)
			}
		})
	}
}

// T1 for RFC 1961: every byte by itself.
func TestGSSAPISplit(t *testing.T) {
	dest := echo(t)
	addr, _ := toyServer(t, socks.GSSAPI{})
	c := greet(t, addr)
	var said bytes.Buffer
	for _, m := range []struct {
		kind byte
		msg  string
	}{{2, "\x02"}, {3, string(request5(1, dest))[:3]}, {3, string(request5(1, dest))[3:] + "early"}} {
		token, _ := c.m.Wrap(nil, []byte(m.msg), m.kind == 3)
		said.Write([]byte{1, m.kind, 0, byte(len(token))})
		said.Write(token)
	}
	_ = c.SetNoDelay(true)
	for _, b := range said.Bytes() {
		write(t, c, []byte{b})
	}
	if level := c.hear(t, 2); level != "\x02" {
		t.Fatalf("level %x", level)
	}
	if reply := c.hear(t, 3); !strings.HasPrefix(reply, "\x05\x00\x00\x01") {
		t.Fatalf("reply %x", reply)
	}
	if data := c.hear(t, 3); data != "early" {
		t.Errorf("came back %q", data)
	}
}

// TestGSSAPIBindEarly sends data of which half has come when the peer comes.
func TestGSSAPIBindEarly(t *testing.T) {
	addr, _ := toyServer(t, socks.GSSAPI{})
	c := greet(t, addr)
	c.say(t, 2, "\x01", false)
	c.hear(t, 2)
	c.say(t, 3, string(request5(2, netip.MustParseAddrPort("127.0.0.1:0"))), false)
	first := c.hear(t, 3)
	response, _, err := wire.ParseResponse([]byte(first))
	if err != nil || response.Reply != wire.Succeeded {
		t.Fatalf("%v, %v", response, err)
	}
	c.say(t, 3, "whole, ", false)
	token, _ := c.m.Wrap(nil, []byte("half"), false)
	message := append([]byte{1, 3, 0, byte(len(token))}, token...)
	write(t, c, message[:7])
	friend := dialRaw(t, response.Bound.AddrPort().String())
	c.hear(t, 3) // the second reply: what was early has been looked at
	write(t, c, message[7:])
	expect(t, friend, []byte("whole, half"))
}

// TestGSSAPIOnly has clients who would rather not show a ticket.
func TestGSSAPIOnly(t *testing.T) {
	dest := echo(t)
	addr, _ := toyServer(t, socks.GSSAPI{})
	for name, say := range map[string][]byte{
		"none":     append([]byte{5, 1, 0}, request5(1, dest)...),
		"password": {5, 2, 0, 2},
	} {
		c := dialRaw(t, addr)
		write(t, c, say)
		expect(t, c, []byte{5, 0xff})
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s: then % x", name, b)
		}
	}
	c := dialRaw(t, addr)
	write(t, c, request4(1, dest))
	if b, _ := io.ReadAll(c); len(b) != 8 || b[1] == 90 {
		t.Errorf("SOCKS 4: % x", b)
	}
}

// TestGSSAPIIdentify lets nobody in whom Identify does not know.
func TestGSSAPIIdentify(t *testing.T) {
	requests := make(chan argyle.Request, 1)
	var refuse error
	s := &socks.Server{Handler: recording(requests), Authenticators: []socks.Authenticator{socks.GSSAPI{
		Accept: func() socks.SecurityContext { return &toy{rounds: 1, peer: "ann@TOYS"} },
		Identify: func(_ context.Context, sec socks.SecurityContext) (socks.Identity, error) {
			return socks.Identity{User: "ann", Groups: []string{"staff of " + sec.Peer()}}, refuse
		},
	}}}
	addr := start(t, s)
	d := &socks.Dialer{Addr: addr, GSSAPI: &socks.GSSAPIClient{
		Initiate: func(_ context.Context, service, host string) (socks.SecurityContext, error) {
			if service != "rcmd" || host != "127.0.0.1" {
				t.Errorf("initiates with %s on %s", service, host)
			}
			return &toy{rounds: 1, begins: true}, nil
		},
	}}
	_, _ = d.Dial("tcp", "192.0.2.1:80")
	req := <-requests
	if req.User != "ann" || req.Auth != argyle.AuthGSSAPI || strings.Join(req.Groups, ",") != "staff of ann@TOYS" {
		t.Errorf("%+v", req)
	}
	refuse = errors.New("not today")
	if _, err := d.Dial("tcp", "192.0.2.1:80"); err == nil || !strings.Contains(err.Error(), "refused the GSS-API context") {
		t.Errorf("got %v", err)
	}
}

// TestGSSAPIClientHostile has servers that do not do as RFC 1961 says.
func TestGSSAPIClientHostile(t *testing.T) {
	hello := "\x05\x01\x01\x01\x00\x07hello 0\x01\x01\x00\x07hello 1"
	level := func(b string, conf bool) string {
		token, _ := new(toy).Wrap(nil, []byte(b), conf)
		return "\x01\x02\x00" + string(byte(len(token))) + string(token)
	}
	for _, test := range []struct {
		name, say string
		nec       bool
		want      string
	}{
		{"no method", "\x05\xff", false, "the server does not want GSS-API"},
		{"less", "\x05\x00", false, "chose none, which was not offered"},
		{"password", "\x05\x02", false, "chose password, which was not offered"},
		{"refusal", "\x05\x01\x01\xff", false, "refused the GSS-API context"},
		{"garbage", "\x05\x01\x01\x01\x00\x04what", false, `login refused: toy: token "what"`},
		{"end", "\x05\x01\x01\x01", false, "unexpected EOF"},
		{"no level", hello + "\x01\xff", false, "does not grant the protection level confidentiality"},
		{"lower level", hello + level("\x01", false), false, "grants the protection level integrity, confidentiality was asked for"},
		{"unknown level", hello + level("\x03", false), false, "the protection level 03, want 0, 1 or 2"},
		{"bare level", hello + "\x01\x02\x00\x01\x02", false, "toy: short token"},
		{"protected level", hello + level("\x02", false), true, "protection level 30 30"},
		{"bare reply", hello + level("\x02", false) + "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50", false, "GSS-API version 5, want 1"},
	} {
		ln := listen(t, func(conn net.Conn) {
			_, _ = conn.Write([]byte(test.say))
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		})
		_, err := toyClient(ln.String(), socks.GSSAPIClient{Level: wire.Confidentiality, NEC: test.nec}).Dial("tcp", "192.0.2.1:80")
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
	d := toyClient("127.0.0.1:1", socks.GSSAPIClient{})
	d.Version = 4
	if _, err := d.Dial("tcp", "192.0.2.1:80"); err == nil {
		t.Error("SOCKS 4 with GSS-API")
	}
}

// TestGSSAPIAbortInSession has a client that refuses amid the session, with two bytes, and waits.
func TestGSSAPIAbortInSession(t *testing.T) {
	addr, _ := toyServer(t, socks.GSSAPI{})
	for _, pieces := range [][]string{{"\x01\xff"}, {"\x01", "\xff"}} {
		c := greet(t, addr)
		c.say(t, 2, "\x01", false)
		c.hear(t, 2)
		for _, piece := range pieces {
			write(t, c, []byte(piece))
		}
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("% x: the server waits for more", pieces)
		}
	}
}
