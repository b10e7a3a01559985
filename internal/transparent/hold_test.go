package transparent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/argyle-socks/argyle"
)

// verdicts is a queue that notes what it is told.
type verdicts struct {
	mu   sync.Mutex
	text []string
}

func (v *verdicts) Write(b []byte) (int, error) {
	_, body, _, _ := nextMessage(b)
	body = body[familySize+attrSize:]
	text := fmt.Sprintf("%d:%d", binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body))
	if len(body) > 8 {
		text += fmt.Sprintf("/%x", binary.BigEndian.Uint32(body[12:])&0xff)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.text = append(v.text, text)
	return len(b), nil
}

// String returns the verdicts, each as id:code/mark.
func (v *verdicts) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.text, " ")
}

// syn is a queued SYN of one client, of an attempt with the number seq.
func syn(t *testing.T, id, seq uint32) []byte {
	b := unhex(t, syn4)
	binary.BigEndian.PutUint32(b[24:], seq)
	return queuedMessage(7, id, b)
}

// holding runs test with a server whose SYNs the test makes itself.
func holding(t *testing.T, s *Server, test func(h *holder, v *verdicts)) {
	synctest.Test(t, func(t *testing.T) {
		if !s.hold.begin(s, nil) {
			t.Fatal("cannot begin")
		}
		test(&s.hold, new(verdicts))
		s.hold.close()
		s.hold.end()
	})
}

// A SYN that is sent again has no call of its own, and the verdict of the first.
func TestSentAgain(t *testing.T) {
	for name, test := range map[string]struct {
		reason error
		want   string
	}{
		"refused":     {syscall.ECONNREFUSED, "2:0 1:1/1 3:1/1"},
		"unreachable": {syscall.EHOSTUNREACH, "2:0 1:1/2 3:1/2"},
		"timeout":     {context.DeadlineExceeded, "2:0 1:0 3:0"},
	} {
		calls := 0
		goOn := make(chan struct{})
		s := &Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) {
			calls++
			<-goOn
			call.Reject(test.reason)
		})}
		goOn = nil
		holding(t, s, func(h *holder, v *verdicts) {
			goOn = make(chan struct{})
			h.received(v, syn(t, 1, 100))
			synctest.Wait()
			h.received(v, syn(t, 2, 100))
			synctest.Wait()
			close(goOn)
			synctest.Wait()
			h.received(v, syn(t, 3, 100))
			synctest.Wait()
			if v.String() != test.want || calls != 1 {
				t.Errorf("%s: verdicts %s, want %s; %d calls", name, v, test.want, calls)
			}
		})
	}
}

// A new attempt from the same port ends the one before.
func TestNewAttempt(t *testing.T) {
	var ended []error
	s := &Server{Handler: argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
		<-ctx.Done()
		ended = append(ended, ctx.Err())
		call.Reject(syscall.ECONNREFUSED)
	})}
	holding(t, s, func(h *holder, v *verdicts) {
		h.received(v, syn(t, 1, 100))
		synctest.Wait()
		h.received(v, syn(t, 2, 200))
		synctest.Wait()
		if v.String() != "1:0" || len(ended) != 1 || len(h.calls) != 1 || h.waiting != 1 {
			t.Errorf("verdicts %s; %d ended, %d known, %d wait", v, len(ended), len(h.calls), h.waiting)
		}
	})
}

// The dial goes on for as long as the client does, whose SYNs come ever more
// rarely, and then ends soon.
func TestPatience(t *testing.T) {
	for name, test := range map[string]struct {
		syns []time.Duration
		ends time.Duration
	}{
		"gives up at once":      {[]time.Duration{0}, 3 * time.Second},
		"doubling":              {[]time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}, 33 * time.Second},
		"linear, then doubling": {[]time.Duration{0, 1 * time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 6 * time.Second, 10 * time.Second}, 23 * time.Second},
	} {
		var ended time.Duration
		s := &Server{Handler: argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) {
			start := time.Now()
			<-ctx.Done()
			ended = time.Since(start)
		})}
		holding(t, s, func(h *holder, v *verdicts) {
			start := time.Now()
			for i, at := range test.syns {
				time.Sleep(at - time.Since(start))
				h.received(v, syn(t, uint32(i), 100))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if ended != test.ends {
				t.Errorf("%s: the dial ended after %v, want %v", name, ended, test.ends)
			}
			if len(h.calls) != 0 || h.waiting != 0 {
				t.Errorf("%s: %d known, %d wait", name, len(h.calls), h.waiting)
			}
		})
	}
}

// What is no SYN, and what is too much, goes on as if there were no queue.
func TestLetThrough(t *testing.T) {
	s := &Server{MaxHeld: 1, Handler: argyle.HandlerFunc(func(ctx context.Context, call argyle.Call) { <-ctx.Done() })}
	holding(t, s, func(h *holder, v *verdicts) {
		h.received(v, queuedMessage(7, 1, []byte("not IP")))
		h.received(v, queuedMessage(7, 2, nil))
		h.received(v, syn(t, 3, 100))
		other := unhex(t, syn6)
		h.received(v, queuedMessage(7, 4, other))
		h.received(v, []byte("no message"))
		if v.String() != "1:1 2:1 4:1" {
			t.Errorf("verdicts %s", v)
		}
		if waiting, overflow := s.Held(); waiting != 1 || overflow != 1 {
			t.Errorf("%d wait, %d were let through", waiting, overflow)
		}
	})
}

// fakeConn has the addresses of a connection, and nothing else.
type fakeConn struct {
	net.Conn
	local, remote net.Addr
}

func (c *fakeConn) LocalAddr() net.Addr  { return c.local }
func (c *fakeConn) RemoteAddr() net.Addr { return c.remote }

// The connection is its call's, once.
func TestTake(t *testing.T) {
	conn := &fakeConn{
		local:  &net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1"), Port: 80},
		remote: &net.TCPAddr{IP: net.ParseIP("::ffff:10.0.85.1"), Port: 50000},
	}
	var got net.Conn
	var err error
	s := &Server{Handler: argyle.HandlerFunc(func(_ context.Context, call argyle.Call) { got, err = call.Accept(nil) })}
	if s.hold.take(conn) {
		t.Error("taken though nothing is held")
	}
	holding(t, s, func(h *holder, v *verdicts) {
		h.received(v, syn(t, 1, 100))
		synctest.Wait()
		if !h.take(conn) {
			t.Error("not taken")
		}
		synctest.Wait()
		if got != net.Conn(conn) || err != nil || v.String() != "1:1" {
			t.Errorf("accepted %v, %v; verdicts %s", got, err, v)
		}
		h.received(v, syn(t, 2, 100)) // sent again just before
		if h.take(conn) || v.String() != "1:1 2:1" {
			t.Errorf("taken twice; verdicts %s", v)
		}
		// The call is accepted, but its client does not come.
		h.received(v, syn(t, 3, 200))
		time.Sleep(acceptTime)
		synctest.Wait()
		if !errors.Is(err, errGone) {
			t.Errorf("Accept: %v", err)
		}
	})
}

// A panic is one call's.
func TestHeldPanic(t *testing.T) {
	s := &Server{Handler: argyle.HandlerFunc(func(context.Context, argyle.Call) { panic("of the test") })}
	holding(t, s, func(h *holder, v *verdicts) {
		h.received(v, syn(t, 1, 100))
		synctest.Wait()
		if v.String() != "1:1/2" {
			t.Errorf("verdicts %s", v)
		}
	})
}
