package probe

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faulty is a SOCKS server that does everything right, but for one row.
type faulty struct {
	fault          string // the row's id
	user, password string
	gss            bool

	ln    net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
	ends  []io.Closer
	ended bool
}

func startFaulty(t testing.TB, f *faulty) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.ln = ln
	f.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() {
				defer conn.Close()
				if f.keep(conn) {
					f.serve(conn.(*net.TCPConn))
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		f.mu.Lock()
		f.ended = true
		for _, c := range f.ends {
			c.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return ln.Addr().String()
}

// keep closes c when the server ends; it reports false if that has been.
func (f *faulty) keep(c io.Closer) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends = append(f.ends, c)
	return !f.ended
}

func (f *faulty) has(id string) bool { return f.fault == id }

// hang waits until the client has gone.
func hang(conn net.Conn) {
	_ = conn.SetDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, conn)
}

// linger ends a connection so that the client can read the last answer.
func linger(conn *net.TCPConn) {
	_ = conn.CloseWrite()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, conn)
}

func (f *faulty) serve(conn *net.TCPConn) {
	if !f.has("NEG-DEADLINE") {
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	}
	in := bufio.NewReaderSize(conn, 1<<17)
	version, err := in.ReadByte()
	if err != nil {
		return
	}
	switch {
	case version == 5:
		f.five(conn, in)
	case version == 4:
		f.four(conn, in)
	case version == 'C' && f.has("AUTH-BYPASSHTTP"):
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	case f.has("NEG-GARBAGE"):
		hang(conn)
	}
}

// whole reports whether n more bytes have come with the last ones, as servers
// think for which a read is a message.
func whole(in *bufio.Reader, n int) bool { return in.Buffered() >= n }

func (f *faulty) five(conn *net.TCPConn, in *bufio.Reader) {
	if f.has("NEG-SPLIT") && !whole(in, 2) {
		return
	}
	n, err := in.ReadByte()
	if err != nil {
		return
	}
	methods := make([]byte, n)
	if _, err := io.ReadFull(in, methods); err != nil {
		return
	}
	if f.has("NEG-ZERO") && n == 0 {
		hang(conn)
		return
	}
	if f.has("NEG-MANY") {
		methods = methods[:min(n, 10)]
	}
	want := byte(0)
	switch {
	case f.gss:
		want = 1
	case f.user != "" && !(f.has("AUTH-BYPASS") && slices.Contains(methods, 0)):
		want = 2
	}
	chosen := byte(0xff)
	if slices.Contains(methods, want) {
		chosen = want
	}
	switch {
	case f.has("NEG-METHOD"):
		chosen = 0x42
	case f.has("NEG-NONE") && chosen == 0xff:
		chosen = 0
	case f.has("GSS-OFFER"):
		chosen = 0x33
	}
	if _, err := conn.Write([]byte{5, chosen}); err != nil {
		return
	}
	if f.has("NEG-GLUED") {
		_, _ = in.Discard(in.Buffered())
	}
	switch chosen {
	case 0xff:
		if f.has("NEG-FF") {
			_ = conn.SetLinger(0)
			return
		}
		linger(conn)
		return
	case 1:
		f.token(conn, in)
		return
	case 2:
		if !f.login(conn, in) {
			return
		}
	}
	f.request(conn, in)
}

func (f *faulty) token(conn *net.TCPConn, in *bufio.Reader) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(in, head); err != nil {
		return
	}
	if head[1] == 2 && f.has("GSS-TYPE") {
		_, _ = conn.Write([]byte{1, 2, 0, 1, 0})
		return
	}
	if _, err := io.CopyN(io.Discard, in, int64(head[2])<<8|int64(head[3])); err != nil {
		if f.has("GSS-CUT") {
			time.Sleep(5 * time.Second)
		}
		return
	}
	if f.has("GSS-REFUSAL") {
		_, _ = conn.Write([]byte{1, 1, 0, 0})
		return
	}
	_, _ = conn.Write([]byte{1, 0xff})
	linger(conn)
}

func (f *faulty) login(conn *net.TCPConn, in *bufio.Reader) bool {
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return false
	}
	if f.has("AUTH-SPLIT") && !whole(in, int(head[1])) {
		return false
	}
	name := make([]byte, head[1])
	_, _ = io.ReadFull(in, name)
	n, _ := in.ReadByte()
	password := make([]byte, n)
	if _, err := io.ReadFull(in, password); err != nil {
		return false
	}
	if f.has("AUTH-EMPTY") && len(name) == 0 {
		hang(conn)
		return false
	}
	right := string(name) == f.user && string(password) == f.password
	answer := []byte{1, 1}
	if right || f.has("AUTH-WRONG") || f.has("AUTH-PLACE") {
		answer[1] = 0
	}
	if f.has("AUTH-LOGIN") {
		answer[0] = 5
	}
	_, _ = conn.Write(answer)
	if !right && f.has("AUTH-PLACE") {
		_, _ = io.ReadFull(in, make([]byte, 10))
		f.refuse(conn, 2)
		return false
	}
	if answer[1] != 0 {
		linger(conn)
	}
	return answer[1] == 0
}

