package transparent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/argyle-socks/argyle"
)

// packetEcho accepts a call and sends each datagram back, from where it was to
// go, or from the address that as gives.
func packetEcho(call argyle.Call, as func(argyle.Addr) argyle.Addr) {
	conn, err := call.AcceptPacket()
	if err != nil {
		return
	}
	defer conn.Close()
	batch := argyle.Batch(conn)
	for batch.ReadBatch(func(ds []argyle.Datagram) {
		for i := range ds {
			if as != nil {
				ds[i].Addr = as(ds[i].Addr)
			}
		}
		batch.WriteBatch(ds)
	}) == nil {
	}
}

func TestDatagrams(t *testing.T) {
	w := newWorld(t, Rules{})
	var calls atomic.Int32
	w.servePackets(&PacketServer{Inbound: "run", Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		if req := call.Request(); req.Command != argyle.Associate || req.Inbound != "run" || !req.Client.IsValid() || !req.Dest.IsZero() {
			t.Errorf("request %+v", req)
		}
		calls.Add(1)
		packetEcho(call, nil)
	})})
	dests := []string{"93.184.216.34:4000", "[2001:db8::5]:4000", "127.0.0.53:53", "[::1]:53", "8.8.8.8:53", "10.0.85.1:53"}
	for _, dest := range dests {
		if out := w.run(w.client("udp", dest, "1000")); out != "1000" {
			t.Errorf("%s: %s of 1000 answers", dest, out)
		}
	}
	if n := calls.Load(); int(n) != len(dests) {
		t.Errorf("%d calls of %d clients", n, len(dests))
	}
}

// A burst waits for a handler that is busy.
func TestBurst(t *testing.T) {
	w := newWorld(t, Rules{})
	var got atomic.Int32
	sent := make(chan struct{})
	w.servePackets(&PacketServer{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		<-sent
		conn, _ := call.AcceptPacket()
		b := argyle.Batch(conn)
		for b.ReadBatch(func(ds []argyle.Datagram) { got.Add(int32(len(ds))) }) == nil {
		}
	})})
	w.run(w.command("/usr/bin/python3", "-c", `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for i in range(1000):
    s.sendto(b"x" * 1200, ("2001:db8::1", 5000))
`))
	close(sent)
	if !poll(func() bool { return got.Load() == 1000 }) {
		t.Errorf("%d of 1000 datagrams", got.Load())
	}
}

// One socket has one call, whatever it sends to, and hears whoever answers.
func TestOneMapping(t *testing.T) {
	w := newWorld(t, Rules{})
	var calls atomic.Int32
	w.servePackets(&PacketServer{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		calls.Add(1)
		packetEcho(call, func(to argyle.Addr) argyle.Addr {
			if to.Port == 3 {
				return argyle.Addr{IP: netip.MustParseAddr("203.0.113.9"), Port: 999}
			}
			return to
		})
	})})
	out := w.run(w.command("/usr/bin/python3", "-c", `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
for to in ("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.3", 3):
    s.sendto(b"x", to)
    print(s.recvfrom(10)[1])
`))
	if want := "('192.0.2.1', 1)\n('192.0.2.2', 2)\n('203.0.113.9', 999)\n"; out != want || calls.Load() != 1 {
		t.Errorf("%d calls, answers from %s", calls.Load(), out)
	}
}

// A name's answers come from the address that stands for it, whatever address
// the far side gives; two names of one port are told apart.
func TestDatagramsOfNames(t *testing.T) {
	w := newWorld(t, Rules{})
	names := map[netip.Addr]string{
		netip.MustParseAddr("198.18.0.5"):     "a.test",
		netip.MustParseAddr("198.18.0.6"):     "b.test",
		netip.MustParseAddr("fd00:1234::5"):   "c.test",
		netip.MustParseAddr("198.18.255.255"): "",
	}
	var calls atomic.Int32
	w.servePackets(&PacketServer{
		Name: func(ip netip.Addr) (string, bool) { name, fake := names[ip]; return name, fake },
		Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			calls.Add(1)
			packetEcho(call, func(to argyle.Addr) argyle.Addr {
				if to.Name == "" {
					return to
				}
				return argyle.Addr{IP: netip.MustParseAddr("203.0.113.9"), Port: to.Port}
			})
		}),
	})
	out := w.run(w.command("/usr/bin/python3", "-c", `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.settimeout(10)
for to in "::ffff:198.18.0.5", "::ffff:198.18.0.6", "fd00:1234::5", "::ffff:198.18.0.5", "::ffff:192.0.2.1", "::ffff:203.0.113.9":
    s.sendto(b"x", (to, 443))
    print(s.recvfrom(10)[1][0])
s.settimeout(0.5)
s.sendto(b"x", ("::ffff:198.18.255.255", 443))
try:
    print(s.recvfrom(10))
except TimeoutError:
    print("nothing")
`))
	want := "::ffff:198.18.0.5\n::ffff:198.18.0.6\nfd00:1234::5\n::ffff:198.18.0.5\n::ffff:192.0.2.1\n::ffff:203.0.113.9\nnothing\n"
	if out != want {
		t.Errorf("answers from %s", out)
	}
	if calls.Load() != 3 {
		t.Errorf("%d calls", calls.Load())
	}
}

