package event

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveTasks has each connection served by f as a task, and returns the address.
func serveTasks(t *testing.T, f func(ctx context.Context, c *Conn)) string {
	t.Helper()
	return serveTasksBy(t, new(net.ListenConfig), f)
}

func serveTasksBy(t *testing.T, config *net.ListenConfig, f func(ctx context.Context, c *Conn)) string {
	t.Helper()
	tcp, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := Listen(tcp).(*Listener)
	ended := make(chan error)
	var tasks sync.WaitGroup
	go func() {
		ended <- ln.AcceptTo(func(conn net.Conn) {
			tasks.Add(1)
			Go(conn, func(task *Task) {
				defer tasks.Done()
				f(WithTask(t.Context(), task), conn.(*Conn))
			})
		})
	}()
	t.Cleanup(func() {
		ln.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("AcceptTo: %v", err)
		}
		tasks.Wait()
	})
	return ln.Addr().String()
}

func dialTCP(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// Many tasks at once read in small pieces and write in large ones, in the loop's
// goroutine and detached.
func TestEcho(t *testing.T) {
	for name, detach := range map[string]bool{"inline": false, "detached": true} {
		t.Run(name, func(t *testing.T) {
			address := serveTasks(t, func(ctx context.Context, c *Conn) {
				defer c.Close()
				if detach {
					Detach(ctx)
					Detach(ctx) // no more than once
				}
				size := make([]byte, 3)
				for {
					if _, err := io.ReadFull(c, size); err != nil {
						return
					}
					b := make([]byte, int(size[0])<<16|int(size[1])<<8|int(size[2]))
					if _, err := io.ReadFull(c, b); err != nil {
						t.Error(err)
						return
					}
					if _, err := c.Write(b); err != nil {
						t.Error(err)
						return
					}
				}
			})
			var clients sync.WaitGroup
			for i := range 50 {
				client := dialTCP(t, address)
				clients.Go(func() {
					defer client.Close()
					for _, n := range []int{1, 5, 600, 70_000, 3 << 20} {
						b := bytes.Repeat([]byte{byte(i + n)}, n)
						message := append([]byte{byte(n >> 16), byte(n >> 8), byte(n)}, b...)
						written := make(chan error, 1)
						go func() { _, err := client.Write(message); written <- err }()
						got := make([]byte, n)
						if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, b) {
							t.Errorf("%d bytes: %v", n, err)
						}
						if err := <-written; err != nil {
							t.Error(err)
						}
					}
				})
			}
			clients.Wait()
		})
	}
}