// refuse answers with an error.
func (f *faulty) refuse(conn *net.TCPConn, rep byte) {
	if f.has("REQ-LENGTH") {
		_, _ = conn.Write([]byte{5, rep})
		linger(conn)
		return
	}
	_, _ = conn.Write([]byte{5, rep, 0, 1, 0, 0, 0, 0, 0, 0})
	if f.has("REQ-END") {
		hang(conn)
	}
	linger(conn)
}

// either returns a if the server has the fault, else b.
func (f *faulty) either(id string, a, b byte) byte {
	if f.has(id) {
		return a
	}
	return b
}

func (f *faulty) request(conn *net.TCPConn, in *bufio.Reader) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(in, head); err != nil {
		return
	}
	host, known := f.host(in, head[3])
	if !known {
		f.refuse(conn, f.either("REQ-ATYP", 1, 8))
		return
	}
	two := make([]byte, 2)
	if _, err := io.ReadFull(in, two); err != nil {
		return
	}
	port := int(two[0])<<8 | int(two[1])
	if head[2] != 0 && f.has("REQ-RSV") {
		f.refuse(conn, 1)
		return
	}
	switch head[1] {
	case cmdConnect:
		f.connect(conn, in, head[3], host, port)
	case cmdBind:
		f.bind(conn, in, host)
	case cmdAssociate:
		if f.has("UDP-HINT") && host != "0.0.0.0" {
			f.refuse(conn, 4)
			return
		}
		f.associate(conn)
	default:
		f.refuse(conn, f.either("REQ-COMMAND", 1, 7))
	}
}

// host reads an address.
func (f *faulty) host(in *bufio.Reader, atyp byte) (string, bool) {
	size := map[byte]int{1: 4, 4: 16}[atyp]
	if atyp == 3 {
		n, _ := in.ReadByte()
		size = int(n)
	} else if size == 0 {
		return "", false
	}
	b := make([]byte, size)
	_, _ = io.ReadFull(in, b)
	if ip, ok := netip.AddrFromSlice(b); ok && atyp != 3 {
		return ip.String(), true
	}
	return string(b), true
}

// fits reports whether a name may be looked up.
func fits(name string) bool {
	return name != "" && !strings.ContainsAny(name, "\x00 \r\n") && !strings.Contains(name, "..")
}

func (f *faulty) connect(conn *net.TCPConn, in *bufio.Reader, atyp byte, host string, port int) {
	_, isIP := netip.ParseAddr(host)
	kind := map[byte]string{1: "REQ-IPV4", 3: "REQ-NAME", 4: "REQ-IPV6"}[atyp]
	if atyp == 3 && isIP == nil {
		kind = "REQ-LITERAL"
	}
	if f.has("REQ-NUL") {
		host, _, _ = strings.Cut(host, "\x00")
	}
	switch {
	case f.has(kind):
		f.refuse(conn, 8)
		return
	case f.has("REQ-PRIVATE"):
		return
	case host == "" && f.has("REQ-EMPTY"):
		hang(conn)
		return
	case atyp == 3 && !fits(host):
		f.refuse(conn, 4)
		return
	case port == 0 && f.has("REQ-PORT0"), f.has("REQ-TRUE"):
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	case port == 0, host == "0.0.0.0" && !f.has("REQ-ADDR0"):
		f.refuse(conn, 2)
		return
	case port == portOf(f.ln.Addr()) && !f.has("REQ-SELF"):
		f.refuse(conn, 2)
		return
	case strings.HasSuffix(host, ".invalid"):
		f.refuse(conn, f.either("REQ-UNKNOWN", 1, 4))
		return
	}
	out, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		f.refuse(conn, f.either("REQ-REFUSED", 1, 5))
		return
	}
	bound := bnd(out.LocalAddr())
	if f.has("REQ-BOUND") {
		bound = []byte{1, 0, 0, 0, 0, 0, 0}
	}
	_, _ = conn.Write(append([]byte{5, 0, f.either("REQ-REPLY", 1, 0)}, bound...))
	f.relay(conn, in, out.(*net.TCPConn))
}

// bnd is an address as a reply has it.
func bnd(a net.Addr) []byte {
	addr := netip.MustParseAddrPort(a.String())
	return dest(addr.Addr().Unmap().String(), int(addr.Port()))
}

