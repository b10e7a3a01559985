//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/krb5"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// gssapiPeer is what the Python client and server have in common: the messages of RFC 1961 over MIT's library.
const gssapiPeer = `
import gssapi, hashlib, os, socket, struct, sys, threading

FLAGS = gssapi.RequirementFlag
WANTED = [FLAGS.mutual_authentication, FLAGS.replay_detection, FLAGS.out_of_sequence_detection,
          FLAGS.confidentiality, FLAGS.integrity]

class Protected:
    def __init__(self, sock, context):
        self.sock, self.context, self.level, self.lock, self.left = sock, context, 0, threading.Lock(), b""

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                if data: raise EOFError("cut short: %r" % data)
                return b""
            data += more
        return data

    def message(self, want):
        head = self.exactly(2)
        if head == b"": return None
        if head == b"\x01\xff": raise PermissionError("refused")
        assert head == bytes([1, want]), head
        return self.exactly(struct.unpack("!H", self.exactly(2))[0])

    def put(self, kind, token):
        self.sock.sendall(struct.pack("!BBH", 1, kind, len(token)) + token)

    def wrap(self, data):
        with self.lock: return self.context.wrap(data, self.level == 2).message

    def unwrap(self, token):
        with self.lock: result = self.context.unwrap(token)
        assert result.encrypted == (self.level == 2)
        return result.message

    def send(self, data):
        if self.level == 0: return self.sock.sendall(data)
        for at in range(0, len(data), 60000): self.put(3, self.wrap(data[at:at+60000]))

    def recv(self):
        if self.level == 0: return self.sock.recv(65536)
        token = self.message(3)
        return b"" if token is None else self.unwrap(token)

    def read(self, n):
        while len(self.left) < n:
            more = self.recv()
            assert more, "closed"
            self.left += more
        data, self.left = self.left[:n], self.left[n:]
        return data

    def reply(self):
        head = self.read(4)
        size = {1: 4, 4: 16}[head[3]]
        body = self.read(size + 2)
        host = socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, body[:size])
        return head[1], host, struct.unpack("!H", body[size:])[0]

    def datagram(self, data):
        if self.level == 0: return data
        token = self.wrap(data)
        return struct.pack("!BBH", 1, 3, len(token)) + token

    def undatagram(self, data):
        if self.level == 0: return data
        assert data[:2] == b"\x01\x03" and struct.unpack("!H", data[2:4])[0] == len(data) - 4
        return self.unwrap(data[4:])
`

// gssapiClient asks a server for a level, and expects one; then it does what the command says.
const gssapiClient = gssapiPeer + `
port, service, asked, expected, nec, command, target = sys.argv[1:8]
context = gssapi.SecurityContext(name=gssapi.Name(service + "@localhost", gssapi.NameType.hostbased_service),
                                 usage="initiate", flags=WANTED)
sock = socket.create_connection(("127.0.0.1", int(port)))
sock.settimeout(60)
sock.sendall(b"\x05\x02\x00\x01")
assert sock.recv(2) == b"\x05\x01"
p = Protected(sock, context)
token = context.step()
while True:
    p.put(1, token)
    token = context.step(p.message(1))
    if context.complete: break
assert not token
ask = bytes([int(asked)])
p.put(2, ask if nec == "nec" else context.wrap(ask, False).message)
answer = p.message(2)
if nec != "nec": answer = context.unwrap(answer).message
assert answer == bytes([int(expected)]), answer
p.level = int(expected)

def request(command, port):
    p.send(b"\x05" + bytes([command]) + b"\x00\x03\x09localhost" + struct.pack("!H", port))

if command == "connect":
    request(1, int(target))
    assert p.reply()[0] == 0
    blob, digest, size = os.urandom(1 << 20), hashlib.sha256(), int(sys.argv[8]) << 20
    def upload():
        sent = hashlib.sha256()
        for _ in range(size >> 20):
            p.send(blob); sent.update(blob)
        sock.shutdown(socket.SHUT_WR)
        global up
        up = sent.digest()
    thread = threading.Thread(target=upload)
    thread.start()
    got = 0
    while True:
        data = p.recv()
        if not data: break
        got += len(data); digest.update(data)
    thread.join()
    assert got == size and digest.digest() == up, (got, size)
elif command == "udp":
    request(3, 0)
    rep, host, port = p.reply()
    assert rep == 0
    packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    packets.settimeout(10)
    for size in 5, 1400, 20000, 60000:
        packets.sendto(p.datagram(b"\0\0\0\x01\x7f\0\0\x01" + struct.pack("!H", int(target)) + b"x" * size), (host, port))
        data = p.undatagram(packets.recv(65536))
        assert data == b"\0\0\0\x01\x7f\0\0\x01" + struct.pack("!H", int(target)) + b"x" * size, data[:20]
    if p.level:
        bare = b"\0\0\0\x01\x7f\0\0\x01" + struct.pack("!H", int(target)) + b"bare"
        packets.sendto(bare, (host, port))
        again = p.datagram(bare)
        for _ in range(3): packets.sendto(again, (host, port))
        assert p.undatagram(packets.recv(65536)) == bare
        packets.settimeout(0.3)
        try: raise SystemExit("answered: %r" % packets.recv(65536))
        except socket.timeout: pass
elif command == "bind":
    request(2, 0)
    rep, host, port = p.reply()
    assert rep == 0
    with socket.create_connection((host, port)) as friend:
        rep, who, whose = p.reply()
        assert (rep, who, whose) == (0,) + friend.getsockname()
        friend.sendall(b"hello"); assert p.read(5) == b"hello"
        p.send(b"goodbye"); assert friend.recv(7, socket.MSG_WAITALL) == b"goodbye"
print("fine", flush=True)
`

