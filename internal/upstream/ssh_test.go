package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/argyle-socks/argyle"
	"github.com/argyle-socks/argyle/socks"
	"github.com/argyle-socks/argyle/socks/wire"
)

// sshTo opens a connection to dest, which is closed with the test.
func sshTo(t *testing.T, d argyle.Dialer, dest string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// pingPong wants its words back.
func pingPong(t testing.TB, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	defer conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Error(err)
		return
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "ping" {
		t.Errorf("got back %q, %v", b, err)
	}
}

// The refusals of a server are errors with a meaning, also to our own clients.
func TestSSHRefusals(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	s.open = func(_ string, port uint32, channel ssh.NewChannel) bool {
		_ = channel.Reject(ssh.RejectionReason(port), "because")
		return true
	}
	d := s.dialer(t)
	for port, want := range map[string]struct {
		is    error
		reply wire.Reply
	}{
		"1": {argyle.ErrNotAllowed, wire.NotAllowed},
		"2": {syscall.EHOSTUNREACH, wire.HostUnreachable},
		"3": {errors.ErrUnsupported, wire.CommandNotSupported},
		"4": {nil, wire.GeneralFailure},
		"9": {nil, wire.GeneralFailure},
	} {
		_, err := d.DialContext(t.Context(), "tcp", "203.0.113.1:"+port)
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" || want.is != nil && !errors.Is(err, want.is) || socks.ReplyFor(err) != want.reply {
			t.Errorf("reason %s: %v, REP %v", port, err, socks.ReplyFor(err))
		}
		if !strings.Contains(err.Error(), "through ssh://"+s.addr) || !strings.Contains(err.Error(), "because") {
			t.Errorf("%v", err)
		}
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if _, err := d.ListenPacket(t.Context(), "udp", ""); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := d.DialContext(t.Context(), "udp", "203.0.113.1:1"); !errors.As(err, new(net.UnknownNetworkError)) {
		t.Error(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "nowhere"); err == nil {
		t.Error("no port, no error")
	}
	if _, err := d.Listen(t.Context(), "tcp", "203.0.113.1:80"); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// Deadlines work as they do for TCP, in both directions, for operations under way and to come, and lose nothing.
func TestSSHDeadlines(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	far := make(chan ssh.Channel, 1)
	s.open = func(_ string, _ uint32, channel ssh.NewChannel) bool {
		ch, requests, err := channel.Accept()
		if err != nil {
			t.Error(err)
			return true
		}
		go ssh.DiscardRequests(requests)
		far <- ch
		return true
	}
	conn := sshTo(t, s.dialer(t), "203.0.113.1:80")
	ch := <-far
	b := make([]byte, 100)

	expired := func(what string, err error) {
		t.Helper()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s: %v", what, err)
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, err := conn.Read(b)
	expired("read in time", err)
	_, err = conn.Read(b)
	expired("read after it", err)

	// What comes meanwhile is there afterwards.
	_, _ = ch.Write([]byte("late"))
	_ = conn.SetReadDeadline(time.Time{})
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "late" {
		t.Errorf("%q, %v", b[:n], err)
	}

	// A deadline in the past ends a read under way, as the relay does it.
	set := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() { _ = conn.SetDeadline(time.Unix(1, 0)); close(set) })
	_, err = conn.Read(b)
	expired("read under way", err)
	<-set
	_, err = conn.Write(b)
	expired("write after it", err)
	_ = conn.SetDeadline(time.Time{})

	// A window that is full holds a write up; what it took is counted.
	_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := conn.Write(make([]byte, 16<<20))
	expired("write", err)
	if n == 0 || n == 16<<20 {
		t.Errorf("wrote %d", n)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err == nil {
		t.Error("the end has overtaken what was written")
	}
	_ = conn.SetWriteDeadline(time.Time{})
	received := make(chan int64, 1)
	go func() { n, _ := io.Copy(io.Discard, ch); received <- n }()
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got := <-received; got < int64(n) || got > int64(n)+pieceSize {
		t.Errorf("%d bytes came of %d", got, n)
	}

	// Close ends what is under way.
	time.AfterFunc(20*time.Millisecond, func() { conn.Close() })
	if _, err = conn.Read(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read in Close: %v", err)
	}
	if _, err = conn.Write(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

// A handshake of a further hop is bounded by its context.
func TestSSHHandshakeBeyond(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	silent := listen(t)
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	d := &socks.Dialer{Addr: silent.Addr().String(), Forward: s.dialer(t)}
	if _, err := d.DialContext(ctx, "tcp", "203.0.113.1:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// Many first users share one connection, one that gives up does not end it for others, and a connection that has died
// is made anew within a request.
func TestSSHShares(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	gate := make(chan struct{})
	d.Forward = dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	hasty, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := d.DialContext(hasty, "tcp", dest); gone <- err }()
	eventually(t, "the first to begin", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.making != nil })
	conns := make(chan net.Conn, 50)
	for range cap(conns) {
		go func() {
			conn, err := d.DialContext(t.Context(), "tcp", dest)
			if err != nil {
				t.Error(err)
			}
			conns <- conn
		}()
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(gate)
	for range cap(conns) {
		if conn := <-conns; conn != nil {
			pingPong(t, conn)
			conn.Close()
		}
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}

	conn := sshTo(t, d, dest)
	s.cut()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a cut looks like %v", err)
	}
	if _, err := conn.Write(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a write after it: %v", err)
	}
	pingPong(t, sshTo(t, d, dest))
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	d.Close()
	pingPong(t, sshTo(t, d, dest))
}

// dialerFunc is a way out that only connects.
type dialerFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialerFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

func (dialerFunc) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

func (dialerFunc) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

// A server that answers no keepalives is dead, and so are its channels.
func TestSSHKeepAlive(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	d.KeepAlive = 50 * time.Millisecond
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	conn := sshTo(t, d, dest)
	<-time.After(300 * time.Millisecond) // it is answered, which must not hurt
	pingPong(t, conn)
	s.deaf.Store(true)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	_, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), "no answer for 150ms") {
		t.Error(err)
	}
	s.deaf.Store(false)
	pingPong(t, sshTo(t, d, dest))
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A server that has fallen silent costs a request some seconds, not the request; what goes over the old connection is
// left to the keepalives.
func TestSSHSilent(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	old := sshTo(t, d, dest)
	s.deaf.Store(true)
	time.AfterFunc(silence*3/2, func() { s.deaf.Store(false) }) // for the next connection
	began := time.Now()
	pingPong(t, sshTo(t, d, dest))
	if took := time.Since(began); took < 2*silence {
		t.Errorf("after %v", took)
	}
	pingPong(t, old)
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A destination that takes its time is not the server's silence.
func TestSSHSlowDestination(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	s.open = func(string, uint32, ssh.NewChannel) bool { <-time.After(2*silence + time.Second); return false }
	pingPong(t, sshTo(t, d, dest))
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A connection without channels goes after a while.
func TestSSHIdle(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	d.Idle = 50 * time.Millisecond
	dest := net.JoinHostPort("127.0.0.1", echo(t))
	conn := sshTo(t, d, dest)
	client := d.client
	<-time.After(150 * time.Millisecond)
	pingPong(t, conn)
	conn.Close()
	select {
	case <-client.done:
	case <-time.After(patience):
		t.Error("it stays")
	}
	pingPong(t, sshTo(t, d, dest))
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A half-close ends one direction only, and what was sent before an end arrives.
func TestSSHHalfClose(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	ln := listen(t)
	defer ln.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		got, err := io.ReadAll(conn)
		if err == nil && !bytes.Equal(got, payload) {
			err = errors.New("something else came")
		}
		_, _ = conn.Write(payload)
		served <- err
	}()
	conn := sshTo(t, d, ln.Addr().String())
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if got := conn.RemoteAddr().String(); got != ln.Addr().String() {
		t.Errorf("remote address %s", got)
	}
}

// Strangers at a remote listener, however many, hold up neither the peer nor what else goes over the connection.
func TestSSHListenStrangers(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	type forward struct {
		conn ssh.Conn
		port uint32
	}
	asked := make(chan forward, 1)
	var cancelled atomic.Int32
	s.requests = func(conn ssh.Conn, req *ssh.Request) bool {
		var m forwardRequest
		switch req.Type {
		case "tcpip-forward":
			_ = ssh.Unmarshal(req.Payload, &m)
			if m.Port != 0 {
				return false // the wish is refused
			}
			_ = req.Reply(true, ssh.Marshal(&struct{ Port uint32 }{4711}))
			asked <- forward{conn, 4711}
			return true
		case "cancel-tcpip-forward":
			cancelled.Add(1)
		}
		return false
	}
	d := s.dialer(t)
	ln, err := d.Listen(t.Context(), "tcp", "192.0.2.7:5000")
	if err != nil {
		t.Fatal(err)
	}
	if ln.Addr().String() != "127.0.0.1:4711" { // the server's address
		t.Errorf("listens on %v", ln.Addr())
	}
	f := <-asked
	come := func(from string) error {
		ch, requests, err := f.conn.OpenChannel("forwarded-tcpip", ssh.Marshal(&struct {
			Host       string
			Port       uint32
			Originator string
			OriginPort uint32
		}{"", f.port, from, 999}))
		if err != nil {
			return err
		}
		go ssh.DiscardRequests(requests)
		_, _ = io.Copy(ch, ch)
		return ch.Close()
	}
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if err := come("192.0.2.66"); err == nil {
				t.Error("a stranger came in")
			}
		})
	}
	all.Wait()
	pingPong(t, sshTo(t, d, net.JoinHostPort("127.0.0.1", echo(t))))
	var served sync.WaitGroup
	served.Go(func() { _ = come("192.0.2.7") })
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if conn.RemoteAddr().String() != "192.0.2.7:999" {
		t.Errorf("the peer is %v", conn.RemoteAddr())
	}
	eventually(t, "the listening to be cancelled", func() bool { return cancelled.Load() == 1 })
	if err := come("192.0.2.7"); err == nil {
		t.Error("a second one came in")
	}
	second := make(chan error)
	go func() { _, err := ln.Accept(); second <- err }()
	ln.Close()
	if err := <-second; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	pingPong(t, conn)
	conn.Close()
	served.Wait()
}

// No error shows the password.
func TestSSHWrongPassword(t *testing.T) {
	t.Parallel()
	s := startSSH(t)
	d := s.dialer(t)
	d.Password = "sesame"
	_, err := d.DialContext(t.Context(), "tcp", "203.0.113.1:80")
	if err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), `log in as "ann"`) {
		t.Error(err)
	}
	if judge(err) != fault {
		t.Errorf("judged %v", judge(err))
	}
}

// A server that never says a word is bounded by the caller's time, and the attempt by its own.
func TestSSHNeverAnswers(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	defer ln.Close()
	d := &SSH{Addr: ln.Addr().String(), Password: "x", KnownHosts: []string{os.DevNull}, Timeout: 300 * time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.DialContext(ctx, "tcp", "203.0.113.1:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	began := time.Now()
	if _, err := d.DialContext(t.Context(), "tcp", "203.0.113.1:80"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Error(err)
	}
	d.Timeout = time.Hour
	go func() { _, _ = d.DialContext(t.Context(), "tcp", "203.0.113.1:80") }()
	eventually(t, "it to begin", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.making != nil })
	d.Close()
}