// relay joins two connections.
func (f *faulty) relay(conn *net.TCPConn, in io.Reader, out *net.TCPConn) {
	defer out.Close()
	if !f.keep(out) {
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if f.has("RELAY-END") {
		hang(out)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { f.pump(out, in, conn, "RELAY-HALFUP", "RELAY-RESETUP") })
	wg.Go(func() { f.pump(conn, out, out, "RELAY-HALFDOWN", "RELAY-RESETDOWN") })
	wg.Wait()
}

// pump copies in one direction, from src, which is read from in.
func (f *faulty) pump(dst *net.TCPConn, in io.Reader, src *net.TCPConn, half, reset string) {
	buf := make([]byte, 32<<10)
	total := 0
	for {
		n, err := in.Read(buf)
		if f.has("RELAY-BYTES") && n > 1000 {
			buf[n/2]++ // what the other direction does to an echo of it would not undo that
		}
		total += n
		if f.has("RELAY-TAIL") && total > 200_000 {
			n = 0
		}
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			if f.has(half) {
				dst.Close()
				src.Close()
				return
			}
			_ = dst.CloseWrite()
			return
		case errors.Is(err, syscall.ECONNRESET) && !f.has(reset):
			_ = dst.SetLinger(0)
			dst.Close()
			return
		case err != nil:
			_ = dst.CloseWrite()
			return
		}
	}
}

func (f *faulty) bind(conn *net.TCPConn, in *bufio.Reader, host string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || !f.keep(ln) {
		return
	}
	defer ln.Close()
	bound := bnd(ln.Addr())
	if f.has("BIND-REPLY") {
		bound = dest("0.0.0.0", portOf(ln.Addr()))
	}
	_, _ = conn.Write(append([]byte{5, 0, 0}, bound...))
	_ = conn.SetDeadline(time.Time{})
	gone := make(chan struct{})
	if !f.has("BIND-END") {
		f.wg.Go(func() {
			_, _ = in.Peek(1)
			if _, err := in.Peek(1); err != nil {
				ln.Close()
			}
			close(gone)
		})
	} else {
		close(gone)
	}
	for {
		peer, err := ln.Accept()
		if err != nil {
			return
		}
		if !f.keep(peer) {
			return
		}
		if hostOf(peer.RemoteAddr()) != host && !f.has("BIND-STRANGER") {
			peer.Close()
			continue
		}
		ln.Close()
		from := bnd(peer.RemoteAddr())
		if f.has("BIND-PEER") {
			from = dest("192.0.2.1", 1)
		}
		_, _ = conn.Write(append([]byte{5, 0, 0}, from...))
		_, _ = io.WriteString(conn, "") // what the peer says follows
		f.wg.Go(func() {
			_, _ = io.Copy(conn, peer)
			conn.Close()
		})
		<-gone
		_, _ = io.Copy(peer, in)
		return
	}
}

func (f *faulty) associate(conn *net.TCPConn) {
	inside, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil || !f.keep(inside) {
		return
	}
	outside, err := net.ListenUDP("udp", nil)
	if err != nil || !f.keep(outside) {
		inside.Close()
		return
	}
	bound := bnd(inside.LocalAddr())
	if f.has("UDP-BOUND") {
		bound = dest("0.0.0.0", inside.LocalAddr().(*net.UDPAddr).Port)
	}
	_, _ = conn.Write(append([]byte{5, 0, 0}, bound...))
	_ = conn.SetDeadline(time.Time{})
	u := &faultyUDP{faulty: f, inside: inside, outside: outside, client: hostOf(conn.RemoteAddr())}
	f.wg.Go(u.up)
	f.wg.Go(u.down)
	if f.has("UDP-STAY") {
		_, _ = conn.Read(make([]byte, 1))
	} else {
		_, _ = io.Copy(io.Discard, conn)
	}
	if !f.has("UDP-END") {
		u.end()
	}
}

// faultyUDP is an association.
type faultyUDP struct {
	*faulty
	inside, outside *net.UDPConn
	client          string

	mu     sync.Mutex
	pinned netip.AddrPort
	parts  []byte
	began  time.Time
}

func (u *faultyUDP) end() {
	u.inside.Close()
	u.outside.Close()
}

// up sends what the client sends.
func (u *faultyUDP) up() {
	buf := make([]byte, 1<<16)
	if u.has("UDP-LARGE") {
		buf = buf[:2000]
	}
	for {
		n, from, err := u.inside.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if u.isClient(from) && !u.datagram(buf[:n]) {
			u.end()
			return
		}
	}
}

func (u *faultyUDP) isClient(from netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.has("UDP-SOURCE"):
		u.pinned = from
		return true
	case from.Addr().Unmap().String() != u.client:
		return false
	case u.has("UDP-PORT") || !u.pinned.IsValid():
		u.pinned = from
	}
	return u.pinned == from
}