// gssapiServer grants a level to clients of any number.
const gssapiServer = gssapiPeer + `
service, granted, nec = sys.argv[1:4]
listener = socket.create_server(("127.0.0.1", 0))
print("127.0.0.1:%d" % listener.getsockname()[1], flush=True)

def pump(read, write, close):
    while True:
        data = read()
        if not data: break
        write(data)
    close()

def answer(p, rep, name=("0.0.0.0", 0)):
    p.send(b"\x05" + bytes([rep]) + b"\0\x01" + socket.inet_aton(name[0]) + struct.pack("!H", name[1]))

def join(p, other):
    up = threading.Thread(target=pump, args=(p.recv, other.sendall, lambda: other.shutdown(socket.SHUT_WR)))
    up.start()
    pump(lambda: other.recv(65536), p.send, lambda: p.sock.shutdown(socket.SHUT_WR))
    up.join()

def serve(sock):
    greeting = sock.recv(2); methods = sock.recv(greeting[1])
    if methods != b"\x01":
        sock.sendall(b"\x05\xff"); raise PermissionError("offered %r" % methods)
    sock.sendall(b"\x05\x01")
    credentials = gssapi.Credentials(usage="accept", name=gssapi.Name(service + "@localhost", gssapi.NameType.hostbased_service))
    p = Protected(sock, gssapi.SecurityContext(creds=credentials, usage="accept"))
    while not p.context.complete: p.put(1, p.context.step(p.message(1)) or b"")
    token = p.message(2)
    asked = token if nec == "nec" else p.context.unwrap(token).message
    level = int(granted) if granted != "asked" else asked[0]
    reply = bytes([level])
    p.put(2, reply if nec == "nec" else p.context.wrap(reply, False).message)
    p.level = level
    head = p.read(4)
    host = p.read(p.read(1)[0]).decode() if head[3] == 3 else socket.inet_ntoa(p.read(4))
    port = struct.unpack("!H", p.read(2))[0]
    if head[1] == 1:
        with socket.create_connection((host, port)) as other:
            answer(p, 0, other.getsockname())
            join(p, other)
    elif head[1] == 2:
        with socket.create_server(("127.0.0.1", 0)) as waiting:
            answer(p, 0, waiting.getsockname())
            other, name = waiting.accept()
            with other:
                answer(p, 0, name)
                join(p, other)
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            inside.bind(("127.0.0.1", 0)); answer(p, 0, inside.getsockname())
            while True:
                data, client = inside.recvfrom(65536)
                data = p.undatagram(data)
                assert data[:4] == b"\0\0\0\x01"
                outside.sendto(data[10:], (socket.inet_ntoa(data[4:8]), struct.unpack("!H", data[8:10])[0]))
                back, source = outside.recvfrom(65536)
                inside.sendto(p.datagram(b"\0\0\0\x01" + socket.inet_aton(source[0]) + struct.pack("!H", source[1]) + back), client)

def guarded(sock):
    try: serve(sock)
    except Exception as e: print("failed: %r" % e, file=sys.stderr, flush=True)
    finally: sock.close()

while True:
    sock, _ = listener.accept()
    threading.Thread(target=guarded, args=(sock,), daemon=True).start()
`

