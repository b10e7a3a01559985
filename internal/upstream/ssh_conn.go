package upstream

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// channelConn is a channel of SSH as a connection. A channel has no deadlines:
// what may block runs in a goroutine of its own, for which reads and writes wait
// as long as they may.
type channelConn struct {
	client        *sshClient
	channel       ssh.Channel
	ended         chan struct{} // closed when the server has closed the channel, or the connection is over
	local, remote net.Addr

	readDeadline, writeDeadline deadline

	reading  sync.Mutex // held by Read
	buf      []byte     // what is fetched into
	unread   []byte     // a part of buf
	readErr  error      // comes after unread
	fetching bool
	fetched  chan fetched

	writing chan struct{} // has a token while the channel is written to
	out     []byte        // belongs to who has put the token in

	closing sync.Once
	closed  chan struct{}
}

// fetched is the outcome of one read of a channel.
type fetched struct {
	n   int
	err error
}

// pieceSize is how much is read and written at once.
const pieceSize = 16 << 10

// newChannelConn takes over an open channel, for which the client has counted a user.
func newChannelConn(c *sshClient, channel ssh.Channel, requests <-chan *ssh.Request, local, remote net.Addr) *channelConn {
	conn := &channelConn{
		client: c, channel: channel, ended: make(chan struct{}), local: local, remote: remote,
		fetched: make(chan fetched, 1), writing: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	go func() {
		ssh.DiscardRequests(requests)
		close(conn.ended)
	}()
	return conn
}

// LocalAddr returns our address towards the server.
func (c *channelConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the destination, or the peer of a remote listener.
func (c *channelConn) RemoteAddr() net.Addr { return c.remote }

// Read reads what the far end sends.
func (c *channelConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		switch {
		case c.isClosed():
			return 0, c.opError("read", net.ErrClosed)
		case c.readDeadline.isPast():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case len(c.unread) > 0:
			n := copy(b, c.unread)
			c.unread = c.unread[n:]
			return n, nil
		case c.readErr != nil:
			return 0, c.readErr
		}
		if !c.fetching {
			c.fetching = true
			if c.buf == nil {
				c.buf = make([]byte, pieceSize)
			}
			go c.fetch(c.buf)
		}
		select {
		case f := <-c.fetched:
			c.fetching, c.unread, c.readErr = false, c.buf[:f.n], f.err
		case <-c.readDeadline.wait():
		case <-c.closed:
		}
	}
}

// fetch reads the channel once. It outlives a Read that has run out of time.
func (c *channelConn) fetch(b []byte) {
	n, err := c.channel.Read(b)
	switch err {
	case nil:
	case io.EOF:
		err = c.endOfRead()
	default:
		err = c.opError("read", err)
	}
	c.fetched <- fetched{n, err}
}

// goodbye is how long after a channel the connection may be seen to end with it.
const goodbye = 20 * time.Millisecond

// endOfRead tells an end in order from that of the connection: the ssh package
// shows both as EOF.
func (c *channelConn) endOfRead() error {
	select {
	case <-c.ended:
		late := time.NewTimer(goodbye)
		defer late.Stop()
		select {
		case <-c.client.done:
		case <-late.C:
		}
	default:
	}
	if c.client.wire.broken.Load() {
		return c.opError("read", c.client.err())
	}
	return io.EOF
}

// lostError says that the connection to the server is gone. To what went over
// it, that is a reset.
type lostError struct{ cause error }

func (e *lostError) Error() string {
	if e.cause == nil {
		return "ssh connection lost"
	}
	return "ssh connection lost: " + e.cause.Error()
}

// Unwrap returns the cause, if it is known.
func (e *lostError) Unwrap() error { return e.cause }

// Is reports whether target is [syscall.ECONNRESET].
func (e *lostError) Is(target error) bool { return target == error(syscall.ECONNRESET) }

// Write writes to the far end. It returns when all of b is on its way.
func (c *channelConn) Write(b []byte) (n int, err error) {
	for n < len(b) {
		piece := b[n:min(n+pieceSize, len(b))]
		err := c.write(func() { c.out = append(c.out[:0], piece...) }, func() error {
			_, err := c.channel.Write(c.out)
			return err
		})
		if err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// CloseWrite tells the far end that no more will come.
func (c *channelConn) CloseWrite() error {
	return c.write(func() {}, c.channel.CloseWrite)
}

// write runs op, which may block, when no other runs, after prepare. An op that
// takes too long goes on after write has returned.
func (c *channelConn) write(prepare func(), op func() error) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	select {
	case c.writing <- struct{}{}:
	case <-c.writeDeadline.wait():
		return c.opError("write", os.ErrDeadlineExceeded)
	case <-c.closed:
		return c.opError("write", net.ErrClosed)
	}
	prepare()
	result := make(chan error, 1)
	go func() {
		err := op()
		<-c.writing
		result <- err
	}()
	select {
	case err := <-result:
		return c.writeError(err)
	case <-c.writeDeadline.wait():
		return c.opError("write", os.ErrDeadlineExceeded)
	case <-c.closed:
		return c.opError("write", net.ErrClosed)
	}
}

// mayWrite returns why nothing can be written now.
func (c *channelConn) mayWrite() error {
	switch {
	case c.isClosed():
		return c.opError("write", net.ErrClosed)
	case c.writeDeadline.isPast():
		return c.opError("write", os.ErrDeadlineExceeded)
	}
	return nil
}

// writeError is what a channel's error means: EOF stands for a far end that is gone.
func (c *channelConn) writeError(err error) error {
	switch {
	case err == nil:
		return nil
	case c.client.wire.broken.Load():
		err = c.client.err()
	case err == io.EOF:
		err = syscall.EPIPE
	}
	return c.opError("write", err)
}

// Close closes the channel. What was written still arrives.
func (c *channelConn) Close() error {
	err := c.opError("close", net.ErrClosed)
	c.closing.Do(func() {
		err = nil
		close(c.closed)
		c.readDeadline.set(time.Time{})
		c.writeDeadline.set(time.Time{})
		go func() {
			c.channel.Close() // waits while the network does
			c.client.release()
		}()
	})
	return err
}

func (c *channelConn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// SetDeadline sets both deadlines.
func (c *channelConn) SetDeadline(t time.Time) error {
	c.readDeadline.set(t)
	c.writeDeadline.set(t)
	return nil
}

// SetReadDeadline sets the deadline for reads, those under way included.
func (c *channelConn) SetReadDeadline(t time.Time) error {
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline sets the deadline for writes, those under way included. What
// a write that runs out of time has begun may still arrive.
func (c *channelConn) SetWriteDeadline(t time.Time) error {
	c.writeDeadline.set(t)
	return nil
}

func (c *channelConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