// Whatever resolver a program asks, by UDP or TCP, it hears us.
func TestDNS(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		answer := func(query []byte) []byte {
			var m dns.Msg
			if err := m.Unpack(query); err != nil || len(m.Question) != 1 {
				return nil
			}
			m.SetReply(&m)
			if q := m.Question[0]; q.Qtype == dns.TypeA {
				m.Answer = []dns.RR{&dns.A{
					Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(198, 18, 0, 5),
				}}
			}
			b, err := m.Pack()
			if err != nil {
				t.Error(err)
			}
			return b
		}
		w.servePackets(&PacketServer{
			DNS: func(_ context.Context, _, _ netip.AddrPort, query []byte) []byte { return answer(query) },
			Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
				t.Errorf("call of %v", call.Request().Client)
			}),
		})
		w.serve(&Server{
			Name: func(ip netip.Addr) (string, bool) { return "origin.test", ip == netip.MustParseAddr("198.18.0.5") },
			Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
				if call.Request().Dest.String() != "origin.test:80" {
					call.Reject(argyle.ErrNotAllowed)
					return
				}
				conn, err := call.Accept(nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				conn.Read(make([]byte, 4096))
				fmt.Fprint(conn, "HTTP/1.0 200 OK\r\n\r\nhello from the origin")
			}),
		})
		out := w.run(w.command("curl", "-sS", "--noproxy", "*", "--max-time", "30", "http://origin.test/"))
		if out != "hello from the origin" {
			t.Errorf("curl: %q", out)
		}
	})
}

// Datagrams to a closed way are refused as a closed port refuses them, DNS apart.
func TestRejectUDP(t *testing.T) {
	w := newWorld(t, Rules{RejectUDP: true})
	w.servePackets(&PacketServer{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) { packetEcho(call, nil) })})
	for _, dest := range []string{"('192.0.2.1', 443)", "('2001:db8::1', 443)"} {
		out := w.run(w.command("/usr/bin/python3", "-c", `
import socket
to = `+dest+`
s = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect(to)
s.send(b"x")
try:
    print(s.recv(10))
except ConnectionRefusedError:
    print("refused")
`))
		if out != "refused\n" {
			t.Errorf("%s: %s", dest, out)
		}
	}
	if out := w.run(w.client("udp", "8.8.8.8:53", "3")); out != "3" {
		t.Errorf("DNS: %s of 3 answers", out)
	}
}

// Every address of the namespace is its own, and yet it must not say so.
func TestNoEchoReply(t *testing.T) {
	w := newWorld(t, Rules{})
	out, err := w.command("/usr/bin/python3", "-c", `
import socket, struct
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
except PermissionError:
    print("no raw sockets")
    raise SystemExit
s.settimeout(1)
s.connect(("192.0.2.1", 0))
s.send(struct.pack("!BBHHH", 8, 0, 0xf7fd, 1, 1))
try:
    print("reply", s.recv(100)[20])
except (TimeoutError, OSError) as e:
    print("none", e)
`).CombinedOutput()
	if err != nil || strings.Contains(string(out), "reply") {
		t.Errorf("%v: %s", err, out)
	}
	t.Log(string(out))
}

// A client that is silent for long begins anew, and one too many makes room.
func TestFlowsEnd(t *testing.T) {
	w := newWorld(t, Rules{})
	ended := make(chan error, 10)
	w.servePackets(&PacketServer{
		Idle: 200 * time.Millisecond,
		Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			conn, _ := call.AcceptPacket()
			_, _, err := conn.ReadFrom(make([]byte, 10))
			if err == nil {
				_, _, err = conn.ReadFrom(make([]byte, 10))
			}
			ended <- err
		}),
	})
	for range 2 {
		w.run(w.command("/usr/bin/python3", "-c", `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5000))
s.sendto(b"x", ("192.0.2.1", 1))`))
		if err := <-ended; err != net.ErrClosed {
			t.Errorf("the call ended with %v", err)
		}
	}
}

func TestNetcat(t *testing.T) {
	w := newWorld(t, Rules{Hold: true, Queue: 7})
	w.serve(&Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
		if call.Request().Dest.Port == 81 {
			call.Reject(argyle.ErrNotAllowed)
			return
		}
		echo(call)
	})})
	cmd := w.command("nc", "-N", "-w", "20", "192.0.2.1", "80")
	cmd.Stdin = strings.NewReader("hello")
	if out := w.run(cmd); out != "hello" {
		t.Errorf("%q", out)
	}
	out, err := w.command("nc", "-v", "-z", "-w", "20", "2001:db8::1", "81").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "refused") {
		t.Errorf("%v: %s", err, out)
	}
}