// What waits is ended by its deadline, whenever that is set, and by Close.
func TestWaitEnds(t *testing.T) {
	late := func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
	gone := func(err error) bool { return errors.Is(err, net.ErrClosed) }
	for _, c := range []struct {
		name string
		end  func(c *Conn) // before the wait
		then func(c *Conn) // from elsewhere, meanwhile
		is   func(error) bool
	}{
		{name: "deadline", end: func(c *Conn) { c.SetDeadline(time.Now().Add(30 * time.Millisecond)) }, is: late},
		{name: "past", end: func(c *Conn) { c.SetDeadline(time.Unix(1, 0)) }, is: late},
		{name: "deadline later", then: func(c *Conn) { c.SetDeadline(time.Now().Add(30 * time.Millisecond)) }, is: late},
		{name: "past later", then: func(c *Conn) { c.SetDeadline(time.Unix(1, 0)) }, is: late},
		{
			name: "sooner", end: func(c *Conn) { c.SetDeadline(time.Now().Add(time.Hour)) },
			then: func(c *Conn) { c.SetDeadline(time.Now().Add(30 * time.Millisecond)) }, is: late,
		},
		{name: "close", then: func(c *Conn) { c.Close() }, is: gone},
		{name: "closed", end: func(c *Conn) { c.Close() }, is: gone},
	} {
		for _, detach := range []bool{false, true} {
			for _, write := range []bool{false, true} {
				result := make(chan error, 1)
				address := serveTasks(t, func(ctx context.Context, conn *Conn) {
					defer conn.Close()
					if detach {
						Detach(ctx)
					}
					if c.end != nil {
						c.end(conn)
					}
					if c.then != nil {
						time.AfterFunc(20*time.Millisecond, func() { c.then(conn) })
					}
					var err error
					if write {
						_, err = conn.Write(make([]byte, 64<<20))
					} else {
						_, err = conn.Read(make([]byte, 1))
					}
					result <- err
				})
				dialTCP(t, address)
				select {
				case err := <-result:
					if !c.is(err) {
						t.Errorf("%s, detached %v, write %v: %v", c.name, detach, write, err)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s, detached %v, write %v: nothing ends it", c.name, detach, write)
				}
			}
		}
	}
}

// A deadline that is lifted holds no more.
func TestDeadlineLifted(t *testing.T) {
	address := serveTasks(t, func(_ context.Context, c *Conn) {
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		time.AfterFunc(10*time.Millisecond, func() { c.SetReadDeadline(time.Time{}) })
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			t.Error(err)
			return
		}
		c.Write(b)
	})
	client := dialTCP(t, address)
	<-time.After(150 * time.Millisecond)
	client.Write([]byte("x"))
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestDial(t *testing.T) {
	echo := serveTasks(t, func(_ context.Context, c *Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	for _, detach := range []bool{false, true} {
		done := make(chan struct{})
		address := serveTasks(t, func(ctx context.Context, c *Conn) {
			defer close(done)
			defer c.Close()
			if detach {
				Detach(ctx)
			}
			conn, ok, err := Dial(ctx, netip.MustParseAddr("127.0.0.9"), netip.MustParseAddrPort(echo), nil)
			if !ok || err != nil {
				t.Error(ok, err)
				return
			}
			defer conn.Close()
			if from := conn.LocalAddr().(*net.TCPAddr); !from.IP.Equal(net.IPv4(127, 0, 0, 9)) || from.Port == 0 {
				t.Errorf("from %v", from)
			}
			conn.Write([]byte("hello"))
			got := make([]byte, 5)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
			before := openFiles()
			if _, _, err := Dial(ctx, netip.Addr{}, netip.MustParseAddrPort(nobody), nil); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("nobody there: %v", err)
			}
			// The kernel refuses this at once.
			if _, _, err := Dial(ctx, netip.MustParseAddr("127.0.0.9"), netip.MustParseAddrPort("255.255.255.255:1"), nil); err == nil {
				t.Error("connected to everybody")
			}
			refused := errors.New("refused")
			if _, _, err := Dial(ctx, netip.Addr{}, netip.MustParseAddrPort(echo), func(_, _ string, _ syscall.RawConn) error {
				return refused
			}); !errors.Is(err, refused) {
				t.Errorf("control: %v", err)
			}
			if n := openFiles(); n != before {
				t.Errorf("%d descriptors are open after what failed, %d before", n, before)
			}
		})
		dialTCP(t, address)
		<-done
	}
	if _, ok, _ := Dial(t.Context(), netip.Addr{}, netip.MustParseAddrPort(echo), nil); ok {
		t.Error("dialled without a loop")
	}
}

func openFiles() int {
	names, _ := os.ReadDir("/proc/self/fd")
	return len(names)
}

// A connect that gets no answer is ended by deadline and by Cancel. What is
// connected to is a listener whose queue is full.
func TestDialEnds(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	syscall.Listen(fd, 0)
	name, _ := syscall.Getsockname(fd)
	full := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
	dialTCP(t, full.String())
	for _, detach := range []bool{false, true} {
		for _, cancel := range []bool{false, true} {
			result := make(chan error, 1)
			address := serveTasks(t, func(ctx context.Context, c *Conn) {
				defer c.Close()
				if detach {
					Detach(ctx)
				}
				deadline := time.Now().Add(50 * time.Millisecond)
				if cancel {
					deadline = time.Now().Add(time.Hour)
				}
				step := NewStep(ctx, deadline)
				defer step.Cancel()
				if cancel {
					time.AfterFunc(50*time.Millisecond, step.Cancel)
				}
				for {
					conn, _, err := Dial(step, netip.Addr{}, full, nil)
					if err != nil {
						result <- err
						return
					}
					defer conn.Close() // it found room in the queue
				}
			})
			dialTCP(t, address)
			select {
			case err := <-result:
				want := os.ErrDeadlineExceeded
				if cancel {
					want = context.Canceled
				}
				if !errors.Is(err, want) {
					t.Errorf("detached %v: %v, want %v", detach, err, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the connect does not end")
			}
		}
	}
}

// What every connection needs it has from its listener, which costs no system
// call, or is given at once.
func TestInherited(t *testing.T) {
	for _, multi := range []bool{false, true} {
		config := new(net.ListenConfig)
		config.SetMultipathTCP(multi)
		done := make(chan struct{})
		address := serveTasksBy(t, config, func(_ context.Context, c *Conn) {
			defer close(done)
			defer c.Close()
			raw, _ := c.SyscallConn()
			raw.Control(func(fd uintptr) {
				for name, o := range map[string][2]int{
					"TCP_NODELAY":  {syscall.IPPROTO_TCP, syscall.TCP_NODELAY},
					"SO_OOBINLINE": {syscall.SOL_SOCKET, syscall.SO_OOBINLINE},
				} {
					if v, err := syscall.GetsockoptInt(int(fd), o[0], o[1]); v != 1 || err != nil {
						t.Errorf("multipath %v: %s is %d, %v", multi, name, v, err)
					}
				}
			})
		})
		dialTCP(t, address)
		<-done
	}
}

// Without descriptors, accepting pauses and says why, and goes on later with who
// has come meanwhile.
func TestStarved(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := Listen(tcp).(*Listener)
	accepted := make(chan struct{}, 1)
	errs := make(chan error, 1)
	again := make(chan struct{})
	go func() {
		for range 2 {
			errs <- ln.AcceptTo(func(c net.Conn) {
				c.Close()
				accepted <- struct{}{}
			})
			<-again
		}
	}()
	first := dialTCP(t, ln.Addr().String())
	<-accepted
	first.Close()

	client, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(client)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 0 // no new descriptor at all
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	to := ln.Addr().(*net.TCPAddr)
	err = syscall.Connect(client, &syscall.SockaddrInet4{Addr: [4]byte(to.IP.To4()), Port: to.Port})
	if err == nil {
		err = <-errs
	}
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	if !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("accepting says %v", err)
	}
	again <- struct{}{}
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Fatal("who came meanwhile is not accepted")
	}
	ln.Close()
	if err := <-errs; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	again <- struct{}{}
}

// The loop of a connection that is its last socket ends with it, and not before who
// waits for it has been told.
func TestCloseOfTheLast(t *testing.T) {
	for range 200 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln := Listen(tcp).(*Listener)
		conns, ended, served := make(chan *Conn, 1), make(chan error, 1), make(chan error, 1)
		go func() {
			served <- ln.AcceptTo(func(conn net.Conn) {
				Go(conn, func(*Task) {
					conns <- conn.(*Conn)
					_, err := conn.Read(make([]byte, 1))
					ended <- err
				})
			})
		}()
		far := dialTCP(t, ln.Addr().String())
		c := <-conns
		ln.Close()
		<-served
		var busy sync.WaitGroup
		for range 3 { // that the loop may be quicker
			busy.Go(func() { _ = c.SetReadDeadline(time.Time{}) })
		}
		c.Close()
		busy.Wait()
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the task of a closed connection waits for ever")
		}
		far.Close()
	}
}

