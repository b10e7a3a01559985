package transparent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/argyle-socks/argyle"
)

// patience is how much longer than due we wait for a SYN to be sent again
// before we take the client for gone.
const patience = 3 * time.Second

// heldCall is a SYN that waits for its verdict.
type heldCall struct {
	argyle.ConnectOnly
	pair
	hold    *holder
	queue   io.Writer
	num     uint16
	id      uint32
	seq     uint32
	request argyle.Request
	cancel  context.CancelFunc // of the dial
	conns   chan net.Conn      // the connection, once the handshake is done
	gone    chan struct{}      // closed when nobody waits for it any more

	// Guarded by hold.mu.
	first, last time.Time // when the SYN was sent
	timer       *time.Timer
	answered    bool
	verdict     verdict // about the SYN, and about those sent again
	expects     bool    // accepted, and the connection is not there yet
	left        bool
}

var _ argyle.Call = (*heldCall)(nil)

func (c *heldCall) Request() *argyle.Request { return &c.request }

// Accept lets the system finish the handshake and waits for the connection.
func (c *heldCall) Accept(net.Addr) (net.Conn, error) {
	if !c.answer(accept(), true) {
		return nil, c.failed(errGone)
	}
	timer := time.NewTimer(acceptTime)
	defer timer.Stop()
	var err error
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.gone:
		err = errGone
	case <-timer.C:
		err = os.ErrDeadlineExceeded
	}
	c.hold.mu.Lock()
	defer c.hold.mu.Unlock()
	c.expects = false
	select {
	case conn := <-c.conns: // it came just now
		return conn, nil
	default:
		return nil, c.failed(err)
	}
}

func (c *heldCall) failed(err error) error {
	return fmt.Errorf("accept held connection from %v: %w", c.client, err)
}

// Reject lets the client's connect fail for reason.
func (c *heldCall) Reject(reason error) { c.answer(verdictFor(reason), false) }

// answer gives the verdict, once. It reports false if the client is gone, or
// has its answer.
func (c *heldCall) answer(v verdict, expects bool) bool {
	c.hold.mu.Lock()
	if c.answered {
		c.hold.mu.Unlock()
		return false
	}
	left := c.left
	if left {
		v, expects = drop(), false
	}
	c.answered, c.verdict, c.expects = true, v, expects
	c.hold.waiting--
	c.hold.mu.Unlock()
	give(c.queue, c.num, c.id, v)
	return !left
}

// finish ends the call with its handler.
func (c *heldCall) finish() {
	c.Reject(errNotAnswered) // unless it was answered
	c.cancel()
	c.hold.mu.Lock()
	defer c.hold.mu.Unlock()
	if c.left || len(c.hold.calls) > maxRemembered {
		c.hold.forget(c)
	}
}

// again returns the verdict about a SYN that was sent again: as long as the
// first waits it is dropped, later it has the same answer, which may have come
// at a moment when the client could not take it. hold.mu is held.
func (c *heldCall) again() verdict {
	c.last = time.Now()
	// Between two SYNs passes a second, or as much time as since the first.
	c.timer.Reset(c.last.Sub(c.first) + patience)
	return c.verdict
}

// overdue is called when the client should have sent its SYN again. If we
// still dial, it has given up.
func (c *heldCall) overdue() {
	c.hold.mu.Lock()
	defer c.hold.mu.Unlock()
	if c.hold.calls[c.pair] == c {
		c.hold.forget(c)
	}
}

// leave cancels the dial and ends the wait for the connection. hold.mu is held.
func (c *heldCall) leave() {
	if c.left {
		return
	}
	c.left = true
	c.cancel()
	close(c.gone)
}