// gssapiConfig is a configuration with the services of a realm.
func gssapiConfig(t testing.TB, r *realm, more string) string {
	t.Helper()
	return writeFile(t, "argyle.yaml", "auth: {gssapi: {keytab: "+r.keytab+more+"}}\n")
}

// TestGSSAPIServer has MIT's library for the client.
func TestGSSAPIServer(t *testing.T) {
	t.Parallel()
	python := pythonWith(t, "gssapi")
	r := startRealm(t)
	cache := r.kinit(t, "alice", "krb5.conf")
	client := writeFile(t, "client.py", gssapiClient)
	_, tcp, _ := net.SplitHostPort(echo(t, "127.0.0.1:0"))
	_, udp, _ := net.SplitHostPort(udpEcho(t, "127.0.0.1:0"))
	targets := map[string]string{"connect": tcp, "udp": udp, "bind": "0"}
	for n := range enctypes {
		service := fmt.Sprintf("rcmd%d", n)
		s := startServer(t, "-c", gssapiConfig(t, r, ", service: "+service))
		cache := r.kinit(t, "alice", configOf(n))
		for _, level := range []string{"0", "1", "2"} {
			for command, target := range targets {
				t.Run(fmt.Sprintf("%d/level %s/%s", n, level, command), func(t *testing.T) {
					t.Parallel()
					cmd := r.command(t, python, client, s.port(), service, level, level, "", command, target, "3")
					mustRun(t, with(with(cmd, "KRB5_CONFIG", r.file(configOf(n))), "KRB5CCNAME", cache))
					s.session(t, command+" of alice", func(line logLine) bool { return line.Cmd == command && line.User == "alice@EXAMPLE.TEST" })
				})
			}
		}
	}
	necServer := startServer(t, "-c", gssapiConfig(t, r, ", nec: true"))
	curlServer := startServer(t, "-c", gssapiConfig(t, r, ", level: clear-only"))
	for _, test := range []struct {
		name            string
		s               *server
		asked, expected string
		nec             string
	}{
		{"NEC", necServer, "1", "1", "nec"},
		{"RFC beside NEC", necServer, "2", "2", ""},
		{"selective", necServer, "3", "2", ""},
		{"clear only", curlServer, "2", "0", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := r.command(t, python, client, test.s.port(), "rcmd", test.asked, test.expected, test.nec, "connect", tcp, "1")
			mustRun(t, with(cmd, "KRB5CCNAME", cache))
		})
	}
}

// TestGSSAPIClient has MIT's library for the server.
func TestGSSAPIClient(t *testing.T) {
	t.Parallel()
	python := pythonWith(t, "gssapi")
	r := startRealm(t)
	cache := r.kinit(t, "alice", "krb5.conf")
	server := writeFile(t, "server.py", gssapiServer)
	for n := range enctypes {
		service := fmt.Sprintf("rcmd%d", n)
		cache := r.kinit(t, "alice", configOf(n))
		addr := startListening(t, r.command(t, python, server, service, "asked", ""))
		for level := wire.Clear; level <= wire.Confidentiality; level++ {
			t.Run(fmt.Sprintf("%d/%v", n, level), func(t *testing.T) {
				t.Parallel()
				way := r.way(addr, &krb5.Initiator{Cache: cache, Config: r.file(configOf(n))}, socks.GSSAPIClient{Service: service, Level: level})
				exchangeStream(t, way, 3<<20)
				exchangeDatagrams(t, way)
				exchangeBind(t, way)
			})
		}
	}
	t.Run("NEC", func(t *testing.T) {
		t.Parallel()
		addr := startListening(t, r.command(t, python, server, "rcmd", "asked", "nec"))
		exchangeStream(t, r.way(addr, &krb5.Initiator{Cache: cache}, socks.GSSAPIClient{NEC: true, Level: wire.Integrity}), 1<<20)
	})
	t.Run("keytab", func(t *testing.T) {
		t.Parallel()
		addr := startListening(t, r.command(t, python, server, "rcmd", "asked", ""))
		exchangeStream(t, r.way(addr, &krb5.Initiator{Keytab: r.file("alice.keytab")}, socks.GSSAPIClient{Level: wire.Confidentiality}), 1<<20)
	})
	t.Run("less than asked for", func(t *testing.T) {
		t.Parallel()
		addr := startListening(t, r.command(t, python, server, "rcmd", "1", ""))
		way := r.way(addr, &krb5.Initiator{Cache: cache}, socks.GSSAPIClient{Level: wire.Confidentiality})
		_, err := way.DialContext(t.Context(), "tcp", "127.0.0.1:9")
		if err == nil || !strings.Contains(err.Error(), "grants the protection level integrity, confidentiality was asked for") {
			t.Errorf("got %v", err)
		}
	})
}