// A loop that cannot watch what moves to it counts it out once.
func TestJoinFails(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := Listen(tcp).(*Listener)
	conns, served := make(chan *Conn, 1), make(chan error, 1)
	go func() { served <- ln.AcceptTo(func(c net.Conn) { conns <- c.(*Conn) }) }()
	far := dialTCP(t, ln.Addr().String())
	defer far.Close()
	c := <-conns
	l := c.Loop()
	done := make(chan struct{})
	l.Post(func() {
		defer close(done)
		c.Leave()
		l.mu.Lock()
		before := l.users
		l.mu.Unlock()
		// A descriptor that epoll does not take stands for a lack of memory.
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		if err := unix.Dup3(int(file.Fd()), c.fd, unix.O_CLOEXEC); err != nil {
			t.Error(err)
			return
		}
		if err := c.Join(l); err == nil {
			t.Error("Join did not fail")
		}
		c.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.users != before {
			t.Errorf("%d users before, %d after", before, l.users)
		}
	})
	<-done
	ln.Close()
	<-served
}

// parts is work that never ends by itself.
type parts struct{ stop, stopped chan struct{} }

func (p *parts) Work(l *Loop) {
	select {
	case <-p.stop:
		close(p.stopped)
	default:
		l.Later(p)
	}
}

// Work that takes long does not keep others waiting.
func TestLater(t *testing.T) {
	address := serveTasks(t, func(_ context.Context, c *Conn) {
		defer c.Close()
		_, _ = io.Copy(c, c)
	})
	c := dialTCP(t, address)
	defer c.Close()
	l := allLoops()[0]
	if err := l.Wake(); err != nil {
		t.Fatal(err)
	}
	defer l.Sleep()
	long := &parts{make(chan struct{}), make(chan struct{})}
	l.Post(func() { l.Later(long) })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	for range 100 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	close(long.stop)
	<-long.stopped
}
