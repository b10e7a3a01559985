package names

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const idleTime = 10 * time.Second // RFC 7766, section 6.2.3: some seconds

// A line leads to a server over TCP or TLS. All questions share a connection,
// and answers come in any order (RFC 7766, section 6.2.1).
type line struct {
	open    func(ctx context.Context) (net.Conn, error)
	timeout time.Duration // to open, and to write

	mu      sync.Mutex
	current *connection
}

// open connects the line.
func (m *remote) open(ctx context.Context) (net.Conn, error) {
	conn, err := m.dial(ctx, "tcp", m.server.Address)
	if err != nil || m.server.Network != networkTLS {
		return conn, err
	}
	secured := tls.Client(conn, m.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

func (l *line) exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	msg, err := l.connection().exchange(ctx, query)
	if errors.Is(err, errLost) {
		// Servers close connections that they find idle, perhaps just
		// when we begin to use one.
		msg, err = l.connection().exchange(ctx, query)
	}
	return msg, err
}

// connection returns the one in use, or begins a new one.
func (l *line) connection() *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || l.current.isOver() {
		l.current = &connection{ready: make(chan struct{}), over: make(chan struct{}), waiting: map[uint16]*waiter{}}
		go l.current.run(l.open, l.timeout)
	}
	return l.current
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		l.current.end(net.ErrClosed)
	}
}

// A connection carries questions and answers, which belong together by ID.
type connection struct {
	ready   chan struct{} // closed when conn is there
	over    chan struct{} // closed when err is there
	conn    net.Conn
	timeout time.Duration
	writing sync.Mutex

	mu      sync.Mutex // guards what follows
	waiting map[uint16]*waiter
	heard   time.Time // when the last message came
	idle    *time.Timer
	err     error
}

// A waiter is a query without an answer.
type waiter struct {
	query  *dns.Msg
	answer chan *dns.Msg
	since  time.Time
	proven bool // the connection had brought answers before
}

// run opens the connection and reads until it ends.
func (c *connection) run(open func(context.Context) (net.Conn, error), timeout time.Duration) {
	// Of no caller's context: others wait for the connection too.
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	conn, err := open(ctx)
	cancel()
	if err != nil {
		c.end(err)
		return
	}
	if !c.begin(conn, timeout) {
		conn.Close()
		return
	}
	reader := bufio.NewReader(conn)
	for {
		msg, err := readMessage(reader)
		if err != nil {
			c.end(err)
			return
		}
		c.deliver(msg)
	}
}

// begin lets the questions through, unless the connection was ended meanwhile.
func (c *connection) begin(conn net.Conn, timeout time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.conn, c.timeout = conn, timeout
	c.idle = time.AfterFunc(idleTime, c.endIdle)
	close(c.ready)
	return true
}

func (c *connection) isOver() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// end is called by whoever finds out first.
func (c *connection) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(err)
}

func (c *connection) endIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.endLocked(net.ErrClosed)
	}
}

func (c *connection) endLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	close(c.over)
	if c.conn != nil {
		c.idle.Stop()
		c.conn.Close()
	}
}

func (c *connection) exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	w := c.register(query)
	defer c.unregister(w)
	select {
	case <-c.ready:
	case <-c.over:
		return nil, c.lost(w)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := c.send(query); err != nil {
		c.end(err)
		return nil, c.lost(w)
	}
	select {
	case msg := <-w.answer:
		return msg, nil
	case <-c.over:
		return nil, c.lost(w)
	case <-ctx.Done():
		return nil, c.late(ctx, w)
	}
}

// register gives a query an ID that no other has.
func (c *connection) register(query *dns.Msg) *waiter {
	w := &waiter{query: query, answer: make(chan *dns.Msg, 1), since: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.proven = !c.heard.IsZero()
	for {
		query.Id = dns.Id()
		if c.waiting[query.Id] == nil {
			c.waiting[query.Id] = w
			return w
		}
	}
}

func (c *connection) unregister(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting[w.query.Id] == w {
		delete(c.waiting, w.query.Id)
	}
	if len(c.waiting) == 0 && c.err == nil && c.idle != nil {
		c.idle.Reset(idleTime)
	}
}

func (c *connection) deliver(msg *dns.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
	w := c.waiting[msg.Id]
	if w == nil || !answers(msg, w.query) {
		return // too late, or nonsense
	}
	delete(c.waiting, msg.Id)
	w.answer <- msg
}

// lost returns why the connection is over.
func (c *connection) lost(w *waiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.proven || errors.Is(c.err, net.ErrClosed) {
		return fmt.Errorf("%w: %w", errLost, c.err)
	}
	return c.err
}

// late returns why no answer has come. A connection that brought others
// before and none since is given up.
func (c *connection) late(ctx context.Context, w *waiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) || !c.heard.Before(w.since) {
		return ctx.Err()
	}
	c.endLocked(net.ErrClosed)
	if w.proven {
		return fmt.Errorf("%w: %w", errStale, ctx.Err())
	}
	return ctx.Err()
}

func (c *connection) send(query *dns.Msg) error {
	packed, err := query.Pack()
	if err != nil {
		return err
	}
	message := append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(c.timeout))
	_, err = c.conn.Write(message)
	return err
}

// readMessage reads a message and the length before it (RFC 1035, section 4.2.2).
func readMessage(r io.Reader) (*dns.Msg, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	packed := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(r, packed); err != nil {
		return nil, err
	}
	msg := new(dns.Msg)
	return msg, msg.Unpack(packed)
}
