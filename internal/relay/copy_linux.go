package relay

import (
	"net"
	"syscall"
	"time"

	"github.com/argyle-socks/argyle/internal/event"
	"golang.org/x/sys/unix"
)

// pump moves bytes from one socket to another. A short message is read and
// written, which is two system calls; what fills the buffer is bulk, which
// the kernel moves by itself through a pipe. Neither buffer nor pipe is held
// while nothing comes.
type pump struct {
	in, out syscall.RawConn

	bulk     bool // splice rather than copy
	noSplice bool // the kernel will not, for these sockets
	told     bool // of urgent data we would be told, and there is none
	scraps   int  // short pieces in a row, while bulk

	buf     *[bufferSize]byte
	pipe    *pipe
	size    int // what to read at once
	n       int // bytes read and not yet written
	written int
	err     error

	// The steps as funcs, made once: waiting allocates nothing.
	read, write func(fd uintptr) bool
}

const (
	spliceSize = 1 << 20 // what one splice asks for
	scrapSize  = 4 << 10 // less than this is not worth a pipe
	maxScraps  = 4
)

// copy moves all that comes from src to dst.
func (h *half) copy() error {
	p := &h.pump
	if !p.init(h.src, h.dst) {
		return h.copyBuffer()
	}
	defer p.release()
	p.write = h.empty
	for {
		p.size = h.chunk(spliceSize)
		err := p.in.Read(p.read)
		switch {
		case err != nil:
			return err
		case p.err != nil:
			return p.err
		case p.n == 0:
			return nil // EOF
		}
		if err := h.pass(p.n); err != nil {
			return err
		}
		h.writing.Store(true)
		err = h.drain()
		if h.wrote(err); err != nil {
			return &writeError{err}
		}
	}
}

// drain writes to dst what was read.
func (h *half) drain() error {
	p := &h.pump
	p.written = 0
	err := p.out.Write(p.write)
	if err == nil {
		err = p.err
	}
	p.choose()
	if err != nil {
		return err
	}
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
	return nil
}

// init reports false if the connections are not both bare sockets.
func (p *pump) init(src, dst net.Conn) bool {
	p.in, p.out = raw(src), raw(dst)
	if p.in == nil || p.out == nil {
		return false
	}
	p.read = p.fill
	// Urgent data (telnet's and FTP's interrupts) stays in the stream, where
	// it would be lost otherwise. Unix sockets do not know it.
	_ = p.in.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	})
	return true
}

func raw(conn net.Conn) syscall.RawConn {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn, *event.Conn:
		rc, err := conn.(syscall.Conn).SyscallConn()
		if err == nil {
			return rc
		}
	}
	return nil
}

func (p *pump) release() {
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
	if p.pipe != nil {
		// Bytes that could not be written may be left in it.
		p.pipe.close()
		p.pipe = nil
	}
}

// fill reads once from the socket. It reports false if nothing is there.
func (p *pump) fill(fd uintptr) bool {
	if p.bulk && (p.pipe != nil || p.takePipe()) && p.spliceIn(int(fd)) {
		return true
	}
	if p.bulk && p.err != nil {
		if p.err != unix.EAGAIN {
			return true // the kernel tells of an error once: read would find an end in order
		}
		if p.told {
			p.n, p.err = 0, nil
			return false
		}
	}
	// Also where splice found nothing: it stops before an urgent byte, and
	// the poller would not wake us for that again.
	p.buf = buffers.Get().(*[bufferSize]byte)
	p.n, p.err = event.Read(int(fd), p.buf[:min(p.size, bufferSize)])
	if p.n > 0 {
		return true
	}
	buffers.Put(p.buf)
	p.buf, p.n = nil, 0
	if p.err == unix.EAGAIN {
		p.err = nil
		return false
	}
	return true
}

func (p *pump) takePipe() bool {
	p.pipe = pipes.get()
	return p.pipe != nil
}