// way is a way out through a server for the owner of tickets.
func (r *realm) way(addr string, tickets *krb5.Initiator, client socks.GSSAPIClient) *socks.Dialer {
	_, port, _ := net.SplitHostPort(addr)
	tickets.Config = cmp.Or(tickets.Config, r.file("krb5.conf"))
	client.Initiate = func(ctx context.Context, service, host string) (socks.SecurityContext, error) {
		return tickets.Initiate(ctx, service, host)
	}
	return &socks.Dialer{Addr: "localhost:" + port, GSSAPI: &client}
}

// exchangeStream sends as much through a way, to an echo, and compares what comes back.
func exchangeStream(t testing.TB, way argyle.Dialer, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	conn, err := way.DialContext(ctx, "tcp", echo(t, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	sent, got := sha256.New(), sha256.New()
	uploaded := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(conn, sent), rand.NewChaCha8([32]byte{1}), int64(size))
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		uploaded <- err
	}()
	n, err := io.Copy(got, conn)
	if err != nil || n != int64(size) {
		t.Errorf("%d of %d bytes came back: %v", n, size, err)
	}
	if err := <-uploaded; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("not what was sent came back")
	}
}

// exchangeDatagrams does it with datagrams of all sizes.
func exchangeDatagrams(t testing.TB, way argyle.Dialer) {
	t.Helper()
	conn, err := way.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	to, err := net.ResolveUDPAddr("udp", udpEcho(t, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for _, size := range []int{0, 5, 1400, 20_000, 60_000} {
		datagram := randomBytes(size)
		if _, err := conn.WriteTo(datagram, to); err != nil {
			t.Fatal(err)
		}
		n, from, err := conn.ReadFrom(buf)
		if err != nil || from.String() != to.String() || !bytes.Equal(buf[:n], datagram) {
			t.Fatalf("%d bytes: %d came back from %v, %v", size, n, from, err)
		}
	}
}

// exchangeBind does it with a connection that comes to the server.
func exchangeBind(t testing.TB, way argyle.Dialer) {
	t.Helper()
	ln, err := way.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	friend, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != friend.LocalAddr().String() {
		t.Errorf("the peer is %v, want %v", conn.RemoteAddr(), friend.LocalAddr())
	}
	for _, way := range [][2]net.Conn{{conn, friend}, {friend, conn}} {
		_ = way[1].SetDeadline(time.Now().Add(patience))
		if _, err := way[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGSSAPIBothEnds is our client with our server.
func TestGSSAPIBothEnds(t *testing.T) {
	r := startRealm(t)
	cache := r.kinit(t, "alice", "krb5.conf")
	s := startServer(t, "-c", gssapiConfig(t, r, ""))
	const size = 256 << 20
	for level := wire.Clear; level <= wire.Confidentiality; level++ {
		t.Run(level.String(), func(t *testing.T) {
			way := r.way(s.addr, &krb5.Initiator{Cache: cache}, socks.GSSAPIClient{Level: level})
			exchangeStream(t, way, size)
			exchangeDatagrams(t, way)
			exchangeBind(t, way)
			eventually(t, "the session's line", func() bool {
				return s.logged(func(line logLine) bool {
					return line.Cmd == "connect" && line.Up == size && line.Down == size && line.User == "alice@EXAMPLE.TEST"
				}) != nil
			})
		})
	}
}