// datagram sends one datagram; it reports false if that ends the association.
func (u *faultyUDP) datagram(b []byte) bool {
	good := !u.has("UDP-GARBAGE")
	if len(b) < 10 {
		return good
	}
	in := bufio.NewReader(bytes.NewReader(b[4:]))
	host, known := u.host(in, b[3])
	rest, _ := io.ReadAll(in)
	if !known || len(rest) < 2 {
		return good
	}
	port, payload := int(rest[0])<<8|int(rest[1]), rest[2:]
	ip, isIP := netip.ParseAddr(host)
	switch {
	case u.has("UDP-ECHO") && len(payload) > 1500, u.has("UDP-NAME") && b[3] == 3, u.has("UDP-IPV6") && b[3] == 4:
		return true
	case strings.HasSuffix(host, ".invalid"):
		return !u.has("UDP-NXNAME")
	case port == 9:
		return !u.has("UDP-REFUSED")
	case isIP != nil:
		ip = netip.MustParseAddr("127.0.0.1")
	}
	if frag := b[2]; frag != 0 && !u.has("UDP-FRAG") {
		late := u.has("UDP-TIMER") && time.Since(u.began) > time.Second
		if frag&0x7f == 1 && !u.has("UDP-RESTART") || u.has("UDP-REASSEMBLY") || late {
			u.parts = nil
		}
		u.began = time.Now()
		u.parts = append(u.parts, payload...)
		if frag&0x80 == 0 {
			return true
		}
		payload, u.parts = u.parts, nil
	}
	if u.has("UDP-MAPPING") && payload[len(payload)-1] == udpPeer {
		return true
	}
	_, _ = u.outside.WriteToUDPAddrPort(payload, netip.AddrPortFrom(ip, uint16(port)))
	return true
}

// down sends what comes back.
func (u *faultyUDP) down() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.outside.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if u.has("UDP-FILTERING") && buf[16] == udpOther {
			continue
		}
		head := append([]byte{0, 0, 0}, dest(from.Addr().String(), int(from.Port()))...)
		if u.has("UDP-HEADER") {
			head = append([]byte{0, 0, 0}, dest("0.0.0.0", 0)...)
		}
		u.mu.Lock()
		client := u.pinned
		u.mu.Unlock()
		_, _ = u.inside.WriteToUDPAddrPort(append(head, buf[:n]...), client)
	}
}

func (f *faulty) four(conn *net.TCPConn, in *bufio.Reader) {
	if f.has("V4-SPLIT") && !whole(in, 8) {
		return
	}
	head := make([]byte, 7)
	if _, err := io.ReadFull(in, head); err != nil {
		return
	}
	limit := 300
	if f.has("V4-USERID") {
		_ = conn.SetDeadline(time.Time{})
		limit = 1 << 30
	}
	userID, ok := until0(in, limit)
	if !ok {
		return
	}
	_ = userID
	host := net.IP(head[3:7]).String()
	if strings.HasPrefix(host, "0.0.0.") && host != "0.0.0.0" {
		if host, ok = until0(in, 300); !ok || f.has("V4-NAME") {
			host = "unknown.invalid"
		}
	}
	if head[0] == cmdBind {
		f.bind4(conn)
		return
	}
	refused := []byte{0, f.either("V4-REFUSED", 90, 91), 0, 0, 0, 0, 0, 0}
	if f.user != "" && !f.has("AUTH-BYPASS4") || f.has("V4-CONNECT") || strings.HasSuffix(host, ".invalid") {
		_, _ = conn.Write([]byte{0, 91, 0, 0, 0, 0, 0, 0})
		linger(conn)
		return
	}
	out, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(head[1])<<8|int(head[2]))))
	if err != nil {
		_, _ = conn.Write(refused)
		linger(conn)
		return
	}
	_, _ = conn.Write([]byte{f.either("V4-REPLY", 4, 0), granted, 0, 0, 0, 0, 0, 0})
	f.relay(conn, in, out.(*net.TCPConn))
}

// bind4 waits for one connection.
func (f *faulty) bind4(conn *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || !f.keep(ln) {
		return
	}
	defer ln.Close()
	port := portOf(ln.Addr())
	_, _ = conn.Write([]byte{0, granted, byte(port >> 8), byte(port), 0, 0, 0, 0})
	peer, err := ln.Accept()
	if err != nil || !f.keep(peer) {
		return
	}
	defer peer.Close()
	_, _ = conn.Write([]byte{0, f.either("V4-BIND", 91, granted), 0, 0, 127, 0, 0, 1})
	_, _ = io.Copy(conn, peer)
}

// until0 reads to a byte of 0.
func until0(in *bufio.Reader, limit int) (string, bool) {
	var b []byte
	for len(b) < limit {
		c, err := in.ReadByte()
		if err != nil {
			return "", false
		}
		if c == 0 {
			return string(b), true
		}
		b = append(b, c)
	}
	return "", false
}
