package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/argyle-socks/argyle"
)

// forwardRequest is the payload of "tcpip-forward" and of its cancellation.
type forwardRequest struct {
	Host string // "" is every address that the server has
	Port uint32
}

// forwards are the remote listeners of one connection. They never hold up what
// else goes over it: a peer that nobody waits for is sent away.
type forwards struct {
	mu        sync.Mutex
	listeners map[forwardRequest]*sshListener
	asking    int        // requests for listeners that have no answer yet
	early     []*arrival // peers of listeners whose port is still on its way to us
}

// maxEarly bounds the peers that wait for a listener to be known.
const maxEarly = 16

// arrival is a peer that has connected to a remote listener.
type arrival struct {
	channel ssh.NewChannel
	to      forwardRequest
	from    netip.AddrPort
}

// reject sends the peer away.
func (a *arrival) reject(reason ssh.RejectionReason) { _ = a.channel.Reject(reason, "nobody waits") }

// serve hands the server's channels to the listeners, until the connection is over.
func (f *forwards) serve(channels <-chan ssh.NewChannel) {
	for channel := range channels {
		if channel.ChannelType() != "forwarded-tcpip" {
			_ = channel.Reject(ssh.UnknownChannelType, "not asked for")
			continue
		}
		var m struct { // RFC 4254, section 7.2
			Host       string
			Port       uint32
			Originator string
			OriginPort uint32
		}
		if err := ssh.Unmarshal(channel.ExtraData(), &m); err != nil {
			_ = channel.Reject(ssh.ConnectionFailed, "malformed")
			continue
		}
		ip, _ := netip.ParseAddr(m.Originator) // not valid: only for who takes anybody
		f.hand(&arrival{channel, forwardRequest{m.Host, m.Port}, netip.AddrPortFrom(ip.Unmap(), uint16(m.OriginPort))})
	}
}

// hand gives an arrival to its listener.
func (f *forwards) hand(a *arrival) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ln := f.listeners[a.to]
	switch {
	case ln != nil:
		ln.offer(a)
	case f.asking > 0 && len(f.early) < maxEarly:
		f.early = append(f.early, a)
	default:
		a.reject(ssh.Prohibited)
	}
}

// begin announces a request for a listener.
func (f *forwards) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asking++
}

// end enters the listener of a request, nil if there is none.
func (f *forwards) end(ln *sshListener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asking--
	if ln != nil {
		if f.listeners == nil {
			f.listeners = make(map[forwardRequest]*sshListener)
		}
		f.listeners[ln.at] = ln
	}
	waiting := f.early
	f.early = nil
	for _, a := range waiting {
		switch {
		case ln != nil && a.to == ln.at:
			ln.offer(a)
		case f.asking > 0:
			f.early = append(f.early, a)
		default:
			a.reject(ssh.Prohibited)
		}
	}
}

func (f *forwards) remove(ln *sshListener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listeners[ln.at] == ln {
		delete(f.listeners, ln.at)
	}
}

var errNoForward = fmt.Errorf("the server forwards no port to us: %w", errors.ErrUnsupported)

