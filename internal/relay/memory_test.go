package relay

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memoryConn is one end of a connection in memory that has all that TCP has: a
// buffer of bounded size a direction, half-close, resets and deadlines. It may
// be used in a synctest bubble.
type memoryConn struct {
	in, out *stream
	linger  bool // Close resets
}

const memoryBuffer = 32 << 10

// memoryPair returns both ends.
func memoryPair() (a, b *memoryConn) {
	up, down := newStream(), newStream()
	return &memoryConn{in: down, out: up}, &memoryConn{in: up, out: down}
}

func (c *memoryConn) Read(b []byte) (int, error)         { return c.in.read(b) }
func (c *memoryConn) Write(b []byte) (int, error)        { return c.out.write(b) }
func (c *memoryConn) CloseWrite() error                  { return c.out.end(io.EOF, syscall.EPIPE) }
func (c *memoryConn) SetLinger(sec int) error            { c.linger = sec == 0; return nil }
func (c *memoryConn) LocalAddr() net.Addr                { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr               { return memoryAddr{} }
func (c *memoryConn) SetReadDeadline(t time.Time) error  { c.in.reader.set(t); return nil }
func (c *memoryConn) SetWriteDeadline(t time.Time) error { c.out.writer.set(t); return nil }

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.in.reader.set(t)
	c.out.writer.set(t)
	return nil
}

// Close ends both directions: the peer reads what is there and then the end,
// ECONNRESET after SetLinger(0), and its writes fail.
func (c *memoryConn) Close() error {
	end := io.EOF
	if c.linger {
		end = syscall.ECONNRESET
	}
	_ = c.out.end(end, net.ErrClosed)
	c.in.abandon()
	return nil
}

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// stream is one direction.
type stream struct {
	mu             sync.Mutex
	cond           *sync.Cond
	buf            []byte
	readErr        error // at the end of buf
	writeErr       error
	abandoned      bool
	reader, writer deadline
}

func newStream() *stream {
	s := new(stream)
	s.cond = sync.NewCond(&s.mu)
	s.reader.stream, s.writer.stream = s, s
	return s
}

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.abandoned:
			return 0, net.ErrClosed
		case s.reader.passed:
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0:
			n := copy(b, s.buf)
			s.buf = s.buf[n:]
			s.cond.Broadcast()
			return n, nil
		case s.readErr != nil:
			return 0, s.readErr
		}
		s.cond.Wait()
	}
}

func (s *stream) write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(b) > 0 {
		switch room := memoryBuffer - len(s.buf); {
		case s.writeErr != nil:
			return n, s.writeErr
		case s.writer.passed:
			return n, os.ErrDeadlineExceeded
		case room > 0:
			room = min(room, len(b))
			s.buf = append(s.buf, b[:room]...)
			b = b[room:]
			n += room
			s.cond.Broadcast()
		default:
			s.cond.Wait()
		}
	}
	return n, nil
}

// end sets what the reader and the writer get from now on.
func (s *stream) end(readErr, writeErr error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil {
		s.readErr = readErr
	}
	if s.writeErr == nil {
		s.writeErr = writeErr
	}
	s.cond.Broadcast()
	return nil
}

// abandon says that nobody reads any more.
func (s *stream) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandoned = true
	if s.writeErr == nil {
		s.writeErr = syscall.ECONNRESET
	}
	s.cond.Broadcast()
}

type deadline struct {
	stream *stream
	passed bool
	timer  *time.Timer
}

func (d *deadline) set(t time.Time) {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = false
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		d.passed = true
		d.stream.cond.Broadcast()
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			d.stream.mu.Lock()
			defer d.stream.mu.Unlock()
			if d.timer == timer {
				d.passed = true
				d.stream.cond.Broadcast()
			}
		})
		d.timer = timer
	}
}
