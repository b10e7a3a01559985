package probe

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// environment is what all rows have in common.
type environment struct {
	prober *Prober
	helper *Helper
	proxy  net.Addr // where the proxy was reached
	local  string   // our address towards it
}

// session is one row's work: its connections, and what went over them.
type session struct {
	*environment
	deadline time.Time

	mu    sync.Mutex
	conns []io.Closer
	sent  []traced
	notes []string
}

// close closes all connections of the row.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *session) keep(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
}

// note keeps something for the report.
func (s *session) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

func (s *session) said() string { return strings.Join(s.notes, "; ") }

// traced is something that was sent or received, with as many of its bytes as a
// login may have.
type traced struct {
	way   string
	bytes []byte
	size  int
}

// maxTrace bounds what is kept of a row, maxTraced of each, and maxShown what is shown.
const maxTrace, maxTraced, maxShown = 64, 1024, 64

func (s *session) trace(way string, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prober.Trace && len(b) > 0 && len(s.sent) < maxTrace {
		s.sent = append(s.sent, traced{way, bytes.Clone(b[:min(len(b), maxTraced)]), len(b)})
	}
}

// shown returns the trace, with asterisks for the password, also where it was sent
// in pieces.
func (s *session) shown() (all []Sent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if password := []byte(s.prober.Password); len(password) > 0 {
		var out []byte
		var places []*byte
		for _, t := range s.sent {
			if t.way == "tcp >" {
				for i := range t.bytes {
					places = append(places, &t.bytes[i])
				}
				out = append(out, t.bytes...)
			}
		}
		for from := 0; ; {
			at := bytes.Index(out[from:], password)
			if at < 0 {
				break
			}
			for _, place := range places[from+at:][:len(password)] {
				*place = '*'
			}
			from += at + 1
		}
	}
	for _, t := range s.sent {
		all = append(all, Sent{t.way, hex.EncodeToString(t.bytes[:min(len(t.bytes), maxShown)]), t.size})
	}
	return all
}

// tracedConn is a connection to the proxy.
type tracedConn struct {
	net.Conn
	s *session

	writing bool // the last thing was a write
	turns   int  // how often the client waited for an answer
}

func (c *tracedConn) Read(b []byte) (int, error) {
	if c.writing {
		c.writing = false
		c.turns++
	}
	n, err := c.Conn.Read(b)
	c.s.trace("tcp <", b[:n])
	return n, err
}

func (c *tracedConn) Write(b []byte) (int, error) {
	c.writing = true
	c.s.trace("tcp >", b)
	return c.Conn.Write(b)
}

func (c *tracedConn) closeWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return skipped("the connection to the proxy has no half-close")
}

// reset ends the connection with a reset.
func (c *tracedConn) reset() error {
	l, ok := c.Conn.(interface{ SetLinger(int) error })
	if !ok {
		return skipped("the connection to the proxy has no reset")
	}
	_ = l.SetLinger(0)
	return c.Close()
}

// dial connects to the proxy.
func (s *session) dial(ctx context.Context) (*tracedConn, error) {
	conn, err := s.prober.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach the proxy: %w", err)
	}
	_ = conn.SetDeadline(s.deadline)
	s.keep(conn)
	return &tracedConn{Conn: conn, s: s}, nil
}

// hasAccount reports whether there is a name to log in with.
func (s *session) hasAccount() bool { return s.prober.User != "" || s.prober.Password != "" }

// methods are those that a good client offers.
func (s *session) methods() []byte {
	if s.hasAccount() {
		return []byte{0, 2}
	}
	return []byte{0}
}

// exactly reads n bytes.
func exactly(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := io.ReadFull(r, b)
	switch {
	case errors.Is(err, io.EOF):
		return b[:0], errClosed
	case err != nil && got > 0:
		err = fmt.Errorf("%d of %d bytes came (% x): %w", got, n, b[:got], err)
	}
	return b[:got], err
}

// errClosed is the error of a proxy that says nothing more.
var errClosed = fmt.Errorf("closed without an answer%w", silent{})

// silent is io.EOF, of which nothing is told.
type silent struct{}

func (silent) Error() string        { return "" }
func (silent) Is(target error) bool { return target == io.EOF }

// came is what was read, or why not.
func came(b []byte, err error) string {
	if err != nil {
		return plain(err)
	}
	return fmt.Sprintf("% x", b)
}

// greet goes through the greeting and the login of a good client.
func (s *session) greet(c *tracedConn) error {
	methods := s.methods()
	if _, err := c.Write(append([]byte{5, byte(len(methods))}, methods...)); err != nil {
		return err
	}
	answer, err := exactly(c, 2)
	if err != nil {
		return fmt.Errorf("answer to the greeting: %w", err)
	}
	switch {
	case answer[0] != 5:
		return failed("the greeting is answered with % x", answer)
	case answer[1] == 0xff:
		return failed("no method of % x is acceptable: does the proxy want an account?", methods)
	case answer[1] == 2 && s.hasAccount():
		return s.login(c, s.prober.User, s.prober.Password)
	case answer[1] != 0:
		return failed("the proxy chose method %d, which was not offered", answer[1])
	}
	return nil
}

// login goes through RFC 1929.
func (s *session) login(c *tracedConn, user, password string) error {
	status, err := s.tryLogin(c, user, password)
	if err == nil && status != 0 {
		err = failed("the account is refused, with status %d", status)
	}
	return err
}