// listen asks for a remote listener that peer can reach. As with
// [argyle.Direct.Listen], a port of 1024 or more is a wish.
func (c *sshClient) listen(ctx context.Context, peer string, serverIP netip.Addr) (net.Listener, error) {
	dest, err := argyle.ParseAddr(peer)
	if err != nil {
		return nil, err
	}
	ln := &sshListener{
		client: c, addr: &net.TCPAddr{IP: net.IPv4zero}, at: forwardRequest{},
		came: make(chan *arrival, 1), closed: make(chan struct{}),
	}
	if serverIP.IsValid() {
		ln.addr.IP = serverIP.AsSlice()
	}
	if dest.IP.IsLoopback() || dest.Name == "localhost" {
		ln.at.Host, ln.addr.IP = "localhost", net.IPv4(127, 0, 0, 1)
	}
	if dest.IP.IsValid() && !dest.IP.IsUnspecified() {
		ln.peer = dest.IP.WithZone("")
	}
	ports := []uint32{0}
	if dest.Port >= 1024 {
		ports = []uint32{uint32(dest.Port), 0}
	}
	for _, port := range ports {
		if err = ln.ask(ctx, port); err == nil || !errors.Is(err, errNoForward) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return ln, nil
}

// ask sends the request for the listener and waits for the answer.
func (l *sshListener) ask(ctx context.Context, port uint32) error {
	c := l.client
	request := forwardRequest{l.at.Host, port}
	answer := make(chan error, 1)
	c.forwards.begin()
	go func() {
		err := l.listen(request)
		if err != nil {
			c.forwards.end(nil)
		} else {
			c.forwards.end(l)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-c.done:
		return c.err()
	case <-ctx.Done():
		go func() { // the server may still say yes
			if <-answer == nil {
				l.cancel()
			}
		}()
		return ctx.Err()
	}
}

// listen sends the request, which has no end but the connection's.
func (l *sshListener) listen(request forwardRequest) error {
	ok, response, err := l.client.conn.SendRequest("tcpip-forward", true, ssh.Marshal(&request))
	switch {
	case err != nil:
		l.client.close(err)
		return l.client.err()
	case !ok:
		return errNoForward
	}
	if request.Port == 0 {
		var chosen struct{ Port uint32 }
		if err := ssh.Unmarshal(response, &chosen); err != nil {
			return fmt.Errorf("port of the listener: %w", err)
		}
		request.Port = chosen.Port
	}
	l.at, l.addr.Port = request, int(request.Port)
	return nil
}

// sshListener is a listener at the server, for one connection.
type sshListener struct {
	client *sshClient // has counted it as a user
	at     forwardRequest
	addr   *net.TCPAddr
	peer   netip.Addr // whose connection is waited for; not valid: anybody's

	came chan *arrival

	accepted atomic.Bool
	closed   chan struct{}
	once     sync.Once
}

// offer lets Accept have an arrival, if it is who is waited for and the first.
func (l *sshListener) offer(a *arrival) {
	if l.peer.IsValid() && a.from.Addr() != l.peer {
		a.reject(ssh.Prohibited)
		return
	}
	select {
	case l.came <- a:
	default:
		a.reject(ssh.ResourceShortage)
	}
}

// Accept waits for the peer. Every call after the first that returned one waits
// until Close.
func (l *sshListener) Accept() (net.Conn, error) {
	for {
		select {
		case a := <-l.came:
			if conn, err := l.take(a); err != nil || conn != nil {
				return conn, err
			}
		case <-l.client.done:
			return nil, l.opError(l.client.err())
		case <-l.closed:
			return nil, l.opError(net.ErrClosed)
		}
	}
}

// take makes a connection of an arrival; nil if it comes too late.
func (l *sshListener) take(a *arrival) (net.Conn, error) {
	if l.isClosed() || !l.accepted.CompareAndSwap(false, true) {
		a.reject(ssh.Prohibited)
		return nil, nil
	}
	channel, requests, err := a.channel.Accept()
	if err != nil {
		return nil, l.opError(err)
	}
	go l.cancel() // nobody else shall come
	c := l.client
	c.mu.Lock()
	c.hold()
	c.mu.Unlock()
	return newChannelConn(c, channel, requests, l.addr, net.TCPAddrFromAddrPort(a.from)), nil
}

func (l *sshListener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// cancel ends the listening at the server.
func (l *sshListener) cancel() {
	l.client.forwards.remove(l)
	_, _, _ = l.client.conn.SendRequest("cancel-tcpip-forward", false, ssh.Marshal(&l.at))
}

// Close ends the listening. A connection that Accept has returned stays.
func (l *sshListener) Close() error {
	err := l.opError(net.ErrClosed)
	l.once.Do(func() {
		err = nil
		close(l.closed)
		go func() {
			if !l.accepted.Load() {
				l.cancel()
			}
			select {
			case a := <-l.came:
				a.reject(ssh.Prohibited)
			default:
			}
			l.client.release()
		}()
	})
	return err
}

// Addr returns where the peer may connect: the address is the server's if that
// is known here, else unspecified.
func (l *sshListener) Addr() net.Addr { return l.addr }

func (l *sshListener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
}