// spliceIn moves what is there into the pipe. It reports false if that is
// nothing, for whatever reason; reading will tell the reason.
func (p *pump) spliceIn(fd int) bool {
	p.n, p.err = retry(func() (int, error) {
		n, err := unix.Splice(fd, nil, p.pipe.w, nil, p.size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	if p.n > 0 {
		return true
	}
	if p.err == unix.EINVAL {
		p.noSplice, p.bulk = true, false
	}
	pipes.put(p.pipe)
	p.pipe = nil
	return false
}

// empty writes what was read, and counts each piece as it goes: a big one may
// take a slow reader longer than the time Idle. It reports false if the socket
// takes no more.
func (h *half) empty(fd uintptr) bool {
	p := &h.pump
	for short := false; p.written < p.n; short = p.buf == nil {
		n, err := retry(func() (int, error) { return p.writeOnce(int(fd)) })
		if n > 0 {
			p.written += n
			h.moved(n)
			continue
		}
		switch p.err = err; {
		case err == nil:
			p.err = unix.EPIPE
		case err == unix.EAGAIN:
			p.err = nil
			return false
		case err == unix.EPIPE && short:
			// The splice before took less than there was because it met
			// the reset, of which the kernel tells once.
			p.err = unix.ECONNRESET
		}
		return true
	}
	return true
}

func (p *pump) writeOnce(fd int) (int, error) {
	if p.buf != nil {
		return event.Write(fd, p.buf[p.written:p.n])
	}
	n, err := unix.Splice(p.pipe.r, nil, fd, nil, p.n-p.written, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(n), err
}

// choose picks how to move the next piece by the size of the last.
func (p *pump) choose() {
	switch {
	case p.noSplice:
	case !p.bulk:
		p.bulk = p.n == min(p.size, bufferSize)
		p.scraps = 0
	case p.n >= min(p.size, scrapSize):
		p.scraps = 0
	default:
		if p.scraps++; p.scraps == maxScraps {
			p.bulk = false
			if p.pipe != nil && p.written == p.n {
				pipes.put(p.pipe)
				p.pipe = nil
			}
		}
	}
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// flush waits a little until the other side has what was written: a reset
// would throw it away.
func flush(conn net.Conn) {
	if flushed(conn) {
		return
	}
	tick := time.NewTicker(flushStep)
	defer tick.Stop()
	for range flushTries {
		<-tick.C
		if flushed(conn) {
			return
		}
	}
}

// flushed reports whether nothing is to be acknowledged any more. Of a connection
// that is gone that holds, whatever it leaves behind.
func flushed(conn net.Conn) bool {
	rc := rawTCP(conn)
	if rc == nil {
		return true
	}
	queued := 0
	_ = rc.Control(func(fd uintptr) {
		queued, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
		if queued > 0 && isClosed(fd) {
			queued = 0
		}
	})
	return queued == 0
}

// rawTCP returns the socket below a connection of TCP, nil for others.
func rawTCP(conn net.Conn) syscall.RawConn {
	inner := bare(conn)
	if _, ok := inner.(*net.UnixConn); ok {
		return nil
	}
	return raw(inner)
}

// gone reports whether a TCP connection was broken off by its other side. One
// that has ended in order, as far as it has been read, may be closed as well:
// only the error that waits there tells them apart. EPIPE is a reset after the
// end in order.
func gone(conn net.Conn) (broken bool) {
	rc := rawTCP(conn)
	if rc == nil {
		return false
	}
	_ = rc.Control(func(fd uintptr) {
		if !isClosed(fd) {
			return // an error may wait, such as that of a lost route, but it will pass
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		broken = err == nil && errno != 0 && errno != int(unix.EPIPE)
	})
	return broken
}

func isClosed(fd uintptr) bool {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err != nil || info.State == tcpClose
}

const tcpClose = 7 // TCP_CLOSE of the kernel's tcp_states.h

const (
	flushTries = 50
	flushStep  = 10 * time.Millisecond
)