func (s *session) tryLogin(c *tracedConn, user, password string) (status byte, err error) {
	b := append([]byte{1, byte(len(user))}, user...)
	b = append(append(b, byte(len(password))), password...)
	if _, err := c.Write(b); err != nil {
		return 0, err
	}
	answer, err := exactly(c, 2)
	if err != nil {
		return 0, fmt.Errorf("answer to the login: %w", err)
	}
	return answer[1], nil
}

// dest is a destination as a request has it: ATYP, address, port.
func dest(host string, port int) []byte {
	var b []byte
	if ip, err := netip.ParseAddr(host); err != nil {
		b = append([]byte{3, byte(len(host))}, host...)
	} else if ip.Is4() {
		b = append([]byte{1}, ip.AsSlice()...)
	} else {
		b = append([]byte{4}, ip.AsSlice()...)
	}
	return append(b, byte(port>>8), byte(port))
}

// reply is a reply of SOCKS 5.
type reply struct {
	rep  byte
	rsv  byte
	addr netip.AddrPort // not valid if it is a name
	raw  []byte
}

// readReply reads a reply, to its exact length.
func readReply(c io.Reader) (r reply, err error) {
	head, err := exactly(c, 4)
	if err != nil {
		return r, fmt.Errorf("reply: %w", err)
	}
	if head[0] != 5 {
		return r, failed("the reply begins with % x", head)
	}
	r.rep, r.rsv = head[1], head[2]
	var size int
	switch head[3] {
	case 1:
		size = 4
	case 4:
		size = 16
	case 3:
		n, err := exactly(c, 1)
		if err != nil {
			return r, err
		}
		head, size = append(head, n...), int(n[0])
	default:
		return r, failed("the reply has the address type %d: % x", head[3], head)
	}
	rest, err := exactly(c, size+2)
	if err != nil {
		return r, fmt.Errorf("reply: %w", err)
	}
	r.raw = append(head, rest...)
	if ip, ok := netip.AddrFromSlice(rest[:size]); ok && head[3] != 3 {
		r.addr = netip.AddrPortFrom(ip, uint16(rest[size])<<8|uint16(rest[size+1]))
	}
	return r, nil
}

// Commands and replies of RFC 1928.
const (
	cmdConnect   = 1
	cmdBind      = 2
	cmdAssociate = 3

	repRefused     = 5
	repNoCommand   = 7
	repNoAddrType  = 8
	repHostUnreach = 4
	repSucceeded   = 0
)

// request sends a request on a connection that has been greeted.
func (s *session) request(c *tracedConn, command byte, dest []byte) (reply, error) {
	if _, err := c.Write(append([]byte{5, command, 0}, dest...)); err != nil {
		return reply{}, err
	}
	return readReply(c)
}

// ask greets, and sends a request.
func (s *session) ask(ctx context.Context, command byte, dest []byte) (*tracedConn, reply, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return nil, reply{}, err
	}
	if err := s.greet(c); err != nil {
		return nil, reply{}, err
	}
	r, err := s.request(c, command, dest)
	return c, r, err
}

// helperDest is where the proxy finds the helper.
func (s *session) helperDest() []byte { return dest(s.helper.host, s.helper.port) }

// command connects to the helper through the proxy and gives it a command.
func (s *session) command(ctx context.Context, format string, args ...any) (*tracedConn, error) {
	c, r, err := s.ask(ctx, cmdConnect, s.helperDest())
	if err != nil {
		return nil, err
	}
	if r.rep != repSucceeded {
		return nil, failed("the proxy does not connect to the helper, %s: REP %d", net.JoinHostPort(s.helper.host, strconv.Itoa(s.helper.port)), r.rep)
	}
	_, err = fmt.Fprintf(c, s.helper.secret+" "+format+"\n", args...)
	return c, err
}

// line reads one line, of at most 200 bytes.
func line(r io.Reader) (string, error) {
	var b []byte
	one := make([]byte, 1)
	for len(b) < 200 {
		if _, err := io.ReadFull(r, one); err != nil {
			return string(b), fmt.Errorf("after %q: %w", b, err)
		}
		if one[0] == '\n' {
			break
		}
		b = append(b, one[0])
	}
	return string(b), nil
}

// ended waits for the end of a connection and says what it was: "" for an end
// in order, "reset", or what came instead.
func ended(c net.Conn, within time.Duration) string {
	_ = c.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 256)
	for total := 0; ; {
		n, err := c.Read(b)
		total += n
		switch {
		case errors.Is(err, io.EOF):
			return ""
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Sprintf("still open after %v", within)
		case errors.Is(err, syscall.ECONNRESET):
			return "reset"
		case err != nil:
			return plain(err)
		case total > 64<<10:
			return "goes on sending"
		}
	}
}

// plain is an error without the addresses of our own sockets.
func plain(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, net.ErrClosed):
		text, _, cut := strings.Cut(err.Error(), ": read tcp")
		if !cut {
			text = "no answer"
		}
		return text + ": no answer in time"
	case errors.As(err, &op) && (op.Op == "read" || op.Op == "write"):
		text, _, _ := strings.Cut(err.Error(), op.Op+" ")
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			return text + "closed"
		}
		return text + op.Err.Error()
	}
	return err.Error()
}
