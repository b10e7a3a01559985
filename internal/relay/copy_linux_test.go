package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drained empties the pool of pipes, so that descriptors can be counted.
func drained(t testing.TB) {
	t.Helper()
	if !poll(func() bool {
		pipes.mu.Lock()
		defer pipes.mu.Unlock()
		if pipes.idle != nil && pipes.idle.Stop() {
			pipes.used = false
			pipes.idle.Reset(0)
		}
		return pipes.idle == nil
	}) {
		t.Fatal("the pool does not empty")
	}
}

// Bulk is spliced where the kernel can, and only there. While it is stuck the
// pipe can be seen.
func TestBulkIsSpliced(t *testing.T) {
	for _, p := range pairings {
		t.Run(p.String(), func(t *testing.T) {
			drained(t)
			before := openFiles("pipe:")
			j := join(t, p, smallBuffers)
			var writer sync.WaitGroup
			defer writer.Wait()
			writer.Go(func() { j.client.Write(make([]byte, 16<<20)) })
			defer j.Close()
			if _, err := io.CopyN(io.Discard, j.upstream, 1<<20); err != nil {
				t.Fatal(err)
			}
			if !p.splices() {
				if n := openFiles("pipe:") - before; n != 0 {
					t.Errorf("%d ends of pipes are open", n)
				}
				return
			}
			if !poll(func() bool { return openFiles("pipe:") == before+2 }) {
				t.Errorf("%d ends of pipes are open, want 2", openFiles("pipe:")-before)
			}
		})
	}
}

// An idle session holds no pipe: the pool lets go of those that nobody uses,
// by itself, and the session goes on.
func TestIdlePairHoldsNoPipe(t *testing.T) {
	drained(t)
	before := openFiles("pipe:")
	var all []*joined
	for _, p := range pairings {
		j := join(t, p, nil)
		all = append(all, j)
		b := noise(3 << 20)
		for _, c := range [][2]conn{{j.client, j.upstream}, {j.upstream, j.client}} {
			together(t,
				func() error { _, err := c[0].Write(b); return err },
				func() error { _, err := io.ReadFull(c[1], make([]byte, len(b))); return err },
			)
		}
	}
	if !poll(func() bool { return openFiles("pipe:") == before }) {
		t.Fatalf("%d ends of pipes are still open", openFiles("pipe:")-before)
	}
	for _, j := range all {
		b := noise(1 << 20)
		together(t,
			func() error { return send(j.client, b) },
			func() error { return receive(j.upstream, b) },
			j.upstream.CloseWrite,
			func() error { return receive(j.client, nil) },
		)
	}
}

// A pool that is used keeps its pipes, but not too many.
func TestPipePool(t *testing.T) {
	drained(t)
	before := openFiles("pipe:")
	var taken []*pipe
	for range maxFreePipes + 10 {
		taken = append(taken, pipes.get())
	}
	for _, p := range taken {
		pipes.put(p)
	}
	if n := openFiles("pipe:") - before; n != 2*maxFreePipes {
		t.Errorf("%d ends of pipes are kept, want %d", n, 2*maxFreePipes)
	}
	if p := pipes.get(); p != taken[maxFreePipes-1] {
		t.Error("the pool did not give what it has")
	} else {
		pipes.put(p)
	}
	drained(t)
	if n := openFiles("pipe:") - before; n != 0 {
		t.Errorf("%d ends of pipes are left", n)
	}
}

