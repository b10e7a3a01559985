package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
	"github.com/argyle-socks/argyle/internal/serve"
)

// conn is what a test holds of a connection: its far end.
type conn interface {
	net.Conn
	CloseWrite() error
}

// kind is one kind of connection that a Pair may have on either side.
type kind struct {
	name string
	open func(t testing.TB) (far conn, near net.Conn)

	resets  bool // it can carry a reset
	splices bool // the kernel can, with another such on the other side
}

var (
	tcp    = kind{name: "tcp", open: openTCP, resets: true, splices: true}
	unixes = kind{name: "unix", open: openUnix, splices: true}
	secure = kind{name: "tls", open: openTLS, resets: true}
	onLoop = kind{name: "loop", open: openLooped, resets: true, splices: true} // on an event loop
	memory = kind{name: "memory", open: openMemory, resets: true}
)

// pairing is a kind on either side.
type pairing struct{ client, upstream kind }

// pairings are those that the tests go over.
var pairings = []pairing{
	{tcp, tcp}, {tcp, unixes}, {unixes, tcp}, {unixes, unixes},
	{tcp, secure}, {secure, tcp}, {secure, secure},
	{tcp, memory}, {memory, tcp}, {memory, memory},
	{onLoop, onLoop}, {onLoop, tcp}, {unixes, onLoop}, {onLoop, memory},
}

func (p pairing) String() string { return p.client.name + " to " + p.upstream.name }

func (p pairing) splices() bool { return p.client.splices && p.upstream.splices }

// joined is a running Pair and its far ends.
type joined struct {
	*Pair
	client, upstream conn

	done  chan struct{}
	err   error // of Done, once done is closed
	calls atomic.Int32
}

// over runs a test over every pairing, each with a Pair that set may change
// before it starts (nil for nothing). A Pair still running at the end is cut.
func over(t *testing.T, set func(*Pair), test func(t *testing.T, p pairing, j *joined)) {
	for _, p := range pairings {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			test(t, p, join(t, p, set))
		})
	}
}

func join(t testing.TB, p pairing, set func(*Pair)) *joined {
	t.Helper()
	j := new(joined)
	pair := new(Pair)
	j.client, pair.Client = p.client.open(t)
	j.upstream, pair.Upstream = p.upstream.open(t)
	if set != nil {
		set(pair)
	}
	j.start(t, pair)
	return j
}

// start starts pair. When the test ends Done must have been called once.
func (j *joined) start(t testing.TB, pair *Pair) {
	j.Pair = pair
	j.done = make(chan struct{})
	pair.Done = func(err error) {
		if j.calls.Add(1) == 1 {
			j.err = err
			close(j.done)
		}
	}
	pair.Start()
	t.Cleanup(func() {
		pair.Close(ErrCut)
		j.wait(t)
		if n := j.calls.Load(); n != 1 {
			t.Errorf("Done was called %d times", n)
		}
	})
}

// wait waits for Done and returns its error.
func (j *joined) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-j.done:
		return j.err
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("the pair does not end\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

// moved waits until the counters are at least up and down.
func (j *joined) moved(t testing.TB, up, down int64) {
	t.Helper()
	if !poll(func() bool {
		u, d := j.Bytes()
		return u >= up && d >= down
	}) {
		u, d := j.Bytes()
		t.Fatalf("%d up and %d down, want at least %d and %d", u, d, up, down)
	}
}

// counted wants the counters to be up and down.
func (j *joined) counted(t testing.TB, up, down int64) {
	t.Helper()
	if u, d := j.Bytes(); u != up || d != down {
		t.Errorf("%d up and %d down, want %d and %d", u, d, up, down)
	}
}

// listen listens without keepalives, as the program does.
func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	ln, err := (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// connect returns both ends of a connection to ln, which it closes. The far
// end has a deadline, so that no test hangs.
func connect(t testing.TB, ln net.Listener) (far, near net.Conn) {
	t.Helper()
	defer ln.Close()
	far, err := (&net.Dialer{KeepAlive: -1}).DialContext(t.Context(), ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if near, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); near.Close() })
	far.SetDeadline(time.Now().Add(30 * time.Second))
	return far, near
}

func openTCP(t testing.TB) (conn, net.Conn) {
	far, near := connect(t, listen(t, "tcp", "127.0.0.1:0"))
	return far.(*net.TCPConn), near
}

func openLooped(t testing.TB) (conn, net.Conn) {
	ln := event.Listen(listen(t, "tcp", "127.0.0.1:0"))
	l, ok := ln.(interface{ AcceptTo(func(net.Conn)) error })
	if !ok {
		return openTCP(t) // on this system there are no loops
	}
	accepted, ended := make(chan net.Conn), make(chan error)
	go func() { ended <- l.AcceptTo(func(c net.Conn) { go func() { accepted <- c }() }) }()
	far, err := (&net.Dialer{KeepAlive: -1}).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near := <-accepted
	ln.Close()
	<-ended
	t.Cleanup(func() { far.Close(); near.Close() })
	far.SetDeadline(time.Now().Add(30 * time.Second))
	return far.(*net.TCPConn), near
}

func openUnix(t testing.TB) (conn, net.Conn) {
	dir, err := os.MkdirTemp("", "relay") //nolint:usetesting // that of the test may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	far, near := connect(t, listen(t, "unix", filepath.Join(dir, "s")))
	return far.(*net.UnixConn), near
}

// openTLS is TLS as the program has it: the first byte has been looked at.
func openTLS(t testing.TB) (conn, net.Conn) {
	far, near := connect(t, listen(t, "tcp", "127.0.0.1:0"))
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	hello := make(chan error, 1)
	go func() { hello <- client.Handshake() }()
	first := make([]byte, 1)
	if _, err := near.Read(first); err != nil {
		t.Fatal(err)
	}
	server := tls.Server(serve.Unread(near, first), &tls.Config{Certificates: certificates()})
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-hello; err != nil {
		t.Fatal(err)
	}
	return client, server
}

var certificates = sync.OnceValue(func() []tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
})

func openMemory(testing.TB) (conn, net.Conn) {
	far, near := memoryPair()
	far.SetDeadline(time.Now().Add(30 * time.Second))
	return far, near
}

// breakOff ends a connection by a reset. A unix socket has none unless
// something is left unread.
func breakOff(c conn) {
	if t, ok := c.(*tls.Conn); ok {
		t.NetConn().(*net.TCPConn).SetLinger(0)
		t.NetConn().Close() // without a word of farewell
		return
	}
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

func reset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// openFiles counts the descriptors whose link begins with prefix.
func openFiles(prefix string) int {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0 // not on this system
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		panic(err)
	}
	n := 0
	for _, name := range names {
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%s", name))
		if err == nil && strings.HasPrefix(link, prefix) {
			n++
		}
	}
	return n
}

func brokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

func (j *joined) Close() { j.Pair.Close(ErrCut) }