// Where the system has no pipe to give, and where it will not splice, bytes
// are copied.
func TestNoSplice(t *testing.T) {
	bulk := func(t *testing.T) {
		for _, p := range pairings {
			if p.splices() {
				j := join(t, p, nil)
				up, down := noise(1<<20), noise(1<<20)
				together(t,
					func() error { return send(j.client, up) },
					func() error { return receive(j.upstream, up) },
					func() error { return send(j.upstream, down) },
					func() error { return receive(j.client, down) },
				)
				if err := j.wait(t); err != nil {
					t.Errorf("%v: Done got %v", p, err)
				}
			}
		}
	}
	t.Run("unsupported", func(t *testing.T) {
		drained(t)
		before := openFiles("pipe:")
		defer drained(t)
		// Splicing to what is no pipe is EINVAL, as it is from a socket of
		// a family that knows no splice.
		for range 8 {
			fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fd2, err := unix.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			pipes.put(&pipe{r: fd, w: fd2})
		}
		bulk(t)
		if n := openFiles("pipe:") - before; n != 0 {
			t.Errorf("%d ends of pipes were made", n)
		}
	})
	t.Run("no descriptor", func(t *testing.T) {
		drained(t)
		p := pairing{tcp, tcp}
		j := join(t, p, nil)
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		none := syscall.Rlimit{Cur: 0, Max: limit.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
		if p := pipes.get(); p != nil {
			t.Fatal("there is a pipe after all")
		}
		b := noise(1 << 20)
		together(t,
			func() error { return send(j.client, b) },
			func() error { return receive(j.upstream, b) },
			j.upstream.CloseWrite,
			func() error { return receive(j.client, nil) },
		)
	})
}

// A stream of scraps gives the pipe back.
func TestScraps(t *testing.T) {
	drained(t)
	before := openFiles("pipe:")
	j := join(t, pairing{tcp, tcp}, nil)
	b := noise(1 << 20)
	together(t,
		func() error { _, err := j.client.Write(b); return err },
		func() error { _, err := io.ReadFull(j.upstream, make([]byte, len(b))); return err },
	)
	drained(t)
	for i := range 2 * maxScraps {
		scrap := noise(1 + i)
		together(t,
			func() error { _, err := j.client.Write(scrap); return err },
			func() error { _, err := io.ReadFull(j.upstream, make([]byte, len(scrap))); return err },
		)
	}
	// Once scraps are copied none of them needs a pipe.
	drained(t)
	for i := range maxScraps {
		scrap := noise(100 + i)
		together(t,
			func() error { _, err := j.client.Write(scrap); return err },
			func() error { _, err := io.ReadFull(j.upstream, make([]byte, len(scrap))); return err },
		)
		if n := openFiles("pipe:") - before; n != 0 {
			t.Fatalf("%d ends of pipes are open after a scrap", n)
		}
	}
}

// A session that lasts gets its keepalives, one that does not is spared them.
func TestKeepAlive(t *testing.T) {
	var near []syscall.Conn
	for _, p := range pairings {
		join(t, p, func(p *Pair) {
			for _, c := range []net.Conn{p.Client, p.Upstream} {
				if rawTCP(c) != nil {
					near = append(near, bare(c).(syscall.Conn))
				}
			}
		})
	}
	if len(near) != 18 {
		t.Fatalf("%d TCP connections, want 18", len(near))
	}
	for i, c := range near {
		if i == 0 && sockopt(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0 {
			t.Error("keepalives from the start")
		}
		if !poll(func() bool { return sockopt(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 1 }) {
			t.Fatal("no keepalives")
		}
		if !poll(func() bool {
			return sockopt(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) == 30 && sockopt(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL) == 30
		}) {
			t.Error("keepalives are not every 30 s")
		}
	}
}

func sockopt(t testing.TB, c syscall.Conn, level, opt int) (value int) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := rc.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, opt) })
	if cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return value
}

// T35: an urgent byte stays in its place, also between pieces of bulk.
func TestUrgent(t *testing.T) {
	for _, to := range []kind{tcp, unixes} {
		t.Run(to.name, func(t *testing.T) {
			j := join(t, pairing{tcp, to}, nil)
			bulk := noise(1 << 20)
			far, err := j.client.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				together(t,
					func() error { _, err := j.client.Write(bulk); return err },
					func() error { _, err := io.ReadFull(j.upstream, make([]byte, len(bulk))); return err },
				)
				var n int
				cerr := far.Write(func(fd uintptr) bool {
					n, err = unix.SendmsgN(int(fd), []byte("a!"), nil, nil, unix.MSG_OOB)
					return err != unix.EAGAIN
				})
				if cerr != nil || err != nil || n != 2 {
					t.Fatal(n, cerr, err)
				}
				b := make([]byte, 2)
				if _, err := io.ReadFull(j.upstream, b); err != nil || string(b) != "a!" {
					t.Fatalf("%q, %v", b, err)
				}
			}
		})
	}
}

// The dead hold up nobody: what a side that broke off has not acknowledged is
// not waited for.
func TestFlushOfTheDead(t *testing.T) {
	far, near := openTCP(t)
	if !poll(func() bool {
		near.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // on a busy machine it may pass before the write
		near.Write(make([]byte, 32<<20))
		return !flushed(near)
	}) {
		t.Fatal("nothing is queued")
	}
	breakOff(far)
	if !poll(func() bool { return flushed(near) }) {
		t.Error("bytes are queued for the dead")
	}
}

// Nothing is left of a session, however it ended.
func TestNothingLeft(t *testing.T) {
	drained(t)
	before := openFiles("")
	endings := map[string]func(*joined){
		"order": func(j *joined) {
			together(t, j.client.CloseWrite, j.upstream.CloseWrite)
		},
		"closed":         func(j *joined) { together(t, j.client.Close, j.upstream.Close) },
		"reset":          func(j *joined) { breakOff(j.client) },
		"upstream reset": func(j *joined) { breakOff(j.upstream) },
		"cut":            func(j *joined) { j.Close() },
		"cut while stuck": func(j *joined) {
			j.client.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			j.client.Write(make([]byte, 32<<20))
			j.Close()
		},
	}
	for _, p := range pairings {
		for name, end := range endings {
			t.Run(fmt.Sprintf("%v, %s", p, name), func(t *testing.T) {
				t.Parallel()
				j := join(t, p, nil)
				b := noise(100_000)
				together(t,
					func() error { _, err := j.client.Write(b); return err },
					func() error { _, err := io.ReadFull(j.upstream, make([]byte, len(b))); return err },
				)
				end(j)
				if !p.client.resets || !p.upstream.resets {
					// A unix socket closed by a reset may leave the other
					// direction open; then so does TCP.
					j.client.Close()
					j.upstream.Close()
				}
				j.wait(t)
			})
		}
	}
	t.Cleanup(func() { // when the parallel tests have ended
		drained(t)
		if n := openFiles("") - before; n != 0 {
			t.Errorf("%d descriptors are left", n)
		}
	})
}

// looked makes the pair look at itself, as it does from time to time.
func (j *joined) looked() { j.inLoop(j.watch) }

// A side that breaks off while nobody reads of it, since the other side takes
// nothing, is noticed.
func TestResetUnread(t *testing.T) {
	overBoth(t, smallBuffers, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		if from.name == "memory" || !from.resets {
			return // there is nothing to look at
		}
		c, other, moved := j.ends(fromClient)
		smallBuffer(other)
		if _, err := c.Write([]byte("x")); err != nil { // on a busy machine, what follows may be late for its deadline
			t.Fatal(err)
		}
		moved(t, 1)
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := c.Write(make([]byte, 16<<20)) // until nothing goes any more
		breakOff(c)
		if !poll(func() bool {
			j.looked()
			select {
			case <-j.done:
				return true
			default:
				return false
			}
		}) {
			t.Fatalf("not noticed after %d bytes", n)
		}
		if err := j.wait(t); !reset(err) {
			t.Errorf("Done got %v", err)
		}
		if got, err := io.Copy(io.Discard, other); to.resets && !reset(err) {
			t.Errorf("after %d of %d bytes: %v, want a reset", got, n, err)
		}
	})
}

// A connection that has ended in order both ways is not one that broke off,
// though a slow reader still waits for the rest.
func TestSlowReaderAfterTheEnd(t *testing.T) {
	overBoth(t, smallBuffers, func(t *testing.T, from, to kind, j *joined, fromClient bool) {
		if from.name != "tcp" {
			return
		}
		c, other, moved := j.ends(fromClient)
		smallBuffer(other)
		together(t, other.CloseWrite, func() error { return receive(c, nil) })
		b := noise(1 << 20)
		sent := make(chan error, 1)
		go func() { sent <- send(c, b) }()
		near := j.Client
		if !fromClient {
			near = j.Upstream
		}
		moved(t, 1)
		// As much as the kernels take is read, so that the end can arrive
		// while something is still stuck.
		head := 0
		piece := make([]byte, 10_000)
		for !ended(t, near.(*net.TCPConn)) && head < len(b)-2*len(piece) {
			n, err := io.ReadFull(other, piece)
			if err != nil || string(piece[:n]) != string(b[head:head+n]) {
				t.Fatalf("after %d bytes: %v", head, err)
			}
			head += n
			j.looked()
		}
		j.looked()
		if err := receive(other, b[head:]); err != nil {
			t.Error(err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if err := j.wait(t); err != nil {
			t.Errorf("Done got %v", err)
		}
	})
}

// ended reports whether a connection has ended both ways.
func ended(t testing.TB, c *net.TCPConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var state uint8
	if err := rc.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	}); err != nil {
		return true // closed by us
	}
	return state == tcpClose
}

// A client that breaks off while the destination reads nothing is noticed: the
// bytes that wait for the destination have lost their meaning.
func TestClientGoneWhileWriting(t *testing.T) {
	j := join(t, pairing{tcp, tcp}, smallBuffers)
	var writer sync.WaitGroup
	defer writer.Wait()
	writer.Go(func() { j.client.Write(make([]byte, 64<<20)) })
	last := int64(-1)
	if !poll(func() bool {
		up, _ := j.Bytes()
		stuck := up > 0 && up == last && j.up.writing.Load()
		last = up
		time.Sleep(20 * time.Millisecond)
		return stuck
	}) {
		t.Fatal("the session does not come to wait for the destination")
	}
	j.watch() // the client is there, and nothing happens
	select {
	case <-j.done:
		t.Fatalf("ended with its client there: %v", j.err)
	case <-time.After(50 * time.Millisecond):
	}
	abort(j.client)
	writer.Wait()
	arrived := func() (closed bool) {
		_ = raw(j.up.src).Control(func(fd uintptr) { closed = isClosed(fd) }) // gone would take the error away
		return closed
	}
	if !poll(arrived) {
		t.Fatal("the reset does not arrive")
	}
	j.watch()
	if err := j.wait(t); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}
